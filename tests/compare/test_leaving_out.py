"""Which verdicts of a study hang on one replicate: made-up differences, known answers."""

from types import SimpleNamespace

import pandas as pd

from detrnb.compare import against, without_each
from detrnb.compare.judging import Verdicts

STEADY = [0.030, 0.031, 0.029, 0.030, 0.032, 0.028]


def ladder(differences, failed=None):
    """A study of one family over replicates 200 and on."""
    values = pd.DataFrame({"detr": 0.3} | {e: 0.3 + pd.Series(d) for e, d in differences.items()})
    values.index += 200
    rulings = against(values, "detr", failed=failed)
    found = Verdicts("detr", "AP", values, pd.DataFrame(), pd.DataFrame(), {}, rulings)
    plan = SimpleNamespace(delta=0.02, level=0.05)
    return SimpleNamespace(plan=plan, families={"ideas": found})


def test_only_verdicts_that_one_replicate_carries_are_named():
    carried = [*STEADY[:5], -0.05]
    table = without_each(ladder({"steady": STEADY, "carried": carried}))
    assert table.to_dict("index") == {
        "carried": {"verdict": "cannot tell", "otherwise": "better without 205"}
    }


def test_five_pairs_hang_on_each_since_fewer_are_only_described():
    table = without_each(ladder({"short": STEADY[:5]}))
    assert table.loc["short", "otherwise"] == "described without 200, 201, 202, 203, 204"


def test_what_diverged_stays_unstable_and_what_is_steady_is_an_empty_table():
    table = without_each(ladder({"one": STEADY, "lost": STEADY}, failed={"lost": 1}))
    assert table.empty and [*table] == ["verdict", "otherwise"]
