"""DETR's tensors and settings under the names that Hugging Face's transformers has for them.

`DetrForObjectDetection` is `detr`, `ConditionalDetrForObjectDetection` is `conditional+focal`. The
names are those of its files, which all its versions read and write; since its fifth the modules
themselves are called otherwise. Projections lie apart there that are one tensor here.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detrnb.checkpoints import read_checkpoint
from detrnb.settings import BASELINE, ModelConfig, resolve

SAVED_CONFIG, SAVED_PROCESSOR = "config.json", "preprocessor_config.json"
# transformers' class -> its `model_type`, and our variant.
SAVED_CLASSES = {
    "DetrForObjectDetection": ("detr", BASELINE),
    "ConditionalDetrForObjectDetection": ("conditional_detr", "conditional+focal"),
}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_PROJECTED = re.compile(r"(.*attn\.)(q_proj|k_proj|v_proj)\.(weight|bias)")
_LAYER = re.compile(r"((?:transformer|model)\.(encoder|decoder)\.layers\.\d+\.)(.*)")
# Ours -> theirs, for the beginnings of names, then inside layers of encoder and decoder.
_OUTER = (
    ("backbone.0.body.", "model.backbone.conv_encoder.model."),
    ("input_proj.", "model.input_projection."),
    ("query_embed.", "model.query_position_embeddings."),
    ("class_embed.", "class_labels_classifier."),
    ("bbox_embed.", "bbox_predictor."),
    ("transformer.decoder.norm.", "model.decoder.layernorm."),
    ("transformer.", "model."),
)
_ENCODER_LAYER = (
    ("linear1.", "fc1."),
    ("linear2.", "fc2."),
    ("norm1.", "self_attn_layer_norm."),
    ("norm2.", "final_layer_norm."),
)
_DECODER_LAYER = (
    *_ENCODER_LAYER[:3],
    ("norm2.", "encoder_attn_layer_norm."),
    ("norm3.", "final_layer_norm."),
)
_OUTWARD = {False: ("multihead_attn.", "encoder_attn."), True: ("cross_attn.", "encoder_attn.")}
# The backbone of transformers' own, which it takes in place of timm's.
_STAGE = re.compile(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.")
# Their setting -> ours, of those that must be equal for the same function to be computed.
_SETTINGS = {
    "d_model": "d_model",
    "encoder_attention_heads": "num_heads",
    "decoder_attention_heads": "num_heads",
    "encoder_layers": "num_encoder_layers",
    "decoder_layers": "num_decoder_layers",
    "encoder_ffn_dim": "dim_feedforward",
    "decoder_ffn_dim": "dim_feedforward",
}
# With an auxiliary loss their decoder norms what goes from layer to layer: another function.
_FIXED = {
    "position_embedding_type": "sine",
    "activation_function": "relu",
    "auxiliary_loss": False,
}
SAVED_TEMPERATURE = (
    10000.0  # of the sine embedding, which transformers' classes have no setting for
)


@dataclass(frozen=True)
class Saved:
    """What a folder of transformers' holds.

    Attributes:
        state: tensors by our names.
        config: its config.json.
        processor: its preprocessor_config.json; empty where there is none.
    """

    state: dict[str, Tensor]
    config: Mapping[str, object]
    processor: Mapping[str, object]

    @property
    def notes(self) -> tuple[str, ...]:
        """What travels with the weights, in words."""
        names = self.config.get("id2label") or {}
        listed = [f"{number} {name}" for number, name in names.items()]
        more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
        said = [f"saved by transformers as {self.config['architectures'][0]}"]
        if listed:
            said.append(f"its classes: {', '.join(listed[:8])}{more}")
        size = self.processor.get("size") or {}
        if isinstance(size, Mapping) and "shortest_edge" in size:
            said.append(
                f"its images: data.eval_size={size['shortest_edge']}"
                f", data.max_size={size.get('longest_edge')}"
            )
        return tuple(said)


def is_saved(folder: Path) -> bool:
    """Whether a folder was saved by transformers."""
    try:
        return "model_type" in json.loads((folder / SAVED_CONFIG).read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def read_saved(folder: Path, settings: ModelConfig, mean: object, std: object) -> Saved:
    """What transformers saved in a folder, for a model that these settings describe.

    Args:
        mean, std: that the model's images are normalised by.

    Raises:
        ValueError: it is of another class, or computes another function than the settings say;
            names them.
    """
    config = json.loads((folder / SAVED_CONFIG).read_bytes())
    file = folder / SAVED_PROCESSOR
    processor = json.loads(file.read_bytes()) if file.is_file() else {}
    wrong = [*_differences(config, settings), *_other_images(processor, mean, std)]
    if wrong:
        raise ValueError(f"{folder} holds another model than the settings say: {'; '.join(wrong)}")
    conditional = config["model_type"] == SAVED_CLASSES["ConditionalDetrForObjectDetection"][0]
    return Saved(_ours(_tensors(folder), conditional), config, processor)


def _differences(config: Mapping, settings: ModelConfig) -> Iterator[str]:
    """In what a saved config and our settings disagree, each with the setting to change."""
    [architecture] = config.get("architectures") or ["no class"]
    if architecture not in SAVED_CLASSES:
        yield f"it is a {architecture}; expected {' or '.join(SAVED_CLASSES)}"
        return
    expected = SAVED_CLASSES[architecture][1]
    here, there = ({part.name for part in resolve(v)} for v in (settings.variant, expected))
    if expected != BASELINE and here != there:  # DETR's load into any variant
        yield f"{architecture} is the variant {expected!r}, found {settings.variant!r}"
    for theirs, ours in _SETTINGS.items():
        if theirs in config and config[theirs] != getattr(settings, ours):
            yield f"model.{ours}={config[theirs]!r} there, {getattr(settings, ours)!r} here"
    for key, value in _FIXED.items():
        if config.get(key, value) != value:
            yield f"{key}={config[key]!r} there, which is {value!r} here"
    here = settings.position_temperature
    if here != SAVED_TEMPERATURE:
        yield f"model.position_temperature={SAVED_TEMPERATURE} there, {here} here"
    if settings.pre_norm:
        yield "model.pre_norm=False there, True here"
    name = _backbone_of(config)
    if name is not None and name != settings.backbone:
        yield f"model.backbone={name!r} there, {settings.backbone!r} here"
    dilated = bool(config.get("dilation"))
    if dilated != settings.dilation:
        yield f"model.dilation={dilated} there, {settings.dilation} here"


def _backbone_of(config: Mapping) -> str | None:
    """The name of a saved model's backbone, as torchvision and timm have it."""
    backbone = config.get("backbone_config") or {}
    if backbone.get("model_type") == "resnet":
        return f"resnet{2 + _convolutions(backbone)}"
    return backbone.get("backbone") or config.get("backbone")


