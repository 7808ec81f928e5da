"""Do the parts of split attention hold objects and context? Two tests of that hypothesis.

*Where*: how much of a part's energy (squared entries, summed over queries) lies on key positions
inside ground-truth boxes, beyond the boxes' share of the area. *What for*: what a trained model
loses when inference keeps one part only. Both beside a control: as many of the matrix's own
singular triplets as the part has, chosen at random. They work for plain attention and for split.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import pandas as pd
import torch
from scipy.stats import t
from torch import Tensor, nn
from torch.utils.data import Dataset

from detrnb.boxes import cell_coverage, cxcywh_to_xyxy
from detrnb.datasets import photographs_of
from detrnb.look.recording import attention_of
from detrnb.model import DETR, EncoderAttention
from detrnb.variants.svd_split import Spectrum, SplitAttention, spectrum

Part = Literal["object", "context", "random object", "random context"]
PARTS: tuple[Part, ...] = ("object", "context", "random object", "random context")


def kept_triplets(split: Spectrum, part: Part, generator: torch.Generator) -> Tensor:
    """Which singular triplets make up a part, (..., S) bool.

    Args:
        split: of attention without padding.
        part: `random object` and `random context` are as many triplets as the part after the word
            has, drawn from all of the matrix's own.
        generator: on the CPU, of the random parts.

    Raises:
        ValueError: unknown part.
    """
    if part not in PARTS:
        raise ValueError(f"part is {part!r}; expected one of {', '.join(PARTS)}")
    kept = split.is_context if part.endswith("context") else ~split.is_context
    if not part.startswith("random"):
        return kept
    order = torch.rand(kept.shape, generator=generator).argsort(-1).argsort(-1)
    return order.to(kept.device) < kept.sum(-1, keepdim=True)


def energy_in_boxes(
    attention: Tensor, boxes_cxcywh: Tensor, generator: torch.Generator
) -> dict[str, float]:
    """The first test on one image and layer: means over heads.

    Args:
        attention: (N, H, W, H, W), recorded, without padding.
        boxes_cxcywh: (G, 4) ground truth, shares of the image.
        generator: of the random parts.

    Returns:
        For `attention` and each part: the share of its energy on key positions under boxes, less
        the boxes' share of the area; a position counts by how much of it the box over it covers.
        `rank`: singular values above their mean; `context energy`: their share of the squares;
        `area`: under boxes; `positions`: H·W.
    """
    N, H, W = attention.shape[:3]
    matrices = attention.reshape(N, H * W, H * W)
    split = spectrum(matrices)
    boxes_xyxy = cxcywh_to_xyxy(boxes_cxcywh)  # of an image one wide and one high
    under = cell_coverage(boxes_xyxy, (1, 1), (H, W)).amax(0).flatten().to(matrices.device)
    area = under.mean()

    def excess(part: Tensor) -> float:
        by_key = part.square().sum(-2)
        return ((by_key @ under) / by_key.sum(-1) - area).mean().item()

    found = {"attention": excess(matrices)}
    for part in PARTS:
        vectors = split.vectors * kept_triplets(split, part, generator)[..., None, :]
        found[part] = excess(matrices @ vectors @ vectors.mT)
    squares = split.values.square()
    context = (squares * split.is_context).sum(-1) / squares.sum(-1)
    rank = split.is_context.sum(-1).float()
    return found | {
        "rank": rank.mean().item(),
        "context energy": context.mean().item(),
        "area": area.item(),
        "positions": H * W,
    }


def energy_table(
    model: DETR, dataset: Dataset, layers: Sequence[int], seed: int = 0, limit: int | None = None
) -> pd.DataFrame:
    """`energy_in_boxes` over a data set: one row for each image that has boxes, and each layer.

    Args:
        layers: of the encoder, from 0.
        seed: of the random parts.
        limit: how many images, from the first; None for all.

    Returns:
        Besides, `image_id`, `layer`, and `photograph`: what the image was cut from; None where the
        annotations do not tell.

    Raises:
        ValueError: the model has no such layer.
    """
    annotations = getattr(dataset, "annotations", None)
    photographs = photographs_of(annotations) if annotations else {}
    generator = torch.Generator().manual_seed(seed)
    names = [f"encoder.{layer}.self" for layer in layers]
    rows = []
    for index in range(min(limit or len(dataset), len(dataset))):
        image, target = dataset[index]
        if not len(target["boxes"]):
            continue
        recording = attention_of(model, image[None], names)
        for layer, name in zip(layers, names, strict=True):
            found = energy_in_boxes(recording.maps(name), target["boxes"], generator)
            image = target["image_id"]
            place = {"image_id": image, "photograph": photographs.get(image), "layer": layer}
            rows.append({**place, **found})
    return pd.DataFrame(rows)


def observations(energy: pd.DataFrame) -> pd.Series:
    """What each row is an observation of: its photograph, or its image where none is told.

    Images cut from one photograph share its scene, so that more of them tell little more about
    other scenes.

    Args:
        energy: of `energy_table`.

    Returns:
        Named `photographs`, or `images` where no photograph is told.
    """
    told = energy["photograph"].notna()
    seen = energy["photograph"].where(told, energy["image_id"])
    return seen.rename("photographs" if told.any() else "images")


def intervals(energy: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Means over `observations` with their 95 % intervals (Student's).

    Args:
        energy: of `energy_table`, of one model and layer: one row an image.
        columns: those wanted; images of one photograph are averaged first.

    Returns:
        By column `mean`, `low`, `high`, and `observations`, how many there are. The interval of a
        single observation is unbounded.
    """
    means = energy[list(columns)].groupby(observations(energy).to_numpy()).mean()
    count, mean = len(means), means.mean()
    half = t.ppf(0.975, count - 1) * means.std() / count**0.5 if count > 1 else np.inf
    return pd.DataFrame(
        {"mean": mean, "low": mean - half, "high": mean + half, "observations": count}
    )


