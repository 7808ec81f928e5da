"""`judge` trains what is missing, keeps to what was settled, and says what it found."""

import shutil
from types import SimpleNamespace

import pandas as pd
import pytest

from detrnb import Config, fit, judge
from detrnb.runs.folder import RunFolder
from detrnb.settings import PRESETS
from detrnb.study import judging
from detrnb.training import TrainingDiverged, folder_of

TINY = {
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 1,
    "data.toy.num_images": (8, 4, 4),
    "train.batch_size": 4,
    "train.epochs": 1,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a real run of the preset, made once."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(PRESETS, "smoke", PRESETS["smoke"] | TINY)
        fit(Config.preset("smoke"), name="first")
        yield folder


@pytest.fixture
def trained(project, monkeypatch):
    """What was trained: variant, seed, rate. Trainings take no time, their AP is made up."""
    monkeypatch.setattr(judging, "seconds_per_step", lambda config, steps: 1.0)
    first = RunFolder(project / "runs" / "first")
    done: list[tuple[str, int, float]] = []

    def quick(config: Config) -> None:
        folder = folder_of(config).create(config.model_dump(mode="json"))
        variant, seed = config.model.variant, config.train.seed
        done.append((variant, seed, config.train.lr))
        folder.write_provenance(first.read_provenance() | {"seed": seed})
        line = first.read_log()[0]
        ap = 0.3 + 0.001 * seed + (0.05 + 0.001 * (seed % 3)) * (variant != "detr")
        folder.append_log({**line, "test_coco_eval_bbox": [ap, *line["test_coco_eval_bbox"][1:]]})
        folder.write_test("test2017", 0, [ap, *[-1.0] * 11], {"0": ap}, 1.0)

    monkeypatch.setattr(judging, "_train", quick)
    yield done
    for path in (project / "runs").iterdir():
        if path.name not in ("first", "features"):
            shutil.rmtree(path)


def test_missing_runs_are_announced_and_trained_seed_by_seed(trained, capsys):
    found = judge("adaptive_res", seeds=5, preset="smoke")
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("adaptive_res against detr: 10 of 10 runs are missing, about 0:")
    assert "no kept study of preset smoke tells how far runs spread" in told[0]
    assert [run[:2] for run in trained] == [
        (entry, seed) for seed in range(5) for entry in ("detr", "adaptive_res")
    ]
    assert found.ruling.verdict == "better" and found.ruling.pairs == 5
    judge("adaptive_res", seeds=5, preset="smoke")
    assert len(trained) == 10 and not capsys.readouterr().out


def test_before_the_planned_number_is_reached_there_are_curves_and_no_verdict(trained, monkeypatch):
    train = judging._train

    def interrupted(config):
        if len(trained) == 5:
            raise KeyboardInterrupt
        train(config)

    with monkeypatch.context() as patch:
        patch.setattr(judging, "_train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            judge("adaptive_res", seeds=5, preset="smoke")
    plan = judging._settled(judging.Plan("adaptive_res", "detr", "smoke", (5,), {}), tune=False)
    half = judging._judged(plan)
    assert half.ruling is None and half.found is None
    assert "5 of 10 runs are there; no verdict before all are" in str(half)
    assert half.figure.axes
    judge("adaptive_res", seeds=5, preset="smoke")
    assert len(trained) == 10


def test_another_number_of_seeds_is_refused_until_the_planned_one_is_reached(trained, monkeypatch):
    def never(config):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(judging, "_train", never)
        with pytest.raises(KeyboardInterrupt):
            judge("adaptive_res", seeds=5, preset="smoke")
    for seeds in (4, 6):
        with pytest.raises(ValueError, match="planned with 5 seeds.*differences that are none"):
            judge("adaptive_res", seeds=seeds, preset="smoke")


def test_one_extension_is_possible_and_then_each_look_counts_half(trained):
    assert judge("adaptive_res", seeds=5, preset="smoke").plan.looks == (5,)
    found = judge("adaptive_res", seeds=7, preset="smoke")
    assert found.plan.looks == (5, 7) and found.ruling.pairs == 7
    assert "Looked at after 5 and 7 seeds, so each look counts half." in str(found)
    assert "at 2.5 %" in found.methods()
    with pytest.raises(ValueError, match="after its one extension"):
        judge("adaptive_res", seeds=9, preset="smoke")
    with pytest.raises(ValueError, match="planned with 7 seeds"):
        judge("adaptive_res", seeds=5, preset="smoke")


def test_a_run_that_diverges_leaves_its_variant_unstable(trained, monkeypatch, capsys):
    train = judging._train

    def diverging(config):
        if (config.model.variant, config.train.seed) == ("adaptive_res", 3):
            folder_of(config).create(config.model_dump(mode="json")).write_failed("not finite")
        else:
            train(config)

    monkeypatch.setattr(judging, "_train", diverging)
    found = judge("adaptive_res", seeds=6, preset="smoke")
    assert found.ruling.words == "unstable (1 of 6)" and len(found.records) == 11
    assert "Of adaptive_res, 1 of 6 runs diverged." in found.methods()
    judge("adaptive_res", seeds=6, preset="smoke")
    assert len(trained) == 11  # what diverged is not tried again


def test_divergence_is_told_and_ends_no_judgement(monkeypatch, capsys):
    def fit(config):
        raise TrainingDiverged("loss is not finite")

    monkeypatch.setattr(judging, "fit", fit)
    judging._train(Config.preset("smoke"))
    assert "diverged: loss is not finite" in capsys.readouterr().out


def test_runs_are_handed_to_a_cluster_and_judged_when_they_are_there(trained, monkeypatch):
    submitted = []

    def submit(slurm, jobs, folder):
        submitted.append((slurm.name, [(job.name, job.tested) for job in jobs]))
        return "7"

    monkeypatch.setattr(judging.Slurm, "submit", submit)
    found = judge("adaptive_res", seeds=5, preset="smoke", on="slurm")
    assert found.ruling is None and not trained
    ((name, jobs),) = submitted
    assert name == "detrnb-smoke-adaptive_res-against-detr" and len(jobs) == 10
    assert (folder_of(Config.preset("smoke", seed=3)).path.name, True) in jobs
    for entry in ("detr", "adaptive_res"):
        for seed in range(5):
            judging._train(Config.preset("smoke", variant=entry, seed=seed))
    assert judge("adaptive_res", seeds=5, preset="smoke", on="slurm").ruling.verdict == "better"
    assert len(submitted) == 1


def test_a_plan_of_before_is_read_without_what_it_no_longer_has(trained):
    plan = judge("adaptive_res", seeds=1, preset="smoke").plan
    plan.path.write_text(plan.path.read_text().replace("{", '{"kept": [],', 1))
    assert judge("adaptive_res", seeds=1, preset="smoke").plan == plan


def test_few_seeds_are_described(trained):
    assert judge("adaptive_res", seeds=1, preset="smoke").ruling.verdict == "described"


def test_paper_gets_a_table_and_a_paragraph_of_the_same_numbers(trained):
    found = judge("adaptive_res", seeds=6, preset="smoke")
    table, text = found.to_latex(), found.methods()
    assert "adaptive\\_res & 0.353" in table and "$+0.051$" in table and "better" in table
    assert table.count("\\\\\n") == 3
    for fact in ("trained 6 times", "preset smoke (1 epochs, 4 images", "at 5 %", "±0.02"):
        assert fact in text
    assert "preset's learning rate, which was found for DETR" in text
    assert len(found.figure.axes) == 2  # the difference, and its price


def test_conditions_that_differ_forbid_the_verdict(trained):
    judge("adaptive_res", seeds=5, preset="smoke")
    folder = folder_of(Config.preset("smoke", variant="adaptive_res", seed=2))
    folder.write_provenance(folder.read_provenance() | {"precision": "bf16"})
    assert "not judged" in str(judge("adaptive_res", seeds=5, preset="smoke"))


def test_rates_are_tuned_for_both_alike_outwards_from_an_edge(trained, monkeypatch):
    rate, best = Config.preset("smoke").train.lr, {"detr": 1.0, "adaptive_res": 4.0}
    tried = []

    def trial(config):
        entry, factor = config.model.variant, config.train.lr / rate
        tried.append((entry, factor, config.train.seed))
        if factor == 0.5:
            raise TrainingDiverged("loss is not finite")
        return SimpleNamespace(log=pd.DataFrame({"AP": [1 / (1 + abs(factor - best[entry]))]}))

    monkeypatch.setattr(judging, "fit", trial)
    found = judge("adaptive_res", seeds=1, preset="smoke", tune=True)
    assert dict(found.plan.rates) == best
    assert {seed for *_, seed in tried} == set(judging.TRIALS)
    assert {f for e, f, _ in tried if e == "detr"} == {0.5, 1.0, 2.0}
    assert {f for e, f, _ in tried if e == "adaptive_res"} == {0.5, 1.0, 2.0, 4.0, 8.0}
    assert [lr for *_, lr in trained] == [rate, 4 * rate]
    assert "Rates were tuned for both alike" in str(found)
    with pytest.raises(ValueError, match="begun with tuned rates"):
        judge("adaptive_res", seeds=1, preset="smoke")


@pytest.mark.parametrize(
    "name, baseline, message",
    [
        ("adaptive_re", "detr", "did you mean 'adaptive_res'"),
        ("detr", "detr", "against itself"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_anything_is_written(
    name, baseline, message, trained, project
):
    with pytest.raises(ValueError, match=message):
        judge(name, baseline, preset="smoke")
    assert not (project / "runs" / "judged").exists()
