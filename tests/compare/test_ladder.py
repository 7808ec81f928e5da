"""A planned study judged as a whole, from made-up run folders."""

import pytest
from runs_on_disk import ROOT, write_run, write_study

from detrnb.compare import (
    CONTROLS,
    Control,
    Family,
    Pair,
    PlannedEntry,
    StudyPlan,
    ladder_markdown,
    ladder_notes,
    ladder_of,
    latex,
    read_ladder,
    read_records,
    report,
    save_ladder,
)
from detrnb.plots import plot_forest
from detrnb.runs import RunFolder

SIX = range(200, 206)
# What each entry's AP differs by from the baseline's, on images that nothing was tuned on.
TRUE = {"detr": 0.0, "idea": 0.05, "big": 0.2, "big+idea": 0.21, "none": -0.2, "twin": 0.0}


def plan(**changed) -> StudyPlan:
    def entry(label, replicates=6, **more):
        return PlannedEntry(label=label, variant="detr", replicates=replicates, **more)

    return StudyPlan(
        **{
            "name": "mine",
            "preset": "toy",
            "entries": (
                entry("detr", rate=1.0),
                entry("idea", rate=2.0, tried=(0.5, 1.0, 2.0, 4.0)),
                entry("big", rate=1.0),
                entry("big+idea", rate_of="big"),
                entry("none", 3, rate_of="detr"),
                entry("twin", rate_of="detr", weights=1000),
            ),
            "families": (
                Family(name="ideas", baseline="detr", entries=("idea", "big")),
                Family(name="joined", baseline="big", entries=("big+idea",)),
            ),
            "controls": (
                Control(entry="none", baseline="detr", expected="worse", decisive=True),
                Control(entry="twin", baseline="detr", expected="neither"),
            ),
            "described": (Pair(entry="big", baseline="idea"),),
            "beside": {"big+idea": "idea"},
            "frozen": "2026-11-28T00:00:00+00:00",
        }
        | changed
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"), plan(), TRUE)


def test_each_family_is_judged_against_its_own_baseline(whole):
    found = read_ladder(whole)
    assert found.families["ideas"].table["verdict"].to_dict() == {"idea": "better", "big": "better"}
    joined = found.families["joined"]
    assert joined.baseline == "big" and joined.rulings["big+idea"].comparisons == 1
    assert joined.table.loc["big+idea", "difference"] == pytest.approx(0.01, abs=0.004)
    assert found.families["ideas"].rulings["idea"].comparisons == 2
    assert found.decided["decision"].to_dict() == {
        **{"idea": "applied", "big": "applied", "big+idea": "not applied"},
    }
    assert found.table["family"].tolist() == ["ideas", "ideas", "joined"]
    assert found.values.shape == (6, 6) and found.values["none"].count() == 3


def test_controls_are_tested_by_themselves_and_hold(whole):
    found = read_ladder(whole)
    assert found.controls["found"].to_dict() == {"none": "worse", "twin": "neither"}
    assert found.controls["holds"].all() and not found.doubt and not found.remarks
    assert found.controls.loc["none", "pairs"] == 3
    rungs = found.rungs
    assert rungs.index.tolist() == ["idea", "big", "big+idea", "none", "twin"]
    assert rungs["words"].tolist()[3:] == ["worse", "neither"]
    assert rungs["family"].unique().tolist() == ["ideas", "joined, from big", CONTROLS]
    figure = plot_forest(rungs, found.whole.metric)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["big", "idea", "big+idea", "twin", "none"]


def test_table_holds_families_against_their_baselines_and_controls(whole):
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in ladder_markdown(read_ladder(whole)).splitlines()
    ]
    assert {len(row) for row in rows} == {7}
    assert [row[0] for row in rows[2:]] == [
        *("`detr`", "*ideas*", "`idea`", "`big`", "*joined* against `big`", "`big+idea`"),
        *("*controls*", "`none`", "`twin`"),
    ]
    by_entry = {row[0]: row for row in rows}
    assert by_entry["`idea`"][4:] == ["better", "1", "applied"]
    assert by_entry["`big+idea`"][6] == "not applied"
    assert by_entry["`none`"][4:] == ["worse", "1", "as expected"]
    assert by_entry["`none`"][3].startswith("-0.199 (-0.199 to ")


