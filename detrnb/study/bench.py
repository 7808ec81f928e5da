"""A small model of a variant on a small batch: what `check_variant` looks at."""

import copy
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from detrnb.loss import Layout, Targets
from detrnb.model import DETR, added_parameters, build_criterion, build_detr
from detrnb.settings import BASELINE, Config, ModelConfig

SMALL = {
    "model.num_classes": 4,
    "model.num_queries": 6,
    "model.backbone": "test_efficientnet",  # timm's smallest; no variant replaces it
    "model.stride": 32,
    "model.num_encoder_layers": 2,
    "model.num_decoder_layers": 2,
}
CHANNELS = 64  # of its features
GRID = (6, 8)  # theirs; the second image's are padded
PADDED = (4, 6)


class Bench:
    """A variant in small sizes. Dropout is 0, so that training mode is deterministic too."""

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.config = Config.preset("smoke", variant=variant, overrides=SMALL)
        self.coco = Config.preset("coco", variant=variant).model
        self._built: dict[tuple[str, int], DETR] = {}

    def build(self, variant: str | None = None, seed: int = 0, **sizes: int) -> DETR:
        """Build a model, of this variant unless another is named."""
        overrides = SMALL | {f"model.{key}": size for key, size in sizes.items()}
        named = Config.preset("smoke", variant=variant or self.variant, overrides=overrides)
        torch.manual_seed(seed)
        model = build_detr(named.model, train_backbone=False)
        for module in model.modules():
            if isinstance(module, _DropoutNd):  # of a class that does not ask for the size
                module.p = 0.0
        return model

    def built(self, variant: str | None = None, seed: int = 0) -> DETR:
        """A fresh model as `build` gives it, copied where it was built before."""
        key = variant or self.variant, seed
        if key not in self._built:
            self._built[key] = self.build(*key)
        return copy.deepcopy(self._built[key])

    def stirred(self) -> DETR:
        """A model whose own gates and shifts have left their start, which may hide what it does."""
        model, known = self.built(), self.built(BASELINE).state_dict().keys()
        added = {name for _, _, names in added_parameters(model) for name in names}
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if name in added or (name not in known and parameter.ndim < 2):
                nn.init.uniform_(parameter, 0.3, 2.0)
        return model

    @cached_property
    def criterion(self) -> nn.Module:
        return build_criterion(self.settings)

    @property
    def settings(self) -> ModelConfig:
        return self.config.model

    @cached_property
    def features(self) -> Tensor:
        """Of two images, (2, C, 6, 8)."""
        return torch.randn(2, CHANNELS, *GRID, generator=torch.Generator().manual_seed(0))

    @property
    def mask(self) -> Tensor:
        """Of images of 32 pixels a cell; the second is smaller."""
        (H, W), (h, w) = GRID, PADDED
        mask = torch.zeros(2, 32 * H, 32 * W, dtype=torch.bool)
        mask[1, 32 * h :] = True
        mask[1, :, 32 * w :] = True
        return mask

    @staticmethod
    def targets(*counts: int, seed: int = 0) -> Targets:
        """Of images with so many boxes."""
        generator = torch.Generator().manual_seed(seed)
        return [
            {
                "labels": torch.randint(0, 4, (n,), generator=generator),
                "boxes": 0.2 + 0.4 * torch.rand(n, 4, generator=generator),
                "image_id": image,
                "draws": 100 * seed + image,
            }
            for image, n in enumerate(counts)
        ]

    def passed(
        self, model: DETR, targets: Targets | None = None, image: int | None = None
    ) -> tuple[dict, Layout]:
        """Outputs and layout of a pass in the mode that the model is in, on one image or both."""
        rows = slice(None) if image is None else slice(image, image + 1)
        targets = None if targets is None else targets[rows]
        outputs = model(None, self.mask[rows], features=self.features[rows], targets=targets)
        return outputs, model.layout(targets)

    def loss(self, model: DETR, targets: Targets) -> Tensor:
        """The total loss of a pass in training."""
        outputs, layout = self.passed(model, targets)
        return self.criterion.total(self.criterion(outputs, targets, layout))

    def smallest(self) -> DETR:
        """A model of one layer each, and for a backbone the least there can be."""
        model = self.build(num_encoder_layers=1, num_decoder_layers=1)
        body = model.backbone[0].body
        model.backbone[0] = _Patches(body.num_channels, body.mean, body.std)
        return model


class _Patches(nn.Module):
    """Stands for a backbone: one pixel of each 32 by 32 becomes a cell."""

    def __init__(self, channels: int, mean: tuple, std: tuple) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, channels, 1, stride=32)
        self.body.mean, self.body.std = mean, std

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)
