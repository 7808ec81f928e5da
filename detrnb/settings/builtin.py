"""The package's own variants: one entry each, imported for what it enters into the registry."""

from typing import Literal

from detrnb.settings.registry import LayerOptions, Variant, enter


class EfficientAttentionOptions(LayerOptions):
    """Settings of `efficient_attention`."""

    query_softmax: Literal["channel", "position"] = "channel"  # the paper; or an ablation


class SVDSplitOptions(LayerOptions):
    """Settings of `svd_split`."""

    layers: tuple[int, ...] | None = (-1,)
    solver: Literal["auto", "svd", "gram"] = "auto"
    gradient: Literal["held", "exact"] = "held"  # the split a constant, or differentiated too


enter(
    Variant(
        "adaptive_res",
        {"encoder": "detrnb.variants.adaptive_res:AdaptiveResEncoder"},
        "the memory is a learned, channel-wise sum of all encoder layers",
        needs_encoder=True,
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
    )
)
enter(
    Variant(
        "svd_split",
        {"encoder_attention": "detrnb.variants.svd_split:SplitAttention"},
        "encoder self-attention split at its mean singular value, each part with a gate",
        SVDSplitOptions,
        needs_encoder=True,
    )
)
