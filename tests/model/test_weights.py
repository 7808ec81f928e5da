"""Weights from files into models: what fits, what is adapted, what is refused; official ones."""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from safetensors.torch import save_file

from detrnb import Config, build_detr, load_weights
from detrnb.look.views import Subject
from detrnb.model.backbone import Backbone
from detrnb.model.detr import DETR
from detrnb.model.weights import LoadedWeights
from detrnb.settings.official import OFFICIAL


def smoke(variant: str = "detr", seed: int = 1, **model: object) -> DETR:
    overrides = {f"model.{key}": value for key, value in model.items()}
    torch.manual_seed(seed)
    return build_detr(Config.preset("smoke", variant=variant, overrides=overrides).model)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """Weights of the smoke preset's DETR: 4 classes, 16 queries."""
    torch.save({"model": smoke(seed=0).state_dict()}, tmp_path / "smoke.pt")
    return tmp_path / "smoke.pt"


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def test_equal_models_take_every_tensor(checkpoint):
    model = smoke()
    loaded = load_weights(model, checkpoint)
    assert set(loaded.loaded) == model.state_dict().keys()
    assert loaded.changes == ()
    assert all(torch.equal(x, model.state_dict()[k]) for k, x in tensors(checkpoint).items())


@pytest.mark.parametrize("variant", ["detr", "adaptive_res+svd_split"])
def test_another_number_of_classes_leaves_the_head_as_it_was_built(checkpoint, variant):
    model, built = smoke(variant, num_classes=7), smoke(variant, num_classes=7).state_dict()
    loaded = load_weights(model, checkpoint)
    state = model.state_dict()
    assert loaded.adapted == ("class_embed.weight", "class_embed.bias")
    assert all(torch.equal(state[name], built[name]) for name in loaded.adapted)
    assert all(
        torch.equal(state["query_embed.weight"], x)
        for x in [tensors(checkpoint)["query_embed.weight"]]
    )
    assert "reset for 7 classes instead of 4: class_embed.weight, class_embed.bias" in str(loaded)


@pytest.mark.parametrize(
    ("queries", "text"), [(10, "the first 10 of 16"), (20, "the first 16 of 16, 4 more are new")]
)
def test_another_number_of_queries_takes_the_first(checkpoint, queries, text):
    model, built = smoke(num_queries=queries), smoke(num_queries=queries).state_dict()
    loaded = load_weights(model, checkpoint)
    rows, theirs = model.query_embed.weight, tensors(checkpoint)["query_embed.weight"]
    both = min(queries, 16)
    assert torch.equal(rows[:both], theirs[:both])
    assert torch.equal(rows[both:], built["query_embed.weight"][both:])
    assert loaded.adapted == ("query_embed.weight",)
    assert loaded.changes == (f"query_embed.weight: {text}",)


def test_tensors_of_other_shapes_are_named_with_both(checkpoint, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"18 of another shape.*linear1.weight \(64, 32\) where the model has \(48, 32\)",
    ):
        load_weights(smoke(dim_feedforward=48), checkpoint)
    narrow = tensors(checkpoint) | {"class_embed.weight": torch.zeros(8, 16)}
    torch.save(narrow, tmp_path / "narrow.pt")
    with pytest.raises(ValueError, match=r"1 of another shape.*class_embed.weight \(8, 16\) where"):
        load_weights(smoke(), tmp_path / "narrow.pt")


def test_missing_and_foreign_tensors_are_named(checkpoint, tmp_path):
    state = tensors(checkpoint)
    del state["input_proj.bias"]
    torch.save(state | {"other": torch.zeros(1)}, tmp_path / "cut.pt")
    with pytest.raises(ValueError, match="1 missing, such as input_proj.bias; 1 not in .* other"):
        load_weights(smoke(), tmp_path / "cut.pt")


def test_safetensors_are_read(checkpoint, tmp_path):
    save_file(tensors(checkpoint), tmp_path / "weights.safetensors")
    assert load_weights(smoke(), tmp_path / "weights.safetensors").changes == ()


def test_checkpoint_of_the_references_own_training_is_read(checkpoint, tmp_path):
    args = argparse.Namespace(lr=1e-4, device="cuda")
    torch.save({"model": tensors(checkpoint), "args": args, "epoch": 3}, tmp_path / "own.pth")
    assert load_weights(smoke(), tmp_path / "own.pth").changes == ()


