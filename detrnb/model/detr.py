"""DETR: backbone, transformer and prediction heads; building.

Source: Carion et al., End-to-End Object Detection with Transformers, ECCV 2020, and the reference's
`models/detr.py`. Official checkpoints load with `strict=True`.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrnb.loss import Layout, Targets, at_least_float32
from detrnb.model.attention import MultiheadAttention
from detrnb.model.backbone import Backbone
from detrnb.model.parts import Places, num_classes, stream
from detrnb.model.positions import PositionEmbeddingSine
from detrnb.model.transformer import DecoderLayer, EncoderLayer, Transformer
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
    """The detector. `build_detr` makes one from a config.

    Attributes:
        attentions: names of the places that attend, `encoder.0.self`, ..., `decoder.0.cross`, ...
        rates: share of the learning rate of parameters that have one of their own, by name.
        settings: what it was built from.
    """

    def __init__(
        self,
        backbone: Backbone,
        position_embedding: PositionEmbeddingSine,
        transformer: Transformer,
        queries: nn.Module,
        d_model: int,
        num_logits: int,
    ) -> None:
        super().__init__()
        # The reference joins network and position embedding in a Sequential; names follow it.
        self.backbone = nn.ModuleList([backbone, position_embedding])
        self.input_proj = nn.Conv2d(backbone.body.num_channels, d_model, kernel_size=1)
        self.query_embed = queries
        self.transformer = transformer
        self.class_embed = nn.Linear(d_model, num_logits)
        self.bbox_embed = MLP(d_model, 4)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(backbone.body, name))[:, None, None]
            self.register_buffer(name, values, persistent=False)
        self.attentions: tuple[str, ...] = ()
        self.rates: dict[str, float] = {}
        self.settings: ModelConfig | None = None

    def place(self, device: torch.device) -> "DETR":
        """Move to a device, the backbone's weights laid out as its images come (channels last)."""
        self.to(device)
        self.backbone[0].to(memory_format=torch.channels_last)
        return self

    def normalize(self, images: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W) uint8 -> float as the backbone expects; padding becomes 0."""
        # Row by row with colours side by side, as images come: what is repeated over pixels in
        # threes keeps processors from taking several values at a time.
        batch, colours, height, width = images.shape
        rows = images.permute(0, 2, 3, 1).reshape(batch, height, width * colours)
        mean, std = (values.flatten().repeat(width) for values in (self.mean, self.std))
        normalized = rows.to(torch.promote_types(mean.dtype, torch.float32))
        normalized = normalized.div_(255).sub_(mean).div_(std).view(batch, height, width, colours)
        if padding_mask is not None:
            normalized.masked_fill_(padding_mask[..., None], 0.0)
        return normalized.permute(0, 3, 1, 2)

    def layout(self, targets: Targets | None = None) -> Layout:
        """How the queries of a pass on these targets are arranged, in the mode the model is in."""
        return self.query_embed.layout(targets)

    def box_offsets(self, hidden: Tensor) -> Tensor:
        """The box head before the sigmoid: (..., D) -> (..., 4), float32 or better."""
        # In bfloat16 a coordinate on a side of 1333 pixels is off by 0.9 on average; scores tie.
        with torch.autocast(hidden.device.type, enabled=False):
            return self.bbox_embed(at_least_float32(hidden))

    def forward(
        self,
        images: Tensor | None,
        padding_mask: Tensor | None = None,
        features: Tensor | None = None,
        targets: Targets | None = None,
    ) -> dict[str, Tensor | list[dict[str, Tensor]]]:
        """Detect objects.

        Args:
            images: (B, 3, H, W) float, normalised. None where `features` are given.
            padding_mask: (B, H, W) bool, True on padding; None where nothing is padded, which then
                costs nothing.
            features: (B, C, H/stride, W/stride), what the (frozen) backbone made of the images.
            targets: in training, for queries that are made from them; without there are none.

        Returns:
            `pred_logits` (B, Q', C), `pred_boxes` (B, Q', 4) cxcywh as shares of the unpadded
            image, and `aux_outputs`: the same two of every earlier decoder layer. In evaluation Q'
            is Q; C is what the criterion asks for.
        """
        if features is None:
            features = self.backbone[0](images)
        src = self.input_proj(features)
        mask, pos = self._cells(padding_mask, features)
        hidden, anchors = self.transformer(
            src.flatten(2).transpose(1, 2),
            pos.to(src.dtype).flatten(2).transpose(1, 2),
            mask,
            tuple(features.shape[-2:]),
            self.query_embed(features.shape[0], self.layout(targets), targets),
            self.box_offsets,
        )
        with torch.autocast(hidden.device.type, enabled=False):
            heads = self.class_embed(at_least_float32(hidden)), self._boxes(hidden, anchors)
        layers = [
            {"pred_logits": logits, "pred_boxes": boxes}
            for logits, boxes in zip(*heads, strict=True)
        ]
        return {**layers[-1], "aux_outputs": layers[:-1]}

    def _cells(self, padding_mask: Tensor | None, features: Tensor) -> tuple[Tensor | None, Tensor]:
        """The cells' padding mask (B, S) or None, and their position embedding (B, D, h, w)."""
        position_embedding, size = self.backbone[1], features.shape[-2:]
        if padding_mask is None:
            whole = torch.zeros(1, *size, dtype=torch.bool, device=features.device)
            return None, position_embedding(whole.expand(features.shape[0], -1, -1))
        # Nearest interpolation keeps cell (0, 0) valid, so no image is wholly masked.
        mask = F.interpolate(padding_mask[:, None].float(), size=size)[:, 0].bool()
        return mask.flatten(1), position_embedding(mask)

    def _boxes(self, hidden: Tensor, anchors: list[Tensor] | None) -> Tensor:
        """Boxes (L, B, Q', 4), relative to anchors where there are any."""
        offsets = self.box_offsets(hidden)
        if anchors is not None:
            stacked = torch.stack(anchors)
            size = stacked.shape[-1]
            offsets = torch.cat([offsets[..., :size] + stacked, offsets[..., size:]], dim=-1)
        return offsets.sigmoid()


