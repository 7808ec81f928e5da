"""The parts of DETR that a variant may replace: what each is made with, called with and gives.

This table is the contract, and `Places.fill` the only way into the model: the core never asks which
variant it runs. Shapes: B images, S = H·W positions of the feature map, D wide, N heads, L decoder
layers, Q queries, K groups, Q' = K·Q + E queries in training, Q in evaluation. A part that needs
more than its row offers is a reason to widen the row for all.

Any part may name parameters of its own: in `added` those that DETR lacks, with `start_as_detr`
(detr.py); in `idle` those that learn nothing with the parts it usually has, as its authors have it.
"""

import importlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from detrnb.loss import SetCriterion
from detrnb.model.attention import DecoderCrossAttention, DecoderSelfAttention, EncoderAttention
from detrnb.model.positions import embed_points
from detrnb.model.queries import LearnedQueries
from detrnb.model.transformer import TransformerDecoder, TransformerEncoder
from detrnb.settings import (
    ONCE_A_LAYER,
    ModelConfig,
    Part,
    Variant,
    asked_for,
    nearest,
    resolve,
)


@dataclass(frozen=True)
class Row:
    """One part's contract.

    Attributes:
        default: DETR's own class.
        besides: what it is made with besides the sizes that every part may ask for by name.
        called_with: in order.
        gives: what the call gives, and what else is asked of it.
        place: name of what it attends with, where recordings find it.
    """

    default: type[nn.Module]
    besides: tuple[str, ...]
    called_with: str
    gives: str
    place: str | None = None


# Every part may ask for these by name. `embed` gives the model's position embedding of points
# (..., 2), x then y, shares of the unpadded image -> (..., D), the row's half first; `anchor_size`
# is that of the queries in use; `num_layers` are the decoder's, in the encoder's parts its own.
FOR_ALL = (
    *("d_model", "num_heads", "dropout", "dim_feedforward", "num_layers", "num_queries"),
    *("num_classes", "pre_norm", "anchor_size", "embed"),
)
ROWS: dict[Part, Row] = {
    "encoder_attention": Row(
        EncoderAttention,
        ("layer",),
        "x, pos (B,S,D); padding_mask (B,S) bool or None, True on padding; grid (H,W)",
        "(B,S,D)",
        "encoder.{layer}.self",
    ),
    "encoder": Row(
        TransformerEncoder,
        ("layers",),
        "x, pos (B,S,D); padding_mask; grid",
        "memory (B,S,D)",
    ),
    "queries": Row(
        LearnedQueries,
        (),
        "batch size; layout; targets or None",
        "Queries; `layout(targets or None)` -> Layout, before the forward pass, from targets and"
        " mode alone, deterministic; `anchor_size` 0, 2 or 4, of the class. What it draws at random"
        " comes from each target's `draws`",
    ),
    "decoder_self_attention": Row(
        DecoderSelfAttention,
        ("layer",),
        "content (B,Q',D); position (B,Q',D) or None; anchors (B,Q',2 or 4) before the sigmoid or"
        " None; blocked (1 or B,Q',Q') bool or None, True where a query must not look",
        "(B,Q',D)",
        "decoder.{layer}.self",
    ),
    "decoder_cross_attention": Row(
        DecoderCrossAttention,
        ("layer",),
        "content; position; anchors; memory, pos (B,S,D); padding_mask; grid",
        "(B,Q',D)",
        "decoder.{layer}.cross",
    ),
    "decoder": Row(
        TransformerDecoder,
        ("make_layer",),
        "queries; memory, pos (B,S,D); padding_mask; grid; the box head: content (...,D) to float32"
        " offsets (...,4) before the sigmoid. `make_layer(i)` gives a layer, called with content,"
        " position, anchors, blocked, memory, pos, padding_mask, grid. One that builds its own"
        " layers gives what attends in them its `place_name`, as in the rows above",
        "hidden (L,B,Q',D), and a list of L anchors (B,Q',2 or 4) before the sigmoid, in float32"
        " outside autocast, that the box head's offsets are added to; None where nothing is",
    ),
    "criterion": Row(
        SetCriterion,
        ("costs", "weights", "eos_coef"),
        "outputs; targets; layout or None, for one group of Q; normalisers or None",
        "named losses; `names(layout)`, `weights_of(names)`, `total(losses)`;"
        " `normalizers(targets, layout)`, a tensor summed over passes and processes;"
        " `detections(outputs, sizes)`; `num_logits(num_classes)`; `meaning` of the logits",
    ),
}


