"""The model agrees with the reference implementation (tests/golden/README.md)."""

import json

import numpy as np
import pytest
import reference
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from detrnb.look import record_attention
from detrnb.loss import postprocess
from detrnb.model.detr import build_criterion, build_detr
from detrnb.settings import BASELINE, combinations
from detrnb.settings.config import Config
from detrnb.training.prepare import build_optimizer


@pytest.fixture(scope="module")
def outputs() -> dict:
    model = reference.model().eval()
    with torch.no_grad():
        return model(*reference.batch())


def test_state_dict_has_the_references_names_and_shapes():
    model = build_detr(Config.preset("coco").model)
    ours = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert ours == reference.read("state_keys.json")
    assert len(ours) == 458


@pytest.mark.parametrize("variant", [BASELINE, *combinations()])
def test_batch_without_padding_needs_no_mask_and_gives_the_same_bits(variant):
    config = Config.preset("smoke", variant=variant)
    torch.manual_seed(0)
    model = build_detr(config.model, train_backbone=False).eval()
    features, none = torch.randn(2, 112, 6, 8), torch.zeros(2, 96, 128, dtype=torch.bool)
    with torch.no_grad():
        masked, plain = (model(None, mask, features=features) for mask in (none, None))
    for name in ("pred_logits", "pred_boxes"):
        assert torch.equal(plain[name], masked[name])
    with torch.no_grad(), record_attention(model) as recording:
        model(None, features=features)
    assert recording.grid(1) == (6, 8)  # each image has its map


def test_images_are_normalised_by_the_models_own_buffers_which_no_checkpoint_holds():
    model = build_detr(Config.preset("coco").model)
    images, mask = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8), torch.ones(1, 2, 2)
    expected = (1 - torch.tensor(model.backbone[0].body.mean)) / torch.tensor(
        model.backbone[0].body.std
    )
    assert torch.equal(model.normalize(images)[0, :, 0, 0], expected)
    assert (model.normalize(images, mask.bool()) == 0).all()
    assert not {"mean", "std"} & model.state_dict().keys()


OUR_NAMES = {"enc_layers": "num_encoder_layers", "dec_layers": "num_decoder_layers"}


@pytest.mark.parametrize(
    ("settings", "expected"), [("{}", 41_302_368), *reference.read("n_parameters.json").items()]
)
def test_trainable_parameters_are_the_references(settings, expected):
    overrides = {OUR_NAMES.get(key, key): value for key, value in json.loads(settings).items()}
    if "dilation" in overrides:
        overrides["stride"] = 16
    dotted = {f"model.{key}": value for key, value in overrides.items()}
    model = build_detr(Config.preset("coco", overrides=dotted).model)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


def test_optimizer_has_the_references_two_groups():
    config = Config.preset("coco")
    optimizer = build_optimizer(build_detr(config.model), config.train)
    sizes = [sum(p.numel() for p in group["params"]) for group in optimizer.param_groups]
    assert sizes == [18_069_856, 23_232_512]
    assert [group["lr"] for group in optimizer.param_groups] == [1e-4, 1e-5]


def test_forward_agrees_with_golden(outputs):
    golden = reference.read("forward.npz")
    for name in ("pred_logits", "pred_boxes"):
        np.testing.assert_allclose(outputs[name], golden[name], atol=1e-4)
        for i, layer in enumerate(outputs["aux_outputs"]):
            np.testing.assert_allclose(layer[name], golden[f"aux{i}_{name}"], atol=1e-4)
    assert len(outputs["aux_outputs"]) == 5


def test_postprocess_agrees_with_golden(outputs):
    golden = reference.read("forward.npz")
    sizes = torch.tensor([[480, 640], [400, 560]])
    for i, found in enumerate(postprocess(outputs, sizes)):
        np.testing.assert_allclose(found["scores"], golden[f"post{i}_scores"], atol=1e-4)
        np.testing.assert_array_equal(found["labels"], golden[f"post{i}_labels"])
        # 1e-4 of the image, in pixels.
        np.testing.assert_allclose(found["boxes"], golden[f"post{i}_boxes"], atol=0.064)
        np.testing.assert_allclose(found["boxes"], golden[f"post{i}_boxes"], rtol=1e-4, atol=1e-3)


def _without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "in_proj_weight"):
            module.dropout = 0.0
    return model


def test_four_training_steps_agree_with_golden():
    golden = reference.read("train_steps.json")
    config = Config.preset("coco")
    model = _without_dropout(reference.model()).train()
    optimizer = build_optimizer(model, config.train)
    criterion = build_criterion(config.model)
    batches = list(reference.TARGETS.values()) * 2
    for step, (targets, expected) in enumerate(zip(batches, golden["steps"], strict=True)):
        losses = criterion(model(*reference.batch()), targets)
        loss = criterion.total(losses)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_max_norm)
        optimizer.step()
        assert loss.item() == pytest.approx(expected["loss"], rel=1e-3)
        # The reference itself, run again, differs by 1.5 % at the fourth step.
        assert norm.item() == pytest.approx(expected["grad_norm"], rel=5e-2 if step else 1e-3)
        if step == 0:
            for name, value in expected["losses"].items():
                assert losses[name].item() == pytest.approx(value, rel=1e-3), name
    after = model.state_dict()
    for name, (_, absolute_sum, first) in golden["after_four_steps_sum_abssum_first"].items():
        assert after[name].double().abs().sum().item() == pytest.approx(absolute_sum, rel=1e-4)
        assert after[name].flatten()[0].item() == pytest.approx(first, abs=5e-4)


