"""Recorded attention has its shapes, sums to 1, changes no output and leaves nothing behind."""

from dataclasses import replace

import pytest
import torch
from features import features_and_mask

from detrnb import VARIANTS, Config, Variant, build_detr, register
from detrnb.datasets import EvalTransform
from detrnb.look import Subject, object_shares
from detrnb.look.recording import (
    attention_names,
    attention_of,
    record_attention,
    unrecorded_names,
)
from detrnb.model import TransformerDecoder
from detrnb.settings import combinations
from detrnb.variants.svd_split import BAND

SINGLE = [name for name in combinations() if "+" not in name]
each_model = pytest.mark.parametrize("name", ["detr", *SINGLE, "adaptive_res+svd_split"])


def model_of(name: str):
    torch.manual_seed(0)
    return build_detr(Config.preset("smoke", variant=name).model).eval()


@each_model
@torch.no_grad()
def test_maps_are_an_images_without_padding_and_outputs_stay(name):
    model = model_of(name)
    features, mask = features_and_mask()
    plain = model(None, mask, features=features)
    with record_attention(model) as recording:
        recorded = model(None, mask, features=features)
    for key in ("pred_logits", "pred_boxes"):
        torch.testing.assert_close(recorded[key], plain[key], atol=1e-5, rtol=1e-5)
    N, Q = 4, 16
    for image, (H, W) in enumerate([(6, 8), (4, 6)]):
        for layer in range(3):
            maps = [recording.maps(f"encoder.{layer}.self", image)]
            maps += [recording.maps(f"decoder.{layer}.{kind}", image) for kind in ("self", "cross")]
            shapes = [tuple(x.shape) for x in maps]
            assert shapes == [(N, H, W, H, W), (N, Q, Q), (N, Q, H, W)]
            for x, rows in zip(maps, ((N, H * W), (N, Q), (N, Q)), strict=True):
                sums = x.reshape(*rows, -1).sum(-1)
                if "deformable" in name:  # points outside the map, or on padding, take nothing
                    assert (sums <= 1 + 1e-5).all()
                else:
                    torch.testing.assert_close(sums, torch.ones(rows))
    assert not any(module.record or module.recorded for module in attention_names(model).values())