def test_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"weights\.pth is a Git LFS pointer"):
        load_weights(smoke(), tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("deleted", "said"),
    [
        (
            ("class_embed.weight", "class_embed.bias"),
            "not in them, so new for 7 classes: class_embed.weight, class_embed.bias",
        ),
        (("query_embed.weight",), "not in them, so 16 new queries: query_embed.weight"),
    ],
)
def test_what_a_recipe_deletes_on_purpose_stays_as_it_was_built(checkpoint, deleted, said):
    """As https://github.com/facebookresearch/detr/issues/9 has it for other classes."""
    torch.save(
        {"model": {n: x for n, x in tensors(checkpoint).items() if n not in deleted}}, checkpoint
    )
    model, built = smoke(num_classes=7), smoke(num_classes=7).state_dict()
    loaded = load_weights(model, checkpoint)
    assert set(deleted) <= set(loaded.adapted) and said in loaded.changes
    assert not set(deleted) & set(loaded.loaded)
    state = model.state_dict()
    assert all(torch.equal(state[name], built[name]) for name in deleted)
    assert torch.equal(state["input_proj.weight"], tensors(checkpoint)["input_proj.weight"])


def test_half_a_head_is_missing_not_deleted(checkpoint):
    state = tensors(checkpoint)
    del state["class_embed.bias"]
    torch.save(state, checkpoint)
    with pytest.raises(ValueError, match=r"1 missing, such as class_embed\.bias"):
        load_weights(smoke(), checkpoint)


def test_other_peoples_forms_of_the_same_weights_load_and_are_said(checkpoint):
    """Wrappers' prefixes, EMA containers, norms' counters, half precision, a number of NumPy."""
    state = tensors(checkpoint)
    counted = {**state, "backbone.0.body.bn.num_batches_tracked": torch.tensor(3)}
    halved = {n: x.half() if x.is_floating_point() else x for n, x in state.items()}
    for content, note in [
        ({"model": {f"module.{name}": x for name, x in state.items()}}, "without 'module.'"),
        ({"ema": {"module": state}}, "taken from 'ema.module'"),
        ({"model": counted}, "left out: 1 num_batches_tracked"),
        ({"model": halved}, "torch.float16 turned into torch.float32"),
        ({"model": state, "best": np.float64(0.4)}, None),
    ]:
        torch.save(content, checkpoint)
        loaded = load_weights(smoke(), checkpoint)
        assert loaded.changes == () and len(loaded.loaded) == len(state)
        assert [note in said for said in loaded.notes] == ([True] if note else [])
        assert all(said in str(loaded) for said in loaded.notes)


def test_absent_weights_are_named_with_what_may_stand_there(tmp_path):
    with pytest.raises(ValueError, match=r"no weights at .*absent\.pt: .*or one of detr_resnet50,"):
        load_weights(smoke(), tmp_path / "absent.pt")


def publish(monkeypatch, folder: Path, name: str, state: dict) -> Path:
    """Stand-in for the official file: `state` at a file:// address, under a name with its hash."""
    unnamed = folder / "unnamed"
    torch.save({"model": state}, unnamed)
    sha256 = hashlib.sha256(unnamed.read_bytes()).hexdigest()[:8]
    path = unnamed.rename(folder / f"detr-{sha256}.pth")
    official = type(OFFICIAL[name])(path.as_uri(), sha256, 1, OFFICIAL[name].settings)
    monkeypatch.setitem(OFFICIAL, name, official)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder / "hub"))
    return path


def test_official_names_files_and_settings_are_the_references():
    urls = [x.url.removeprefix("https://dl.fbaipublicfiles.com/detr/") for x in OFFICIAL.values()]
    assert dict(zip(OFFICIAL, urls, strict=True)) == {
        "detr_resnet50": "detr-r50-e632da11.pth",
        "detr_resnet50_dc5": "detr-r50-dc5-f0fb7ef5.pth",
        "detr_resnet101": "detr-r101-2c7b67e5.pth",
        "detr_resnet101_dc5": "detr-r101-dc5-a2e86def.pth",
    }
    for name, official in OFFICIAL.items():
        assert official.url.endswith(f"-{official.sha256}.pth")
        overrides = {f"model.{key}": value for key, value in official.settings.items()}
        model = Config.preset("coco", overrides={**overrides, "train.init_from": name}).model
        with torch.device("meta"):
            Backbone(model.backbone, model.stride, model.dilation, trainable=True)
    assert (
        OFFICIAL["detr_resnet50"].settings.items()
        <= Config.preset("coco").model.model_dump().items()
    )