def test_padding_does_not_reach_detections_from_the_features_on():
    model = build_detr(Config.preset("smoke").model).eval()
    features, mask = torch.randn(2, 112, 6, 8), torch.zeros(2, 96, 128, dtype=torch.bool)
    mask[1, 64:] = True
    mask[1, :, 96:] = True
    with torch.no_grad():
        both = model(None, mask, features=features)["pred_boxes"][1]
        alone = model(None, mask[1:, :64, :96], features=features[1:, :, :4, :6])["pred_boxes"][0]
    torch.testing.assert_close(both, alone, atol=1e-5, rtol=1e-4)


def test_heads_compute_in_float32_under_autocast():
    model = build_detr(Config.preset("smoke").model).eval()
    kept = []
    model.transformer.register_forward_hook(lambda module, args, output: kept.append(output[0]))
    images, mask = torch.randn(2, 3, 128, 128), torch.zeros(2, 128, 128, dtype=torch.bool)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs = model(images, mask)
    decoded = kept[0].float()
    assert torch.equal(outputs["pred_boxes"], model.bbox_embed(decoded[-1]).sigmoid())
    assert torch.equal(outputs["pred_logits"], model.class_embed(decoded[-1]))


def test_normalize_gives_zero_on_padding():
    model = build_detr(Config.preset("coco", overrides={"model.backbone": "resnet18"}).model)
    images = torch.full((1, 3, 4, 6), 255, dtype=torch.uint8)
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[:, 3] = True
    normalized = model.normalize(images, mask)
    assert normalized[:, :, 3].abs().max() == 0
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(normalized[0, :, 0, 0], expected)


def test_one_seed_gives_equal_weights_to_the_parts_models_share():
    shallow = Config.preset("smoke", overrides={"model.num_encoder_layers": 0}).model
    deep = Config.preset("smoke").model
    states = []
    for config in (shallow, deep, deep):
        torch.manual_seed(3)
        states.append(build_detr(config).state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    assert states[1].keys() > states[0].keys()
    torch.manual_seed(4)
    other = build_detr(deep).state_dict()
    assert not torch.equal(other["query_embed.weight"], states[1]["query_embed.weight"])


def test_initial_weights_follow_the_references_rules():
    torch.manual_seed(0)
    state = build_detr(Config.preset("coco").model).state_dict()
    layer = "transformer.encoder.layers.0."
    xavier = (6 / (768 + 256)) ** 0.5
    assert state[layer + "self_attn.in_proj_weight"].abs().max() == pytest.approx(xavier, rel=1e-3)
    xavier = (6 / (2048 + 256)) ** 0.5
    assert state[layer + "linear1.weight"].abs().max() == pytest.approx(xavier, rel=1e-3)
    assert state[layer + "linear1.bias"].abs().max() == pytest.approx(256**-0.5, rel=1e-1)
    assert state["class_embed.weight"].abs().max() == pytest.approx(256**-0.5, rel=1e-2)
    assert state["query_embed.weight"].std() == pytest.approx(1, abs=0.02)
    for name in ("self_attn.in_proj_bias", "self_attn.out_proj.bias"):
        assert state[layer + name].abs().max() == 0


# On fake CUDA tensors operators check that their inputs share a device, without a GPU. What cannot
# run so: backward, `.cpu()` (so the matcher: matches are given here), boolean selection, and
# branches on values, such as svd_split's choice of precision.
SINGLE = [name for name in combinations() if "+" not in name]
OPTIONS_FOR_FAKE_TENSORS = {"svd_split": {"model.options.svd_split.solver": "svd"}}


@pytest.mark.parametrize(
    ("preset", "variant"), [("smoke", BASELINE), *(("coco", name) for name in (BASELINE, *SINGLE))]
)
def test_forward_and_losses_stay_on_the_models_device(preset, variant):
    overrides = OPTIONS_FOR_FAKE_TENSORS.get(variant, {})
    config = Config.preset(preset, variant=variant, overrides=overrides).model
    with FakeTensorMode():
        # Only what is given is made on CUDA; a tensor that the code makes elsewhere then clashes.
        with torch.device("cuda"):
            model, criterion = build_detr(config), build_criterion(config)
            mask = torch.zeros(2, 128, 160, dtype=torch.bool)
            pixels = torch.zeros(2, 3, 128, 160, dtype=torch.uint8)
            targets = [
                {
                    "labels": torch.zeros(n, dtype=torch.int64),
                    "boxes": torch.zeros(n, 4),
                    "draws": n,
                }
                for n in (2, 0)
            ]
        outputs = model(model.normalize(pixels, mask), mask, targets=targets)
        layers = [*outputs["aux_outputs"], outputs]
        logits = torch.stack([layer["pred_logits"] for layer in layers])
        boxes = torch.stack([layer["pred_boxes"] for layer in layers])
        pairs = [(np.array([1, 4]), np.array([1, 0])), (np.empty(0, int), np.empty(0, int))]
        matches = [pairs] * len(layers)
        losses = criterion.losses(logits, boxes, targets, matches, model.layout(targets))
        cost = criterion.matcher.cost(logits, boxes, targets)
        found = criterion.detections(outputs, torch.tensor([[4, 5], [6, 7]]))
    assert cost.device.type == found[0]["boxes"].device.type == "cuda"
    assert {loss.device.type for loss in losses.values()} == {"cuda"}
