"""Two processes (gloo) train what one process trains with the same global batch.

So do two on two CUDA devices (nccl), where there are two: `make gpu` runs what is marked `cuda`.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes

import detrnb
from detrnb import build_detr, fit, load_run, open_split
from detrnb.datasets.splits import split_paths
from detrnb.runs.folder import RunFolder

TIMEOUT = 600  # seconds; what waits for ever is ended, and fails
DEVICES = torch.cuda.device_count()
# How far losses may be apart; a device convolves in TF32, by other kernels for other batches.
CLOSE = {"rel": 1e-2, "abs": 1e-2} if DEVICES else {"rel": 1e-4, "abs": 1e-6}


def start(folder: Path, *arguments: str) -> tuple[int, str]:
    """Two processes under torchrun, in a folder; gives exit code and stderr."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    process = subprocess.Popen(
        [*torchrun, "--nproc-per-node", "2", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(detrnb.__file__).parents[1])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, errors


def remove_boxes(places: list[int]) -> list[int]:
    """Leave images of the training split without boxes; their ids."""
    ids = open_split(two_processes.config().data, "train2017").image_ids[places].tolist()
    path = split_paths(two_processes.config().data, "train2017")[1]
    content = json.loads(path.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in ids]
    path.write_text(json.dumps(content))
    return ids


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder in which two processes trained, and one with the same images a step."""
    if DEVICES == 1:
        pytest.skip("two processes need two CUDA devices, or none; there is one")
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        remove_boxes(two_processes.second_process_first_batch())
        script = str(Path(two_processes.__file__))
        code, errors = start(folder, script, str(folder))
        assert code == 0, errors
        with two_processes.recorded_norms(folder / "norms-alone.json"):
            run = fit(two_processes.config(batch_size=8), name="alone")
        two_processes.evaluated(run, "alone")
        yield folder


def log_of(project: Path, name: str) -> list[dict]:
    """A run's log, times aside."""
    log = RunFolder(project / "runs" / name).read_log()
    return [{k: v for k, v in line.items() if not k.endswith("_time_s")} for line in log]


@pytest.mark.cuda
def test_two_processes_log_what_one_does(project):
    """Losses of training and of evaluation, AP too, to 1e-4 on processors. One line an epoch."""
    together, alone = log_of(project, "together"), log_of(project, "alone")
    assert len(together) == len(alone) == 2
    for ours, theirs in zip(together, alone, strict=True):
        assert list(ours) == list(theirs)
        per_class = "test_coco_eval_bbox_per_class"
        apart = max(1e-4, CLOSE["abs"])
        assert ours.pop(per_class) == pytest.approx(theirs.pop(per_class), abs=apart)
        for key, value in theirs.items():
            assert ours[key] == pytest.approx(value, **CLOSE), key


@pytest.mark.cuda
def test_two_processes_evaluate_what_one_does(project):
    """Of the test split's two images the second process has none."""
    alone, *both = (
        json.loads((project / f"evaluated-{name}.json").read_text())
        for name in ("alone", "together-0", "together-1")
    )
    for found in both:
        for split, (log, stats, _) in alone.items():
            assert found[split][0] == pytest.approx(log, **CLOSE)
            assert found[split][1] == pytest.approx(stats, abs=1e-3)
    assert both[0]["test2017"][2].keys() == alone["test2017"][2].keys()
    tests = [RunFolder(project / "runs" / name).read_test() for name in ("alone", "together")]
    assert tests[0]["coco_eval_bbox"] == pytest.approx(tests[1]["coco_eval_bbox"], abs=1e-3)


@pytest.mark.cuda
def test_two_processes_that_accumulate_train_as_one_does(project):
    """Evaluation differs: the log's means are over batches, which are smaller."""
    for ours, theirs in zip(log_of(project, "accumulated"), log_of(project, "alone"), strict=True):
        for key, value in theirs.items():
            if key.startswith("train_"):
                assert ours[key] == pytest.approx(value, **CLOSE), key


