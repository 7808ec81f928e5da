"""Images, steps and processes of an epoch: from provenance, or from a log's last digits."""

import numpy as np

from detrnb.compare.certainty import IF_AS_REFERENCE, SURE, UNKNOWN, Finding
from detrnb.compare.inference import (
    Denominator,
    common_denominator,
    constant_rate,
    is_own,
    logs_as_reference,
    name_order,
    powers_of_two,
    splits_by_rounding,
    steps_by_rounding,
)
from detrnb.compare.records import Record


def counts(record: Record) -> dict[str, Finding]:
    """Images and steps of an epoch, images a step, processes, validation images, by name."""
    denominator = _cardinality(record, "train")
    images = _images_an_epoch(record, denominator)
    counted = denominator.value if denominator and images.certainty != "recorded" else None
    splits = _splits(record, counted)
    steps, batch = _steps_and_batch(record, images, counted, splits)
    return {
        "images an epoch": images,
        "steps an epoch": steps,
        "global batch": batch,
        "processes": _processes_of(record, splits),
        "validation images": _validation_images(record, batch),
    }


def rate_within_first_epoch(record: Record) -> float | None:
    """The learning rate of the whole first epoch; None where it may have changed within.

    A rate that rises or falls evenly has a mean of few digits too, so that the next epoch has to
    have the same one, or one that dropped at once. A single epoch is taken at its word where the
    code logs as the reference, which knows no warm-up.
    """
    if "train_lr" not in record.log:
        return None
    rates = record.log["train_lr"].astype(float)
    rate = constant_rate(rates.iloc[0])
    if rate is None or len(rates) < 2:
        return rate if logs_as_reference(record.run[0]) else None
    factor = rates.iloc[1] / rates.iloc[0]
    return rate if factor <= 0.5 or np.isclose(factor, 1, rtol=1e-6) else None


def _cardinality(record: Record, split: str) -> Denominator | None:
    """The common denominator of the cardinality errors of a split, over layers and epochs."""
    if not _full_precision(record):
        return None
    averages = [
        value
        for line in record.run[:100]  # more epochs add nothing but time
        for key, value in line.items()
        if key.startswith(f"{split}_cardinality_error") and isinstance(value, float)
    ]
    return common_denominator(averages)


def _full_precision(record: Record) -> bool:
    """Whether losses, means of float32 numbers, stand with all their digits, not rounded."""
    losses = [value for key, value in record.run[0].items() if "_loss" in key]
    return any(isinstance(loss, float) and len(repr(loss)) > 12 for loss in losses)


def _images_an_epoch(record: Record, denominator: Denominator | None) -> Finding:
    steps, batch = (record.provenance.get(key) for key in ("steps_per_epoch", "global_batch"))
    if steps and batch:
        because = ""
        if denominator and steps * batch % denominator.value:
            because = (
                f"the log's averages are fractions of {denominator.value:,}, which does not divide"
                " it: log and provenance are not of one run"
            )
        return Finding(f"{steps * batch:,}", "recorded", because, steps * batch)
    if denominator is None:
        return UNKNOWN
    value, distinct, accident, hidden = denominator
    shares = "the averaged cardinality error is a fraction"
    if distinct > 1:
        shares = f"{distinct} averaged cardinality errors are fractions"
    doubt = (
        f"chance below {max(hidden, 1e-9):.1g}" if distinct > 1 else "one average cannot exclude it"
    )
    because = (
        f"{shares} of {value:,} to the last digit (by accident: chance below"
        f" {max(accident, 1e-99):.0e}); a multiple could hide behind a common factor ({doubt})"
    )
    if logs_as_reference(record.run[0]):
        return Finding(f"{value:,}", "inferred" if hidden < SURE else "likely", because, value)
    because += (
        f". {IF_AS_REFERENCE}; a code that accumulates and logs the last part of each step's batch,"
        " such as RF-DETR, has seen a multiple"
    )
    return Finding(f"{value:,} or a multiple", "likely", because)


def _order(record: Record) -> str | None:
    """The order of names, where it tells of processes: detrnb itself never sorts them."""
    first = record.run[0]
    return None if is_own(first) else name_order(first)