def test_what_a_reader_must_know_of_pairs_besides_is_said(tmp_path):
    folder = write_study(tmp_path, plan(), TRUE)
    times = "Times are train_time_s of whole trainings, not of steps timed side by side."
    assert ladder_notes(read_ladder(folder)) == [*said_of_all("code unknown"), times]
    for path in (folder / "judged").iterdir():
        run = RunFolder(path)
        made = "AVX2" if path.name in ("idea-s205", "twin-s205", "big-s201") else "AVX512"
        run.write_provenance(run.read_provenance() | {"instruction_set": made})
        run.write_timing(1.0, 20)
    assert ladder_notes(read_ladder(folder)) == [
        "To be known of idea, twin: code unknown, other device (instruction set; seed 205).",
        "To be known of big, big+idea: code unknown, other device (instruction set; seed 201).",
        "To be known of none: code unknown.",
    ]


def said_of_all(what):
    return [f"To be known of idea, big, big+idea, none, twin: {what}."]


def test_a_study_is_kept_as_tables_and_for_a_paper_family_by_family(whole, tmp_path):
    found = read_ladder(whole)
    save_ladder(tmp_path / "ladder", found)
    there = {path.name: path.read_text() for path in (tmp_path / "ladder").iterdir()}
    assert sorted(there) == [
        *("by_replicate.csv", "controls.csv", "described.csv", "ideas.tex", "ideas.txt"),
        *("joined.tex", "joined.txt", "ladder.csv", "ladder.md", "numbers.csv", "runs.csv"),
    ]
    assert there["joined.tex"].strip() == latex(found.families["joined"]).strip()
    assert f"settled before the first of these runs (hash {plan().hash})" in there["ideas.txt"]
    assert "0.5, 1, 2 times the preset's and further" in there["ideas.txt"]
    assert "replicates 100 and 101, which are not compared: idea 2 times." in there["ideas.txt"]
    assert "big+idea takes big's rate." in there["joined.txt"]
    assert there["ladder.md"].startswith(ladder_markdown(found))
    assert "\n- Times are train_time_s" in there["ladder.md"]
    assert there["numbers.csv"].count("test2017,AP,") >= len(list(plan().runs()))
    assert "\nbig+idea," in there["ladder.csv"] and ",not applied," in there["ladder.csv"]


def test_comparisons_in_no_family_are_described_with_their_interval(whole):
    table = read_ladder(whole).described
    row = table.loc["big - idea"]
    assert row["difference"] == pytest.approx(0.15, abs=0.004)
    assert row["low"] < row["difference"] < row["high"]
    # What the idea adds to big, less what it adds to the baseline.
    both = table.loc["(big+idea - big) - (idea - detr)"]
    assert both["difference"] == pytest.approx(-0.04, abs=0.006)


def test_a_decisive_control_that_fails_leaves_everything_undecided(tmp_path):
    found = read_ladder(write_study(tmp_path, plan(), TRUE | {"none": 0.2, "twin": 0.03}))
    assert set(found.decided["decision"]) == {"not decided"}
    assert found.doubt == "the control none should be worse and is better"
    assert found.remarks == [
        "The control none should be worse and is better.",
        "The control twin should be neither and is better.",
    ]


def test_there_is_no_verdict_before_all_runs_are_there(tmp_path):
    mine = plan(cut=("deformable: no hours left",))
    lost = [("idea", 205)]
    folder = write_study(tmp_path, mine, TRUE, lost)
    with pytest.raises(ValueError, match="1 of 33 planned runs are missing; there is no verdict"):
        read_ladder(folder)
    run = RunFolder(folder / "judged" / "idea-s205").create({})
    study = {"plan": mine.hash, "entry": "idea", "replicate": 205}
    run.write_provenance({"study": study})
    run.write_failed("loss is not finite")
    found = read_ladder(folder)
    row = found.families["ideas"].table.loc["idea"]
    assert row["words"] == "unstable (1 of 6)"
    assert found.decided.loc["idea", "decision"] == "not decided"
    assert found.remarks == ["Cut: deformable: no hours left"]


