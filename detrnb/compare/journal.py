"""The researcher's journal, completed: each idea's epoch 0 beside the baseline's, a decision."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from detrnb.compare.deciding import decisions
from detrnb.compare.judging import Verdicts
from detrnb.compare.records import Record, baseline_of, entries
from detrnb.compare.ruling import Ruling
from detrnb.compare.statistics import FEWEST_SEEDS, paired_test, power, seeds_needed
from detrnb.compare.table import by_epoch
from detrnb.settings import Config

EPOCH_ZERO = {
    **{"train_loss": "train loss", "test_loss": "val loss"},
    **{"AP": "val AP", "AP50": "val AP50"},
}
MINUTES_AN_EPOCH = 28  # DETR with ResNet-50 on 8 V100, by the reference's README
COCO_DIFFERENCE = 0.005  # 0.5 AP of 100


class Idea(NamedTuple):
    """One of the journal's: its title there, and what it decided, from one run of each."""

    title: str
    decided: str = ""


IDEAS: Mapping[str, Idea] = {  # by the variant that became of it
    "adaptive_res": Idea("AdaptiveResEncoder", "Applied!"),
    "efficient_attention": Idea("Efficient Attention"),
    "svd_split": Idea("Eigendecomposition for attention_weight"),
}


class CocoPlan(NamedTuple):
    """What it would take to see COCO_DIFFERENCE between DETR and one idea on COCO.

    Attributes:
        seeds: pairs of runs.
        runs: DETR's and the idea's.
        hours: of 8 V100, were the idea as fast as DETR.
    """

    seeds: int
    runs: int
    hours: float


def coco_plan(spread: float, comparisons: int = len(IDEAS)) -> CocoPlan:
    """Count runs and hours of the preset `coco`.

    Args:
        spread: standard deviation of AP's paired differences, AP from 0 to 1.
        comparisons: ideas compared in the one study.

    Raises:
        ValueError: a spread that is not above 0.
    """
    seeds = seeds_needed(COCO_DIFFERENCE, spread, comparisons)
    hours = Config.preset("coco").train.epochs * MINUTES_AN_EPOCH / 60
    return CocoPlan(seeds, 2 * seeds, 2 * seeds * hours)


def epoch_zero(records: Sequence[Record], entry: str, baseline: str) -> pd.DataFrame:
    """What the first epoch gave an entry and the baseline, over the seeds that both have.

    Returns:
        By number (`train loss`, `val loss`, `val AP`, `val AP50`): `seeds`; `baseline`, `entry` and
        their standard deviations `baseline_spread`, `entry_spread`; `difference` of pairs, entry
        minus baseline, with its 95 % interval `low`, `high` (NaN for one pair). Empty without a
        pair.
    """
    rows = {}
    for column, name in EPOCH_ZERO.items():
        tables = by_epoch(records, column)
        if not all(label in tables and 0 in tables[label].index for label in (entry, baseline)):
            continue
        ours, theirs = (tables[label].loc[0] for label in (entry, baseline))
        found = (ours - theirs).dropna()
        if found.empty:
            continue
        ours, theirs = ours[found.index], theirs[found.index]
        rows[name] = {
            **{"seeds": len(found), "baseline": theirs.mean(), "baseline_spread": theirs.std()},
            **{"entry": ours.mean(), "entry_spread": ours.std(), "difference": found.mean()},
        }
        if len(found) > 1:
            test = paired_test(found.to_numpy())
            rows[name] |= {"low": float(test.low), "high": float(test.high)}
    columns = [
        *("seeds", "baseline", "baseline_spread", "entry", "entry_spread"),
        *("difference", "low", "high"),
    ]
    return pd.DataFrame.from_dict(rows, orient="index").reindex(columns=columns)


def journal_page(
    records: Sequence[Record],
    found: Verdicts | None,
    *,
    seeds: int,
    control: str | None = None,
    coco_spread: float,
    doubt: str | None = None,
    first: Verdicts | None = None,
) -> str:
    """The journal's three ideas with what it left blank, as markdown.

    An entry that is an idea with other options stands beside it.

    Args:
        records: the study's runs.
        found: their verdicts; None while there are none.
        seeds, control, doubt: as for `decisions`.
        coco_spread: what to assume of `coco_plan`'s spread.
        first: of an earlier study; what it said, and what it could have seen, is repeated.
    """
    baseline = found.baseline if found else baseline_of(entries(records))
    decided = decisions(found, seeds, control, doubt=doubt) if found else pd.DataFrame()
    needed = max(seeds, FEWEST_SEEDS)
    earlier = first.rulings if first else {}
    parts = []
    for number, (entry, idea) in enumerate(IDEAS.items(), start=1):
        known = entry in decided.index
        decision, why = decided.loc[entry] if known else ("not decided", f"0 of {needed} seeds")
        before = f' The journal\'s was "{idea.decided}", from one run of each.' * bool(idea.decided)
        parts += [
            f"### {number}. {idea.title}",
            _epoch_zero_text(records, entry, baseline),
            f"**Decision: {decision}.** {_sentence(why)}{before}{_before(entry, earlier)}",
        ]
        for form in _other_forms(records, entry, decided.index):
            decision, why = decided.loc[form]
            said = f"{_sentence(why)}{_before(form, earlier)}"
            parts.append(f"**In another form,** `{form}`: **{decision}.** {said}")
        if known:
            parts.append(f"**Limits.** {_limits(records, baseline, found.metric)}")
        measured = found.table["difference_spread"].get(entry) if found else None
        parts.append(f"**On COCO.** {_coco_text(entry, coco_spread, measured)}")
    return "\n\n".join(parts)


