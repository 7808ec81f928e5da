"""Averaged weights: a second set that follows the first at a distance, an exponential mean of it.

By torch's own averaging: after the first step the mean is the weights themselves, after each
further one decay times the mean and the rest of the weights. Buffers are those of the weights.
"""

from collections.abc import Mapping

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from detrnb.model import DETR

KEYS = ("ema", "ema_steps")  # of a checkpoint: the averaged weights, after how many steps


def averaged(model: DETR, decay: float, state: Mapping[str, object] | None) -> AveragedModel:
    """The mean of a model's weights.

    Args:
        state: a checkpoint to go on from, or None to start.

    Raises:
        ValueError: the checkpoint has none.
    """
    mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    mean.module.requires_grad_(False)
    if state is not None:
        if any(key not in state for key in KEYS):
            raise ValueError("last.pt has no averaged weights, which train.ema_decay goes on with")
        mean.module.load_state_dict(state["ema"])
        mean.n_averaged.fill_(state["ema_steps"])
    return mean


def kept_of(mean: AveragedModel | None) -> dict[str, object]:
    """What a checkpoint holds of it; nothing where weights are not averaged."""
    if mean is None:
        return {}
    values: tuple[dict[str, torch.Tensor], int] = (mean.module.state_dict(), int(mean.n_averaged))
    return dict(zip(KEYS, values, strict=True))
