"""See the attention of a forward pass: any layer, head and query of any variant.

Nothing is computed or kept unless recording is on. While it is, a layer costs its matrix: B·N·S·S
numbers for the encoder (three times that where attention is split), B·N·Q·S for the decoder.

A part can be recorded if it has `record`, False until somebody asks, and then keeps in `recorded`
either `attention` (B, N, Q, S), or the `points` (B, N, Q, P, 2) that it samples, x then y, shares
of the whole padded map, with their `weights` (B, N, Q, P). Of the decoder are kept the anchors that
it gives beside its hidden states.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detrnb.model import DETR


def attention_names(model: DETR) -> dict[str, nn.Module]:
    """What can be recorded: `encoder.0.self`, ..., `decoder.0.self`, `decoder.0.cross`, ..."""
    found = {getattr(module, "place_name", None): module for module in model.modules()}
    return {name: found[name] for name in model.attentions if hasattr(found.get(name), "record")}


def unrecorded_names(model: DETR) -> tuple[str, ...]:
    """Places that attend in a way that cannot be recorded."""
    return tuple(name for name in model.attentions if name not in attention_names(model))


class Samples(NamedTuple):
    """Positions that queries, or in the encoder cells, sample: P each in every head.

    Attributes:
        points: (..., P, 2), x then y.
        weights: (..., P), which sum to 1.
    """

    points: Tensor
    weights: Tensor


class Recording:
    """The attention of the last forward pass inside `record_attention`.

    Attributes:
        names: what is recorded, in the model's order.
        missing: places of the model that cannot be.
    """

    def __init__(self, names: Sequence[str], missing: Sequence[str] = ()) -> None:
        self.names, self.missing = tuple(names), tuple(missing)
        self._recorded: dict[str, dict[str, Tensor]] = {}
        self._samples: dict[str, Samples] = {}
        self._anchors: Tensor | None = None
        self._mask: Tensor | None = None

    def parts(self, name: str) -> tuple[str, ...]:
        """`attention`, and where it is split also `object` and `context`."""
        return tuple(self._find(name))

    @property
    def nbytes(self) -> int:
        """Memory that the recording holds."""
        kept = (*self._recorded.values(), *(x._asdict() for x in self._samples.values()))
        return sum(x.nbytes for tensors in kept for x in tensors.values())

    def maps(self, name: str, image: int = 0, part: str = "attention") -> Tensor:
        """One image's attention, after the softmax and before dropout, without padding.

        Args:
            name: one of `names`.
            image: its place in the batch.
            part: one of `parts(name)`.

        Returns:
            Views of what is recorded, on the model's device: encoder (N, H, W, H, W), from position
            to position; decoder self (N, Q, Q); decoder cross (N, Q, H, W). H×W is the feature map
            without padding.

        Raises:
            ValueError: nothing was recorded under this name, or there is no such part or image.
        """
        parts = self._find(name)
        if part not in parts:
            raise ValueError(f"{name} has no part {part!r}; it has {', '.join(parts)}")
        H, W = self.grid(image)
        weights, feature_map = parts[part][image], self._mask.shape[1:]
        if name.startswith("decoder") and name.endswith("self"):
            return weights
        maps = weights.unflatten(-1, feature_map)[..., :H, :W]
        return self._without_padding(name, maps, image)

    def samples(self, name: str, image: int = 0) -> Samples | None:
        """The positions that one image's attention samples; None where it weighs them all.

        Args:
            name, image: as for `maps`, which holds what these amount to, cell by cell.

        Returns:
            Encoder (N, H, W, P, 2), decoder (N, Q, P, 2), as shares of the feature map without
            padding; below 0 or above 1 where a head looks past the image, and finds nothing.

        Raises:
            ValueError: as for `maps`.
        """
        self._find(name)
        (H, W), (all_H, all_W) = self.grid(image), self._mask.shape[1:]
        if name not in self._samples:
            return None
        points, weights = (
            self._without_padding(name, x[image], image) for x in self._samples[name]
        )
        return Samples(points * points.new_tensor([all_W / W, all_H / H]), weights)

    def anchors(self, image: int = 0) -> Tensor | None:
        """What one image's boxes are relative to in each decoder layer; None where to nothing.

        Returns:
            (L, Q, 2), x and y, or (L, Q, 4), cxcywh, shares of the image without padding.

        Raises:
            ValueError: there is no such image, or no forward pass has run.
        """
        self.grid(image)
        return None if self._anchors is None else self._anchors[:, image]

    def _without_padding(self, name: str, x: Tensor, image: int) -> Tensor:
        """Values (N, Q, ...) of queries, or (N, H·W, ...) of cells as (N, H, W, ...), those padded
        left out.
        """
        if not name.startswith("encoder"):
            return x
        H, W = self.grid(image)
        return x.unflatten(1, self._mask.shape[1:])[:, :H, :W]

    def grid(self, image: int = 0) -> tuple[int, int]:
        """Rows and columns of an image's feature map, without padding."""
        if self._mask is None:
            raise ValueError("nothing is recorded: no forward pass has run inside it")
        if not 0 <= image < len(self._mask):
            raise ValueError(f"image {image} of a batch of {len(self._mask)}")
        # Padding lies at the bottom and right, so that what is valid is a rectangle.
        valid = ~self._mask[image]
        return int(valid.any(1).sum()), int(valid.any(0).sum())

    def _keep(self, name: str, recorded: dict[str, Tensor]) -> None:
        """Take what a part recorded; points become the weights of the cells that they sample."""
        if not recorded:  # it has `record` and does nothing about it
            self.names = tuple(other for other in self.names if other != name)
            self.missing = tuple(dict.fromkeys((*self.missing, name)))
            return
        if "points" in recorded:
            self._samples[name] = Samples(recorded["points"], recorded["weights"])
            recorded = {"attention": _spread(*self._samples[name], self._mask.shape[1:])}
        self._recorded[name] = recorded

    def _find(self, name: str) -> dict[str, Tensor]:
        if name not in self._recorded:
            ran = "" if self._recorded else " and no forward pass has run inside it"
            raise ValueError(f"{name!r} is not recorded; recorded: {', '.join(self.names)}{ran}")
        return self._recorded[name]


