"""Tables, audits and verdicts as text: what `detrnb compare` prints."""

import math
from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from detrnb.compare import layout
from detrnb.compare.auditing import audit
from detrnb.compare.judging import Verdicts, verdicts
from detrnb.compare.ladder import CONTROLS, Ladder
from detrnb.compare.records import Record, Source, entries
from detrnb.compare.ruling import DELTA
from detrnb.compare.table import TIMES, summary, training_seconds, without_partner

_COLUMNS = {  # of `table.summary`: heading and format
    "epochs": ("epochs", "{:.0f}"),
    "train_loss": ("loss", "{:.3f}"),
    "test_loss": ("val loss", "{:.3f}"),
    "AP": ("AP", "{:.4f}"),
    "AP50": ("AP50", "{:.4f}"),
    "ema_AP": ("ema AP", "{:.4f}"),
    "test_AP": ("test AP", "{:.4f}"),
    "timed_s": ("timed s", "{:.0f}"),
    "train_time_s": ("time s", "{:.0f}"),
    "wall_time_s": ("wall s", "{:.0f}"),
    "peak_memory_mb": ("MiB", "{:.0f}"),
    "n_parameters": ("params", "{:,.0f}"),
}


def report(records: Sequence[Record], baseline: str | None = None, delta: float = DELTA) -> str:
    """A table of the runs, the first audited against each other, verdicts where seeds repeat.

    Args:
        baseline, delta: as for `verdicts`.
    """
    runs = summary(records)
    if any(map(_is_planned, records)):  # AP that nothing was tuned on waits for the plan's verdict
        runs = runs.drop(columns="test_AP")
    parts = [runs_text(runs)]
    if len(records) != 2 and (remarks := [f"{r.name}: {x}" for r in records for x in r.remarks]):
        parts.append("\n".join(layout.item("-", remark) for remark in remarks))
    if len(records) == 2:
        parts.append(str(audit(*records)))
    elif len(records) > 2:
        parts.append(audits_text(records))
    groups = entries(records)
    try:
        refuse_planned(records)
        if len(groups) > 1 and max(map(len, groups.values())) > 1:
            parts.append(verdicts_text(verdicts(records, baseline, delta=delta)))
    except ValueError as error:  # such as a study that is still running
        parts.append(f"No verdicts: {error}")
    return "\n\n".join(parts)


def refuse_planned(records: Sequence[Record]) -> None:
    """Refuse to judge runs of a planned study otherwise than by its plan.

    Raises:
        ValueError: one of the runs is of a plan.
    """
    if any(map(_is_planned, records)):
        raise ValueError(
            "these are runs of a planned study, which are judged by its plan once all are there:"
            " compare.read_ladder, notebook 07"
        )


def _is_planned(record: Record) -> bool:
    return bool(record.study.get("plan"))


def runs_text(runs: pd.DataFrame) -> str:
    """The summary of runs: training loss, then what the validation split gives, then cost.

    Left out is what no run has, and times where each run has a fairer one.
    """
    fairest = training_seconds(runs)
    if fairest.notna().all():
        runs = runs.drop(columns=[*TIMES[TIMES.index(fairest.name) + 1 :]])
    runs = runs.dropna(axis=1, how="all")
    known = [name for name in _COLUMNS if name in runs]
    rows = [("run", *(_COLUMNS[name][0] for name in known))]
    for name, run in runs.iterrows():
        cells = (_COLUMNS[key][1].format(run[key]) if pd.notna(run[key]) else "" for key in known)
        rows.append((name, *cells))
    return layout.columns(rows)


def audits_text(records: Sequence[Record]) -> str:
    """The first run audited against each other one, those alike in one paragraph."""
    first, *others = records
    texts = {}
    for other in others:
        found = audit(first, other)
        seen = [d.what for d in found.differences if not d.decisive]
        also = f"; they also differ in {', '.join(seen)}" if seen else ""
        texts[other.name] = found.verdict + also
    head = f"Audit of {first.name} against each other run (give two alone to see it in full)"
    told = [layout.item("-", f"{', '.join(names)}: {what}") for names, what in layout.alike(texts)]
    return "\n".join([head, *told])


def verdicts_text(found: Verdicts) -> str:
    """The verdicts as a table and in words."""
    base = found.values[found.baseline]
    rows = [("entry", "seeds", found.metric, "difference", "95 % interval", "p (Holm)", "verdict")]
    rows.append((found.baseline, str(base.count()), _mean(base.mean(), base.std()), "", "", "", ""))
    for row in found.table.itertuples():
        rows.append(
            (
                row.Index,
                str(row.seeds),
                _mean(row.mean, row.spread),
                f"{row.difference:+.4f}" if row.seeds else "",
                f"{row.low:+.4f} to {row.high:+.4f}" if row.seeds > 1 else "",
                f"{row.p_holm:.2g}" if pd.notna(row.p_holm) else "",
                found.rulings[row.Index].words,
            )
        )
    lines = [
        layout.paragraph(
            f"Entries against {found.baseline}, by {found.metric} of pairs of equal seed; what"
            f" matters: {found.delta:g}; more is better"
        ),
        layout.columns(rows),
        *(layout.item("-", text) for text in _texts(found)),
        *(layout.item("-", f"{run} is left out: {why}") for run, why in found.left_out.items()),
    ]
    return "\n".join(lines)