def test_an_entry_whose_runs_all_diverged_is_there_and_unstable(tmp_path):
    mine = plan()
    lost = [("idea", replicate) for replicate in SIX]
    folder = write_study(tmp_path, mine, TRUE, lost)
    found = ladder_of(mine, sorted((folder / "judged").iterdir()), lost)
    row = found.families["ideas"].table.loc["idea"]
    assert row["text"] == "unstable (6 of 6): no pairs; of the others"
    assert found.families["ideas"].rulings["big"].comparisons == 2
    assert found.decided.loc["idea", "decision"] == "not decided"


def test_a_baseline_that_diverged_once_leaves_its_family_undecided_and_says_so(tmp_path):
    mine = plan()
    folder = write_study(tmp_path, mine, TRUE, [("big", 203)])
    found = ladder_of(mine, sorted((folder / "judged").iterdir()), [("big", 203)])
    assert found.decided.loc["big+idea"].tolist() == ["not decided", "big is unstable (1 of 6)"]
    assert found.decided.loc["idea", "decision"] == "applied"
    assert found.remarks == ["Nothing is decided of joined: big is unstable (1 of 6)."]


def test_a_plan_without_runs_and_failures_of_no_study_are_no_crash(tmp_path):
    mine = plan()
    mine.write(tmp_path / "plan.json")
    with pytest.raises(ValueError, match="33 of 33 planned runs are missing"):
        read_ladder(tmp_path)
    folder = write_study(tmp_path, mine, TRUE)
    stray = RunFolder(folder / "judged" / "stray").create({})
    stray.write_provenance({})
    stray.write_failed("loss is not finite")
    assert len(read_ladder(folder).values) == 6


def test_a_result_of_an_earlier_epoch_is_not_replaced_by_one_that_was_tuned_on(tmp_path):
    folder = write_study(tmp_path, plan(), TRUE)
    RunFolder(folder / "judged" / "idea-s202").write_test(
        "test2017", 2, [0.3] * 12, {"0": 0.3}, 3.0
    )
    with pytest.raises(ValueError, match="of another epoch than its last"):
        read_ladder(folder)


def test_what_a_verdict_is_forbidden_of_is_not_described_either(tmp_path):
    folder = write_study(tmp_path, plan(), TRUE)
    for name, precision in (("detr", "fp32"), ("idea", "bf16")):
        run = RunFolder(folder / "judged" / f"{name}-s202")
        run.write_provenance(run.read_provenance() | {"precision": precision})
    described = read_ladder(folder).described
    assert described["difference"].isna().all()  # both are of the idea


def test_runs_of_a_planned_study_are_not_judged_before_their_plan_does(whole):
    runs = sorted((whole / "judged").glob("*-s20[0-3]"))
    told = report(read_records(runs))
    assert "judged by its plan once all are there" in told.replace("\n", " ")
    assert "better" not in told and "test AP" not in told
    assert "test AP" in report(read_records(sorted((ROOT / "data/study/toy").glob("detr-s[01]"))))


def test_what_is_not_in_the_plan_is_exploratory_and_enters_nothing(whole, tmp_path):
    other = write_run(tmp_path, "other", 200, 0.9, settings={"model.num_queries": 99}, test_ap=0.9)
    runs = sorted((whole / "judged").iterdir())
    found = ladder_of(plan(), [*runs, other])
    assert found.exploratory == ("other-s200",) and "other" not in found.values
    assert found.remarks == ["Exploratory, not in the plan: other-s200."]
    with pytest.raises(ValueError, match="33 of 33 planned runs are missing"):
        ladder_of(plan(delta=0.01), runs)  # another plan's