def test_official_weights_are_downloaded_once_and_load_strictly(monkeypatch, tmp_path, capsys):
    source = publish(monkeypatch, tmp_path, "detr_resnet50", reference.state())
    model = build_detr(Config.preset("coco").model)
    loaded = load_weights(model, "detr_resnet50")
    assert loaded.changes == () and len(loaded.loaded) == 458
    assert torch.equal(model.class_embed.weight, reference.state()["class_embed.weight"])
    assert "downloading" in capsys.readouterr().out
    source.unlink()
    assert load_weights(model, "detr_resnet50") == loaded
    assert capsys.readouterr().out == ""


def test_official_name_makes_a_subject_of_its_own_architecture(monkeypatch, tmp_path):
    publish(monkeypatch, tmp_path, "detr_resnet50_dc5", reference.state())
    subject = Subject.from_weights("detr_resnet50_dc5")
    assert subject.model.backbone[0].body.stride == 16
    assert subject.name == "detr_resnet50_dc5" and subject.class_names[1] == "person"


def test_without_a_network_it_says_what_to_fetch_and_where_to_put_it(monkeypatch, tmp_path):
    publish(monkeypatch, tmp_path, "detr_resnet50", {}).unlink()
    with pytest.raises(ValueError) as caught:
        load_weights(smoke(stride=32), "detr_resnet50")
    assert f"Fetch {OFFICIAL['detr_resnet50'].url} elsewhere" in str(caught.value)
    assert str(tmp_path / "hub" / "checkpoints") in str(caught.value)


def test_files_that_are_not_the_official_ones_are_refused_and_not_kept(monkeypatch, tmp_path):
    source = publish(monkeypatch, tmp_path, "detr_resnet50", {})
    good = source.read_bytes()
    source.write_bytes(b"cut short")
    with pytest.raises(ValueError, match="could not be downloaded .*invalid hash"):
        load_weights(smoke(stride=32), "detr_resnet50")
    here = tmp_path / "hub" / "checkpoints"
    assert list(here.iterdir()) == []
    (here / source.name).write_bytes(good[:-1])  # as somebody copied it
    with pytest.raises(ValueError, match="is not detr_resnet50: its SHA-256 begins .*delete it"):
        load_weights(smoke(stride=32), "detr_resnet50")


def test_dilation_is_asked_for_though_no_shape_tells_it():
    with pytest.raises(ValueError, match=r"model\.dilation=True, model\.stride=16; .* stride 32"):
        load_weights(smoke(stride=32), "detr_resnet50_dc5")


def test_config_and_official_name_that_disagree_name_the_settings():
    with pytest.raises(
        ValueError,
        match=r"train\.init_from='detr_resnet101_dc5' needs model\.backbone='resnet101' "
        r"\(found 'resnet50'\), model\.dilation=True \(found False\), model\.stride=16 \(found 32",
    ):
        Config.preset("coco", overrides={"train.init_from": "detr_resnet101_dc5"})
    with pytest.raises(ValueError, match=r"needs model\.num_heads=8 \(found 4\)$"):
        overrides = {"train.init_from": "detr_resnet50", "model.num_heads": 4}
        Config.preset("coco", overrides=overrides)


def test_weights_of_other_classes_are_no_subject(monkeypatch, tmp_path):
    state = dict(reference.state())
    for name in ("class_embed.weight", "class_embed.bias"):
        state[name] = state[name][:5]
    publish(monkeypatch, tmp_path, "detr_resnet50", state)
    with pytest.raises(ValueError, match="not those of a COCO model: reset for 91 classes"):
        Subject.from_weights("detr_resnet50")


def test_tensors_that_differ_in_their_layers_number_are_said_once():
    new = ("encoder.layers.0.gate", "query.points", "encoder.layers.1.gate", "layers.0.norm")
    loaded = LoadedWeights("a file", ("x",), (), new, (), (4, 4), None)
    assert loaded.changes == (
        "new to them: encoder.layers.*.gate (2), query.points, layers.0.norm",
    )
