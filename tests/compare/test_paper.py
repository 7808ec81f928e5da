"""Verdicts as a paper prints them: with every condition that they stand under."""

import re

import numpy as np
import pandas as pd
import pytest
from runs_on_disk import write_run

from detrnb.commands import main
from detrnb.compare import against, latex, methods, read_records, refuse_planned, table_of
from detrnb.compare.judging import Verdicts
from detrnb.runs import RunFolder

NOISE = np.array([0.001, -0.001, 0.002, -0.002, 0.0, 0.001])
CONDITIONS = ("forbidden", "conditions", "accepted", "said")


def verdicts_of(entries, *, unjudged=(), left_out=None, **columns):
    """Verdicts over six seeds.

    Args:
        entries: what each differs by from `detr`.
        columns: of CONDITIONS, by entry; none at all for those of a table.
    """
    values = pd.DataFrame({"detr": 0.3 + NOISE} | {e: 0.3 + d - NOISE for e, d in entries.items()})
    rulings = against(values, "detr", unjudged=unjudged)
    table = table_of(values, rulings)
    if columns:
        for name in CONDITIONS:
            table[name] = [columns.get(name, {}).get(entry, "") for entry in table.index]
    return Verdicts("detr", "AP", values, pd.DataFrame(), table, left_out or {}, rulings)


def test_paragraph_says_every_condition_of_a_verdict():
    text = methods(
        verdicts_of(
            {"one": 0.05, "two": 0.05, "three": 0.05},
            forbidden={"one": "code (model/detr.py)"},
            conditions={"two": "learning rate, epochs"},
            accepted={"three": "seed"},
            said={"two": "code unknown", "three": "code unknown"},
            unjudged=["one"],
        )
    )
    assert "one was not judged, as pairs differ in code (model/detr.py)." in text
    assert "two differs from detr in more than the model: learning rate, epochs." in text
    assert "It was accepted that pairs of three differ in seed." in text
    assert "To be known of two and three: code unknown." in text
    assert "Paired differences of two and three were judged by Student's t test at 5 %" in text


def test_paragraph_without_conditions_or_their_columns_has_none():
    for columns in ({}, {"forbidden": {}}):
        text = methods(verdicts_of({"one": 0.05}, **columns))
        assert "Paired differences were judged by Student's t test" in text
        for word in ("accepted", "not judged", "more than the model", "To be known", "Left out"):
            assert word not in text


def test_nothing_judged_is_not_said_to_be_tested():
    text = methods(verdicts_of({"one": 0.05}, forbidden={"one": "seed"}, unjudged=["one"]))
    assert "Student" not in text and "one was not judged, as pairs differ in seed." in text


def test_paragraph_names_the_first_runs_that_are_left_out_with_reasons():
    left_out = {f"one-s{seed}": f"{seed} epochs are missing" for seed in range(1, 6)}
    text = methods(verdicts_of({"one": 0.05}, left_out=left_out))
    assert "Left out: one-s1 (1 epochs are missing), one-s2 (" in text
    assert "one-s3 (3 epochs are missing) and 2 more." in text and "one-s4" not in text


def test_table_says_where_a_verdict_is_not_by_the_model_alone():
    found = verdicts_of(
        {"one": 0.05, "two": 0.05, "three": 0.05},
        unjudged=["three"],
        forbidden={"three": "seed"},
        conditions={"one": "epochs", "three": "epochs"},
    )
    rows = latex(found).splitlines()
    assert "& better, not by the model alone \\\\" in rows[5]
    assert rows[6].endswith("& better \\\\") and rows[7].endswith("& not judged \\\\")


def test_names_are_escaped_wholly():
    name = r"a&b%c$d#e_f{g}h~i^j\k"
    escaped = r"a\&b\%c\$d\#e\_f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k"
    found = verdicts_of({name: 0.05})
    assert f"\n{escaped} & " in latex(found) and escaped in methods(found, escaped=True)
    assert name in methods(found)


def test_runs_of_a_plan_get_no_table_or_paragraph_either(tmp_path, capsys):
    runs = []
    for entry, queries in (("detr", 16), ("other", 17)):
        for seed in (0, 1):
            settings = {"model.num_queries": queries}
            runs.append(write_run(tmp_path, entry, seed, 0.3, settings=settings))
            study = {"plan": "031c447b", "entry": entry, "replicate": seed}
            folder = RunFolder(runs[-1])
            folder.write_provenance(folder.read_provenance() | {"study": study})
    with pytest.raises(ValueError, match="runs of a planned study, which are judged by its plan"):
        refuse_planned(read_records(runs))
    for asked in ("--latex", "--methods"):
        assert main(["compare", *map(str, runs), asked]) == 1
        shown = capsys.readouterr()
        assert not shown.out and "which are judged by its plan" in re.sub(r"\s+", " ", shown.err)


def test_seeds_without_a_partner_are_named_and_what_has_no_pair_is_not_said_to_be_compared():
    found = verdicts_of({"one": 0.05, "none": 0.05, "two": 0.05})
    found.values.loc[0, ["one", "two"]] = np.nan
    found.values.loc[:, "none"] = np.nan
    rulings = against(found.values, "detr")
    table = table_of(found.values, rulings)
    text = methods(Verdicts("detr", "AP", found.values, pd.DataFrame(), table, {}, rulings))
    assert text.startswith("one and two were compared with detr by AP in 5 pairs of equal seed.")
    assert "In comparing one and two with detr, seeds are without a partner: detr 0." in text
    assert "none shares no seed with detr, and is not compared." in text
    assert "More AP counts as better." in text
