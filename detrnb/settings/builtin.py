"""The package's own variants: one entry each, imported for what it enters into the registry."""

import math
from typing import Annotated, Literal

from pydantic import Field

from detrnb.settings.registry import LayerOptions, Options, Variant, enter
from detrnb.settings.section import Positive, Share, Weight


class EfficientAttentionOptions(LayerOptions):
    """Settings of `efficient_attention`."""

    query_softmax: Literal["channel", "position"] = "channel"  # the paper; or an ablation


class SVDSplitOptions(LayerOptions):
    """Settings of `svd_split`."""

    layers: tuple[int, ...] | None = (-1,)
    solver: Literal["auto", "svd", "gram"] = "auto"
    gradient: Literal["held", "exact"] = "held"  # the split a constant, or differentiated too


class DenoisingOptions(Options):
    """Settings of `dn_dab`; defaults are the authors'."""

    groups: Positive = 5  # how often each true box is shown
    label_noise: Share = 0.2  # probability that its label is drawn anew
    box_noise: Share = 0.4  # how far its sides may move, as a share of width and height


class GroupOptions(Options):
    """Settings of `group`."""

    groups: Annotated[int, Field(gt=1)] = 11  # of queries while training; the paper's number


class FocalOptions(Options):
    """Settings of `focal`."""

    cost: Weight = 2.0  # of the class in matching, in place of `cost_class`
    weight: Weight = 2.0  # of the classification loss, in place of `weight_ce`
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.25  # share of ones against zeros


class DeformableOptions(Options):
    """Settings of `deformable`."""

    encoder_layers: tuple[int, ...] | None = None
    decoder_layers: tuple[int, ...] | None = None
    points: Positive = 4  # that a head samples for a query


class RopeOptions(LayerOptions):
    """Settings of `rope`."""

    frequencies: Literal["mixed", "axial"] = "mixed"  # learned in any direction, or fixed


# What decoders that build their own layers make besides.
_OWN_LAYERS = {"decoder_self_attention": None, "decoder_cross_attention": None}

enter(
    Variant(
        "adaptive_res",
        {"encoder": "detrnb.variants.adaptive_res:AdaptiveResEncoder"},
        "the memory is a learned, channel-wise sum of all encoder layers",
        needs_encoder=True,
        source="the journal",
    )
)
enter(
    Variant(
        "efficient_attention",
        {"encoder_attention": "detrnb.variants.efficient_attention:EfficientAttention"},
        "encoder self-attention in time and memory linear in the number of positions",
        EfficientAttentionOptions,
        starts_as_detr=False,
        needs_encoder=True,
        source="Efficient Attention, WACV 2021",
    )
)
enter(
    Variant(
        "svd_split",
        {"encoder_attention": "detrnb.variants.svd_split:SplitAttention"},
        "encoder self-attention split at its mean singular value, each part with a gate",
        SVDSplitOptions,
        needs_encoder=True,
        source="the journal",
    )
)
enter(
    Variant(
        "reference_points",
        {"queries": "detrnb.variants.reference_points:PointQueries"},
        "each query has a learned point, and its box is relative to it",
        source="Deformable DETR and later ones, ICLR 2021",
    )
)
enter(
    Variant(
        "conditional",
        {"decoder": "detrnb.variants.conditional:ConditionalDecoder", **_OWN_LAYERS},
        "cross-attention looks for content and for a place around the query's point separately",
        starts_as_detr=False,
        pre_norm=False,
        heads={"box": 0.0},
        source="Conditional DETR, ICCV 2021",
    )
)
enter(
    Variant(
        "dab",
        {
            "queries": "detrnb.variants.dab:AnchorQueries",
            "decoder": "detrnb.variants.dab:AnchorDecoder",
            **_OWN_LAYERS,
        },
        "queries are anchor boxes, refined layer by layer; attention is as wide and high as they",
        starts_as_detr=False,
        pre_norm=False,
        heads={"box": 0.0},
        source="DAB-DETR, ICLR 2022",
    )
)
enter(
    Variant(
        "dn_dab",
        {
            "queries": "detrnb.variants.dn_dab:DenoisingQueries",
            "decoder": "detrnb.variants.dab:AnchorDecoder",
            **_OWN_LAYERS,
        },
        "anchor boxes with noised true boxes as further queries in training, matches given",
        DenoisingOptions,
        starts_as_detr=False,
        pre_norm=False,
        heads={"box": 0.0},
        source="DN-DETR, CVPR 2022",
    )
)
enter(
    Variant(
        "group",
        {"queries": "detrnb.variants.group:GroupedQueries"},
        "several groups of queries in training, each matched and attending by itself",
        GroupOptions,
        source="Group DETR, ICCV 2023",
    )
)
enter(
    Variant(
        "focal",
        {"criterion": "detrnb.variants.focal:FocalCriterion"},
        "sigmoid focal loss in place of a softmax with no-object",
        FocalOptions,
        starts_as_detr=False,
        heads={"class_bias": -math.log(99)},
        unused=("cost_class", "weight_ce", "eos_coef"),
        source="Focal Loss, ICCV 2017",
    )
)
enter(
    Variant(
        "deformable",
        {
            "encoder_attention": "detrnb.variants.deformable:DeformableEncoderAttention",
            "queries": "detrnb.variants.deformable:PointQueries",
            "decoder_cross_attention": "detrnb.variants.deformable:DeformableCrossAttention",
        },
        "attention to a few sampled positions around a query's point, boxes relative to it",
        DeformableOptions,
        starts_as_detr=False,
        needs_encoder=True,
        heads={"box": (0.0, 0.0, -2.0, -2.0)},
        rates={"sampling_offsets": 0.1, "reference_points": 0.1},
        source="Deformable DETR, ICLR 2021",
    )
)
enter(
    Variant(
        "rope",
        {"encoder_attention": "detrnb.variants.rope:RotaryAttention"},
        "encoder self-attention that turns queries and keys by position, without added sines",
        RopeOptions,
        starts_as_detr=False,
        needs_encoder=True,
        source="Rotary Position Embedding, ECCV 2024",
    )
)
