"""A run's model as Hugging Face's transformers load it: a folder for `from_pretrained`."""

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from detrnb.model import (
    SAVED_CLASSES,
    SAVED_CONFIG,
    SAVED_PROCESSOR,
    SAVED_TEMPERATURE,
    ResNetBody,
    as_saved,
)
from detrnb.runs import write_whole
from detrnb.settings import DataConfig, ModelConfig, resolve
from detrnb.training import Run

WEIGHTS = "model.safetensors"
MADE_BY = {"made_by": "detrnb"}  # in its metadata, which transformers does not keep when it saves
_IMAGE_PROCESSORS = {
    "detr": "DetrImageProcessor",
    "conditional_detr": "ConditionalDetrImageProcessor",
}


def export_to_transformers(run: Run, folder: str | Path) -> Path:
    """Write a folder that transformers' `from_pretrained` loads, model and image processor.

    `detr` becomes `DetrForObjectDetection`, `conditional+focal` becomes
    `ConditionalDetrForObjectDetection`. Names of classes, sizes of images and their normalisation
    travel with it.

    Returns:
        The folder.

    Raises:
        ValueError: their classes cannot express the model, by the setting's name; or the folder
            holds something else already.
        OSError: it cannot be written.
    """
    folder, settings = Path(folder), run.config.model
    if folder.exists() and not _is_free(folder):
        raise ValueError(
            f"{folder} is there already, and holds what no export left there; give a new folder"
        )
    wrong = [*_beyond(run)]
    if wrong:
        raise ValueError(
            f"transformers' classes cannot express {run.path.name}: {'; '.join(wrong)}. As it is it"
            " can be written to .safetensors or .onnx"
        )
    architecture = _architecture(settings)
    kind, _ = SAVED_CLASSES[architecture]
    body = run.model.backbone[0].body
    state = as_saved(run.model.state_dict(), kind == "conditional_detr")
    files = {
        SAVED_CONFIG: _json(_config(architecture, settings, run.class_names)),
        SAVED_PROCESSOR: _json(_processor(kind, run.config.data, body)),
        WEIGHTS: save(state, metadata={"format": "pt", **MADE_BY}),
    }
    for name, content in files.items():
        write_whole(folder / name, lambda file, content=content: file.write(content))
    return folder


def _is_free(folder: Path) -> bool:
    """Whether nothing else is in a folder than what was written there, and not trained on since."""
    names = {SAVED_CONFIG, SAVED_PROCESSOR, WEIGHTS}
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - names:
        return False
    try:
        with safe_open(folder / WEIGHTS, "pt") as kept:
            return MADE_BY.items() <= (kept.metadata() or {}).items()
    except (OSError, SafetensorError):  # which transformers may have written
        return not any(folder.iterdir())


def _json(content: dict) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _architecture(settings: ModelConfig) -> str | None:
    """Their class for a variant; None where they have none."""
    parts = _parts(settings.variant)
    classes = SAVED_CLASSES.items()
    return next((name for name, (_, ours) in classes if _parts(ours) == parts), None)


def _parts(variant: str) -> set[str]:
    return {part.name for part in resolve(variant)}


def _beyond(run: Run) -> Iterator[str]:
    """Settings that their classes have no place for, each with what they have."""
    settings = run.config.model
    if _architecture(settings) is None:
        known = " and ".join(ours for _, ours in SAVED_CLASSES.values())
        yield f"model.variant={settings.variant!r}, and they are {known}"
    if settings.position_temperature != SAVED_TEMPERATURE:
        yield (
            f"model.position_temperature={settings.position_temperature}, and theirs is"
            f" {SAVED_TEMPERATURE}"
        )
    if settings.pre_norm:
        yield "model.pre_norm=True, and they norm afterwards"
    if not isinstance(run.model.backbone[0].body, ResNetBody):
        yield f"model.backbone={settings.backbone!r}, which is written for ResNets only"
    if settings.weight_ce != 1 and "focal" not in settings.variant.split("+"):
        yield f"model.weight_ce={settings.weight_ce}, and theirs is 1"
    if settings.num_decoder_layers == 1 and "conditional" in settings.variant:
        yield "model.num_decoder_layers=1, and theirs needs two"
    for name, value in _weights(settings).items():
        if not float(value).is_integer():
            yield f"{name}={value}, and theirs is a whole number"


def _weights(settings: ModelConfig) -> dict[str, float]:
    """Weights of matching and loss, by the setting that is theirs."""
    names = ("cost_class", "cost_bbox", "cost_giou", "weight_bbox", "weight_giou")
    weights = {f"model.{name}": getattr(settings, name) for name in names}
    if "focal" in settings.variant.split("+"):
        focal = settings.variant_options("focal")
        weights |= {f"model.options.focal.{name}": focal[name] for name in ("cost", "weight")}
    return weights


def _config(architecture: str, settings: ModelConfig, names: tuple[str, ...]) -> dict:
    """Their config.json."""
    kind, _ = SAVED_CLASSES[architecture]
    backbone = {
        "model_type": "timm_backbone",
        "backbone": settings.backbone,
        "num_channels": 3,
        "features_only": True,
        "use_pretrained_backbone": False,
        "out_indices": [1, 2, 3, 4],
    }
    config = {
        "architectures": [architecture],
        "model_type": kind,
        "backbone_config": backbone | ({"output_stride": 16} if settings.dilation else {}),
        "dilation": settings.dilation,
        "num_channels": 3,
        "num_queries": settings.num_queries,
        "d_model": settings.d_model,
        "dropout": settings.dropout,
        "attention_dropout": settings.dropout,
        "activation_dropout": settings.dropout,
        "activation_function": "relu",
        "position_embedding_type": "sine",
        "is_encoder_decoder": True,
        # With it their decoder norms what goes from layer to layer, which DETR's does not.
        "auxiliary_loss": False,
        "class_cost": int(settings.cost_class),
        "bbox_cost": int(settings.cost_bbox),
        "giou_cost": int(settings.cost_giou),
        "bbox_loss_coefficient": int(settings.weight_bbox),
        "giou_loss_coefficient": int(settings.weight_giou),
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "dtype": "float32",
    }
    for part in ("encoder", "decoder"):
        config |= {
            f"{part}_layers": getattr(settings, f"num_{part}_layers"),
            f"{part}_attention_heads": settings.num_heads,
            f"{part}_ffn_dim": settings.dim_feedforward,
            f"{part}_layerdrop": 0.0,
        }
    if kind == "detr":
        return config | {"eos_coefficient": settings.eos_coef}
    focal = settings.variant_options("focal")
    return config | {
        "class_cost": int(focal["cost"]),
        "cls_loss_coefficient": int(focal["weight"]),
        "focal_alpha": focal["alpha"],
    }


def _processor(kind: str, data: DataConfig, body: ResNetBody) -> dict:
    """Their preprocessor_config.json: images as evaluation here has them."""
    edges = {"shortest_edge": data.eval_size, "longest_edge": data.max_size}
    return {
        "image_processor_type": _IMAGE_PROCESSORS[kind],
        "format": "coco_detection",
        "do_resize": data.eval_size is not None,
        **({"size": edges} if data.eval_size is not None else {}),
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(body.mean),
        "image_std": list(body.std),
        "do_convert_annotations": True,
        "do_pad": True,
    }
