"""The journal page: epoch 0 over seeds, decisions, what COCO would need."""

import numpy as np
import pytest
from runs_on_disk import STUDY, write_run

from detrnb.compare import coco_plan, epoch_zero, journal_page, read_records, seeds_needed, verdicts
from detrnb.compare.journal import IDEAS
from detrnb.compare.statistics import power
from detrnb.runs.log import read_log

NEVER = {"seeds": 6, "coco_spread": 0.003}


def study(folder, differences, seeds=6):
    """Records of the baseline and entries, each with what its AP differs by."""
    noise = np.random.default_rng(5)
    paths = []
    for number, (entry, difference) in enumerate({"detr": 0.0, **differences}.items()):
        variant = "detr" if entry == "no_encoder" else entry.removesuffix("_position")
        settings = {"model.num_queries": 16 + number, "model.variant": variant}
        for seed in range(seeds):
            ap = 0.3 + difference + 0.001 * noise.normal()
            paths.append(write_run(folder, entry, seed, ap, settings=settings))
    return read_records(paths)


def test_epoch_zero_compares_what_the_first_epoch_gave():
    table = epoch_zero(read_records(sorted(STUDY.iterdir())), "encoder1", "detr")
    assert table.index.tolist() == ["train loss", "val loss", "val AP", "val AP50"]
    lines = {
        entry: [read_log(STUDY / f"{entry}-s{seed}")[0] for seed in range(3)]
        for entry in ("detr", "encoder1")
    }
    theirs, ours = (np.array([line["test_loss"] for line in lines[e]]) for e in lines)
    row = table.loc["val loss"]
    assert row["seeds"] == 3
    assert row["baseline"] == pytest.approx(theirs.mean())
    assert row["entry_spread"] == pytest.approx(ours.std(ddof=1))
    assert row["difference"] == pytest.approx((ours - theirs).mean())
    reach = 4.302653 * (ours - theirs).std(ddof=1) / 3**0.5  # t of 2 degrees of freedom
    assert row["high"] - row["low"] == pytest.approx(2 * reach)
    ap = [line["test_coco_eval_bbox"][0] for line in lines["encoder1"]]
    assert table.loc["val AP", "entry"] == pytest.approx(np.mean(ap))


def test_epoch_zero_takes_only_the_seeds_that_both_have(tmp_path):
    records = study(tmp_path, {"adaptive_res": 0.1}, seeds=3)
    table = epoch_zero(records[:4], "adaptive_res", "detr")  # of the entry only seed 0
    assert table["seeds"].tolist() == [1] * 4 and table["low"].isna().all()
    assert table.loc["val AP", "baseline"] == records[0].log.loc[0, "AP"]
    assert epoch_zero(records[:3], "adaptive_res", "detr").empty
    assert epoch_zero(records[1:4], "adaptive_res", "detr").empty


def test_coco_plan_counts_the_hours_of_the_reference():
    plan = coco_plan(0.003, comparisons=3)
    assert plan.seeds == seeds_needed(0.005, 0.003, 3) and plan.runs == 2 * plan.seeds
    assert plan.hours == plan.runs * 300 * 28 / 60
    assert coco_plan(0.006).hours > 2 * plan.hours


def test_page_of_a_whole_study_decides_on_each_idea(tmp_path):
    differences = {"adaptive_res": 0.025, "efficient_attention": -0.025, "svd_split": 0.0}
    records = study(tmp_path, {**differences, "no_encoder": -0.2})
    page = journal_page(records, verdicts(records), control="no_encoder", **NEVER)
    assert [line for line in page.splitlines() if line.startswith("###")] == [
        f"### {i}. {idea.title}" for i, idea in enumerate(IDEAS.values(), start=1)
    ]
    first, second, third = page.split("### ")[1:]
    assert "**Decision: applied.** Better: +0.0" in first
    assert 'The journal\'s was "Applied!", from one run of each.' in first
    assert "**Decision: not applied.** Worse: -0.0" in second and "The journal" not in second
    assert "**Decision: not applied.** Equivalent: " in third
    for part in (first, second, third):
        assert "of the toy study" in part and "over 6 pairs" in part
        assert part.count("\n| ") == 6 and "| val AP50 | 0." in part
        assert "validation AP after 2 epochs of the preset `toy`, 12,000 training images" in part
        assert "64 positions in the encoder, 3+3 layers" in part
        assert "(assumed)" in part and "By the spread measured here" in part


def test_page_decides_on_an_idea_in_another_form_beside_it(tmp_path):
    before, now = tmp_path / "before", tmp_path / "now"
    form = "efficient_attention_position"
    differences = {"efficient_attention": 0.0, form: 0.025}
    first = verdicts(study(before, differences)[:-3])  # the form has three pairs, its idea six
    records = study(now, {**differences, "no_encoder": -0.2})
    page = journal_page(records, verdicts(records), control="no_encoder", first=first, **NEVER)
    _, second, _ = page.split("### ")[1:]
    assert "**Decision: not applied.** Equivalent: " in second
    assert f"**In another form,** `{form}`: **applied.** Better: +0.0" in second
    assert f"by this rule: described ({first.rulings[form].mean:+.3f} AP over 3 pairs)." in second
    assert page.count("In another form") == 1


def test_page_of_an_unfinished_study_decides_nothing(tmp_path):
    records = study(tmp_path, {"adaptive_res": 0.02, "no_encoder": -0.2}, seeds=2)
    page = journal_page(records, verdicts(records), control="no_encoder", **NEVER)
    assert page.count("**Decision: not decided.**") == 3
    first, second, _ = page.split("### ")[1:]
    assert "2 of 6 seeds." in first and "over 2 pairs" in first
    assert "No pair of runs of `efficient_attention` and `detr` yet." in second
    assert "0 of 6 seeds." in second and "measured here" not in second


@pytest.mark.parametrize("shown", [1, 3])
def test_page_without_verdicts_still_has_its_form(tmp_path, shown):
    records = study(tmp_path, {"adaptive_res": 0.0}, seeds=1)
    page = journal_page(records[:shown], None, control="no_encoder", **NEVER)
    assert page.count("**Decision: not decided.** 0 of 6 seeds.") == 3


def test_page_with_one_seed_shows_no_spread(tmp_path):
    records = study(tmp_path, {"adaptive_res": 0.02}, seeds=1)
    page = journal_page(records, verdicts(records), **NEVER)
    first = page.split("### ")[1]
    assert "one pair:" in first and "1 of 6 seeds." in first and "nan" not in page
    assert "±" not in first


def test_page_repeats_what_an_earlier_study_says_and_what_it_could_have_seen(tmp_path):
    before, now = tmp_path / "before", tmp_path / "now"
    first = verdicts(study(before, {"adaptive_res": 0.0, "svd_split": 0.001}))
    records = study(now, {"adaptive_res": 0.03, "svd_split": 0.0, "efficient_attention": 0.0})
    page = journal_page(records, verdicts(records), first=first, **NEVER)
    for entry in ("adaptive_res", "svd_split"):
        found = first.rulings[entry]
        chance = power(0.02, found.spread, 6, comparisons=2)
        assert f"by this rule: {found.words} ({found.mean:+.3f} AP over 6 pairs)" in page
        assert f"a true gain of 0.02 AP it would have called better in {chance:.0%}" in page
    assert page.count("The first study's") == 2
    assert "The first study's" not in journal_page(records, verdicts(records), **NEVER)
