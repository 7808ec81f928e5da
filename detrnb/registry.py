"""The variants of DETR by name: which part each replaces, where its class lives, its options.

A variant is one file under `detrnb/variants/` and one entry here. Its file is imported only when a
model with it is built.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Literal

Part = Literal["encoder", "encoder_attention"]
BASELINE = "detr"


@dataclass(frozen=True)
class Variant:
    """One change to DETR.

    Attributes:
        name: what users type.
        part: what it replaces: `encoder` (a class called like `transformer.TransformerEncoder`) or
            `encoder_attention` (a class called like `attention.MultiheadAttention`, once a layer).
        target: import string `module:attribute` of that class.
        options: keyword arguments of that class, with their defaults.
        summary: one line for tables.
    """

    name: str
    part: Part
    target: str
    summary: str
    options: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


VARIANTS: dict[str, Variant | None] = {BASELINE: None}


def register(variant: Variant) -> None:
    """Make a variant known by its name.

    Raises:
        ValueError: the name is taken or holds a `+`, which joins names.
    """
    if variant.name in VARIANTS or "+" in variant.name:
        raise ValueError(
            f"variant name {variant.name!r} is taken or holds '+'; taken: {', '.join(VARIANTS)}"
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
