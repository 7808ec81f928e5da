"""See the attention of a forward pass: any layer, head and query of any variant.

Nothing is computed or kept unless recording is on. While it is, a layer costs its matrix: B·N·S·S
numbers for the encoder (three times that where attention is split), B·N·Q·S for the decoder.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from detrnb.model import DETR, MultiheadAttention


def attention_names(model: DETR) -> dict[str, MultiheadAttention]:
    """What can be recorded: `encoder.0.self`, ..., `decoder.0.self`, `decoder.0.cross`, ..."""
    encoder, decoder = model.transformer.encoder.layers, model.transformer.decoder.layers
    names = {f"encoder.{i}.self": layer.self_attn for i, layer in enumerate(encoder)}
    for i, layer in enumerate(decoder):
        names[f"decoder.{i}.self"] = layer.self_attn
        names[f"decoder.{i}.cross"] = layer.multihead_attn
    return names


class Recording:
    """The attention of the last forward pass inside `record_attention`.

    Attributes:
        names: what is recorded, in the model's order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._recorded: dict[str, dict[str, Tensor]] = {}
        self._mask: Tensor | None = None

    def parts(self, name: str) -> tuple[str, ...]:
        """`attention`, and where it is split also `object` and `context`."""
        return tuple(self._find(name))

    @property
    def nbytes(self) -> int:
        """Memory that the recording holds."""
        return sum(x.nbytes for parts in self._recorded.values() for x in parts.values())

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
        if not 0 <= image < len(self._mask):
            raise ValueError(f"image {image} of a batch of {len(self._mask)}")
        weights, valid = parts[part][image], ~self._mask[image]
        if name.startswith("decoder") and name.endswith("self"):
            return weights
        # Padding lies at the bottom and right, so that what is valid is a rectangle.
        feature_map, H, W = valid.shape, int(valid.any(1).sum()), int(valid.any(0).sum())
        maps = weights.unflatten(-1, feature_map)[..., :H, :W]
        if name.startswith("encoder"):
            maps = maps.unflatten(1, feature_map)[:, :H, :W]
        return maps

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
    recording = Recording(names)

    def keep(name: str) -> object:
        def hook(module: MultiheadAttention, *_: object) -> None:
            recording._recorded[name] = module.recorded

        return hook

    def keep_mask(_: nn.Module, arguments: tuple[Tensor]) -> None:
        recording._mask = arguments[0].detach()

    before = {name: known[name].record for name in names}  # another recording may be on
    hooks = [model.backbone[1].register_forward_pre_hook(keep_mask)]
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
