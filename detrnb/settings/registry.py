"""The variants of DETR by name: which parts each replaces, where their classes live, its options.

A variant of the package is one file under `detrnb/variants/` and one entry in `builtin.py`; its
file is imported only when a model with it is built. One of a user's own is entered by
`@variant(...)` or `register(...)` (own.py).
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

BASELINE = "detr"
Part = Literal[
    "encoder_attention",
    "encoder",
    "queries",
    "decoder_self_attention",
    "decoder_cross_attention",
    "decoder",
    "criterion",
]
PARTS: tuple[Part, ...] = get_args(Part)
# Parts that exist once a layer, and whose layers those are.
ONCE_A_LAYER: dict[Part, Literal["encoder", "decoder"]] = {
    "encoder_attention": "encoder",
    "decoder_self_attention": "decoder",
    "decoder_cross_attention": "decoder",
}
# What a class may ask for by name when it is made; no option bears such a name.
SIZES = (
    *("d_model", "num_heads", "dropout", "dim_feedforward", "num_layers", "num_queries"),
    *("num_classes", "pre_norm", "layer", "anchor_size", "embed", "costs", "weights", "eos_coef"),
    "make_layer",
)
HEADS = ("box", "class_bias")
# What is no part by itself, and where it is.
WITHIN = {
    "matcher": "; the matcher is the criterion's",
    "loss": "; losses are the criterion's",
    "position_embedding": "; positions reach attention as `pos`, and parts as `embed`",
    "head": "; heads start as an entry's `heads` says, and a decoder is called with the box head",
}


class Options(BaseModel):
    """Settings of a variant with their defaults: keyword-only parameters of its classes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerOptions(Options):
    """Settings of a variant that replaces parts of layers.

    `layers` says which, and is not passed on; a variant that has parts in the layers of encoder and
    decoder names `encoder_layers` and `decoder_layers` instead.
    """

    layers: tuple[int, ...] | None = None  # those replaced, from 0, -1 being the last; None: all


@dataclass(frozen=True)
class Variant:
    """One change to DETR.

    Attributes:
        name: what users type.
        parts: of each part that it replaces the class, or the import string `module:attribute` of
            one; None where another of its parts makes it.
        summary: one line for tables.
        options: its settings.
        starts_as_detr: whether with DETR's weights it computes what DETR computes.
        needs_encoder: whether it means nothing without encoder layers.
        pre_norm: whether it goes with `model.pre_norm`.
        heads: how heads start: `box`, the biases of the box head's last layer, a number or four (x,
            y, width, height), whose weights are 0 then; `class_bias`, every bias of the class head.
        rates: share of the learning rate for parameters of its parts under such a name.
        unused: settings of the model that would do nothing with it.
        source: title, venue and year of its paper; what is not published leaves it empty.
    """

    name: str
    parts: Mapping[Part, str | type | None]
    summary: str = ""
    options: type[Options] = Options
    starts_as_detr: bool = True
    needs_encoder: bool = False
    pre_norm: bool = True
    heads: Mapping[str, float | tuple[float, float, float, float]] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    source: str = ""

    @property
    def is_own(self) -> bool:
        """Whether it is a user's, of a notebook or a script."""
        return any(isinstance(target, type) for target in self.parts.values())


VARIANTS: dict[str, Variant | None] = {BASELINE: None}