def against_controls(energy: pd.DataFrame) -> pd.DataFrame:
    """Each part less its random control, image by image, and its mean over photographs.

    Args:
        energy: of `energy_table`, a column `model` added.

    Returns:
        `intervals` by model, layer (from 1) and difference, `object - random` or `context -
        random`.
    """
    rows = {}
    for (model, layer), table in energy.groupby(["model", "layer"]):
        pairs = {f"{x} - random": table[x] - table[f"random {x}"] for x in ("object", "context")}
        for name, row in intervals(table.assign(**pairs), [*pairs]).iterrows():
            rows[model, layer + 1, name] = row
    return pd.DataFrame(rows).T.rename_axis(["model", "layer", "difference"])


class _PartAttention(EncoderAttention):
    """An attention layer that applies only some of its matrix's singular triplets.

    With K the projector on their right vectors the value is A K V; where the layer has gates, its
    parts keep them.
    """

    def __init__(self, layer: EncoderAttention, part: Part, seed: int) -> None:
        nn.Module.__init__(self)  # the layer's parameters are shared, none are made
        self.layer, self.part = layer, part
        self.generator = torch.Generator().manual_seed(seed)

    def look(
        self, query: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor | None = None
    ) -> Tensor:
        """As `MultiheadAttention.look`, for self-attention without padding."""
        if padding_mask is not None and padding_mask.any():
            raise ValueError("one part of attention is kept for images without padding only")
        layer = self.layer
        projected = layer.project(query, key, value)
        with torch.autocast(query.device.type, enabled=False):
            q, k, v = (x.float() for x in projected)
            weights = layer.attention_weights(q, k, padding_mask)
            split = spectrum(weights)
            kept = kept_triplets(split, self.part, self.generator).float()
            for name, own in (
                ("object_gate", ~split.is_context),
                ("context_gate", split.is_context),
            ):
                if hasattr(layer, name):
                    kept = torch.where(own, kept * getattr(layer, name)[:, None], kept)
            attended = weights @ (split.vectors @ (kept[..., None] * (split.vectors.mT @ v)))
        return layer.out_proj(attended.transpose(1, 2).flatten(2))


def _has_parts(attention: nn.Module) -> bool:
    """Whether a layer is what `_PartAttention` computes but for the part; one that does more to
    queries and keys, or sums in another way, is not.
    """
    kind = type(attention)
    steps = {name: getattr(kind, name, None) for name in ("forward", "look", "attend")}
    applied = EncoderAttention.attend, SplitAttention.attend
    as_plain = all(steps[n] is getattr(EncoderAttention, n) for n in ("forward", "look"))
    return as_plain and steps["attend"] in applied


@contextmanager
def keep_part(model: DETR, layers: Sequence[int], part: Part, seed: int = 0) -> Iterator[None]:
    """The second test: inside a `with`, encoder layers apply one part of their attention only.

    Args:
        layers: of the encoder, from 0.
        seed: of the random parts.

    Raises:
        ValueError: the model has no such layer, the layer's attention has no spectrum to take parts
            of (efficient attention) or does more to queries and keys (rope), or the part is
            unknown.
    """
    if part not in PARTS:
        raise ValueError(f"part is {part!r}; expected one of {', '.join(PARTS)}")
    named = {getattr(module, "place_name", ""): module for module in model.modules()}
    known = {name: module for name, module in named.items() if name.startswith("encoder")}
    before = {}
    for layer in layers:
        attention = known.get(f"encoder.{layer}.self")
        if attention is None:
            raise ValueError(f"no encoder layer {layer}; this model has 0 to {len(known) - 1}")
        if not _has_parts(attention):
            raise ValueError(
                f"encoder layer {layer} has {type(attention).__name__}; parts are taken of"
                " dot-product attention, plain or split"
            )
        before[layer] = attention
    paths = {module: path for path, module in model.named_modules()}
    parents = {layer: paths[module].rpartition(".") for layer, module in before.items()}

    def put(layer: int, attention: nn.Module) -> None:
        parent, _, name = parents[layer]
        setattr(model.get_submodule(parent), name, attention)

    try:
        for layer, attention in before.items():
            put(layer, _PartAttention(attention, part, seed + layer))
        yield
    finally:
        for layer, attention in before.items():
            put(layer, attention)


def ap_of_parts(
    model: DETR, layer: int, evaluate: Callable[[], float], draws: int, seed: int = 0
) -> pd.DataFrame:
    """The second test: AP of a model whose encoder layer keeps one part only.

    Args:
        layer: from 0.
        evaluate: gives AP of `model` as it then is.
        draws: of each random part.
        seed: of the first of them.

    Returns:
        By what is kept, `all` or a part: AP's `mean`, `min` and `max` over the draws.

    Raises:
        ValueError: as for `keep_part`.
    """
    found = {"all": [evaluate()]}
    for part in PARTS:
        found[part] = []
        for draw in range(draws if part.startswith("random") else 1):
            with keep_part(model, [layer], part, seed=seed + draw):
                found[part].append(evaluate())
    rows = {kept: (np.mean(aps), min(aps), max(aps)) for kept, aps in found.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "min", "max"])
    return table.rename_axis("kept")
