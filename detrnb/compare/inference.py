"""What a log's numbers tell of the run that wrote them, though it names none of it.

The reference averages over an epoch's steps by adding float64 numbers and dividing once (its
MetricLogger). What that leaves in the last digits is worked out here; nothing is fitted.
"""

import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import zeta

MOST_IMAGES = 2_000_000  # of an epoch: more than any detection set has
CHANCE = 1e-3  # of an accident that is still taken for a finding
_REFERENCES_KEYS = re.compile(
    "epoch|n_parameters|train_lr|test_coco_eval_(bbox|masks)|test_PQ_(all|th|st)"
    "|(train|test)_(loss|class_error(_unscaled)?"
    r"|(loss_(ce|bbox|giou|mask|dice)|cardinality_error)(_\d+)?(_unscaled)?)"
)
_IN_EVERY_REFERENCES_LOG = {
    *("train_class_error", "train_loss_ce", "train_cardinality_error_unscaled"),
}
_OWN_KEY = "test_coco_eval_bbox_per_class"
_RT_DETRS_KEY = re.compile(r"train_loss_(vfl|mal)|train_loss_\w+_aux_\d+")


class Denominator(NamedTuple):
    """The smallest common denominator of averages.

    Attributes:
        value: the denominator.
        distinct: averages of different value that share it.
        accident: bound on the chance that unrelated numbers have one as small.
        hidden: bound on the chance that the true one is a multiple.
    """

    value: int
    distinct: int
    accident: float
    hidden: float


def common_denominator(averages: Sequence[float]) -> Denominator | None:
    """The number of images that averaged counts were divided by, or a divisor of it.

    The reference's cardinality error is |predicted - true objects|, a whole number for each image.
    A batch's mean of B images is K/B with whole K, the mean over n steps K'/(nB). With B a power of
    two (and the processes, over which it is averaged too) float32 holds K/B exactly, float64 adds
    the sums exactly, and the one division at the end is rounded to 53 bits: the logged number is
    *the* float64 next to K'/(nB). Going back, the simplest fraction that rounds to a float64 is
    unique up to denominators of about 10 million at the size of these averages, so its denominator
    divides nB; the least common multiple over several averages (decoder layers, epochs) is nB
    itself unless all their K' share a factor with it, which for a factor f has chance f**-m for m
    averages.

    Batches of other sizes leave float32's rounding in the sums, and the last, smaller batch of an
    evaluation another denominator: then no small fraction fits.

    Returns:
        None where no denominator fits that accident would not explain as well.
    """
    found = [float(x) for x in set(averages) if math.isfinite(x) and x != round(x)]
    if not found:
        return None
    fractions = [_simplest(x) for x in found]
    value = math.lcm(*(fraction.denominator for fraction in fractions))
    # A number at random rounds to a multiple of 1/value with chance value * ulp, and any of the
    # denominators up to value would have done.
    accident = value * math.prod(min(1.0, value * math.ulp(x)) for x in found)
    if value > MOST_IMAGES or accident > CHANCE:
        return None
    # Factor f is hidden with chance f**-m; the sum over primes is below that over all from 2.
    hidden = float(zeta(len(found)) - 1) if len(found) > 1 else 1.0
    return Denominator(value, len(found), accident, min(hidden, 1.0))


def _simplest(x: float) -> Fraction:
    """The fraction of smallest denominator among those that float64 rounds to x."""
    half = Fraction(math.ulp(x)) / 2
    return _between(Fraction(x) - half, Fraction(x) + half)


def _between(low: Fraction, high: Fraction) -> Fraction:
    """The fraction of smallest denominator in [low, high], by continued fractions."""
    whole = math.ceil(low)
    if whole <= high:
        return Fraction(whole)
    whole -= 1
    return whole + 1 / _between(1 / (high - whole), 1 / (low - whole))


