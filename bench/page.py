"""README.md of this folder, made of results.json and the scripts' own words; and its picture."""

import ast
import re
from pathlib import Path

from aims import AIMS, Aim
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from tables import Row, markdown, middle, shown

HEAD = """# What it costs

Made by `make bench` (`python bench --help`) from `results.json`; do not edit. Ratios are of two
times of one round, in which all contestants take turns: the median, and in brackets the least and
the most of the rounds. Times in ms are the least of all rounds. Below one, ours takes less. Times
hold within their table, each of a run of its own on a machine that is not quiet; a share of a limit
above one is such noise.
"""

PICTURED, PICTURE = "growth", "How the time of a training step grows"


def suffix(about: dict) -> str:
    """What the names of files end in: nothing for a processor's, else the device."""
    if about["device"] is None:
        return ""
    return "-" + re.sub(r"[^a-z0-9]+", "-", about["device"].lower()).strip("-")


def picture_of(results: dict) -> str:
    """The name of the picture of growth."""
    return f"growth{suffix(results['about'])}.png"


def page_of(results: dict, scripts: dict[str, str]) -> str:
    """The page.

    Args:
        scripts: name -> source, of which the docstring says what is measured.
    """
    about, claims = results["about"], results["claims"]
    parts = [HEAD, _machine(about, claims), "## Aims\n", _aims(claims)]
    for name, source in scripts.items():
        if name in claims:
            parts.append(_claim(name, ast.get_docstring(ast.parse(source)), claims[name]))
            if name == PICTURED and "tables" in claims[name]:
                parts.append(f"![{PICTURE}]({picture_of(results)})\n")
            if claims[name]["commit"] != about["commit"]:
                parts.append(f"Of commit {claims[name]['commit']}, {claims[name]['date']}.\n")
    return "\n".join(parts)


def _machine(about: dict, claims: dict) -> str:
    machine, versions = about["machine"], about["versions"]
    named = [f"{name} {version}" for name, version in versions.items() if version]
    absent = [name for name, version in versions.items() if not version]
    device = f"{about['device']}, on a host with " if about["device"] else ""
    load = max((claim["load_before"] for claim in claims.values()), default=0.0)
    lines = [
        f"- Machine: {device}{machine['cores']} cores of {machine['processor']}"
        f" ({machine['instructions']}), {machine['threads']} threads, {machine['memory_gib']} GiB;"
        f" {about['gflops']:,.0f} GFLOP/s in float32 products; {machine['system']}",
        f"- Versions: {', '.join(named)}",
        f"- Commit {about['commit']}, {about['date']}",
        f"- It took {sum(claim['took_s'] for claim in claims.values()) / 60:.0f} minutes",
    ]
    if "tests" in about:
        lines.append(f"- Tests marked `cuda`: {about['tests']}")
    if absent:
        lines.insert(2, f"- Not there, so left out: {', '.join(absent)}")
    # A script's own work is in the load when the next one begins, so two cores may tell two.
    if load > machine["cores"] + 1:
        lines.append(
            f"- **The machine was busy with other things** (a load of up to {load:.1f}):"
            " times are worth little, ratios something"
        )
    return "\n".join([*lines, ""])


def _aims(claims: dict) -> str:
    rows, missed = [], []
    for aim in AIMS:
        cell = _cell(aim, claims)
        met = None if cell is None else aim.is_met(middle(cell))
        rows.append(
            {
                "aim": aim.what,
                "bound": aim.bound_in_words,
                "measured": "not measured" if cell is None else shown(cell),
                "": {None: "", True: "met", False: "**missed**"}[met],
            }
        )
        if met is False:
            missed.append(f"*{aim.what}*: {aim.if_missed}\n")
    return "\n".join([markdown(rows), "", *missed])


def _cell(aim: Aim, claims: dict) -> dict | float | None:
    """What was measured of an aim, None where nothing was."""
    for heading, rows in claims.get(aim.claim, {}).get("tables", {}).items():
        for row in rows if heading.startswith(aim.table) else ():
            if all(str(row.get(key, "")).startswith(value) for key, value in aim.row.items()):
                return row.get(aim.column)
    return None


def _claim(name: str, docstring: str, found: dict) -> str:
    title, _, rest = docstring.partition("\n")
    parts = [f"## {title.rstrip('.')}\n", f"`bench/{name}.py`. {_without_command(rest)}\n"]
    if "failed" in found:
        parts.append(f"**It failed:** {found['failed']}\n")
    for heading, rows in found.get("tables", {}).items():
        parts.append(f"{heading}:\n\n{markdown(rows)}\n")
    for contestant, why in found.get("left_out", {}).items():
        parts.append(f"Left out: {contestant}: {why}\n")
    return "\n".join(parts)


def _without_command(text: str) -> str:
    """A docstring's paragraphs but the one that is typed."""
    paragraphs = [p for p in text.split("\n\n") if p.strip()]
    return "\n\n".join(p.strip() for p in paragraphs if not p.lstrip("\n").startswith("    "))


def draw_growth(results: dict, path: Path) -> None:
    """The growth of a training step as a picture: a panel for each of what grows."""
    rows: list[Row] = results["claims"].get(PICTURED, {}).get("tables", {}).get("A step", [])
    axes = list(dict.fromkeys(row["what grows"] for row in rows))
    if not axes:
        return
    figure = Figure(figsize=(3.0 * len(axes), 3.0), layout="constrained")
    panels = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
    for panel, axis in zip(panels, axes, strict=True):
        line = [(row["to"], row["ms"] / 1e3) for row in rows if row["what grows"] == axis]
        panel.plot(*zip(*line, strict=True), "o-", color="#4D4D4D", markersize=4)
        panel.set(xscale="log", yscale="log", xlabel=axis)
        panel.set_xticks([to for to, _ in line], [_short(to) for to, _ in line], fontsize=8)
        panel.xaxis.set_minor_locator(NullLocator())
        panel.grid(which="both", color="#E6E6E6", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[0].yaxis.set_major_formatter("{x:g}")
    panels[0].yaxis.set_minor_locator(NullLocator())
    panels[0].set_ylabel("a training step, seconds")
    figure.savefig(path, dpi=120)


def _short(number: float) -> str:
    """As it stands at an axis: 300, 0.08M."""
    return f"{number / 1e6:.2f}M" if number >= 1e4 else f"{number:g}"
