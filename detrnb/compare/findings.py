"""What is known of one run, and how surely: read off its folder and log, or inferred from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from detrnb.compare.inference import (
    Denominator,
    common_denominator,
    constant_rate,
    name_order,
    powers_of_two,
    splits_by_rounding,
    steps_by_rounding,
)
from detrnb.compare.records import Record
from detrnb.compare.table import place_of

Certainty = Literal["recorded", "logged", "inferred", "likely", "unknown"]
SURE = 0.05  # chance of an error up to which something counts as inferred, not only as likely


@dataclass(frozen=True)
class Finding:
    """One thing known of a run.

    Attributes:
        text: to read.
        certainty: `recorded` in config or provenance; `logged`: stands in the log; `inferred` from
            the log's numbers, wrong with a chance below SURE; `likely`, if the code did as the
            reference does; `unknown`.
        because: what an inference rests on.
        value: to compare; None where it is not known to one value.
    """

    text: str
    certainty: Certainty
    because: str = ""
    value: object = None


UNKNOWN = Finding("unknown", "unknown")


def findings(record: Record) -> dict[str, Finding]:
    """What is known of a run, by name."""
    images = _images(record)
    splits = _splits(record, images)
    steps, batch = _steps_and_batch(record, images, splits)
    return {
        "learning rate": _learning_rate(record),
        "schedule": _schedule(record),
        "images an epoch": images,
        "steps an epoch": steps,
        "global batch": batch,
        "processes": _processes(record, splits),
        "validation images": _validation_images(record, batch),
        "parameters": _parameters(record),
        "decoder layers": _decoder_layers(record),
        "data": _data(record),
        "image size": _image_size(record),
        "seed": _recorded(record.seed),
        "device": _recorded(record.provenance.get("device")),
        "precision": _recorded(record.provenance.get("precision")),
        "code": _code(record),
    }


def _recorded(value: object) -> Finding:
    return UNKNOWN if value is None else Finding(str(value), "recorded", value=value)


def _learning_rate(record: Record) -> Finding:
    if "train_lr" not in record.log:
        return UNKNOWN
    mean, epoch = float(record.log["train_lr"].iloc[0]), record.log.index[0]
    rate = constant_rate(mean)
    if rate is None:
        return Finding(f"{mean:.4g} (mean of epoch {epoch})", "logged", value=mean)
    return Finding(f"{rate:g}", "logged", value=rate)


def _schedule(record: Record) -> Finding:
    """Its value are the epochs' rates: what a schedule says of later epochs is not compared."""
    if "train_lr" not in record.log:
        return UNKNOWN
    rates = record.log["train_lr"].astype(float)
    if "schedule" in (train := record.config.get("train", {})):
        text = f"a tenth after every {train['lr_drop']} epochs"
        if train["schedule"] == "cosine":
            text = f"cosine over {train['epochs']} epochs"
        if train["warmup"]:
            text += f", warm-up {train['warmup']:.0%}"
        return Finding(text, "recorded", value=rates)
    if len(rates) < 2:
        return UNKNOWN
    factors = (rates / rates.shift())[1:]
    changes = factors[~np.isclose(factors, 1, rtol=1e-6)]
    text = f"constant over {len(rates)} epochs"
    if 0 < len(changes) <= 3:
        steps = [f"{factor:.3g} times from epoch {epoch}" for epoch, factor in changes.items()]
        text = ", ".join(["constant", *steps])
    elif len(changes):
        text = "changes from epoch to epoch"
    return Finding(text, "logged", value=rates)


def _cardinality(record: Record, split: str) -> Denominator | None:
    """The common denominator of the cardinality errors of a split, over layers and epochs."""
    if not _full_precision(record):
        return None
    averages = [
        value
        for line in record.lines[:100]  # more epochs add nothing but time
        for key, value in line.items()
        if key.startswith(f"{split}_cardinality_error") and isinstance(value, float)
    ]
    return common_denominator(averages)


