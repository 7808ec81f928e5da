"""`judge` trains what is missing, keeps to what was settled, and says what it found."""

import json
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import toy_variants  # noqa: F401 - registers some of a user's own
from runs_on_disk import write_study
from small_study import settled, small_plan

from detrnb import VARIANTS, Config, fit, judge, variant
from detrnb.compare import read_ladder
from detrnb.model import EncoderAttention
from detrnb.runs.folder import RunFolder
from detrnb.settings import PRESETS, load_variants
from detrnb.settings.source import Source
from detrnb.study import Slurm, costs, judging, lending
from detrnb.training import TrainingDiverged, code_of, folder_of

TINY = {
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 1,
    "data.toy.num_images": (8, 4, 4),
    "train.batch_size": 4,
    "train.epochs": 1,
}
FIRST = 200  # number of the first pair
UNKEPT = torch.ones(2)


def config_of(entry: str, number: int) -> Config:
    """The settings of a run that `judge` trains with the preset's rate."""
    return judging.Plan("adaptive_res", "detr", "smoke", (5,), {}, FIRST).config(entry, number)


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
    monkeypatch.setattr(costs, "seconds_per_step", lambda config, steps: 1.0)
    first = RunFolder(project / "runs" / "first")
    done: list[tuple[str, int, float]] = []

    def quick(config: Config) -> None:
        folder = folder_of(config).create(config.model_dump(mode="json"))
        variant, seed = config.model.variant, config.train.seed
        done.append((variant, seed, config.train.lr))
        folder.write_provenance(first.read_provenance() | {"seed": seed})
        line = first.read_log()[0]
        pair = seed % FIRST
        ap = 0.3 + 0.001 * pair + (0.05 + 0.001 * (pair % 3)) * (variant != "detr")
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
        (entry, seed) for seed in range(200, 205) for entry in ("detr", "adaptive_res")
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