@pytest.mark.parametrize("name", ["together", "accumulated"])
def test_two_processes_reach_the_weights_of_one(project, name):
    """The difference is a thousandth of the way that training went, at most."""
    torch.manual_seed(0)
    begin = build_detr(two_processes.config().model, train_backbone=False)
    ours, theirs, before = (
        torch.cat([p.flatten() for key, p in model.named_parameters() if "backbone" not in key])
        for model in (
            load_run(project / "runs" / name).model,
            load_run(project / "runs" / "alone").model,
            begin,
        )
    )
    assert (ours - theirs).norm() < 1e-3 * (theirs - before).norm()


@pytest.mark.parametrize("name", ["together", "accumulated"])
def test_two_processes_have_the_gradients_of_one(project, name):
    alone = json.loads((project / "norms-alone.json").read_text())
    assert len(alone) == 4
    for rank in (0, 1):
        found = json.loads((project / f"norms-{name}-{rank}.json").read_text())
        assert found == pytest.approx(alone, rel=1e-3)


def test_provenance_tells_processes_and_images_a_step(project):
    for name, processes in (("together", 2), ("accumulated", 2), ("alone", 1)):
        found = RunFolder(project / "runs" / name).read_provenance()
        assert found["processes"] == processes
        assert (found["global_batch"], found["steps_per_epoch"]) == (8, 2)


def test_interrupted_processes_go_on_to_the_log_of_the_unbroken(project):
    assert log_of(project, "interrupted") == log_of(project, "together")


def test_processes_go_on_in_no_other_number(project):
    folder = RunFolder(project / "runs" / "diverging")
    config = two_processes.config(**two_processes.ACCUMULATED)
    with pytest.raises(ValueError, match=r"trained with 8 images a step, now it would be 4"):
        fit(config, name=folder.path.name)


def test_what_two_processes_trained_one_opens_that_takes_as_many_images_a_step(project, capsys):
    fit(two_processes.config(batch_size=8), name="together")
    assert "together: opened the finished run" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"processes: 8 there, 16 now\)"):
        fit(two_processes.config(batch_size=16), name="together")


def test_what_the_first_process_is_refused_all_are(project):
    messages = [(project / f"refused-{rank}.txt").read_text() for rank in (0, 1)]
    assert messages[0] == messages[1] and "resume is 'never'" in messages[0]


@pytest.mark.parametrize("name", ["diverging", "diverging-inside"])
def test_nan_in_one_process_is_the_error_of_both(project, name):
    """The message names images of the second process; none waits for the other, no step counts."""
    messages = [(project / f"{name}-{rank}.txt").read_text() for rank in (0, 1)]
    assert messages[0] == messages[1]
    ids = open_split(two_processes.config().data, "train2017").image_ids
    batches = list(two_processes.TrainBatches(18, 2, 0, process=(1, 2), accumulate=2))
    image = ids[batches[2][1]]
    assert messages[0].startswith("pred_boxes of decoder layer 1 is not finite at epoch 1, step 2 ")
    assert f"image ids [{image}]" in messages[0]
    kept = torch.load(project / "runs" / name / "nonfinite.pt", weights_only=True)
    replayed = [[target["image_id"] for target in batch[-1]] for batch in kept["batches"]]
    assert replayed == [ids[batch].tolist() for batch in batches[2:4]]  # the second process's own


def test_process_that_dies_ends_the_other_with_its_error(project):
    """The second cannot read an image, the first waits for its part of a step."""
    settings = two_processes.SETTINGS | {"train.cache_features": False, "train.seed": 1}
    typed = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    data = two_processes.config().data
    first = next(iter(two_processes.TrainBatches(18, 4, 1, process=(1, 2))))[0]
    image = int(open_split(data, "train2017").image_ids[first])
    (split_paths(data, "train2017")[0] / f"{image:012d}.png").write_bytes(b"torn")
    code, errors = start(project, "-m", "detrnb", "train", "--preset", "smoke", *typed)
    assert code == 1
    assert f"process 1: image {image} of " in errors