class Places:
    """Fills the places of one model, with DETR's parts or those of the variants in use.

    Attributes:
        attentions: names of the places that attend, in the model's order.
        filled: what variants' classes were made for, with their variant.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config, self.seed = config, torch.initial_seed()
        self.claims: dict[Part, tuple[Variant, str | type | None]] = {
            part: (variant, target)
            for variant in resolve(config.variant)
            for part, target in variant.parts.items()
        }
        self.filled: list[tuple[nn.Module, Variant]] = []
        self.counts = {"encoder": config.num_encoder_layers, "decoder": config.num_decoder_layers}
        self.attentions = tuple(
            ROWS[part].place.format(layer=layer)
            for stack, count in self.counts.items()
            for layer in range(count)
            for part in ONCE_A_LAYER
            if ONCE_A_LAYER[part] == stack
        )
        self.sizes = {
            **config.model_dump(include=set(FOR_ALL)),
            "num_classes": num_classes(config),
            "anchor_size": self._anchor_size(),
            "embed": partial(
                embed_points, d_model=config.d_model, temperature=config.position_temperature
            ),
        }

    def fill(self, part: Part, path: str, **besides: object) -> nn.Module:
        """The module for a place: the class that claims it, made with what it asks for by name.

        What a class draws at random as it is made comes from a stream of the place's own, given by
        torch's seed and the path.

        Args:
            path: of the place in the model.
            besides: what its row offers besides the sizes of all.

        Raises:
            ValueError: the class asks for something else, or another part was to fill this place.
        """
        row, layer = ROWS[part], besides.get("layer")
        variant, cls = self._class(part, layer)
        options = {} if variant is None else self.config.variant_options(variant.name)
        side = ONCE_A_LAYER.get(part, "encoder" if part == "encoder" else "decoder")
        offered = self.sizes | besides | {"num_layers": self.counts[side]}
        given = {}
        for name, parameter in asked_for(cls).items():
            source = options if parameter.kind is parameter.KEYWORD_ONLY else offered
            if name in source:
                given[name] = source[name]
            elif parameter.default is parameter.empty:
                raise ValueError(
                    f"{cls.__name__} asks for {name!r}, which the part {part!r} is not made with"
                    f"{nearest(name, source)}; it may ask for {', '.join(offered)}"
                )
        with _own_stream(self.seed, path):
            module = cls(**given)
        if row.place:
            module.place_name = row.place.format(layer=layer)
        if variant is not None:
            self.filled.append((module, variant))
        return module

    def _class(self, part: Part, layer: int | None) -> tuple[Variant | None, type[nn.Module]]:
        """Who fills a place, and with which class."""
        variant, target = self.claims.get(part, (None, None))
        if variant is None:
            return None, ROWS[part].default
        if target is None:
            raise ValueError(
                f"the variant {variant.name!r} says that another of its parts makes the {part}, and"
                " yet a place for it is to be filled"
            )
        if layer is not None and layer not in self.config.replaced_layers(variant.name, part):
            return None, ROWS[part].default
        if isinstance(target, type):
            return variant, target
        module, name = target.split(":")
        return variant, getattr(importlib.import_module(module), name)

    def _anchor_size(self) -> int:
        cls = self._class("queries", None)[1]
        size = getattr(cls, "anchor_size", None)
        if size not in (0, 2, 4):
            raise ValueError(
                f"{cls.__name__}.anchor_size is {size!r}; expected 0 (no anchors), 2 or 4, as an"
                " attribute of the class"
            )
        return size

    def rates(self, model: nn.Module) -> dict[str, float]:
        """Shares of the learning rate that variants' entries give parameters of their own.

        Raises:
            ValueError: a rate is for parameters that there are not.
        """
        found: dict[int, float] = {}
        for variant in resolve(self.config.variant):
            for named, share in variant.rates.items():
                mine = {
                    id(parameter): share
                    for module, owner in self.filled
                    if owner is variant
                    for path, parameter in module.named_parameters()
                    if named in path.split(".")
                }
                if not mine:
                    raise ValueError(
                        f"the variant {variant.name!r} has a rate for {named!r}, but no parameter"
                        " of its parts is under such a name"
                    )
                found |= mine
        return {n: found[id(p)] for n, p in model.named_parameters() if id(p) in found}


def num_classes(config: ModelConfig) -> int:
    """The number of classes; a ValueError where the data has yet to tell it."""
    if config.num_classes is None:
        raise ValueError(
            "model.num_classes is None, which stands for as many as the training annotations have;"
            " build from with_classes(config).model (in detrnb.datasets), or give a number"
        )
    return config.num_classes


@contextmanager
def _own_stream(seed: int, path: str) -> Iterator[None]:
    """Inside, torch draws on the CPU from a stream of seed and path; outside nothing moves."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream(seed, path))
        yield


def stream(seed: int, name: str) -> int:
    """The seed of what is drawn for a parameter or place of this name."""
    return (seed + zlib.crc32(name.encode())) % 2**63