def test_what_was_settled_comes_back_on_a_new_machine(project, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETRNB_MIRROR", str(tmp_path / "drive"))
    asked = judging.Plan("adaptive_res", "detr", "smoke", (5,), {}, FIRST)
    judging._settled(asked, tune=False)
    shutil.rmtree(asked.path.parent)
    with pytest.raises(ValueError, match="planned with 5 seeds.*differences that are none"):
        judging._settled(judging.replace(asked, looks=(6,)), tune=False)
    assert f"{asked.path.name}: brought back from" in capsys.readouterr().out
    shutil.rmtree(asked.path.parent)


def test_one_extension_is_possible_and_then_each_look_counts_half(trained):
    assert judge("adaptive_res", seeds=5, preset="smoke").plan.looks == (5,)
    found = judge("adaptive_res", seeds=7, preset="smoke")
    assert found.plan.looks == (5, 7) and found.ruling.pairs == 7
    assert "Looked at after 5 and 7 seeds, so each look counts half." in str(found)
    assert "at 2.5 %" in found.methods() and "fixed before" not in found.methods()
    with pytest.raises(ValueError, match="after its one extension"):
        judge("adaptive_res", seeds=9, preset="smoke")
    with pytest.raises(ValueError, match="planned with 7 seeds"):
        judge("adaptive_res", seeds=5, preset="smoke")


def test_a_look_at_pairs_too_few_for_a_verdict_costs_none(trained):
    few = judge("adaptive_res", seeds=1, preset="smoke")
    assert few.ruling.verdict == "described"
    found = judge("adaptive_res", seeds=5, preset="smoke")
    assert found.plan.looks == (1, 5) and found.found.level == 0.05
    assert "Described first after 1 seeds." in found.methods()
    assert "fixed before the first run" not in found.methods()
    assert judge("adaptive_res", seeds=7, preset="smoke").plan.looks == (1, 5, 7)


def let_diverge(monkeypatch, variant, numbers):
    """Runs of a variant with these numbers."""
    train = judging._train

    def diverging(config):
        if config.model.variant == variant and config.train.seed in numbers:
            folder_of(config).create(config.model_dump(mode="json")).write_failed("not finite")
        else:
            train(config)

    monkeypatch.setattr(judging, "_train", diverging)


def test_a_run_that_diverges_leaves_its_variant_unstable(trained, monkeypatch, capsys):
    let_diverge(monkeypatch, "adaptive_res", (203,))
    found = judge("adaptive_res", seeds=6, preset="smoke")
    assert found.ruling.words == "unstable (1 of 6)" and len(found.records) == 11
    assert "Of adaptive_res, 1 of 6 runs diverged." in found.methods()
    judge("adaptive_res", seeds=6, preset="smoke")
    assert len(trained) == 11  # what diverged is not tried again


def test_a_baseline_that_diverges_is_said_wherever_the_verdict_is(trained, monkeypatch):
    let_diverge(monkeypatch, "detr", (201,))
    found = judge("adaptive_res", seeds=6, preset="smoke")
    said = "Of detr, 1 of 6 runs diverged, so nothing is decided."
    assert said in str(found) and said in found.methods()


def test_where_all_runs_of_a_side_diverge_there_is_no_verdict(trained, monkeypatch):
    let_diverge(monkeypatch, "adaptive_res", range(200, 205))
    found = judge("adaptive_res", seeds=5, preset="smoke")
    assert str(found).endswith("no verdict: 5 of adaptive_res's 5 runs diverged")
    for ask in (found.methods, found.to_latex):
        with pytest.raises(ValueError, match="adaptive_res against detr: no verdict: 5 of"):
            ask()


def test_an_idea_that_changed_is_judged_anew_and_the_verdict_tells_it(
    trained, tmp_path, monkeypatch, capsys
):
    """Its runs are others, its times too, and it has no scenes left that nobody saw."""

    def define(number):
        (tmp_path / "idea.py").write_text(
            "from detrnb import variant\nfrom detrnb.model import EncoderAttention\n\n\n"
            '@variant("idea", part="encoder_attention")\nclass Idea(EncoderAttention):\n'
            f"    number = {number}\n"
        )
        load_variants([tmp_path / "idea.py"])

    define(1)
    first = judge("idea", seeds=5, preset="smoke")
    times = first.plan.path.with_suffix(".times")
    measured = times.read_text()
    assert len(trained) == 10 and "ersion" not in str(first)
    define(1)
    assert str(judge("idea", seeds=5, preset="smoke")) == str(first)
    define(22)
    monkeypatch.setattr(costs, "seconds_per_step", lambda config, steps: 2.0)
    second = judge("idea", seeds=6, preset="smoke")  # its number is settled anew
    assert second.plan.looks == (6,) and len(trained) == 10 + 6 + 1
    assert "idea or detr has changed since" in capsys.readouterr().out
    assert "Version 2 of the idea: earlier ones were settled" in str(second)
    assert times.read_text() != measured
    del VARIANTS["idea"]


def test_a_class_that_cannot_be_trained_settles_nothing(trained, project, monkeypatch):
    """Else its mending would count as another version, of which nothing was seen."""
    monkeypatch.setitem(VARIANTS, "broken", VARIANTS["sigmoid"])

    @variant("broken", part="encoder_attention")
    class Broken(EncoderAttention):
        def attend(self, q, k, v, unseen):
            return super().attend(q, k, v[:, :, :-1], unseen)

    for given in ("broken", Broken):
        with pytest.raises(RuntimeError):
            judge(given, seeds=5, preset="smoke", tune=True)
    assert not trained and not (project / "runs" / "judged").exists()

    @variant("broken", part="encoder_attention")
    class Whole(EncoderAttention):
        factor = UNKEPT

    found = judge(Whole, seeds=5, preset="smoke")
    assert len(trained) == 10 and "ersion" not in str(found)
    assert "What is kept of broken lacks UNKEPT, a Tensor: whether that has changed" in str(found)


def test_an_unknown_place_to_run_is_refused(trained):
    with pytest.raises(ValueError, match="on is 'slrm'; expected 'here', 'slurm' or a Slurm"):
        judge("adaptive_res", seeds=5, preset="smoke", on="slrm")


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
    assert (folder_of(config_of("detr", 203)).path.name, True) in jobs
    for entry in ("detr", "adaptive_res"):
        for number in range(200, 205):
            judging._train(config_of(entry, number))
    assert judge("adaptive_res", seeds=5, preset="smoke", on="slurm").ruling.verdict == "better"
    assert len(submitted) == 1


def test_a_class_of_ones_own_goes_to_the_cluster_as_a_file(trained, monkeypatch, capsys):
    """With what is asked of the cluster; there `detrnb train` reads that file."""
    submitted = []
    monkeypatch.setattr(
        judging.Slurm, "submit", lambda slurm, jobs, folder: submitted.append((slurm, jobs)) or "7"
    )
    on = Slurm(time="2:00:00", gpus=2)
    judge("sigmoid", seeds=5, preset="smoke", on=on)
    ((slurm, jobs),) = submitted
    assert slurm == Slurm("detrnb-smoke-sigmoid-against-detr", "2:00:00", gpus=2)
    words = {job.config.model.variant: job.words for job in jobs}
    assert "--variants" not in words["detr"]
    file = words["sigmoid"][words["sigmoid"].index("--variants") + 1]
    capsys.readouterr()
    monkeypatch.setitem(VARIANTS, "sigmoid", VARIANTS["sigmoid"])
    load_variants([file])
    assert capsys.readouterr().out == "variant 'sigmoid' replaced: nothing changed\n"

    monkeypatch.setattr(judging, "own_sources", lambda name: {name: Source("", ("X: no text",))})
    with pytest.raises(ValueError, match="not whole: X: no text; put all of it into one file"):
        judge("sigmoid", seeds=5, preset="smoke", on=on)


def test_each_pair_has_scenes_of_its_own_that_nobody_has_seen(trained):
    found = judge("adaptive_res", seeds=5, preset="smoke")
    scenes = {
        RunFolder(path).read_config()["data"]["toy"]["seed"]
        for path in (folder_of(config_of("detr", n)).path for n in range(200, 205))
    }
    assert scenes == set(range(200, 205))
    assert "each seed has scenes of its own" in found.methods()


def test_a_plan_of_before_goes_on_as_it_began(trained):
    path = judging.Plan("adaptive_res", "detr", "smoke", (1,), {}).path
    path.parent.mkdir(parents=True)
    known = {"name": "adaptive_res", "baseline": "detr", "preset": "smoke", "looks": [1]}
    path.write_text(json.dumps({**known, "rates": {}, "kept": []}))
    assert "scenes" not in judge("adaptive_res", seeds=1, preset="smoke").methods()
    assert [run[:2] for run in trained] == [("detr", 0), ("adaptive_res", 0)]


@pytest.fixture
def kept(project, trained):
    """A kept study's runs of the baseline, of this code; what an epoch trained here gives."""
    folder = project / "data" / "study" / "second-smoke" / "judged"
    line = RunFolder(project / "runs" / "first").read_log()[0]
    for number in range(200, 205):
        config = config_of("detr", number)
        run = RunFolder(folder / f"detr-s{number}").create(config.model_dump(mode="json"))
        provenance = RunFolder(project / "runs" / "first").read_provenance()
        run.write_provenance(provenance | {"seed": number, "code": code_of(config)})
        run.append_log(line)
        run.write_test("test2017", 0, [0.3, *[-1.0] * 11], {"0": 0.3}, 1.0)
    yield folder
    shutil.rmtree(project / "data" / "study")


def test_the_kept_study_tells_how_far_pairs_spread_once_it_is_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, plan = tmp_path / "data" / "study" / "second-smoke", settled(small_plan())
    true = {"detr": 0.0, "adaptive_res": 0.05, "twin": 0.0}
    write_study(folder, plan, true, leave_out=[("twin", 201)])
    assert lending.kept_spread("smoke") is None
    shutil.rmtree(folder)
    write_study(folder, plan, true)
    values = read_ladder(folder).values
    expected = (values["adaptive_res"] - values["detr"]).std()  # the twin is in no family
    assert lending.kept_spread("smoke") == pytest.approx(expected)


def epoch_of(line):
    return lambda config: {k: v for k, v in line.items() if k.startswith("train_l")}


def test_the_kept_study_lends_its_baseline_where_an_epoch_here_gives_the_same(
    kept, trained, monkeypatch, capsys
):
    line = RunFolder(kept / "detr-s200").read_log()[0]
    monkeypatch.setattr(lending, "first_epoch", epoch_of(line))
    found = judge("adaptive_res", seeds=6, preset="smoke")
    told = capsys.readouterr().out
    assert "5 of 6 of its runs need not be trained" in told and "7 of 12 runs are missing" in told
    assert [n for entry, n, _ in trained if entry == "detr"] == [205]
    assert found.ruling.pairs == 6 and "5 of detr's runs are the kept study's" in str(found)
    judge("adaptive_res", seeds=6, preset="smoke")
    assert len(trained) == 7


def test_the_kept_study_lends_runs_of_processors_that_round_alike_only(
    kept, trained, monkeypatch, capsys
):
    line = RunFolder(kept / "detr-s200").read_log()[0]
    monkeypatch.setattr(lending, "first_epoch", epoch_of(line))
    here = torch.backends.cpu.get_cpu_capability()
    for number in range(200, 205):
        run = RunFolder(kept / f"detr-s{number}")
        made = {200: ("ALTIVEC", 1), 204: (here, 96)}.get(number, (here, 1))
        told = dict(zip(("instruction_set", "threads"), made, strict=True))
        run.write_provenance(run.read_provenance() | told)
    assert judge("adaptive_res", seeds=5, preset="smoke").plan.kept == (201, 202, 203)
    assert "3 of 5 of its runs need not be trained" in capsys.readouterr().out
    assert [n for entry, n, _ in trained if entry == "detr"] == [200, 204]


@pytest.mark.parametrize("what", ["line", "code", "settings"])
def test_the_kept_study_lends_nothing_that_differs(what, kept, trained, monkeypatch, capsys):
    line = RunFolder(kept / "detr-s200").read_log()[0]
    if what == "line":
        line = line | {"train_loss": line["train_loss"] * (1 + 1e-15)}
    for number in range(200, 205):
        run = RunFolder(kept / f"detr-s{number}")
        if what == "code":
            code = run.read_provenance()["code"]
            run.write_provenance(run.read_provenance() | {"code": code | {"loss/matcher.py": "0"}})
        if what == "settings":
            settings = run.read_config()
            settings["train"]["lr"] *= 2
            (run.path / "config.json").write_text(json.dumps(settings))
    monkeypatch.setattr(lending, "first_epoch", epoch_of(line))
    assert not judge("adaptive_res", seeds=5, preset="smoke").plan.kept
    assert len(trained) == 10
    assert ("the epoch's numbers differ" in capsys.readouterr().out) == (what == "line")


def test_steps_are_timed_side_by_side_once_and_cost_follows_them(trained, monkeypatch):
    timed = []

    def seconds(config, steps):
        timed.append((config.model.variant, config.train.seed, steps))
        return 2.0 if config.model.variant == "adaptive_res" else 1.0

    monkeypatch.setattr(costs, "seconds_per_step", seconds)
    judge("adaptive_res", seeds=5, preset="smoke")
    found = judge("adaptive_res", seeds=5, preset="smoke")
    ours = [t for t in timed if t[2] == costs.TIMED_STEPS]
    assert ours == [
        (entry, n, costs.TIMED_STEPS)
        for n in (200, 201, 202)
        for entry in ("detr", "adaptive_res", "adaptive_res", "detr")
    ]
    assert found.found.table.loc["adaptive_res", "time"] == 2


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
    folder = folder_of(config_of("adaptive_res", 202))
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
    assert {seed for *_, seed in tried} == set(judging.TRIALS.replicates)
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
