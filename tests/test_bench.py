"""`bench/`: every claim is collected, and its page is what its file of results says."""

import ast
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
# What scripts share, and the learning check, which trains for hours and measures no speed.
NO_CLAIMS = {
    "__main__",
    "aims",
    "learning",
    "limit",
    "machine",
    "page",
    "peers",
    "tables",
    "timing",
}


@pytest.fixture
def bench(monkeypatch):
    """The runner's names, as `python bench` has them; its neighbours can be imported."""
    monkeypatch.syspath_prepend(str(BENCH))
    mine = {path.stem for path in BENCH.glob("*.py")}
    for name in mine & set(sys.modules):
        monkeypatch.delitem(sys.modules, name)
    yield runpy.run_path(str(BENCH / "__main__.py"), run_name="bench")
    for name in mine & set(sys.modules):
        del sys.modules[name]


def defined(script: Path) -> set[str]:
    """Functions of a script's top level."""
    return {n.name for n in ast.parse(script.read_text()).body if isinstance(n, ast.FunctionDef)}


def test_every_script_is_collected_and_defines_what_is_collected(bench):
    scripts = {path.stem for path in BENCH.glob("*.py")} - NO_CLAIMS
    assert scripts == set(bench["CLAIMS"])
    for name in scripts:
        assert "results" in defined(BENCH / f"{name}.py"), name
        assert "main(__doc__, results" in (BENCH / f"{name}.py").read_text(), name


def test_page_says_what_the_file_of_results_does(bench):
    files = sorted(BENCH.glob("results*.json"))
    assert BENCH / "results.json" in files
    for file in files:
        page = bench["page_of"](json.loads(file.read_text()), bench["scripts"]())
        assert bench["page_path"](file).read_text() == page, "make it anew: python bench --page"


def test_results_tell_machine_versions_commit_date_and_every_ratios_spread(bench):
    results = json.loads((BENCH / "results.json").read_text())
    assert results["claims"].keys() == bench["CLAIMS"].keys()
    assert {"machine", "versions", "commit", "date"} <= results["about"].keys()
    for name, claim in results["claims"].items():
        assert ("failed" in claim) != ("tables" in claim), name
        for rows in claim.get("tables", {}).values():
            for row in rows:
                for column in {"ours / its", "share of the limit"} & row.keys():
                    assert {"median", "least", "most"} == row[column].keys(), (name, row)


def test_every_aim_is_of_something_that_is_measured(bench):
    """A heading, a row or a column that was renamed would leave an aim 'not measured' for ever."""
    for aim in sys.modules["aims"].AIMS:
        text = (BENCH / f"{aim.claim}.py").read_text() + (BENCH / "timing.py").read_text()
        text += (BENCH / "limit.py").read_text() + (BENCH / "peers.py").read_text()
        for part in (aim.table, aim.column, *aim.row, *aim.row.values()):
            assert f'"{part}' in text, (aim.what, part)


def test_words_on_the_toy_epoch_hold_of_the_numbers_on_the_page(bench):
    """They lean on two tables, and would stay when these are measured anew."""
    (aim,) = [a for a in sys.modules["aims"].AIMS if a.claim == "toy_epoch"]
    claims = json.loads((BENCH / "results.json").read_text())["claims"]
    shares = {r["kind"]: r["share"] for r in claims["toy_step"]["tables"]["Where its time goes"]}
    kernels = shares["products and convolutions"] + shares["attention's kernels"]
    (ours,) = [row for row in claims["toy_epoch"]["tables"]["An epoch"] if "evalu" in row["what"]]
    to_aim = aim.bound / ours["ours / its"]["median"]  # of ours
    assert "products and attention's kernels are most of a step's operators" in aim.if_missed
    assert kernels > 0.5
    assert "more than half of all else would have to go" in aim.if_missed
    assert 0 < to_aim - kernels < (1 - kernels) / 2


def test_numbers_that_other_pages_take_from_here_are_those_of_the_results():
    claims = json.loads((BENCH / "results.json").read_text())["claims"]
    took = sum(claim["took_s"] for claim in claims.values()) / 60
    guide = (BENCH.parent / "CONTRIBUTING.md").read_text()
    said = re.search(r"`make bench` \|[^|]*some (\d+) minutes", guide)
    assert said and abs(took - int(said[1])) < 2
    cropped = claims["input"]["tables"]["Images apart for the same draws"][1]
    said = re.search(
        r"by (\d+) of 255 levels on\s+average", (BENCH.parent / "CHANGELOG.md").read_text()
    )
    assert cropped["images"] == "cropped"
    assert said and int(said[1]) == round(cropped["levels apart, mean"])


