"""Verdicts for a paper: a table in LaTeX, and a paragraph that says what was done."""

from detrnb.compare.judging import Verdicts
from detrnb.compare.statistics import FEWEST_SEEDS


def latex(found: Verdicts) -> str:
    """The comparison as a tabular, with booktabs' rules; captions are the author's."""
    base = found.values[found.baseline]
    rows = [f"{_tex(found.baseline)} & {_mean(base.mean(), base.std())} & & \\\\"]
    for row in found.table.itertuples():
        ruling = found.rulings[row.Index]
        size = "" if not ruling.pairs else f"${ruling.mean:+.3f}$"
        if ruling.pairs > 1:
            size += f" $[{ruling.low:+.3f}, {ruling.high:+.3f}]$"
        rows.append(
            f"{_tex(row.Index)} & {_mean(row.mean, row.spread)} & {size} & {ruling.words} \\\\"
        )
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


def methods(found: Verdicts, *, escaped: bool = False) -> str:
    """A paragraph for a paper that says how the entries were compared.

    Args:
        escaped: names as LaTeX takes them.
    """
    rulings = found.rulings
    pairs = sorted({ruling.pairs for ruling in rulings.values()})
    count = f"{pairs[0]}" if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
    comparisons = max((ruling.comparisons for ruling in rulings.values()), default=0)
    holm = f", adjusted by Holm's procedure for {comparisons} comparisons" * (comparisons > 1)
    level = f"{100 * found.level:g} %"
    parts = [
        f"{_listed(list(rulings))} {'were' if len(rulings) > 1 else 'was'} compared with"
        f" {found.baseline} by {found.metric} in {count} pairs of equal seed.",
        f"The smallest difference that matters was set to {found.delta:g}. Paired differences were"
        f" judged by Student's t test at {level}{holm} (better, worse), and by two one-sided t"
        f" tests against ±{found.delta:g}, each at {level} (equivalent; with the former, by less"
        " than it matters); where neither succeeds, the runs cannot tell.",
    ]
    few = [e for e, r in rulings.items() if r.verdict == "described"]
    if few:
        parts.append(f"With fewer than {FEWEST_SEEDS} pairs, {_listed(few)} can only be described.")
    parts += [
        f"Of {entry}, {ruling.failed} of {ruling.pairs + ruling.failed} runs diverged."
        for entry, ruling in rulings.items()
        if ruling.failed
    ]
    text = " ".join(parts)
    return _tex(text) if escaped else text


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _mean(mean: float, spread: float) -> str:
    return f"{mean:.3f} $\\pm$ {spread:.3f}" if spread == spread else f"{mean:.3f}"


def _tex(text: str) -> str:
    return text.replace("_", "\\_").replace("%", "\\%")