def _sentence(why: str) -> str:
    return f"{why[0].upper()}{why[1:]}."


def _other_forms(records: Sequence[Record], idea: str, decided: Collection[str]) -> list[str]:
    """Entries that were decided on and are an idea with other options."""
    variants = {
        entry: runs[0].config.get("model", {}).get("variant")
        for entry, runs in entries(records).items()
    }
    return [entry for entry in decided if entry != idea and variants.get(entry) == idea]


def _before(entry: str, earlier: Mapping[str, Ruling]) -> str:
    """What a study of long ago says by today's rule, and whether it could have told."""
    if entry not in earlier:
        return ""
    ruling = earlier[entry]
    said = f" The first study's, by this rule: {ruling.words}"
    if not (ruling.pairs > 1 and ruling.spread > 0):
        return f"{said}."
    said += f" ({ruling.mean:+.3f} AP over {ruling.pairs} pairs)"
    if not ruling.comparisons or ruling.verdict == "described":
        return f"{said}."
    chance = power(ruling.delta, ruling.spread, ruling.pairs, ruling.comparisons)
    return (
        f"{said}; a true gain of {ruling.delta:g} AP it would have called better in {chance:.0%} of"
        " studies."
    )


def _epoch_zero_text(records: Sequence[Record], entry: str, baseline: str) -> str:
    table = epoch_zero(records, entry, baseline)
    if table.empty:
        return f"**Mine: Epoch 0.** No pair of runs of `{entry}` and `{baseline}` yet."
    run = entries(records)[entry][0]
    study = f"the {run.config['preset_name']} study" if "preset_name" in run.config else "our runs"
    count = int(table["seeds"].max())
    head = (
        f"**Epoch 0** of {study}, `{entry}` (mine) beside `{baseline}` (DeTr), mean ± standard"
        f" deviation over {count} pairs; their difference with its 95 % interval:"
        if count > 1
        else f"**Epoch 0** of {study}, `{entry}` (mine) beside `{baseline}` (DeTr), one pair:"
    )
    lines = ["| | DeTr: Epoch 0 | Mine: Epoch 0 | difference |", "| --- | --- | --- | --- |"]
    for row in table.itertuples():
        digits = 3 if "loss" in row.Index else 4
        spreads = [
            f" ± {x:.{digits}f}" * (count > 1) for x in (row.baseline_spread, row.entry_spread)
        ]
        interval = f" ({row.low:+.{digits}f} to {row.high:+.{digits}f})" * (count > 1)
        lines.append(
            f"| {row.Index} | {row.baseline:.{digits}f}{spreads[0]} | {row.entry:.{digits}f}"
            f"{spreads[1]} | {row.difference:+.{digits}f}{interval} |"
        )
    return head + "\n\n" + "\n".join(lines)


def _limits(records: Sequence[Record], baseline: str, metric: str) -> str:
    """At what scale the runs were, from the baseline's settings."""
    run = entries(records)[baseline][0]
    scale = [f"{run.log.index[-1] + 1} epochs"]
    if run.config:
        scale[0] += f" of the preset `{run.config['preset_name']}`"
        model, toy = run.config["model"], run.config["data"]["toy"]
        if toy:
            side, count = toy["image_size"], toy["num_images"][0]
            scale.append(f"{count:,} training images of {side}×{side} pixels")
            scale.append(f"{(side // model['stride']) ** 2} positions in the encoder")
        scale.append(f"{model['num_encoder_layers']}+{model['num_decoder_layers']} layers")
    return (
        f"{metric} after {', '.join(scale)}. At another scale the difference may be another, in"
        " sign too, and so may time and memory, which depend on the number of positions."
    )


def _coco_text(entry: str, assumed: float, measured: float | None) -> str:
    plan = coco_plan(assumed)
    text = (
        f"To see {100 * COCO_DIFFERENCE:g} AP with a chance of 80 %, where differences of pairs"
        f" spread by {100 * assumed:.2g} AP (assumed): {plan.seeds} seeds, {plan.runs} runs,"
        f" {plan.hours:,.0f} hours on 8 V100."
    )
    if measured is not None and measured > 0:
        plan = coco_plan(measured)
        text += (
            f" By the spread measured here, {100 * measured:.2g} AP: {plan.seeds} seeds,"
            f" {plan.hours:,.0f} hours."
        )
    return (
        f'{text} A run is `fit(Config.preset("coco", variant="{entry}", seed=0,'
        ' overrides={"train.batch_size": 16}))`, and the same with `variant="detr"`.'
    )
