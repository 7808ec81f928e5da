"""Runs that break off as a killed process would, for tests of what goes on after."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from detrnb.training import run


@contextmanager
def interrupted(where: str, epoch: int = 1) -> Iterator[None]:
    """Inside, a run must die before an epoch is trained or evaluated.

    Args:
        where: `train_epoch` or `evaluate_epoch`.
        epoch: counted from 0.
    """
    function = getattr(run, where)

    def dying(*given: object) -> object:
        [number] = [x if isinstance(x, int) else x["epoch"] for x in given if _tells(x)]
        if number == epoch:
            raise KeyboardInterrupt
        return function(*given)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, where, dying)
        yield


def _tells(given: object) -> bool:
    """Whether it is an epoch's number, or the state after its training."""
    return isinstance(given, int | dict)
