"""plan.json: what it refuses, what it says, how it is read back."""

import json

import pytest

from detrnb.compare import Control, Family, PlannedEntry, StudyPlan, judging_files


def plan(**changed):
    stated = {
        "name": "mine",
        "preset": "smoke",
        "entries": (
            PlannedEntry(label="detr", variant="detr", replicates=6, rate=1.0, tried=(0.5, 1.0)),
            PlannedEntry(label="group", variant="group", replicates=2, rate=2.0, tried=(1.0, 2.0)),
            PlannedEntry(label="twin", variant="detr", replicates=1, rate_of="detr", weights=50),
        ),
        "families": (Family(name="one", baseline="detr", entries=("group",)),),
        "controls": (Control(entry="twin", baseline="detr", expected="neither"),),
    }
    return StudyPlan.of({**StudyPlan(**stated).model_dump(), **changed})


def test_plan_is_read_back_and_its_hash_covers_everything(tmp_path):
    mine = plan(frozen="2026-11-28T00:00:00+00:00", code={"model/detr.py": "1"})
    mine.write(tmp_path / "plan.json")
    again = StudyPlan.read(tmp_path / "plan.json")
    assert again == mine and again.hash == mine.hash and len(mine.hash) == 16
    others = [plan(), plan(delta=0.01), plan(cut=["deformable, for want of hours"])]
    assert len({mine.hash, *(other.hash for other in others)}) == 4


def test_a_field_that_comes_later_leaves_a_plans_hash_as_it_was(tmp_path):
    class Later(StudyPlan):
        note: str = "nothing"

    mine = plan(frozen="2026-11-28T00:00:00+00:00")
    mine.write(tmp_path / "plan.json")
    assert Later.read(tmp_path / "plan.json").hash == mine.hash


def test_what_judges_is_known_by_its_hash():
    files = judging_files()
    assert {"compare/ruling.py", "compare/deciding.py"} < files.keys()
    assert plan(judged_by=files).judged_otherwise == []
    changed = files | {"compare/ruling.py": "another", "compare/gone.py": "1"}
    assert plan(judged_by=changed).judged_otherwise == ["compare/gone.py", "compare/ruling.py"]


def test_runs_come_replicate_by_replicate_with_their_settings():
    mine = plan()
    assert list(mine.runs())[:5] == [
        ("detr", 200),
        ("group", 200),
        ("twin", 200),
        ("detr", 201),
        ("group", 201),
    ]
    assert len(list(mine.runs())) == 9
    config = mine.config("group", 201)
    assert (config.data.toy.seed, config.train.seed, config.train.lr) == (201, 201, 1e-3)
    twin = mine.config("twin", 200)
    assert (twin.data.toy.seed, twin.train.seed, twin.train.lr) == (200, 250, 5e-4)
    assert mine.config("detr", 100, factor=0.5, epochs=1).train.lr == 2.5e-4


def test_table_tells_families_replicates_and_rates():
    table = plan(frozen="2026-11-28T00:00:00+00:00").table
    assert table.loc["group"].to_dict() == {
        **{"family": "one", "replicates": 2, "rates tried": "1, 2", "rate": "2"},
    }
    assert table.loc["twin", ["family", "rate"]].tolist() == ["", "detr's"]


def test_parts_give_entries_their_colour():
    entries = [
        {"label": v, "variant": v, "replicates": 1, "rate": 1.0}
        for v in ("detr", "svd_split", "dab", "deformable", "conditional+group")
    ]
    mine = plan(entries=entries, families=(), controls=())
    assert mine.parts == {
        "detr": "control",
        "svd_split": "encoder attention",
        "dab": "decoder",
        "deformable": "several parts",
        "conditional+group": "joined",
    }


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"beside": {"group": "dab"}}, "no entry dab; there are detr, group, twin"),
        ({"families": [{"name": "x", "baseline": "none", "entries": []}]}, "no entry none"),
        ({"surprise": 1}, "surprise: Extra inputs"),
        ({"entries": [], "families": [], "controls": [], "delta": "much"}, "delta: .*number"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        plan(**changed)


def test_a_settled_plan_has_a_rate_for_every_entry():
    open_ = plan().model_dump(mode="json")
    open_["entries"][1] |= {"rate": None, "tried": []}
    with pytest.raises(ValueError, match="no learning rate is chosen for group yet"):
        StudyPlan.of(open_).config("group", 200)
    with pytest.raises(ValueError, match="no learning rate was chosen for group"):
        StudyPlan.of(open_ | {"frozen": "2026-11-28T00:00:00+00:00"})


def test_a_missing_plan_and_a_file_that_is_none_are_told(tmp_path):
    with pytest.raises(ValueError, match="plan.json is missing: no plan is settled there"):
        StudyPlan.read(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(ValueError, match="plan.json is no plan of a study: preset: Field required"):
        StudyPlan.read(tmp_path / "plan.json")