def enter(variant: Variant) -> None:
    """Make a variant known by its name; one of a user's own takes the place of an earlier one.

    Raises:
        ValueError: the name is the package's, or cannot be part of a run's name, or holds a `+`,
            which joins names; it names no part, or one or a head that there is not; a target or the
            options are not of the form they need.
    """
    name, known = variant.name, VARIANTS.get(variant.name)
    if name in VARIANTS and not (known and known.is_own and variant.is_own):
        raise ValueError(f"variant name {name!r} is taken; taken: {', '.join(VARIANTS)}")
    if not re.fullmatch(r"\w[\w-]*", name):
        raise ValueError(
            f"variant name {name!r} cannot be part of a run's name; use letters, digits, _-"
            " ('+' joins names, '.' names options)"
        )
    if not variant.parts:
        raise ValueError(f"variant {name!r} replaces nothing; parts: {', '.join(PARTS)}")
    for kind, given, possible in (("part", variant.parts, PARTS), ("head", variant.heads, HEADS)):
        for key in given:
            if key not in possible:
                raise ValueError(
                    f"variant {name!r}: no {kind} {key!r}{nearest(str(key), possible)}; there are"
                    f" {', '.join(possible)}{WITHIN.get(key, '')}"
                )
    for head, start in variant.heads.items():
        four = head == "box" and isinstance(start, tuple) and len(start) == 4
        if not (four or isinstance(start, int | float)):
            raise ValueError(
                f"variant {name!r} starts the {head} of the heads at {start}; expected a number"
                + (", or four: x, y, width, height" if head == "box" else "")
            )
    for part, target in variant.parts.items():
        named = isinstance(target, str) and re.fullmatch(r"[\w.]+:\w+", target)
        if not (named or target is None or isinstance(target, type)):
            raise ValueError(
                f"variant {name!r} has {target!r} for the {part}; expected 'module:attribute', a"
                " class, or None where another of its parts makes it"
            )
    _layer_options(variant)
    VARIANTS[name] = variant


def _layer_options(variant: Variant) -> None:
    """A ValueError where a part that exists once a layer lacks the option that chooses layers."""
    replaced = {part for part, target in variant.parts.items() if target}
    stacks = {ONCE_A_LAYER[part] for part in replaced if part in ONCE_A_LAYER}
    names = ["layers"] if len(stacks) == 1 else [f"{stack}_layers" for stack in stacks]
    lacking = [key for key in sorted(names) if key not in variant.options.model_fields]
    if lacking:
        raise ValueError(
            f"variant {variant.name!r} replaces parts of layers, and its options"
            f" {variant.options.__name__} lack {', '.join(lacking)}; derive them from LayerOptions"
        )


def class_of(target: str | type) -> type:
    """The class that an entry names for a part, imported where it is an import string."""
    if isinstance(target, type):
        return target
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


def import_string(cls: type) -> str:
    """What an entry would name a class by."""
    return f"{cls.__module__}:{cls.__name__}"


def nearest(name: str, known: object) -> str:
    """A hint for an unknown name: `; did you mean 'x'?`, or nothing where none is near."""
    match = get_close_matches(name, list(known), n=1)  # type: ignore[call-overload]
    return f"; did you mean {match[0]!r}?" if match else ""


def resolve(name: str) -> tuple[Variant, ...]:
    """The variants that a name such as `adaptive_res+efficient_attention` joins; () for `detr`.

    Raises:
        ValueError: a name is unknown or repeated, or two of them replace the same part or start a
            head differently.
    """
    names = name.split("+")
    chosen: dict[str, Variant] = {}
    for one in names:
        if one not in VARIANTS:
            raise ValueError(
                f"unknown variant {one!r}; known: {', '.join(VARIANTS)}"
                f" (join with '+'){nearest(one, VARIANTS)}"
            )
        variant = VARIANTS[one]
        if variant is None:
            if len(names) > 1:
                raise ValueError(f"{name!r}: {BASELINE!r} is the baseline and joins with nothing")
            continue
        for clash in filter(None, (_clash(other, variant) for other in chosen.values())):
            raise ValueError(f"{name!r}: {clash}; name one of them")
        chosen[one] = variant
    return tuple(chosen.values())


def _clash(first: Variant, second: Variant) -> str | None:
    """Why two variants do not join."""
    both = f"{first.name!r} and {second.name!r} both"
    for part in PARTS:
        if part in first.parts and part in second.parts:
            return f"{both} replace the {part}"
    for head in HEADS:
        answers = {v.heads[head] for v in (first, second) if head in v.heads}
        if len(answers) > 1:
            return f"{both} say how the {head} of the heads starts, {answers}"
    return None


def combinations() -> list[str]:
    """Every variant of the package but the baseline, then every pair that may be joined."""
    singles = [name for name, variant in VARIANTS.items() if variant and not variant.is_own]
    pairs = itertools.combinations(singles, 2)
    joined = [f"{a}+{b}" for a, b in pairs if not _clash(VARIANTS[a], VARIANTS[b])]
    return singles + joined
