"""Runs side by side as tidy tables, and differences that know which direction is better."""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd

from detrnb.compare.records import Record, Source, baseline_of, entries, read_record, read_records
from detrnb.runs import COCO_METRICS

# The log's `test_` keys are of the split that is watched while training.
_SPLITS = {"train_": "train", "test_": "val", "ema_test_": "val, averaged weights"}
_KEY = re.compile("(?P<split>train_|test_|ema_test_)(?P<metric>.+)")
_LAYERED = re.compile(
    r"(?P<metric>loss_[a-z_]+?|cardinality_error)"
    r"((?P<aux>_aux)?_(?P<decoder>\d+)|_(?P<other>enc|interm|dn)(_(?P<number>\d+))?)?"
    r"(?P<unscaled>_unscaled)?"
)
_OTHER_LAYERS = {"enc": "encoder", "interm": "encoder", "dn": "denoising"}
_PER_CLASS = ("test_coco_eval_bbox_per_class", "test_results_json")
_LESS = re.compile("latency|ms|seconds|mae|mse|rmse|[kmgt]?flops|params|parameters", re.IGNORECASE)
TIMES = ("timed_s", "train_time_s", "wall_time_s")  # of `summary`, the fairest first
_PLACE = ["split", "metric", "layer", "class"]


def direction(metric: str) -> int:
    """1 where more is better (AP, AR, by the first word of the name), -1 where less is (losses,
    errors, time, memory, operations, parameters), else 0.
    """
    words = re.findall("[A-Za-z0-9]+", metric)
    if re.search("loss|error", metric, re.IGNORECASE):
        return -1
    if words and words[0].removeprefix("m") in COCO_METRICS:
        return 1
    costs = re.search("time|memory", metric, re.IGNORECASE)
    return -1 if costs or any(_LESS.fullmatch(word) for word in words) else 0


def tidy(sources: Iterable[Source]) -> pd.DataFrame:
    """Every number of some runs, one a row.

    Returns:
        Columns `run`, `epoch`, `split` (`train`, `val`, of a run folder's test.json its split),
        `metric` (as in the log, without prefix and layer), `layer` (`1`, `2`, ..., `last` of the
        decoder, `encoder`, `denoising 1`, ..., see `places_of`; empty for what no layer has),
        `class` (empty for all classes together), `value`. A COCO number of -1, which means none, is
        NaN.
    """
    records = read_records(sources)
    tables = [_numbers(record, record.log).assign(run=record.name) for record in records]
    return pd.concat(tables, ignore_index=True)[["run", "epoch", *_PLACE, "value"]]


def _numbers(record: Record, log: pd.DataFrame) -> pd.DataFrame:
    """A run's numbers, as in `tidy`, of the epochs in `log`."""
    numeric = log.select_dtypes("number")
    places = places_of(numeric)
    where = pd.DataFrame.from_dict(places, orient="index", columns=_PLACE[:3]).assign(
        **{"class": ""}
    )
    long = numeric[list(places)].melt(var_name="key", ignore_index=False).reset_index()
    classes = pd.DataFrame(_nested(record, log), columns=["epoch", *_PLACE, "value"])
    classes["value"] = classes["value"].replace(-1, np.nan)
    numbers = pd.concat([long.join(where, on="key").drop(columns="key"), classes])
    return numbers.astype({"value": float})


