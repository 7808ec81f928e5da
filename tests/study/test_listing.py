"""The table of variants, which README shows."""

import json
from pathlib import Path

import pytest

from detrnb.settings import VARIANTS, Variant
from detrnb.study import list_variants, measured_costs, variants_markdown

ROOT = Path(__file__).resolve().parents[2]

COSTS = {
    name: {"parameters": 1000 + 7 * i, "time": 1 + i / 10, "memory": 1 + i / 4}
    for i, (name, variant) in enumerate(VARIANTS.items())
    if variant is None or not variant.is_own
}


def test_every_variant_of_the_package_has_a_row_and_an_own_one_none(monkeypatch):
    monkeypatch.setitem(VARIANTS, "mine", Variant("mine", {"queries": type("Mine", (), {})}))
    table = list_variants()
    assert list(table.index) == [name for name in COSTS if name != "detr"]
    assert list(table.columns) == ["part", "idea", "source"]
    dab = table.loc["dab"]
    assert dab["part"] == "queries, decoder" and dab["source"] == VARIANTS["dab"].source
    assert dab["idea"] == VARIANTS["dab"].summary


def test_costs_stand_beside_as_more_parameters_and_shares_of_a_step():
    table = list_variants(COSTS)
    place = list(COSTS).index("group")
    assert table.loc["group", ["parameters", "time", "memory"]].tolist() == [
        7 * place,
        1 + place / 10,
        1 + place / 4,
    ]
    head, line, *rows = variants_markdown(table).splitlines()
    assert head == "| name | part | idea | parameters | time | memory | source |"
    assert line == "| --- | --- | --- | --- | --- | --- | --- |"
    (row,) = [row for row in rows if row.startswith("| `group` |")]
    assert row.startswith("| `group` | `queries` | several groups of queries in training")
    assert row.endswith(
        f"| +{7 * place} | {1 + place / 10:.2g} | {1 + place / 4:.2g} | Group DETR, ICCV 2023 |"
    )
    assert len(rows) == len(COSTS) - 1


def test_costs_that_lack_a_variant_are_refused():
    with pytest.raises(ValueError, match="no costs of group; measure them: bench/variants.py"):
        list_variants({name: cost for name, cost in COSTS.items() if name != "group"})


def test_readme_has_the_table_with_what_bench_measured():
    costs = measured_costs(ROOT / "bench" / "results.json")
    assert variants_markdown(list_variants(costs)) in (ROOT / "README.md").read_text()


def test_results_without_the_costs_of_variants_are_refused(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"claims": {"variants": {"failed": "no words"}}}))
    with pytest.raises(ValueError, match="results.json does not tell .* python bench variants"):
        measured_costs(path)
