"""DETR: backbone, transformer and prediction heads; building, post-processing.

Source: Carion et al., End-to-End Object Detection with Transformers, ECCV 2020, and the reference's
`models/detr.py`. Official checkpoints load with `strict=True`.
"""

import importlib
import zlib
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrnb.boxes import cxcywh_to_xyxy
from detrnb.loss import HungarianMatcher, SetCriterion
from detrnb.model.attention import MultiheadAttention
from detrnb.model.backbone import Backbone, PositionEmbeddingSine
from detrnb.model.transformer import Transformer, TransformerEncoder
from detrnb.settings import ModelConfig, resolve


class MLP(nn.Module):
    """Three linear layers with ReLU between; the box head."""

    def __init__(self, d_model: int, num_outputs: int) -> None:
        super().__init__()
        sizes = [(d_model, d_model), (d_model, d_model), (d_model, num_outputs)]
        self.layers = nn.ModuleList(nn.Linear(*size) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., num_outputs)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class DETR(nn.Module):
    """The detector. `build_detr` makes one from a config."""

    def __init__(
        self,
        backbone: Backbone,
        position_embedding: PositionEmbeddingSine,
        transformer: Transformer,
        d_model: int,
        num_classes: int,
        num_queries: int,
    ) -> None:
        super().__init__()
        # The reference joins network and position embedding in a Sequential; names follow it.
        self.backbone = nn.ModuleList([backbone, position_embedding])
        self.input_proj = nn.Conv2d(backbone.body.num_channels, d_model, kernel_size=1)
        self.query_embed = nn.Embedding(num_queries, d_model)
        self.transformer = transformer
        self.class_embed = nn.Linear(d_model, num_classes + 1)
        self.bbox_embed = MLP(d_model, 4)

    def place(self, device: torch.device) -> "DETR":
        """Move to a device, the backbone's weights laid out as its images come (channels last)."""
        self.to(device)
        self.backbone[0].to(memory_format=torch.channels_last)
        return self

    def normalize(self, images: Tensor, padding_mask: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 -> float as the backbone expects; padding becomes 0."""
        body = self.backbone[0].body
        mean = torch.tensor(body.mean, device=images.device)[:, None, None]
        std = torch.tensor(body.std, device=images.device)[:, None, None]
        normalized = (images.float() / 255 - mean) / std
        return normalized.masked_fill(padding_mask[:, None], 0.0)

    def forward(
        self, images: Tensor | None, padding_mask: Tensor, features: Tensor | None = None
    ) -> dict[str, Tensor | list[dict[str, Tensor]]]:
        """Detect objects.

        Args:
            images: (B, 3, H, W) float, normalised. None where `features` are given.
            padding_mask: (B, H, W) bool, True on padding.
            features: (B, C, H/stride, W/stride), what the (frozen) backbone made of the images.

        Returns:
            `pred_logits` (B, Q, num_classes + 1), `pred_boxes` (B, Q, 4) cxcywh as shares of the
            unpadded image, and `aux_outputs`: the same two of every earlier decoder layer.
        """
        backbone, position_embedding = self.backbone
        if features is None:
            features = backbone(images)
        # Nearest interpolation keeps cell (0, 0) valid, so no image is wholly masked.
        mask = F.interpolate(padding_mask[:, None].float(), size=features.shape[-2:])[:, 0].bool()
        src = self.input_proj(features)
        pos = position_embedding(mask).to(src.dtype)
        decoded, _ = self.transformer(
            src.flatten(2).transpose(1, 2),
            mask.flatten(1),
            self.query_embed.weight,
            pos.flatten(2).transpose(1, 2),
        )
        # In bfloat16 a coordinate on a side of 1333 pixels is off by 0.9 on average; scores tie.
        with torch.autocast(decoded.device.type, enabled=False):
            decoded = decoded.float()
            heads = self.class_embed(decoded), self.bbox_embed(decoded).sigmoid()
        layers = [
            {"pred_logits": logits, "pred_boxes": boxes}
            for logits, boxes in zip(*heads, strict=True)
        ]
        return {**layers[-1], "aux_outputs": layers[:-1]}


def build_detr(config: ModelConfig, *, train_backbone: bool = True) -> DETR:
    """Build the model a config describes, with fresh weights. No file or network is read.

    Every parameter is drawn from a stream of its own, given by torch's seed (`torch.manual_seed`)
    and the parameter's name, on whatever device: for one seed, models that differ in a part have
    equal initial weights in all others, and a model built twice is the same.

    Raises:
        ValueError: unknown backbone or a stride it does not have; no number of classes.
    """
    num_classes = _num_classes(config)
    backbone = Backbone(config.backbone, config.stride, config.dilation, train_backbone)
    model = DETR(
        backbone,
        PositionEmbeddingSine(config.d_model, config.position_temperature),
        _build_transformer(config),
        config.d_model,
        num_classes,
        config.num_queries,
    )
    _initialize(model, torch.initial_seed())
    return model


def _num_classes(config: ModelConfig) -> int:
    """The number of classes; a ValueError where the data has yet to tell it."""
    if config.num_classes is None:
        raise ValueError(
            "model.num_classes is None, which stands for as many as the training annotations have;"
            " build from with_classes(config).model (in detrnb.datasets), or give a number"
        )
    return config.num_classes


def _build_transformer(config: ModelConfig) -> Transformer:
    """Encoder and decoder, with the variants' classes in the places of the parts they replace."""
    variants = {variant.part: variant for variant in resolve(config.variant)}

    def replacement(part: str, *args: object) -> nn.Module:
        module, name = variants[part].target.split(":")
        options = config.variant_options(variants[part].name)
        if part == "encoder_attention":
            del options["layers"]
        return getattr(importlib.import_module(module), name)(*args, **options)

    attention = variants.get("encoder_attention")
    replaced = config.replaced_layers(attention.name) if attention else ()
    sizes = (config.d_model, config.num_heads, config.dropout)

    def make_attention(layer: int) -> nn.Module:
        if layer in replaced:
            return replacement("encoder_attention", *sizes)
        return MultiheadAttention(*sizes)

    def make_encoder(layers: Sequence[nn.Module]) -> nn.Module:
        if "encoder" in variants:
            return replacement("encoder", layers, config.d_model, config.pre_norm)
        return TransformerEncoder(layers, config.d_model, config.pre_norm)

    return Transformer(
        d_model=config.d_model,
        num_heads=config.num_heads,
        num_encoder_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        dim_feedforward=config.dim_feedforward,
        dropout=config.dropout,
        pre_norm=config.pre_norm,
        make_attention=make_attention,
        make_encoder=make_encoder,
    )


@torch.no_grad()
def _initialize(model: DETR, seed: int) -> None:
    """The reference's initialisation, each tensor from a stream named after it.

    Transformer: Xavier-uniform matrices, attention biases 0. Heads, projection and all other
    biases: torch's defaults. Queries: N(0, 1). Norms, what a variant names in `added`, and
    parameters that it holds itself rather than in a linear layer, stay as they were made.
    """
    own = {name for _, _, names in added_parameters(model) for name in names}

    def draw(parameter: nn.Parameter, name: str, fill: Callable, *args: float) -> None:
        if name in own:
            return
        generator = torch.Generator("cpu").manual_seed((seed + zlib.crc32(name.encode())) % 2**63)
        values = torch.empty(parameter.shape, device="cpu")
        parameter.copy_(fill(values, *args, generator=generator))

    for path, module in model.named_modules():
        if isinstance(module, MultiheadAttention):
            draw(module.in_proj_weight, path + ".in_proj_weight", nn.init.xavier_uniform_)
            nn.init.zeros_(module.in_proj_bias)
        elif isinstance(module, nn.Embedding):
            draw(module.weight, path + ".weight", nn.init.normal_)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            bound = module.weight[0].numel() ** -0.5
            if path.startswith("backbone"):  # stays only where no pretrained weights are loaded
                fan_out = module.weight[:, 0].numel()
                draw(module.weight, path + ".weight", nn.init.normal_, 0.0, (2 / fan_out) ** 0.5)
            elif path.startswith("transformer"):
                draw(module.weight, path + ".weight", nn.init.xavier_uniform_)
            else:
                draw(module.weight, path + ".weight", nn.init.uniform_, -bound, bound)
            if module.bias is None or path + ".bias" in own:
                continue
            if path.endswith("out_proj"):
                nn.init.zeros_(module.bias)
            else:
                draw(module.bias, path + ".bias", nn.init.uniform_, -bound, bound)


def build_criterion(config: ModelConfig) -> SetCriterion:
    """The losses a config describes: `criterion(outputs, targets)`, `.weight_dict`."""
    return SetCriterion(
        HungarianMatcher(config.cost_class, config.cost_bbox, config.cost_giou),
        _num_classes(config),
        config.eos_coef,
        {
            "loss_ce": config.weight_ce,
            "loss_bbox": config.weight_bbox,
            "loss_giou": config.weight_giou,
        },
        config.num_decoder_layers,
    )


@torch.no_grad()
def postprocess(outputs: dict, sizes: Tensor) -> list[dict[str, Tensor]]:
    """Detections in pixels (reference: models/detr.py, PostProcess). All queries are kept.

    Args:
        outputs: the model's dict.
        sizes: (B, 2) height and width of each image in pixels.

    Returns:
        Per image `scores` (Q,), `labels` (Q,), the best class but no-object, and `boxes` (Q, 4)
        xyxy in pixels.
    """
    scores, labels = outputs["pred_logits"].float().softmax(-1)[..., :-1].max(-1)
    height, width = sizes.to(scores.device).unbind(1)
    scale = torch.stack([width, height, width, height], dim=1)[:, None]
    boxes = cxcywh_to_xyxy(outputs["pred_boxes"].float()) * scale
    return [
        {"scores": s, "labels": c, "boxes": b}
        for s, c, b in zip(scores, labels, boxes, strict=True)
    ]


def added_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, set[str]]]:
    """What a variant's modules hold that DETR does not: prefix, module, whole names.

    Such a module names these parameters in `added`; its `start_as_detr(state, prefix)` adds them to
    DETR's tensors so that it computes what DETR does.
    """
    for path, module in model.named_modules():
        if hasattr(module, "added"):
            yield f"{path}.", module, {f"{path}.{name}" for name in module.added}