def _full_precision(record: Record) -> bool:
    """Whether losses, means of float32 numbers, stand with all their digits, not rounded."""
    losses = [value for key, value in record.lines[0].items() if "_loss" in key]
    return any(isinstance(loss, float) and len(repr(loss)) > 12 for loss in losses)


def _images(record: Record) -> Finding:
    denominator = _cardinality(record, "train")
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
    return Finding(f"{value:,}", "inferred" if hidden < SURE else "likely", because, value)


def _order(record: Record) -> str | None:
    """The order of names, where it tells of processes: detrnb itself never sorts them."""
    first = record.lines[0]
    return None if "test_coco_eval_bbox_per_class" in first else name_order(first)


def _splits(record: Record, images: Finding) -> list[tuple[int, int]]:
    """Global batch and processes that the first epoch's learning rate and names allow."""
    if images.value is None or images.certainty == "recorded":
        return []
    order = _order(record)
    return [
        (batch, processes)
        for batch, processes in splits_by_rounding(_first_rate(record), images.value)
        if order is None or (order == "sorted") == (processes > 1)
    ]


def _first_rate(record: Record) -> float:
    return float(record.lines[0].get("train_lr", np.nan))


def _steps_and_batch(
    record: Record, images: Finding, splits: list[tuple[int, int]]
) -> tuple[Finding, Finding]:
    if images.certainty == "recorded":
        numbers = (record.provenance[key] for key in ("steps_per_epoch", "global_batch"))
        steps, batch = (Finding(f"{number:,}", "recorded", value=number) for number in numbers)
        return steps, batch
    if images.value is None:
        return UNKNOWN, UNKNOWN
    powers = powers_of_two(images.value)
    because = f"exact fractions need a power of two, 1 to {powers[-1]} for {images.value:,}"
    fitting = {batch for batch, _ in splits}
    if len(fitting) != 1:
        if constant_rate(_first_rate(record)):
            because += f"; the learning rate's last digits fit {len(fitting)} of them"
        return UNKNOWN, Finding(f"1 to {powers[-1]}", images.certainty, because)
    (batch,) = fitting
    count = images.value // batch
    shown = _who_shows_them(record, count, min(number for _, number in splits))
    because += f"; of these only {batch} fits the learning rate's last digits: {shown}"
    return (
        Finding(f"{count:,}", images.certainty, f"{images.value:,} / {batch}", count),
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


def _processes(record: Record, splits: list[tuple[int, int]]) -> Finding:
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


def _parameters(record: Record) -> Finding:
    if "n_parameters" not in record.log:
        return UNKNOWN
    number = int(record.log["n_parameters"].iloc[-1])
    return Finding(f"{number:,}", "logged", value=number)


def _decoder_layers(record: Record) -> Finding:
    places = [place for key in record.lines[0] if (place := place_of(key))]
    layers = {layer for _, metric, layer in places if metric.startswith("loss_")}
    number = sum(layer.isdigit() for layer in layers) + 1
    return Finding(str(number), "logged", value=number) if "last" in layers else UNKNOWN


def _data(record: Record) -> Finding:
    prints = record.provenance.get("data")
    if not isinstance(prints, Mapping):
        return UNKNOWN
    parts = [f"{name.removeprefix('instances_')} {text[:6]}" for name, text in prints.items()]
    return Finding(", ".join(parts), "recorded", value=dict(prints))


def _image_size(record: Record) -> Finding:
    data = record.config.get("data")
    if not data:
        return UNKNOWN
    sizes, longest = data["train_sizes"], data["max_size"]
    text = (
        "as the images are" if sizes is None else f"{min(sizes)} to {max(sizes)}, at most {longest}"
    )
    if sizes is None and data["toy"]:
        text = str(data["toy"]["image_size"])
    evaluated = data["eval_size"]
    if evaluated is not None:
        text += f"; evaluated at {evaluated}"
    return Finding(text, "recorded", value=text)


def _code(record: Record) -> Finding:
    commit = record.provenance.get("git_commit")
    if not commit:
        return UNKNOWN
    text = commit[:10] + (" and changes" if record.provenance.get("git_dirty") else "")
    return Finding(text, "recorded", value=text)