def _splits(record: Record, counted: int | None) -> list[tuple[int, int]]:
    """Global batch and processes that the first epoch's learning rate and names allow.

    Args:
        counted: images that the averages are of, unless better is recorded.
    """
    if counted is None or rate_within_first_epoch(record) is None:
        return []
    order = _order(record)
    return [
        (batch, processes)
        for batch, processes in splits_by_rounding(_first_rate(record), counted)
        if order is None or (order == "sorted") == (processes > 1)
    ]


def _first_rate(record: Record) -> float:
    return float(record.run[0].get("train_lr", np.nan))


def _steps_and_batch(
    record: Record, images: Finding, counted: int | None, splits: list[tuple[int, int]]
) -> tuple[Finding, Finding]:
    if images.certainty == "recorded":
        numbers = (record.provenance[key] for key in ("steps_per_epoch", "global_batch"))
        steps, batch = (Finding(f"{number:,}", "recorded", value=number) for number in numbers)
        return steps, batch
    if counted is None:
        return UNKNOWN, UNKNOWN
    as_reference = logs_as_reference(record.run[0])
    powers = powers_of_two(counted)
    because = f"exact fractions need a power of two, 1 to {powers[-1]} for {counted:,}"
    fitting = {batch for batch, _ in splits}
    if len(fitting) != 1:
        if not as_reference:
            return UNKNOWN, UNKNOWN
        if rate_within_first_epoch(record):
            because += f"; the learning rate's last digits fit {len(fitting)} of them"
        return UNKNOWN, Finding(f"1 to {powers[-1]}", images.certainty, because)
    (batch,) = fitting
    count = counted // batch
    shown = _who_shows_them(record, count, min(number for _, number in splits))
    because += f"; of these only {batch} fits the learning rate's last digits: {shown}"
    if not as_reference:
        return (
            Finding(f"{count:,}", "likely", f"{counted:,} / {batch}; {IF_AS_REFERENCE}", count),
            Finding(f"{batch} or a multiple", "likely", f"{because}; {IF_AS_REFERENCE}"),
        )
    return (
        Finding(f"{count:,}", images.certainty, f"{counted:,} / {batch}", count),
        Finding(str(batch), images.certainty, because, batch),
    )


def _who_shows_them(record: Record, count: int, processes: int) -> str:
    """Which numbers of steps show the last digits of the first epoch's rate, near the one found."""
    steps = steps_by_rounding(_first_rate(record), 2 * count)  # of one process
    ranges = np.split(steps, np.flatnonzero(np.diff(steps) > 1) + 1)
    nearest = min(ranges, key=lambda found: np.abs(found - count).min(initial=2 * count))
    spans = f"{nearest[0]:,} to {nearest[-1]:,} and few others" if nearest.size else "none"
    if count in nearest:
        return f"{count:,} steps show them, as do {spans}"
    return f"{count:,} steps in each of {processes} processes show them (of one process {spans})"


def _processes_of(record: Record, splits: list[tuple[int, int]]) -> Finding:
    own, total = record.config.get("train", {}), record.provenance.get("global_batch")
    if "batch_size" in own and total:
        number = total // (own["batch_size"] * own.get("accumulate", 1))
        return Finding(str(number), "recorded", value="one" if number == 1 else "several")
    order = _order(record)
    if order is None:
        return UNKNOWN
    because = f"the losses' names are {order}; the reference sorts them only when distributed"
    if order == "unsorted":
        return Finding("1", "likely", because, "one")
    numbers = {processes for _, processes in splits}
    if len(numbers) != 1:
        return Finding("several", "likely", because, "several")
    (number,) = numbers
    because += (
        f"; the learning rate's last digits come from adding the totals of {number}, one by one"
    )
    return Finding(str(number), "likely", because, "several")


def _validation_images(record: Record, batch: Finding) -> Finding:
    denominator = _cardinality(record, "test")
    if denominator is None or batch.value is None or denominator.value % batch.value:
        return UNKNOWN
    most, size = denominator.value, batch.value
    because = (
        f"averages are fractions of {most:,}: {most // size:,} batches of {size}, if evaluation has"
        " training's batch, as in the reference; the last one may be smaller or padded"
    )
    span = range(most - size + 1, most + 1)
    return Finding(f"{span[0]:,} to {span[-1]:,}", "likely", because, span)