@torch.no_grad()
def test_a_map_is_what_one_image_alone_gives():
    model = model_of("svd_split")
    features, mask = features_and_mask()
    names = ["encoder.2.self", "decoder.1.cross"]
    with record_attention(model, names) as both:
        model(None, mask, features=features)
    with record_attention(model, names) as alone:
        model(None, mask[1:, :64, :96], features=features[1:, :, :4, :6])
    for name in names:
        torch.testing.assert_close(both.maps(name, 1), alone.maps(name), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_split_parts_add_up_to_the_attention():
    model = model_of("adaptive_res+svd_split")
    features, mask = features_and_mask()
    with record_attention(model, ["encoder.2.self"]) as recording:
        model(None, mask, features=features)
    assert recording.parts("encoder.2.self") == ("attention", "object", "context")
    whole, *parts = (
        recording.maps("encoder.2.self", 1, p) for p in recording.parts("encoder.2.self")
    )
    torch.testing.assert_close(sum(parts), whole)
    assert recording.nbytes == 3 * 2 * 4 * 48 * 48 * 4


def test_only_what_is_named_is_recorded_and_the_rest_refused():
    model = model_of("detr")
    features, mask = features_and_mask()
    with record_attention(model, ["encoder.0.self"]) as recording:
        with pytest.raises(ValueError, match="no forward pass has run inside it"):
            recording.maps("encoder.0.self")
        assert [n for n, m in attention_names(model).items() if m.record] == ["encoder.0.self"]
        model(None, mask, features=features)
    with pytest.raises(ValueError, match="'encoder.1.self' is not recorded; recorded: encoder.0"):
        recording.maps("encoder.1.self")
    with pytest.raises(ValueError, match="no part 'object'; it has attention"):
        recording.maps("encoder.0.self", part="object")
    with pytest.raises(ValueError, match="image 2 of a batch of 2"):
        recording.maps("encoder.0.self", 2)
    with (
        pytest.raises(ValueError, match="no attention encoder.9.self; this model has encoder.0"),
        record_attention(model, ["encoder.9.self"]),
    ):
        pass
    with pytest.raises(RuntimeError), record_attention(model):
        raise RuntimeError
    assert not any(module.record for module in attention_names(model).values())


def parts_by_svd(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Object and context of (N, S, S), each summed from its own singular triplets in float64.

    The float is the distance of the singular value nearest to the threshold, as a share of it.
    """
    left, values, right = torch.linalg.svd(weights.double())
    threshold = values.mean(-1, keepdim=True) * (1 + BAND)
    gap = (values / threshold - 1).abs().min().item()
    is_context = (values > threshold)[:, None, :]
    return *(
        (left * (values[:, None, :] * kept) @ right).float() for kept in (~is_context, is_context)
    ), gap


@torch.no_grad()
@pytest.mark.parametrize("name", ["svd_split", "adaptive_res+svd_split"])
def test_parts_computed_independently_add_up_to_the_baselines_attention(name):
    """Whole models of equal weights: DETR's matrix, the split's, and two sums of triplets agree."""
    features, mask = features_and_mask()
    recordings = []
    for model in (model_of("detr"), model_of(name)):
        with record_attention(model, ["encoder.2.self"]) as recording:
            model(None, mask, features=features)
        recordings.append(recording)
    detr, split = recordings
    for image, S in enumerate((6 * 8, 4 * 6)):
        maps = [detr.maps("encoder.2.self", image)]
        maps += [split.maps("encoder.2.self", image, p) for p in ("attention", "object", "context")]
        attention, whole, *parts = (x.reshape(4, S, S) for x in maps)
        torch.testing.assert_close(whole, attention)
        *expected, gap = parts_by_svd(attention)
        assert gap > 1e-3, "too near the threshold to tell; take another seed"
        torch.testing.assert_close(sum(expected), attention)
        for part, by_svd in zip(parts, expected, strict=True):
            torch.testing.assert_close(part, by_svd, atol=1e-5, rtol=1e-3)


@torch.no_grad()
def test_recordings_may_be_nested():
    model = model_of("detr")
    features, mask = features_and_mask()
    with record_attention(model) as outer:
        with record_attention(model, ["encoder.0.self"]) as inner:
            model(None, mask, features=features)
        model(None, mask, features=features)
    for recording in (outer, inner):
        assert recording.maps("encoder.0.self").shape == (4, 6, 8, 6, 8)
    assert not any(module.record or module.recorded for module in attention_names(model).values())


def test_attention_of_images_is_that_of_their_forward_pass():
    model = model_of("detr")
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    recording = attention_of(model, images, ["decoder.2.cross"])
    assert recording.names == ("decoder.2.cross",)
    maps = recording.maps("decoder.2.cross", 1)
    assert maps.shape == (4, 16, 4, 6) and not maps.requires_grad
    alone = attention_of(model, images[1:], ["decoder.2.cross"]).maps("decoder.2.cross")
    torch.testing.assert_close(maps, alone, atol=1e-5, rtol=1e-4)


class Sampling(torch.nn.Module):
    """Looks at two points a query and says where; stands for deformable attention."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.record, self.recorded = False, {}

    def forward(self, content, position, anchors, memory, pos, padding_mask, grid):
        if self.record:
            # The centre of the first cell, and the corner where the first four cells meet.
            H, W = grid
            points = torch.tensor([[0.5 / W, 0.5 / H], [1 / W, 1 / H]])
            B, Q = content.shape[:2]
            self.recorded = {
                "points": points.expand(B, 1, Q, 2, 2),
                "weights": torch.tensor([0.6, 0.4]).expand(B, 1, Q, 2),
            }
        return content


class Mix(torch.nn.Module):
    """Attends without anything to look at."""

    def __init__(self, d_model: int) -> None:
        super().__init__()

    def forward(self, x, pos, padding_mask, grid):
        return x


@pytest.fixture
def variants_as_before():
    """What is registered inside is forgotten after."""
    before = dict(VARIANTS)
    yield
    VARIANTS.clear()
    VARIANTS.update(before)


@pytest.fixture
def foreign(variants_as_before):
    """A model whose attentions are no `MultiheadAttention`."""
    parts = {"encoder_attention": Mix, "decoder_cross_attention": Sampling}
    register(Variant("foreign", parts))
    return model_of("foreign")


@torch.no_grad()
def test_points_become_the_weights_of_the_cells_they_sample(foreign):
    features, mask = features_and_mask()
    with record_attention(foreign, ["decoder.0.cross"]) as recording:
        foreign(None, mask, features=features)
    (cells,) = recording.maps("decoder.0.cross")
    assert cells.shape == (16, 6, 8)
    torch.testing.assert_close(cells[0, :2, :2], torch.tensor([[0.7, 0.1], [0.1, 0.1]]))
    torch.testing.assert_close(cells.sum((-2, -1)), torch.ones(16))


@torch.no_grad()
def test_samples_are_shares_of_an_images_map_without_padding(foreign):
    features, mask = features_and_mask()
    with record_attention(foreign, ["decoder.0.cross", "decoder.0.self"]) as recording:
        foreign(None, mask, features=features)
    for image, (H, W) in enumerate([(6, 8), (4, 6)]):
        points, weights = recording.samples("decoder.0.cross", image)
        expected = torch.tensor([[0.5 / W, 0.5 / H], [1 / W, 1 / H]])  # x, then y
        torch.testing.assert_close(points, expected.expand(1, 16, 2, 2))
        torch.testing.assert_close(weights, torch.tensor([0.6, 0.4]).expand(1, 16, 2))
    assert recording.samples("decoder.0.self") is None
    with pytest.raises(ValueError, match="image 2 of a batch of 2"):
        recording.samples("decoder.0.cross", 2)
    with pytest.raises(ValueError, match="'decoder.1.cross' is not recorded"):
        recording.samples("decoder.1.cross")


@torch.no_grad()
def test_samples_and_anchors_are_what_one_image_alone_gives():
    """Of cells in the encoder, of queries in the decoder; padding is taken off both."""
    model = model_of("deformable")
    for parameter in model.parameters():  # anchors and offsets of many sizes
        parameter += 0.05 * torch.randn_like(parameter)
    features, mask = features_and_mask()
    names = ["encoder.1.self", "decoder.1.cross"]
    with record_attention(model, names) as both:
        model(None, mask, features=features)
    with record_attention(model, names) as alone:
        model(None, mask[1:, :64, :96], features=features[1:, :, :4, :6])
    for name, rows in zip(names, [(4, 4, 6), (4, 16)], strict=True):
        found, expected = both.samples(name, 1), alone.samples(name)
        assert found.points.shape == (*rows, 4, 2) and found.weights.shape == (*rows, 4)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both.anchors(1), alone.anchors(), atol=1e-5, rtol=1e-4)


class Moving(TransformerDecoder):
    """Boxes are relative to something else in each layer and for each query."""

    def forward(self, queries, *surroundings):
        hidden, _ = super().forward(queries, *surroundings)
        B, Q = hidden.shape[1:3]
        anchors = [torch.arange(B * Q * 4.0).view(B, Q, 4) / 100 + i for i in range(len(hidden))]
        return hidden, anchors


@torch.no_grad()
def test_anchors_are_those_that_the_decoder_gives_after_the_sigmoid(variants_as_before):
    register(Variant("moving", {"decoder": Moving}))
    model, (features, mask) = model_of("moving"), features_and_mask()
    with record_attention(model, []) as recording:
        with pytest.raises(ValueError, match="no forward pass has run"):
            recording.anchors()
        model(None, mask, features=features)
    anchors = recording.anchors(1)
    assert anchors.shape == (3, 16, 4)
    expected = torch.tensor([4 * (16 + 7) + 1.0]) / 100 + 2  # image 1, layer 3, query 7, y
    torch.testing.assert_close(anchors[2, 7, 1:2], expected.sigmoid())
    with pytest.raises(ValueError, match="image 2 of a batch of 2"):
        recording.anchors(2)


@torch.no_grad()
def test_a_model_without_anchors_has_none_and_a_models_boxes_are_pixels():
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    for name, expected in (("detr", None), ("reference_points", 2), ("dab", 4)):
        config, model = Config.preset("smoke", variant=name), model_of(name)
        subject = Subject(name, model, config, ("a", "b", "c", "d"), None, EvalTransform(64, 96))
        view = replace_stored(subject, image).look(0)
        if expected is None:
            assert view.anchors is None
            continue
        assert view.anchors.shape == (3, 16, expected)
        where = next(p for n, p in model.query_embed.named_parameters() if p.shape[1] == expected)
        x, y = (where[5, :2].sigmoid() * torch.tensor([96, 64])).tolist()
        found = view.anchors[0, 5]
        middle = found if expected == 2 else (found[:2] + found[2:]) / 2
        assert middle.tolist() == pytest.approx([x, y], rel=1e-4)
        if expected == 4:
            size = where[5, 2:].sigmoid() * torch.tensor([96, 64])
            torch.testing.assert_close(found[2:] - found[:2], size)


@torch.no_grad()
def test_what_cannot_be_recorded_is_named_and_the_rest_is_shown(foreign):
    config = Config.preset("smoke", variant="foreign")
    subject = Subject("foreign", foreign, config, ("a", "b", "c", "d"), None, EvalTransform(64, 96))
    images = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    recording = attention_of(foreign, images)
    assert recording.missing == ("encoder.0.self", "encoder.1.self", "encoder.2.self")
    assert unrecorded_names(foreign) == recording.missing
    view = replace_stored(subject, images[0]).look(0)
    assert view.title.endswith("cannot be recorded: encoder self 1, 2, 3")
    assert set(view.kinds) == {"decoder self", "decoder cross"}
    assert set(object_shares(view, 0.0)["attention"]) <= set(view.kinds)
    with pytest.raises(ValueError, match="no attention encoder.0.self; this model has decoder.0"):
        attention_of(foreign, images, ["encoder.0.self"])


def replace_stored(subject: Subject, image: torch.Tensor) -> Subject:
    """The subject with one image for a data set."""

    class Stored:
        image_ids = (1,)

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> tuple:
            return image, {}

    return replace(subject, dataset=Stored())
