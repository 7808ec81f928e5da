"""Made-up studies through the rule: wrong verdicts are rare, right ones as often as power says."""

import numpy as np
import pytest

from detrnb.compare import Family, PlannedEntry, StudyPlan, aa_splits, power, simulated


def plan(*families):
    """Families of so many entries with so many replicates each."""
    names = {
        f"f{place}": [f"f{place}e{i}" for i in range(m)] for place, (m, _) in enumerate(families)
    }
    counts = {name: n for name, (_, n) in zip(names, families, strict=True)}
    entries = [PlannedEntry(label="detr", variant="detr", replicates=12)]
    entries += [
        PlannedEntry(label=entry, variant="detr", replicates=counts[name])
        for name, members in names.items()
        for entry in members
    ]
    return StudyPlan(
        name="made up",
        preset="toy",
        entries=tuple(entries),
        families=tuple(
            Family(name=name, baseline="detr", entries=tuple(members))
            for name, members in names.items()
        ),
    )


@pytest.fixture(scope="module")
def table():
    return simulated(plan((4, 12), (3, 6)), 0.017, studies=300, seed=1)


def test_false_verdicts_keep_their_promise(table):
    none = table.xs(0.0, level="true difference")["false"]
    some = table.xs(0.02, level="true difference")["false"]
    margin = 2 * np.sqrt(0.05 * 0.95 / 300)  # of the simulation
    assert (none < 0.05 + margin).all() and (some < 0.05 + margin).all()
    assert table.xs(0.04, level="true difference")["false"].max() < 0.01


def test_shares_are_of_all_entries_and_more_replicates_tell_more(table):
    shares = table.drop(columns="false")
    assert shares.sum(axis=1).to_numpy() == pytest.approx(1.0)
    undecided = table["cannot tell"]
    for true in (0.0, 0.02):
        assert undecided["f0", true] < undecided["f1", true]
    found = table.loc[("f0", 0.02), ["better", "better, by less than it matters"]].sum()
    assert found > power(0.02, 0.017, 12, comparisons=4) - 0.05


def test_fewer_than_five_replicates_are_described_whatever_the_truth():
    table = simulated(plan((2, 3)), {"f0e0": 0.01, "f0e1": 0.02}, studies=5)
    assert (table["described"] == 1).all()


def test_the_baseline_against_itself_is_rarely_told_apart():
    values = 0.25 + 0.02 * np.random.default_rng(3).normal(size=12)
    shares = aa_splits(values, splits=300, seed=1)
    assert shares.sum() == pytest.approx(1.0)
    assert shares.filter(regex="better|worse").sum() < 0.075