def constant_rate(mean: float) -> float | None:
    """The learning rate that an epoch's mean is of, None where it was no round, constant one.

    Adding n equal numbers and dividing by n is off by a relative n * 2**-53 at most, so a mean this
    near a number of six digits is the mean of that number.
    """
    if not (math.isfinite(mean) and mean > 0):
        return None
    rate = float(f"{mean:.6g}")
    return rate if abs(mean / rate - 1) < MOST_IMAGES * 2.0**-53 else None


def steps_by_rounding(mean: float, most: int) -> np.ndarray:
    """The numbers of steps, up to `most`, whose averaged learning rate has exactly these digits.

    Each addition rounds the sum, always in the same way for the same rate and number of steps, and
    the errors add up to a drift: sum n equal numbers for every n, divide, and see which n give the
    logged mean. For some thousand steps they are one narrow range, and a few far from it.

    Args:
        mean: logged for an epoch; nothing is found where its rate was not constant.
    """
    rate = constant_rate(mean)
    if rate is None:
        return np.empty(0, dtype=np.int64)
    steps = np.arange(1, most + 1)
    return steps[np.full(most, rate).cumsum() / steps == mean]


def powers_of_two(images: int) -> list[int]:
    """The global batches that an exact denominator of averages allows: those that divide it."""
    return [2**i for i in range((images & -images).bit_length())]


def splits_by_rounding(mean: float, images: int) -> list[tuple[int, int]]:
    """The global batches and numbers of processes whose averaged learning rate has these digits.

    Before it divides, the reference adds the totals of its processes: equal numbers again, and a
    ring of processes adds them one after the other, which rounds once more.

    Args:
        mean: as for `steps_by_rounding`.
        images: an epoch's, from `common_denominator`.
    """
    rate = constant_rate(mean)
    if rate is None:
        return []
    totals = np.full(images, rate).cumsum()
    found = []
    for batch in powers_of_two(images):
        steps = images // batch
        sums = np.full(batch, totals[steps - 1]).cumsum()  # of 1, 2, 3, ... processes
        for processes in powers_of_two(batch):
            if sums[processes - 1] / (steps * processes) == mean:
                found.append((batch, processes))
    return found


def is_own(line: Mapping[str, object]) -> bool:
    """Whether detrnb wrote a log line, by its keys."""
    return _OWN_KEY in line


def logs_as_reference(line: Mapping[str, object]) -> bool:
    """Whether a log line has the reference's keys and no others, or is detrnb's own.

    What digits prove they prove only where every step's whole batch enters the averages, once, and
    the rate is that of the first group of parameters, which is all but the backbone. A code with
    keys of its own may do otherwise: RF-DETR, which accumulates, logs the last part of each step's
    batch.
    """
    return is_own(line) or (
        line.keys() >= _IN_EVERY_REFERENCES_LOG and all(map(_REFERENCES_KEYS.fullmatch, line))
    )


def logs_backbones_rate(line: Mapping[str, object]) -> bool:
    """Whether the rate in a log line is the backbone's, by the keys: RT-DETR, D-FINE, DEIM.

    They log the first group of parameters as the reference does, but theirs is the backbone.
    """
    return any(map(_RT_DETRS_KEY.fullmatch, line))


def name_order(line: Mapping[str, object]) -> Literal["sorted", "unsorted"] | None:
    """Whether the losses of a log line stand in alphabetical order within their blocks.

    The reference sorts their names when it averages over processes (`reduce_dict`) and leaves them
    as the criterion made them, `loss_ce` first, in a single one.

    Returns:
        None where it cannot be seen: fewer than three losses, or a line sorted as a whole, whoever
        did it.
    """
    keys = list(line)
    blocks = [
        [key for key in block if not key.endswith("_unscaled")]
        for split, block in groupby(keys, lambda key: key.partition("_loss_")[0])
        if split in ("train", "test")
    ]
    longest = max(blocks, key=len, default=[])
    if len(longest) < 3 or keys == sorted(keys):
        return None
    return "sorted" if longest == sorted(longest) else "unsorted"
