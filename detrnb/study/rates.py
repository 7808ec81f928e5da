"""Which learning rate suits an entry: trials, outwards while the best lies at an edge."""

from collections.abc import Mapping, Sequence

from detrnb.compare import Trials

TRIALS = Trials()  # as a study has them unless its plan says otherwise
FURTHEST = 64.0  # times the preset's, or its part


def further(
    reached: Mapping[float, float], factors: Sequence[float] = TRIALS.factors
) -> list[float]:
    """The factors to try next; none where the best lies between two others.

    Args:
        reached: factor -> mean AP of its trials, 0 for one that diverged.
        factors: tried first.

    Raises:
        ValueError: the best lies at an edge as far out as anybody would look.
    """
    missing = [factor for factor in factors if factor not in reached]
    if missing:
        return missing
    best = chosen(reached)
    if min(reached) < best < max(reached):
        return []
    if not 1 / FURTHEST <= best <= FURTHEST:
        raise ValueError(
            f"{best:g} times the preset's learning rate is the best of {len(reached)} and still at"
            " the edge; look at the trials' logs: does it train at all?"
        )
    return [best / 2 if best == min(reached) else best * 2]


def chosen(reached: Mapping[float, float]) -> float:
    """The factor with the best mean AP."""
    return max(reached, key=reached.__getitem__)
