"""Weights of Hugging Face's transformers come in and go out; both codes compute the same."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from detrnb import Config, build_detr, load_weights
from detrnb.datasets import EvalTransform, as_tensor
from detrnb.exchange import export_to_transformers
from detrnb.model import build_criterion, weights
from detrnb.training import Run

NAMES = ("cat", "dog", "red bird")
SMALL = {
    "model.num_classes": 3,
    "model.num_queries": 7,
    "model.backbone": "resnet18",
    "model.backbone_weights": "none",
    "model.d_model": 32,
    "model.num_heads": 4,
    "model.num_encoder_layers": 2,
    "model.num_decoder_layers": 2,
    "model.dim_feedforward": 48,
    "data.eval_size": 72,
    "data.max_size": 100,
}
# Small as they call it, without what a class has as its default.
THEIRS = {
    "num_labels": 3,
    "num_queries": 7,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "dropout": 0.0,
}
KINDS = {"detr": "Detr", "conditional+focal": "ConditionalDetr"}


@pytest.fixture
def transformers():
    return pytest.importorskip(
        "transformers", reason="transformers is not installed; the extra hf brings it"
    )


def config(variant: str = "detr", **settings: object) -> Config:
    dotted = {f"model.{key}": value for key, value in settings.items()}
    return Config.preset("coco", variant=variant, overrides=SMALL | dotted)


def scramble(model: torch.nn.Module) -> None:
    """Other numbers in everything, norms' statistics too, so that a mix-up shows."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in model.state_dict().items():  # what is not kept is the function's own
        if not tensor.is_floating_point():
            continue
        noise = torch.rand(tensor.shape, generator=generator)
        # In proportion, lest activations grow until rounding is all that is left; but queries far
        # apart, so that no two scores lie within rounding of each other.
        size = 2.0 if re.search("query|class", name) else 0.1
        if tensor.dim() > 1 and size < 1:
            size = 0.3 * float(tensor.std())
        with torch.no_grad():
            tensor += 0.1 * noise if "running_var" in name else size * (noise - 0.5)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Two normalised images, the second padded, and the padding mask."""
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    padding_mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    padding_mask[1, 40:] = padding_mask[1, :, 60:] = True
    return images.masked_fill(padding_mask[:, None], 0.0), padding_mask


@torch.no_grad()
def assert_equal(ours: torch.nn.Module, settings: Config, theirs, processor) -> None:
    """Both compute the same, and detections after post-processing are the same."""
    # In float64, where rounding orders no two detections otherwise.
    ours, theirs = ours.double(), theirs.double()
    images, padding_mask = batch()
    images = images.double()
    here = ours.eval()(images, padding_mask)
    there = theirs.eval()(pixel_values=images, pixel_mask=(~padding_mask).long())
    for mine, other in (
        (here["pred_logits"], there.logits),
        (here["pred_boxes"], there.pred_boxes),
    ):
        assert mine.std() > 1e-3  # there is something to compare
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)
    sizes = torch.tensor([[64, 96], [40, 60]])
    found = build_criterion(settings.model).detections(here, sizes)
    expected = processor.post_process_object_detection(there, threshold=0.0, target_sizes=sizes)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine["scores"], other["scores"], rtol=0, atol=1e-5)
        assert torch.equal(mine["labels"], other["labels"])
        torch.testing.assert_close(mine["boxes"], other["boxes"], rtol=0, atol=1e-3)


def saved(transformers, variant: str, folder: Path, **settings: object):
    """A model of theirs with random weights, saved in a folder with its image processor."""
    kind = KINDS[variant]
    torch.manual_seed(0)
    stated = {"backbone": "resnet18"} | settings
    there = getattr(transformers, f"{kind}Config")(**THEIRS, **stated)
    there.id2label = dict(enumerate(NAMES))
    model = getattr(transformers, f"{kind}ForObjectDetection")(there)
    scramble(model)
    model.save_pretrained(folder)
    processor = getattr(transformers, f"{kind}ImageProcessor")()
    processor.save_pretrained(folder)
    return model, processor


@pytest.mark.parametrize("variant", KINDS)
def test_a_model_saved_by_transformers_computes_the_same_here(variant, transformers, tmp_path):
    theirs, processor = saved(transformers, variant, tmp_path / "saved")
    settings = config(variant)
    ours = build_detr(settings.model)
    loaded = load_weights(ours, tmp_path / "saved")
    assert loaded.changes == ()
    assert "its classes: 0 cat, 1 dog, 2 red bird" in loaded.notes
    assert "its images: data.eval_size=800, data.max_size=1333" in loaded.notes
    assert_equal(ours, settings, theirs, processor)


@pytest.mark.parametrize("form", ["shards", "bin", "dilated", "own resnet", "own bottlenecks"])
def test_every_form_that_transformers_save_is_read(form, transformers, tmp_path):
    folder, stated, here = tmp_path / "saved", {}, {}
    if form == "dilated":
        stated, here = {"dilation": True}, {"dilation": True, "stride": 16}
        stated |= {"backbone": "resnet50"}
        here |= {"backbone": "resnet50"}
    if form.startswith("own"):
        kind, depths = (
            ("basic", (2, 2, 2, 2)) if form == "own resnet" else ("bottleneck", (3, 4, 6, 3))
        )
        sizes = (64, 128, 256, 512) if kind == "basic" else (256, 512, 1024, 2048)
        backbone = transformers.ResNetConfig(
            depths=list(depths), layer_type=kind, hidden_sizes=list(sizes), out_features=["stage4"]
        )
        stated, here = {"backbone_config": backbone, "backbone": None}, {}
        here |= {"backbone": "resnet18" if kind == "basic" else "resnet50"}
    theirs, processor = saved(transformers, "detr", folder, **stated)
    if form == "shards":
        (folder / "model.safetensors").unlink()
        theirs.save_pretrained(folder, max_shard_size="2MB")
        assert len([*folder.glob("model-*.safetensors")]) > 1
    if form == "bin":
        file = folder / "model.safetensors"
        torch.save(load_file(file), folder / "pytorch_model.bin")
        file.unlink()
    settings = config("detr", **here)
    ours = build_detr(settings.model)
    assert load_weights(ours, folder).changes == ()
    assert_equal(ours, settings, theirs, processor)


def untrained(settings: Config) -> Run:
    torch.manual_seed(1)
    model = build_detr(settings.model)
    scramble(model)
    classes = {label: (10 * label, name) for label, name in enumerate(NAMES)}
    return Run(Path("runs/mine"), settings, model.eval(), classes)


@pytest.mark.parametrize("variant", KINDS)
@pytest.mark.parametrize("dilation", [False, True])
def test_transformers_load_what_is_exported_and_compute_the_same(
    variant, dilation, transformers, tmp_path
):
    settings = {"dilation": True, "stride": 16, "backbone": "resnet50"} if dilation else {}
    run = untrained(config(variant, **settings))
    folder = export_to_transformers(run, tmp_path / "out")
    kind = KINDS[variant]
    model_class = getattr(transformers, f"{kind}ForObjectDetection")
    theirs, report = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.config.id2label == dict(enumerate(NAMES))
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    assert type(processor).__name__.startswith(f"{kind}ImageProcessor")
    assert_equal(run.model, run.config, theirs, processor)
    again = build_detr(run.config.model)
    assert load_weights(again, folder).changes == ()
    kept = run.model.state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in again.state_dict().items())


def test_images_are_prepared_there_as_here(transformers, tmp_path):
    run = untrained(config())
    folder = export_to_transformers(run, tmp_path / "out")
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    smooth = np.linspace(0, 255, 90 * 120 * 3).reshape(90, 120, 3).astype(np.uint8)
    image = Image.fromarray(smooth)
    prepared = processor(images=[image], return_tensors="pt")
    pixels = EvalTransform(72, 100)(image.size).pixels(as_tensor(image))[None]
    mask = torch.zeros(1, *pixels.shape[2:], dtype=torch.bool)
    expected = run.model.normalize(pixels, mask)
    assert prepared["pixel_values"].shape == expected.shape
    step = 1 / 255 / min(run.model.backbone[0].body.std)  # resizing rounds to whole levels
    torch.testing.assert_close(prepared["pixel_values"], expected, rtol=0, atol=1.01 * step)


@pytest.mark.parametrize(
    ("variant", "settings", "named"),
    [
        ("svd_split", {}, "model.variant='svd_split'"),
        ("conditional", {}, "model.variant='conditional', and they are detr and conditional.focal"),
        ("detr", {"position_temperature": 20.0}, "model.position_temperature=20.0"),
        ("detr", {"pre_norm": True}, "model.pre_norm=True"),
        ("detr", {"backbone": "tf_efficientnet_lite0"}, "model.backbone='tf_efficientnet_lite0'"),
        ("detr", {"cost_bbox": 2.5}, "model.cost_bbox=2.5, and theirs is a whole number"),
        ("detr", {"weight_ce": 2.0}, "model.weight_ce=2.0, and theirs is 1"),
        ("conditional+focal", {"num_decoder_layers": 1}, "model.num_decoder_layers=1"),
    ],
)
def test_what_transformers_cannot_express_is_refused_by_name(variant, settings, named, tmp_path):
    run = untrained(config(variant, **settings))
    with pytest.raises(ValueError, match=f"cannot express mine: {named}"):
        export_to_transformers(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    run, refused = untrained(config()), "is there already, and holds what no export left there"
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=refused):
        export_to_transformers(run, tmp_path)
    folder = export_to_transformers(run, tmp_path / "out")
    export_to_transformers(run, folder)  # its own are replaced
    # As transformers leave it, who may have trained on.
    weights = folder / "model.safetensors"
    save_file(load_file(weights), weights, {"format": "pt"})
    with pytest.raises(ValueError, match=refused):
        export_to_transformers(run, folder)


@pytest.mark.parametrize(
    ("variant", "settings", "there", "named"),
    [
        ("detr", {"position_temperature": 20.0}, {}, r"model\.position_temperature=10000\.0 there"),
        ("detr", {"pre_norm": True}, {}, r"model\.pre_norm=False there, True here"),
        ("detr", {"num_heads": 8}, {}, r"model\.num_heads=4 there, 8 here"),
        ("detr", {"num_encoder_layers": 3}, {}, r"model\.num_encoder_layers=2 there, 3 here"),
        ("detr", {"backbone": "resnet34"}, {}, r"model\.backbone='resnet18' there"),
        ("detr", {}, {"dilation": True}, r"model\.dilation=True there, False here"),
        ("detr", {}, {"activation_function": "gelu"}, "activation_function='gelu' there"),
        ("detr", {}, {"auxiliary_loss": True}, "auxiliary_loss=True there"),
        ("detr", {}, {"position_embedding_type": "learned"}, "'learned' there, which is 'sine'"),
        ("detr", {}, {"architectures": ["DetrForSegmentation"]}, "it is a DetrForSegmentation"),
        ("conditional", {}, {"conditional": True}, "is the variant 'conditional.focal', found"),
    ],
)
def test_a_saved_model_of_another_function_is_refused_by_name(
    variant, settings, there, named, tmp_path
):
    is_conditional = there.pop("conditional", False)
    source = "conditional+focal" if is_conditional else "detr"
    folder = export_to_transformers(untrained(config(source)), tmp_path / "saved")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | there))
    with pytest.raises(ValueError, match=named):
        load_weights(build_detr(config(variant, **settings).model), folder)


def test_other_normalisation_is_refused(tmp_path):
    folder = export_to_transformers(untrained(config()), tmp_path / "saved")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_mean": [0.5, 0.5, 0.5]}))
    with pytest.raises(ValueError, match=r"image_mean is \[0.5, 0.5, 0.5\] there"):
        load_weights(build_detr(config().model), folder)


def test_saved_weights_of_detr_load_into_a_variant_and_other_classes(tmp_path):
    folder = export_to_transformers(untrained(config()), tmp_path / "saved")
    model = build_detr(config("adaptive_res", num_classes=5).model)
    changes = load_weights(model, folder).changes
    assert any("reset for 5 classes instead of 3" in change for change in changes)
    assert any("new to them" in change for change in changes)


def test_a_name_of_the_hub_is_fetched_and_without_network_both_readings_are_named(
    tmp_path, monkeypatch
):
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    folder = export_to_transformers(untrained(config()), tmp_path / "elsewhere" / "saved")
    asked = []

    def fetch(name: str, **kwargs: object) -> str:
        asked.append(name)
        if name == "somebody/detr":
            return str(folder)
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    model = build_detr(config().model)
    assert load_weights(model, "somebody/detr").changes == ()
    with pytest.raises(ValueError, match="the project has no such path, and Hugging Face's hub"):
        load_weights(model, "nobody/detr")
    (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match="no weights at .*runs/mistyped: expected"):
        load_weights(model, "runs/mistyped")
    assert asked == ["somebody/detr", "nobody/detr"]
    assert weights.OFFICIAL.keys().isdisjoint(asked)