def _convolutions(backbone: Mapping) -> int:
    """Convolutions in the blocks of transformers' own ResNet."""
    a_block = 3 if backbone.get("layer_type", "bottleneck") == "bottleneck" else 2
    return a_block * sum(backbone.get("depths", (3, 4, 6, 3)))


def _other_images(processor: Mapping, mean: object, std: object) -> Iterator[str]:
    for key, ours in (("image_mean", mean), ("image_std", std)):
        theirs = processor.get(key)
        if theirs is not None and not _near(theirs, ours):
            yield f"{key} is {theirs} there, {list(ours)} here, by the backbone"


def _near(these: object, those: object) -> bool:
    return len(these) == len(those) and all(
        abs(a - b) < 1e-6 for a, b in zip(these, those, strict=True)
    )


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder's files of weights, whole or in shards."""
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        files = sorted(folder.glob(pattern))
        index = next(iter(folder.glob(f"{pattern}.index.json")), None)
        if index is not None:
            wanted = {*json.loads(index.read_bytes())["weight_map"].values()}
            if lacking := wanted - {file.name for file in files}:
                raise ValueError(f"{folder} lacks {', '.join(sorted(lacking))} of {index.name}")
        if files:
            parts = [read_checkpoint(file, mmap=True) for file in files]
            return {name: tensor for part in parts for name, tensor in part.items()}
    raise ValueError(f"{folder} holds no model.safetensors or pytorch_model.bin")


