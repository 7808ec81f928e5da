"""The variants of DETR by name: which part each replaces, where its class lives, its options.

A variant is one file under `detrnb/variants/` and one entry here. Its file is imported only when a
model with it is built.
"""

import itertools
import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

Part = Literal["encoder", "encoder_attention"]
BASELINE = "detr"


class Options(BaseModel):
    """Settings of a variant with their defaults: keyword arguments of its class."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AttentionOptions(Options):
    """Settings of a variant that replaces the encoder's self-attention.

    `layers` is read by `build_detr` and not passed on.
    """

    layers: tuple[int, ...] | None = None  # those replaced, from 0, -1 being the last; None: all


class EfficientAttentionOptions(AttentionOptions):
    """Settings of `efficient_attention`."""

    query_softmax: Literal["channel", "position"] = "channel"  # the paper; or an ablation


class SVDSplitOptions(AttentionOptions):
    """Settings of `svd_split`."""

    layers: tuple[int, ...] | None = (-1,)
    solver: Literal["auto", "svd", "gram"] = "auto"
    gradient: Literal["held", "exact"] = "held"  # the split a constant, or differentiated too


@dataclass(frozen=True)
class Variant:
    """One change to DETR.

    Attributes:
        name: what users type.
        part: what it replaces: `encoder` (a class called like `transformer.TransformerEncoder`) or
            `encoder_attention` (a class called like `attention.MultiheadAttention`, once a layer).
        target: import string `module:attribute` of that class.
        summary: one line for tables.
        options: its settings.
        starts_as_detr: whether with DETR's weights it computes what DETR computes.
    """

    name: str
    part: Part
    target: str
    summary: str
    options: type[Options] = Options
    starts_as_detr: bool = True


VARIANTS: dict[str, Variant | None] = {BASELINE: None}


def register(variant: Variant) -> None:
    """Make a variant known by its name.

    Raises:
        ValueError: the name is taken, or cannot be part of a run's name, or holds a `+`, which
            joins names; there is no such part; target or options are not of the form they need.
    """
    if variant.name in VARIANTS:
        raise ValueError(f"variant name {variant.name!r} is taken; taken: {', '.join(VARIANTS)}")
    if not re.fullmatch(r"\w[\w.-]*", variant.name):
        raise ValueError(
            f"variant name {variant.name!r} cannot be part of a run's name; use letters, digits,"
            " ._- ('+' joins names)"
        )
    parts = get_args(Part)
    if variant.part not in parts:
        raise ValueError(
            f"variant {variant.name!r} replaces {variant.part!r}, which nothing builds; parts are"
            f" {', '.join(parts)}{nearest(variant.part, parts)}"
        )
    if not re.fullmatch(r"[\w.]+:\w+", variant.target):
        raise ValueError(
            f"variant {variant.name!r} has the target {variant.target!r}; expected"
            " 'module:attribute', such as '__main__:MyAttention'"
        )
    if variant.part == "encoder_attention" and "layers" not in variant.options.model_fields:
        raise ValueError(
            f"variant {variant.name!r} replaces the encoder's attention, once a layer, and its"
            f" options {variant.options.__name__} lack `layers`; derive them from AttentionOptions"
        )
    VARIANTS[variant.name] = variant


def nearest(name: str, known: object) -> str:
    """A hint for an unknown name: `; did you mean 'x'?`, or nothing where none is near."""
    match = get_close_matches(name, list(known), n=1)  # type: ignore[call-overload]
    return f"; did you mean {match[0]!r}?" if match else ""


def resolve(name: str) -> tuple[Variant, ...]:
    """The variants that a name such as `adaptive_res+efficient_attention` joins; () for `detr`.

    Raises:
        ValueError: a name is unknown or repeated, or two of them replace the same part.
    """
    parts = name.split("+")
    chosen: dict[str, Variant] = {}
    for part_name in parts:
        if part_name not in VARIANTS:
            raise ValueError(
                f"unknown variant {part_name!r}; known: {', '.join(VARIANTS)}"
                f" (join with '+'){nearest(part_name, VARIANTS)}"
            )
        variant = VARIANTS[part_name]
        if variant is None:
            if len(parts) > 1:
                raise ValueError(f"{name!r}: {BASELINE!r} is the baseline and joins with nothing")
            continue
        if variant.part in chosen:
            raise ValueError(
                f"{name!r}: {chosen[variant.part].name!r} and {part_name!r} both replace the"
                f" {variant.part}; name one of them"
            )
        chosen[variant.part] = variant
    return tuple(chosen.values())


def combinations() -> list[str]:
    """Every registered variant but the baseline, then every pair that may be joined."""
    singles = [name for name in VARIANTS if name != BASELINE]
    pairs = []
    for first, second in itertools.combinations(singles, 2):
        if VARIANTS[first].part != VARIANTS[second].part:
            pairs.append(f"{first}+{second}")
    return singles + pairs


register(
    Variant(
        "adaptive_res",
        "encoder",
        "detrnb.variants.adaptive_res:AdaptiveResEncoder",
        "the memory is a learned, channel-wise sum of all encoder layers",
    )
)
register(
    Variant(
        "efficient_attention",
        "encoder_attention",
        "detrnb.variants.efficient_attention:EfficientAttention",
        "encoder self-attention in time and memory linear in the number of positions",
        EfficientAttentionOptions,
        starts_as_detr=False,
    )
)
register(
    Variant(
        "svd_split",
        "encoder_attention",
        "detrnb.variants.svd_split:SplitAttention",
        "encoder self-attention split at its mean singular value, each part with a gate",
        SVDSplitOptions,
    )
)
