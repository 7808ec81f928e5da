"""Verdicts for a paper: a table in LaTeX, and a paragraph that says what was done."""

import math
from itertools import islice

from detrnb.compare import layout
from detrnb.compare.judging import Verdicts
from detrnb.compare.planned import StudyPlan
from detrnb.compare.statistics import FEWEST_SEEDS
from detrnb.compare.table import without_partner

_SPECIAL = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "\\": "\\textbackslash{}"}
)
_NAMED = 3  # runs that are left out, by name


def latex(found: Verdicts) -> str:
    """The comparison as a tabular, with booktabs' rules; captions are the author's."""
    base = found.values[found.baseline]
    rows = [f"{_tex(found.baseline)} & {_mean(base.mean(), base.std())} & & \\\\"]
    for row in found.table.itertuples():
        ruling = found.rulings[row.Index]
        size = "" if not ruling.pairs else f"${ruling.mean:+.3f}$"
        if ruling.pairs > 1:
            size += f" $[{ruling.low:+.3f}, {ruling.high:+.3f}]$"
        words = ruling.words
        if ruling.verdict != "not judged" and getattr(row, "conditions", ""):
            words += ", not by the model alone"
        rows.append(f"{_tex(row.Index)} & {_mean(row.mean, row.spread)} & {size} & {words} \\\\")
    return "\n".join(
        [
            "\\begin{tabular}{lccl}",
            "\\toprule",
            f"model & {_tex(found.metric)} & difference, 95\\,\\% interval & verdict \\\\",
            "\\midrule",
            *rows,
            "\\bottomrule",
            "\\end{tabular}",
        ]
    )


def methods(found: Verdicts, *, escaped: bool = False, plan: StudyPlan | None = None) -> str:
    """A paragraph for a paper that says how the entries were compared, and under what conditions.

    Args:
        escaped: names as LaTeX takes them.
        plan: of the study that the runs are of.
    """
    rulings = found.rulings
    parts = [_compared(found), *_planned(found, plan), f"More {found.metric} counts as better."]
    parts += [_sizes(found), _judged(found)]
    few = [e for e, r in rulings.items() if r.verdict == "described" and r.pairs]
    if few:
        parts.append(f"With fewer than {FEWEST_SEEDS} pairs, {_listed(few)} can only be described.")
    parts += [
        f"Of {entry}, {ruling.failed} of {ruling.pairs + ruling.failed} runs diverged."
        for entry, ruling in rulings.items()
        if ruling.failed
    ]
    parts += _conditions(found)
    if found.left_out:
        named = [f"{run} ({why})" for run, why in islice(found.left_out.items(), _NAMED)]
        more = len(found.left_out) - len(named)
        parts.append(f"Left out: {_listed(named + [f'{more} more'] * (more > 0))}.")
    text = " ".join(filter(None, parts))
    return _tex(text) if escaped else text


def _compared(found: Verdicts) -> str:
    """Which entries were compared, in how many pairs, and which have none."""
    pairs = {entry: ruling.pairs for entry, ruling in found.rulings.items() if ruling.pairs}
    parts = []
    if pairs:
        least, most = min(pairs.values()), max(pairs.values())
        count = f"{least}" if least == most else f"{least} to {most}"
        parts.append(
            f"{_listed(list(pairs))} {'were' if len(pairs) > 1 else 'was'} compared with"
            f" {found.baseline} by {found.metric} in {count} pair{'s' * (most > 1)} of equal seed."
        )
    alone = [e for e, ruling in found.rulings.items() if not ruling.pairs and not ruling.failed]
    parts += [
        f"{entry} shares no seed with {found.baseline}, and is not compared." for entry in alone
    ]
    return " ".join(parts)


def _planned(found: Verdicts, plan: StudyPlan | None) -> list[str]:
    """What a replicate is, where the learning rates are from, that it was settled before."""
    if plan is None:
        return []
    entries = [plan.entry(label) for label in (found.baseline, *found.rulings)]
    rates = [f"{e.label} {e.rate:g}" for e in entries if e.tried]
    owners = {e.label: e.rate_of for e in entries if e.rate_of}
    parts = [
        "A seed is a replicate: its number draws images, their order and initial weights anew, for"
        " all entries alike.",
        f"The plan was settled before the first of these runs (hash {plan.hash}).",
    ]
    if rates:
        among = ", ".join(f"{factor:g}" for factor in plan.trials.factors)
        replicates = _listed([str(number) for number in plan.trials.replicates])
        parts.append(
            f"Learning rates were chosen by the same trials, {among} times the preset's and further"
            f" where the best lay at an edge, on replicates {replicates}, which are not compared:"
            f" {_listed(rates)} times."
        )
    for names, owner in layout.alike(owners):
        parts.append(f"{_listed(names)} {'take' if len(names) > 1 else 'takes'} {owner}'s rate.")
    return parts


def _sizes(found: Verdicts) -> str:
    """What the numbers of the table are."""
    if not any(ruling.pairs > 1 for ruling in found.rulings.values()):
        return ""
    return (
        "± is the standard deviation over an entry's runs; a difference is the mean over pairs,"
        " with its 95 % interval, unadjusted."
    )


def _judged(found: Verdicts) -> str:
    """By what the entries were judged that were; empty where none was."""
    rulings, level = found.rulings, f"{100 * found.level:g} %"
    without = ("not judged", "described", "unstable")
    judged = [entry for entry, ruling in rulings.items() if ruling.verdict not in without]
    if not judged:
        return ""
    of = f" of {_listed(judged)}" * (len(judged) < len(rulings))
    comparisons = max(ruling.comparisons for ruling in rulings.values())
    holm = f", adjusted by Holm's procedure for {comparisons} comparisons" * (comparisons > 1)
    return (
        f"The smallest difference that matters was set to {found.delta:g}. Paired differences{of}"
        f" were judged by Student's t test at {level}{holm} (better, worse), and by two one-sided t"
        f" tests against ±{found.delta:g}, each at {level} (equivalent; with the former, by less"
        " than it matters); where neither succeeds, the runs cannot tell."
    )


def _conditions(found: Verdicts) -> list[str]:
    """What there is to say of entries besides, one sentence for those of which it is the same."""
    base, parts = found.baseline, []
    for names, what in _alike(found, "forbidden"):
        were = "were" if len(names) > 1 else "was"
        parts.append(f"{_listed(names)} {were} not judged, as pairs differ in {what}.")
    for names, what in _alike(found, "conditions"):
        differ = "differ" if len(names) > 1 else "differs"
        parts.append(f"{_listed(names)} {differ} from {base} in more than the model: {what}.")
    for names, what in _alike(found, "accepted"):
        parts.append(f"It was accepted that pairs of {_listed(names)} differ in {what}.")
    for names, what in _alike(found, "said"):
        parts.append(f"To be known of {_listed(names)}: {what}.")
    alone = {entry: without_partner(found.values, entry, base) for entry in found.rulings}
    for names, seeds in layout.alike(alone):
        compared = f"comparing {_listed(names)} with {base}"
        parts.append(f"In {compared}, seeds are without a partner: {seeds}.")
    return parts


def _alike(found: Verdicts, column: str) -> list[tuple[list[str], str]]:
    """Entries by what a column of the table says of them; one of `read_table` has none of these."""
    return layout.alike(found.table[column].to_dict() if column in found.table else {})


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _mean(mean: float, spread: float) -> str:
    if math.isnan(spread):
        return "" if math.isnan(mean) else f"{mean:.3f}"
    return f"{mean:.3f} $\\pm$ {spread:.3f}"


def _tex(text: str) -> str:
    return text.translate(_SPECIAL)