def build_detr(config: ModelConfig, *, train_backbone: bool = True) -> DETR:
    """Build the model a config describes, with fresh weights. No file or network is read.

    Every parameter is drawn from a stream of its own, given by torch's seed (`torch.manual_seed`)
    and the parameter's name, on whatever device: for one seed, models that differ in a part have
    equal initial weights in all others, and a model built twice is the same.

    Raises:
        ValueError: unknown backbone or a stride it does not have; no number of classes; a part
            that its class does not fit.
    """
    model = assemble(config, train_backbone)
    _initialize(model, torch.initial_seed())
    _start_heads(model, config)
    return model


def assemble(config: ModelConfig, train_backbone: bool) -> DETR:
    """The model as its classes make it, before its weights are drawn."""
    places = Places(config)
    model = DETR(
        Backbone(config.backbone, config.stride, config.dilation, train_backbone),
        PositionEmbeddingSine(config.d_model, config.position_temperature),
        _build_transformer(config, places),
        places.fill("queries", "query_embed"),
        config.d_model,
        build_criterion(config).num_logits(num_classes(config)),
    )
    model.attentions, model.rates, model.settings = places.attentions, places.rates(model), config
    return model


def _build_transformer(config: ModelConfig, places: Places) -> Transformer:
    """Encoder and decoder, every place filled."""
    sizes = (config.d_model, config.dim_feedforward, config.dropout, config.pre_norm)

    def encoder_layer(i: int) -> EncoderLayer:
        path = f"transformer.encoder.layers.{i}.self_attn"
        return EncoderLayer(places.fill("encoder_attention", path, layer=i), *sizes)

    def decoder_layer(i: int) -> DecoderLayer:
        path = f"transformer.decoder.layers.{i}"
        among = places.fill("decoder_self_attention", f"{path}.self_attn", layer=i)
        outward = places.fill("decoder_cross_attention", f"{path}.multihead_attn", layer=i)
        return DecoderLayer(among, outward, *sizes)

    layers = [encoder_layer(i) for i in range(config.num_encoder_layers)]
    return Transformer(
        places.fill("encoder", "transformer.encoder", layers=layers),
        places.fill("decoder", "transformer.decoder", make_layer=decoder_layer),
    )


@torch.no_grad()
def _initialize(model: DETR, seed: int) -> None:
    """The reference's initialisation, each tensor from a stream named after it.

    Transformer: Xavier-uniform matrices, attention biases 0. Heads, projection and all other
    biases: torch's defaults. Queries: N(0, 1). Norms, what a variant names in `added`, parameters
    that it holds itself rather than in a linear layer, and modules with `own_init` stay as they
    were made.
    """
    own = {name for _, _, names in added_parameters(model) for name in names}

    def draw(parameter: nn.Parameter, name: str, fill: Callable, *args: float) -> None:
        if name in own:
            return
        generator = torch.Generator("cpu").manual_seed(stream(seed, name))
        values = torch.empty(parameter.shape, device="cpu")
        parameter.copy_(fill(values, *args, generator=generator))

    kept = [path for path, module in model.named_modules() if getattr(module, "own_init", False)]
    for path, module in model.named_modules():
        if any(f"{path}.".startswith(f"{root}.") for root in kept):
            continue
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


@torch.no_grad()
def _start_heads(model: DETR, config: ModelConfig) -> None:
    """Start heads as the variants' entries say."""
    for variant in resolve(config.variant):
        if "box" in variant.heads:
            last = model.bbox_embed.layers[-1]
            last.weight.zero_()
            last.bias.copy_(torch.as_tensor(variant.heads["box"]))
        if "class_bias" in variant.heads:
            model.class_embed.bias.fill_(variant.heads["class_bias"])


def build_criterion(config: ModelConfig) -> nn.Module:
    """The losses a config describes: `criterion(outputs, targets, layout)`, `.detections(...)`.

    Raises:
        ValueError: it has parameters, which nothing would train.
    """
    criterion = Places(config).fill(
        "criterion",
        "criterion",
        costs={"class": config.cost_class, "bbox": config.cost_bbox, "giou": config.cost_giou},
        weights={
            "loss_ce": config.weight_ce,
            "loss_bbox": config.weight_bbox,
            "loss_giou": config.weight_giou,
        },
        eos_coef=config.eos_coef,
    )
    learned = [name for name, _ in criterion.named_parameters()]
    if learned:
        raise ValueError(
            f"{type(criterion).__name__} has parameters ({', '.join(learned)}), which no optimizer"
            " trains: a criterion only judges"
        )
    return criterion


def added_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, set[str]]]:
    """What a variant's modules hold that DETR does not: prefix, module, whole names.

    Such a module names these parameters in `added`; its `start_as_detr(state, prefix)` adds them to
    DETR's tensors so that it computes what DETR does.
    """
    for path, module in model.named_modules():
        if hasattr(module, "added"):
            yield f"{path}.", module, {f"{path}.{name}" for name in module.added}


def idle_parameters(model: nn.Module) -> set[str]:
    """Names of what learns nothing by a part's own design: its `idle` says which and when."""
    return {
        f"{path}.{name}"
        for path, module in model.named_modules()
        for name in getattr(module, "idle", ())
    }