def as_saved(state: Mapping[str, Tensor], conditional: bool) -> dict[str, Tensor]:
    """Our tensors under their names.

    Args:
        conditional: whether the decoder is that of the variant `conditional`.
    """
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        stem, joined, kind = name.partition("in_proj_")
        if joined:
            parts = zip(_PROJECTIONS, tensor.chunk(3), strict=True)
            split |= {f"{stem}{projection}.{kind}": part for projection, part in parts}
        else:
            split[name] = tensor
    return {_renamed(name, 0, 1, conditional): x.contiguous() for name, x in split.items()}


def _ours(state: Mapping[str, Tensor], conditional: bool) -> dict[str, Tensor]:
    """Their tensors under our names, of whichever kind of backbone."""
    named = {_renamed(_as_timm(name), 1, 0, conditional): x for name, x in state.items()}
    kept: dict[str, Tensor] = {}
    for name, tensor in named.items():
        found = _PROJECTED.fullmatch(name)
        if found is None:
            kept[name] = tensor
        elif found[2] == _PROJECTIONS[0]:
            parts = [named[f"{found[1]}{projection}.{found[3]}"] for projection in _PROJECTIONS]
            kept[f"{found[1]}in_proj_{found[3]}"] = torch.cat(parts)
    return kept


def _renamed(name: str, start: int, end: int, conditional: bool) -> str:
    """A name in the other language: the places in a pair say from which to which."""
    for pair in _OUTER:
        if name.startswith(pair[start]):
            name = pair[end] + name.removeprefix(pair[start])
            break
    layer = _LAYER.fullmatch(name)
    if layer is None:
        return name
    pairs = _ENCODER_LAYER if layer[2] == "encoder" else (*_DECODER_LAYER, _OUTWARD[conditional])
    for pair in pairs:
        if layer[3].startswith(pair[start]):
            return layer[1] + pair[end] + layer[3].removeprefix(pair[start])
    return name


def _as_timm(name: str) -> str:
    """A name of transformers' own ResNet as timm and torchvision have it; others as they are."""
    head, found, inner = name.partition("conv_encoder.model.")
    if not found or not inner.startswith(("embedder.", "encoder.")):
        return name
    kinds = {"convolution": "conv", "normalization": "bn"}
    if inner.startswith("embedder."):
        _, _, kind, rest = inner.split(".", 3)
        return f"{head}{found}{kinds[kind]}1.{rest}"
    stage = _STAGE.match(inner)
    place, kind, rest = inner[stage.end() :].removeprefix("layer.").split(".", 2)
    block = f"{head}{found}layer{int(stage[1]) + 1}.{stage[2]}"
    if place == "shortcut":
        return f"{block}.downsample.{0 if kind == 'convolution' else 1}.{rest}"
    return f"{block}.{kinds[kind]}{int(place) + 1}.{rest}"


def fetched_from_hub(name: str) -> Path:
    """The folder of a model of Hugging Face's hub, downloaded unless it was before.

    Raises:
        ValueError: it cannot be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    settings = [SAVED_CONFIG, SAVED_PROCESSOR]
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*settings, "model*.safetensors*"]))
        if not any(folder.glob("model*.safetensors")):  # a repository of before there were such
            older = [*settings, "pytorch_model*.bin*"]
            folder = Path(snapshot_download(name, allow_patterns=older))
        return folder
    except (OSError, HfHubHTTPError, ValueError) as error:
        raise ValueError(
            f"no weights at {name!r}: the project has no such path, and Hugging Face's hub gave"
            f" nothing of that name ({type(error).__name__}). Give a path, such as the folder of a"
            " model that was downloaded elsewhere"
        ) from error