@contextmanager
def record_attention(model: DETR, names: Sequence[str] | None = None) -> Iterator[Recording]:
    """Record attention during the forward passes inside a `with`; the last one's is kept.

    Args:
        names: of `attention_names(model)`; None for all of them.

    Raises:
        ValueError: the model has no attention of such a name.

    Example:
        >>> with torch.no_grad(), record_attention(model, ["encoder.0.self"]) as recording:
        ...     model(images, padding_mask)
        >>> recording.maps("encoder.0.self")[head, y, x]  # what position (y, x) attends to, (H, W)
    """
    known = attention_names(model)
    names = list(known) if names is None else list(names)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no attention {', '.join(unknown)}; this model has {', '.join(known)}")
    recording = Recording(names, unrecorded_names(model))

    def keep(name: str) -> object:
        def hook(module: nn.Module, *_: object) -> None:
            recording._keep(name, module.recorded)

        return hook

    def keep_mask(_: nn.Module, arguments: tuple[Tensor]) -> None:
        recording._mask = arguments[0].detach()

    def keep_anchors(_: nn.Module, __: object, gives: tuple[Tensor, list[Tensor] | None]) -> None:
        anchors = gives[1]
        recording._anchors = None if anchors is None else torch.stack(anchors).detach().sigmoid()

    before = {name: known[name].record for name in names}  # another recording may be on
    hooks = [
        model.backbone[1].register_forward_pre_hook(keep_mask),
        model.transformer.decoder.register_forward_hook(keep_anchors),
    ]
    for name in names:
        known[name].record = True
        hooks.append(known[name].register_forward_hook(keep(name)))
    try:
        yield recording
    finally:
        for hook in hooks:
            hook.remove()
        for name, on in before.items():
            known[name].record = on
            if not on:
                known[name].recorded = {}


@torch.no_grad()
def attention_of(model: DETR, images: Tensor, names: Sequence[str] | None = None) -> Recording:
    """Record one forward pass on images of one size.

    Args:
        images: (B, 3, H, W) uint8.
        names: of `attention_names(model)`; None for all of them.

    Raises:
        ValueError: the model has no attention of such a name.
    """
    images = images.to(next(model.parameters()).device)
    padding_mask = torch.zeros_like(images[:, 0], dtype=torch.bool)
    with record_attention(model, names) as recording:
        model(model.normalize(images, padding_mask), padding_mask)
    return recording


def _spread(points: Tensor, weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """The attention that sampling amounts to: what each cell weighs, (B, N, Q, H·W).

    A point takes from the four cells around it bilinearly, nothing from outside the map.

    Args:
        points: (B, N, Q, P, 2); weights: (B, N, Q, P).
    """
    H, W = grid
    x, y = points[..., 0] * W - 0.5, points[..., 1] * H - 0.5
    cells = weights.new_zeros(*weights.shape[:3], H * W)
    for row in (y.floor(), y.floor() + 1):
        for column in (x.floor(), x.floor() + 1):
            share = (1 - (y - row).abs()) * (1 - (x - column).abs())
            inside = (row >= 0) & (row < H) & (column >= 0) & (column < W)
            cell = row.clamp(0, H - 1) * W + column.clamp(0, W - 1)
            cells.scatter_add_(-1, cell.long(), weights * share * inside)
    return cells