def measured(ratio: float) -> dict:
    """Results with one claim, in which an aim of 0.92 is met or missed."""
    step = {"what": "coco step", "ours, ms": 4000.0, "beside": "reference", "its ms": 5000.0}
    step["ours / its"] = {"median": ratio, "least": ratio - 0.01, "most": ratio + 0.02}
    claim = {"tables": {"A step": [step]}, "left_out": {"transformers": "ImportError: no module"}}
    of = {"commit": "1234567", "date": "2020-01-01"}
    machine = {"processor": "one", "cores": 2, "threads": 2, "instructions": "AVX2"}
    return {
        "about": {
            "machine": machine | {"memory_gib": 8.0, "system": "Linux"},
            "device": None,
            "gflops": 50.0,
            "versions": {"torch": "2", "transformers": None},
            **of,
        },
        "claims": {
            "training_step": claim | {"took_s": 60, "load_before": 0.1} | of,
            "input": {"failed": "ValueError: boxes differ", "took_s": 1, "load_before": 9.0}
            | of
            | {"commit": "7654321"},
        },
    }


def test_page_tells_what_was_met_missed_left_out_and_what_failed(bench):
    page = bench["page_of"](measured(0.95), bench["scripts"]())
    assert (
        "| coco step beside the reference's | ≤ 0.92 | 0.95 (0.94 to 0.97) | **missed** |" in page
    )
    assert "*coco step beside the reference's*: " in page
    assert "Left out: transformers: ImportError: no module" in page
    assert "**It failed:** ValueError: boxes differ" in page
    assert "Not there, so left out: transformers" in page
    assert "busy with other things" in page
    assert page.count("Of commit 7654321") == 1 and "Of commit 1234567" not in page
    assert "| inference beside the reference | ≤ 0.65 | not measured |  |" in page
    page = bench["page_of"](measured(0.91), bench["scripts"]())
    assert "0.91 (0.9 to 0.93) | met |" in page
    assert "*coco step beside the reference's*: " not in page


def test_a_script_that_fails_or_dies_is_told_and_loses_nothing_else(bench, tmp_path, monkeypatch):
    script = "import json, os, sys\nfile = sys.argv[sys.argv.index('--json') + 1]\n"
    scripts = {
        "good": script + "open(file, 'w').write(json.dumps({'tables': {}, 'left_out': {}}))",
        "bad": script + "raise ValueError('boxes differ')",
        "killed": script + "os.kill(os.getpid(), 9)",
    }
    for name, text in scripts.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setitem(bench["measure"].__globals__, "FOLDER", tmp_path)
    found = {name: bench["measure"](name, [], {}) for name in scripts}
    assert found["good"]["tables"] == {} and "failed" not in found["good"]
    assert found["bad"]["failed"] == "ValueError: boxes differ"
    assert found["killed"]["failed"] == "it ended without a word (signal 9)"


def test_a_contestant_that_fails_leaves_the_others(bench):
    from timing import OURS, Findings, Options, beside, in_turns

    found, calls = Findings(), []
    sides = {OURS: lambda: calls.append(OURS), "other": lambda: calls.append("other")}
    with found.leaving_out("absent"):
        raise ImportError("No module named 'absent'\nand more")
    rows = beside("it", in_turns(sides, Options(rounds=2)))
    assert found.left_out == {"absent": "ImportError: No module named 'absent'"}
    assert calls == [OURS, "other"] * 3  # warm-up, and two rounds in turns
    assert [row["beside"] for row in rows] == ["other"]
    assert {"median", "least", "most"} == rows[0]["ours / its"].keys()


def test_numbers_are_shown_with_three_digits_and_their_spread(bench):
    from tables import markdown

    spread = {"median": 0.91234, "least": 0.9, "most": 1234.5}
    rows = [{"what": "a", "n": 1234, "x": 0.00012, "ratio": spread}, {"what": "b", "y": None}]
    assert markdown(rows).splitlines() == [
        "| what | n | x | ratio | y |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| a | 1,234 | 1.20e-04 | 0.912 (0.9 to 1,234) |  |",
        "| b |  |  |  |  |",
    ]


def test_makefile_runs_bench_and_gpu():
    makefile = (BENCH.parent / "Makefile").read_text()
    for target in ("bench", "gpu"):
        assert re.search(rf"^{target}: env  ## ", makefile, re.MULTILINE)