def _texts(found: Verdicts) -> Iterator[str]:
    """The verdicts in words, with the seeds that make no pair."""
    for entry, text in found.table["text"].items():
        alone = without_partner(found.values, entry, found.baseline)
        yield f"{entry}: {text}" + (f"; without a partner: {alone}" if alone else "")


def _mean(mean: float, spread: float) -> str:
    if math.isnan(spread):
        return "" if math.isnan(mean) else f"{mean:.4f}"
    return f"{mean:.4f} ± {spread:.4f}"


def verdicts_markdown(found: Verdicts, decided: pd.DataFrame) -> str:
    """The verdicts as a table in Markdown, such as README's.

    Args:
        decided: of `decisions`; an entry that it lacks, the control, is not decided on.
    """
    head = ("entry", "seeds", found.metric, "difference, 95 % interval", "verdict", "time")
    rows = [(*head, "decision"), _baseline_row(found), *_rows(found, decided)]
    return _markdown(rows)


def ladder_markdown(ladder: Ladder) -> str:
    """A planned study's verdicts as a table in Markdown: family by family, then the controls that
    are in none.
    """
    whole = ladder.whole
    head = ("entry", "pairs", whole.metric, "difference, 95 % interval", "verdict", "time")
    rows = [(*head, "decision"), _baseline_row(whole)]
    for name, found in ladder.families.items():
        against = f" against `{found.baseline}`" * (found.baseline != whole.baseline)
        rows += [(f"*{name}*{against}", *[""] * 6), *_rows(found, ladder.decided)]
    apart = ladder.controls.drop(index=ladder.table.index, errors="ignore")
    rows += [(f"*{CONTROLS}*", *[""] * 6)] * (len(apart) > 0)
    for row in apart.itertuples():
        values, time = whole.values[row.Index], whole.table["time"].get(row.Index)
        rows.append(
            (
                *(f"`{row.Index}`", f"{row.pairs}", _mean(values.mean(), values.std())),
                _with_interval(row.difference, row.low, row.high),
                *(row.found, _time(time), "as expected" if row.holds else f"not {row.expected}"),
            )
        )
    return _markdown(rows)


def ladder_notes(ladder: Ladder) -> list[str]:
    """What a reader of a planned study's table must know besides, in sentences: what differs in
    pairs and forbids nothing, and which times they are where steps are not timed.
    """
    tables = [found.table for found in ladder.families.values()]
    apart = ladder.controls.index.difference(ladder.table.index)
    tables.append(ladder.whole.table.reindex(apart).dropna(subset="said"))
    said = pd.concat([table["said"] for table in tables])
    said = said[~said.index.duplicated()].to_dict()
    notes = [f"To be known of {', '.join(e)}: {what}." for e, what in layout.alike(said)]
    return [*notes, *filter(None, [time_note(ladder.runs)])]


def time_note(sources: Iterable[Source]) -> str:
    """Which times a comparison's are where steps were not timed side by side; empty where so."""
    time = training_seconds(summary(sources)).name
    if time == TIMES[0]:
        return ""
    return f"Times are {time} of whole trainings, not of steps timed side by side."


def equal_time_markdown(equal: pd.DataFrame, reach: pd.DataFrame) -> str:
    """What gains cost, as a table in Markdown.

    Args:
        equal: of `at_equal_time`.
        reach: of `epochs_to_reach`.
    """
    head = ("entry", "time", "difference", "at equal time, 95 % interval", "epochs to reach it")
    rows = [head]
    for row in equal.join(reach.add_prefix("reach_")).itertuples():
        if pd.notna(row.at_equal_time):
            there = _with_interval(row.at_equal_time, row.low, row.high)
        else:
            there = "no budget as long" if row.time > 1 else "no budget as short"
        epochs, least, most = (
            "never" if math.isinf(n) else f"{n:g}"
            for n in (row.reach_epochs, row.reach_low, row.reach_high)
        )
        needed = f"{epochs} ({least} to {most})" if least != most else epochs
        gain = f"{row.difference:+.3f}" + ", beyond" * row.beyond
        rows.append((f"`{row.Index}`", _time(row.time), gain, there, needed))
    return _markdown(rows)


def _baseline_row(found: Verdicts) -> tuple[str, ...]:
    base = found.values[found.baseline]
    return (
        f"`{found.baseline}`",
        f"{base.count()}",
        _mean(base.mean(), base.std()),
        *[""] * 4,
    )


def _rows(found: Verdicts, decided: pd.DataFrame) -> list[tuple[str, ...]]:
    """A row of Markdown for each entry but the baseline."""
    rows = []
    for row in found.table.itertuples():
        ruling = found.rulings[row.Index]
        size = f"{row.difference:+.3f}" if row.seeds else ""
        if pd.notna(row.p_holm) and row.seeds > 1:
            size = _with_interval(row.difference, row.low, row.high)
        would = f"; {ruling.would.removeprefix('about ')}" if ruling.would else ""
        rows.append(
            (
                f"`{row.Index}`",
                str(row.seeds),
                _mean(row.mean, row.spread),
                size,
                ruling.words + would,
                _time(row.time),
                decided["decision"].get(row.Index, "control"),
            )
        )
    return rows


def _with_interval(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def _time(factor: float) -> str:
    return "" if pd.isna(factor) else f"{factor:.2g}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest))