def places_of(keys: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Split, metric and layer of a log's keys; left out are those that measure no split.

    RT-DETR puts the encoder's predictions behind those of the decoder's layers (`aux_`), where the
    denoising queries, which the encoder has not, count the layers. Where neither they nor keys of
    the encoder's own are there, the last of these layers is called `6 or encoder`.
    """
    places, last = {}, {}
    for key in map(str, keys):
        if place := _place_of(key):
            places[key] = place
    for split in {split for split, *_ in places.values()}:
        layers = {key: _layers(key) for key, place in places.items() if place[0] == split}
        auxiliary = {int(x["decoder"]) for x in layers.values() if x and x["aux"]}
        denoising = {x["number"] for x in layers.values() if x and x["other"] == "dn"}
        if not auxiliary or any(x and x["other"] == "enc" for x in layers.values()):
            continue
        if len(denoising) in (0, len(auxiliary)):
            label = "encoder" if denoising else f"{max(auxiliary) + 1} or encoder"
            last |= {
                key: (split, places[key][1], label)
                for key, x in layers.items()
                if x and x["aux"] and int(x["decoder"]) == max(auxiliary)
            }
    return places | last


def _layers(key: str) -> re.Match | None:
    found = _KEY.fullmatch(key)
    return found and _LAYERED.fullmatch(found["metric"])


def _place_of(key: str) -> tuple[str, str, str] | None:
    plain = key.removeprefix("ema_")
    if plain in COCO_METRICS:
        return _SPLITS["test_" if plain == key else "ema_test_"], plain, ""
    if not (found := _KEY.fullmatch(key)):
        return None
    split, metric = _SPLITS[found["split"]], found["metric"]
    if not (found := _LAYERED.fullmatch(metric)):
        return split, metric, ""
    layer = "last"
    if found["decoder"]:
        layer = str(int(found["decoder"]) + 1)
    elif found["other"]:
        number = f" {int(found['number']) + 1}" if found["number"] else ""
        layer = _OTHER_LAYERS[found["other"]] + number
    return split, found["metric"] + (found["unscaled"] or ""), layer


def _nested(record: Record, log: pd.DataFrame) -> Iterator[tuple[int, str, str, str, str, float]]:
    """AP by class, and all of test.json: epoch, split, metric, layer, class, value."""
    for key in (key for key in _PER_CLASS if key in log):
        for epoch, found in log[key].items():
            for name, value in _by_class(found).items():
                yield epoch, "val", "AP", "", name, value
    test = record.test
    if test and test["epoch"] in log.index:
        for name, value in zip(COCO_METRICS, test["coco_eval_bbox"], strict=True):
            yield test["epoch"], test["split"], name, "", "", value
        for name, value in test["coco_eval_bbox_per_class"].items():
            yield test["epoch"], test["split"], "AP", "", name, value


def _by_class(found: object) -> dict[str, float]:
    """AP by class name, as detrnb writes it, or RF-DETR."""
    if not isinstance(found, Mapping):
        return {}
    if "class_map" not in found:
        return dict(found)
    rows = [row for row in found["class_map"] if row["class"] != "all"]
    return {row["class"]: row["map@50:95"] for row in rows}


def differences(first: Source, second: Source) -> pd.DataFrame:
    """What differs between two runs at the last epoch that both logged.

    Returns:
        Rows by split, metric, layer and class; columns `first`, `second`, `difference` (second
        minus first) and `better`: `first`, `second`, or empty where neither is or the metric has
        no better direction.

    Raises:
        ValueError: a run cannot be read, or they share no epoch.
    """
    records = [read_record(first), read_record(second)]
    epoch = last_common_epoch(*records)
    sides = [_numbers(r, r.log.loc[[epoch]]).set_index(_PLACE)["value"] for r in records]
    table = pd.concat(sides, axis=1, keys=["first", "second"])
    table["difference"] = table["second"] - table["first"]
    gain = table["difference"] * table.index.get_level_values("metric").map(direction)
    table["better"] = np.select([gain > 0, gain < 0], ["second", "first"], "")
    return table


def by_epoch(sources: Iterable[Source], column: str) -> dict[str, pd.DataFrame]:
    """A column of the logs by entry: epochs as rows, seeds as columns.

    Left out are runs whose seed is not known or that did not log it, and, with a warning, second
    runs of an entry's seed.
    """
    tables = {}
    for label, group in entries(read_records(sources)).items():
        runs: dict[int, pd.Series] = {}
        for record in group:
            if record.replicate is None or column not in record.log:
                continue
            if record.replicate in runs:
                warnings.warn(
                    f"{record.name} is left out: it is a second run of an entry's seed",
                    stacklevel=2,
                )
                continue
            runs[record.replicate] = record.log[column]
        if runs:
            table = pd.DataFrame(runs).astype(float).sort_index(axis="columns")
            tables[label] = table.rename_axis(columns="seed")
    return tables


def paired_by_epoch(
    sources: Iterable[Source], column: str, baseline: str | None = None
) -> dict[str, pd.DataFrame]:
    """As `by_epoch`, of each other entry its difference from the baseline's run of equal seed.

    Left out are entries that share no seed with the baseline.

    Args:
        baseline: label of an entry; as for `verdicts` unless given.
    """
    tables = by_epoch(sources, column)
    reference = tables.pop(baseline or baseline_of(tables), None) if tables else None
    if reference is None:
        return {}
    pairs = {
        label: (table - reference).dropna(axis=1, how="all") for label, table in tables.items()
    }
    return {label: table.dropna(how="all") for label, table in pairs.items() if not table.empty}


def without_partner(values: pd.DataFrame, entry: str, baseline: str) -> str:
    """The seeds of two entries that the other lacks, as `detr 0, 1; ours 7`; empty without any.

    Args:
        values: one row a seed, one column an entry; NaN where a run is missing.
    """
    there = {name: values.index[values[name].notna()] for name in (baseline, entry)}
    pairs = there[baseline].intersection(there[entry])
    alone = {name: [str(s) for s in seeds if s not in pairs] for name, seeds in there.items()}
    return "; ".join(f"{name} {', '.join(seeds)}" for name, seeds in alone.items() if seeds)


def last_common_epoch(first: Record, second: Record) -> int:
    """The last epoch that both logged.

    Raises:
        ValueError: there is none.
    """
    common = first.log.index.intersection(second.log.index)
    if common.empty:
        spans = [f"{r.name} has {r.log.index[0]} to {r.log.index[-1]}" for r in (first, second)]
        raise ValueError(f"no epoch in common: {', '.join(spans)}")
    return int(common.max())


def summary(sources: Iterable[Source]) -> pd.DataFrame:
    """One row a run, at its last epoch: entry, seed, epochs, losses, AP, time, memory, parameters.

    `seed` is a planned study's replicate. `test_AP` is test.json's, of the weights of that epoch.
    Times of the whole training: `timed_s`, by the step that `detrnb study` timed beside the other
    entries'; `train_time_s`, the log's sum over epochs; `wall_time_s`, provenance's, with
    evaluation, setting up and waiting.
    """
    records = read_records(sources)
    labels = {record.name: label for label, group in entries(records).items() for record in group}
    rows = {}
    for record in records:
        log, test = record.log, record.test
        tested = test and test["epoch"] == log.index[-1]
        of_log = ["train_loss", "test_loss", "AP", "AP50", "ema_AP"]
        rows[record.name] = {
            "entry": labels[record.name],
            "seed": record.replicate,
            "epochs": log.index[-1] + 1,
            **log.reindex(columns=of_log).iloc[-1].to_dict(),
            "test_AP": test["coco_eval_bbox"][0] if tested else np.nan,
            "timed_s": record.timing.get("step_s", np.nan) * _steps(record),
            "train_time_s": log["train_time_s"].sum() if "train_time_s" in log else np.nan,
            "wall_time_s": record.provenance.get("wall_time_s"),
            "peak_memory_mb": record.provenance.get("peak_memory_mb"),
            "n_parameters": log["n_parameters"].iloc[-1] if "n_parameters" in log else None,
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("run")
    numbers = table.columns.drop("entry")
    return table.astype(dict.fromkeys(numbers, float)).astype({"seed": "Int64", "epochs": int})


def summary_by_entry(sources: Iterable[Source]) -> pd.DataFrame:
    """One row an entry, of `summary`: its seeds, means of AP with the spread over seeds, medians of
    the fairest time in minutes and of memory. Left out is what no entry has.

    Runs that lack epochs enter none of the means and medians; where there are any, `unfinished`
    says how many.
    """
    records = read_records(sources)
    runs = summary(records)
    lacking = pd.Series({record.name: record.epochs_missing > 0 for record in records})
    grouped = runs.groupby("entry", sort=False)
    whole = runs[~lacking]
    finished = whole.groupby("entry", sort=False)
    minutes = training_seconds(whole).groupby(whole["entry"]).median() / 60
    columns = {
        "seeds": finished["seed"].agg(lambda seeds: ", ".join(map(str, seeds.dropna()))),
        "unfinished": lacking.groupby(runs["entry"]).sum(),
        "epochs": grouped["epochs"].max(),
        "validation AP": finished["AP"].mean().round(4),
        "its spread": finished["AP"].std().round(4),
        "test AP": finished["test_AP"].mean().round(4),
        "minutes": minutes.round(1),
        "MiB": finished["peak_memory_mb"].median().round(),
        "parameters": grouped["n_parameters"].last().astype("Int64"),
    }
    if not lacking.any():
        del columns["unfinished"]
    table = pd.DataFrame(columns, index=list(grouped.groups)).dropna(axis="columns", how="all")
    return table.fillna({"seeds": ""})


def _steps(record: Record) -> float:
    """Optimizer steps of a run so far."""
    return record.provenance.get("steps_per_epoch", np.nan) * (record.log.index[-1] + 1)


def training_seconds(runs: pd.DataFrame) -> pd.Series:
    """How long each run's training takes, by the fairest of the times that all entries have of some
    seed: steps are timed in a few replicates. NaN where a run was not timed.

    Args:
        runs: of `summary`.
    """
    known = (name for name in TIMES[:-1] if _shared(runs, name))
    return runs[next(known, TIMES[-1])]


def _shared(runs: pd.DataFrame, time: str) -> bool:
    """Whether there is a seed of which all entries have a time, or they have it of all runs."""
    timed = runs[runs[time].notna()]
    seeds = [set(group["seed"].dropna()) for _, group in timed.groupby("entry")]
    everywhere = len(seeds) == runs["entry"].nunique()
    return len(timed) == len(runs) or (everywhere and bool(set.intersection(*seeds)))
