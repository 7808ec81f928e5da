"""Image features: torchvision's ResNets as DETR uses them, any timm model.

Building reads no file and no network; `load_backbone_weights` fills pretrained weights in.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

T = TypeVar("T")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESNETS = ("resnet*", "wide_resnet*", "resnext*")


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
