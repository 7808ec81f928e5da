"""Run folders: names, atomic files, logs that survive a crash, provenance, saved figures."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from detrnb import runs
from detrnb.runs import provenance
from detrnb.runs.folder import RunFolder


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder of its own, with the current folder in its notebooks/."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr(provenance, "CODE", tmp_path)  # as if the package lay in it
    for name in [n for n in os.environ if n.startswith("GIT_")]:  # set inside git hooks
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run").create({"model": {"d_model": 16}})


def test_project_root_found_from_notebooks(project):
    assert runs.project_root() == project


def test_project_root_is_current_folder_without_a_clone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("")  # some other project: it has no notebooks/
    assert runs.project_root() == tmp_path


def test_home_of_runs_is_what_the_environment_names(project, tmp_path, monkeypatch):
    monkeypatch.setenv("DETRNB_HOME", str(tmp_path / "elsewhere"))
    assert runs.project_root() == tmp_path / "elsewhere"


def test_run_name_is_pinned_and_ignores_key_order():
    settings = {"train": {"lr": 1e-4, "epochs": 2}, "model": {"layers": (5,)}}
    name = runs.run_name("toy", "adaptive_res+svd_split", 3, settings)
    assert name == "toy-adaptive_res+svd_split-s3-d5fd5caf"
    swapped = {"model": {"layers": [5]}, "train": {"epochs": 2, "lr": 1e-4}}
    assert runs.run_name("toy", "adaptive_res+svd_split", 3, swapped) == name


def test_run_name_changes_with_a_setting():
    names = {runs.run_name("toy", "detr", 0, {"lr": lr}) for lr in (1e-4, 1e-5)}
    assert len(names) == 2


def test_run_name_refuses_what_would_leave_the_folder():
    with pytest.raises(ValueError, match="'../toy'"):
        runs.run_name("../toy", "detr", 0, {})


def test_run_folder_paths(run):
    names = [p.name for p in (run.config_path, run.log_path, run.provenance_path)]
    assert names == ["config.json", "log.txt", "provenance.json"]
    assert [p.name for p in (run.last, run.best, run.figures)] == ["last.pt", "best.pt", "figures"]
    assert run.figures.is_dir()


def test_config_comes_back_and_leaves_no_temporary_file(run):
    assert run.read_config() == {"model": {"d_model": 16}}
    run.create({"model": {"d_model": 32}})
    assert run.read_config() == {"model": {"d_model": 32}}
    assert sorted(p.name for p in run.path.iterdir()) == ["config.json", "figures"]


def test_failed_json_write_keeps_the_old_file(run):
    with pytest.raises(TypeError, match="object"):
        run.create({"model": object()})
    assert run.read_config() == {"model": {"d_model": 16}}


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "config.json is missing"), ("{'a': 1}", "not JSON"), ("[1]", "expected a JSON object")],
)
def test_bad_config_names_the_file(run, content, message):
    run.config_path.unlink()
    if content is not None:
        run.config_path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        run.read_config()
    assert str(run.config_path) in str(caught.value)


def test_provenance_file_is_empty_until_written(run):
    assert run.read_provenance() == {}
    run.write_provenance({"device": "cpu", "peak": np.int64(7), "data": Path("toy")})
    assert run.read_provenance() == {"device": "cpu", "peak": 7, "data": "toy"}


def test_log_line_keeps_key_order_and_converts_numpy(run):
    run.append_log(
        {"train_lr": np.float32(0.5), "nan": math.nan, "test": np.array([1.0, -1.0]), "epoch": 0}
    )
    text = '{"train_lr": 0.5, "nan": NaN, "test": [1.0, -1.0], "epoch": 0, "crc32": '
    assert run.log_path.read_text().startswith(text)
    (line,) = run.read_log()
    assert list(line) == ["train_lr", "nan", "test", "epoch"]
    assert math.isnan(line["nan"])


def test_log_of_a_new_run_is_empty(run):
    assert run.read_log() == []
    assert run.repair_log() == 0


@pytest.mark.parametrize("torn", ['{"epoch": 1, "train_lo', "{", "\0\0\0"])
def test_torn_last_line_is_dropped_and_repaired(run, torn):
    run.append_log({"epoch": 0})
    sound = run.log_path.read_text()
    run.log_path.write_text(sound + torn)
    assert run.read_log() == [{"epoch": 0}]
    assert run.repair_log() == len(torn)
    assert run.log_path.read_text() == sound
    assert run.repair_log() == 0


def test_appending_after_a_crash_starts_a_line_of_its_own(run):
    run.log_path.write_text('{"epoch": 0}\n{"epoch": 1, "tr')
    run.append_log({"epoch": 1})
    assert run.log_path.read_text().startswith('{"epoch": 0}\n{"epoch": 1, "crc32": ')


def test_whole_last_line_without_line_end_is_kept(run):
    run.append_log({"epoch": 0})
    run.log_path.write_text(run.log_path.read_text().rstrip("\n"))
    assert run.read_log() == [{"epoch": 0}]
    run.append_log({"epoch": 1})
    assert run.read_log() == [{"epoch": 0}, {"epoch": 1}]


def test_line_that_cannot_be_written_leaves_the_log_alone(run):
    run.append_log({"epoch": 0})
    with pytest.raises(TypeError):
        run.append_log({"epoch": 1, "model": object()})
    assert run.read_log() == [{"epoch": 0}]


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="needs Linux file size limits")
def test_line_that_does_not_fit_on_the_disk_leaves_the_log_whole(run):
    code = (
        "import resource, signal, sys; from detrnb.runs.folder import RunFolder\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "run = RunFolder(sys.argv[1]); run.append_log({'epoch': 0})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))\n"
        "run.append_log({'epoch': 1, 'train_loss': 1.2345678})\n"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "log.txt could not be written: No space left on device" in done.stderr
    assert run.read_log() == [{"epoch": 0}]


def test_provenance_is_json_and_knows_versions(project):
    found = json.loads(json.dumps(runs.this_process()))
    assert found["versions"]["numpy"] == np.__version__
    assert set(provenance.PACKAGES) < set(found["versions"])
    assert found["git_commit"] is None and found["git_dirty"] is None
    assert found["cpu_count"] >= 1 and found["started"].endswith("+00:00")


def test_provenance_tells_commit_and_whether_dirty(project):
    git = ["git", "-C", str(project), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for step in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *step], check=True)
    clean = runs.this_process()
    assert len(clean["git_commit"]) == 40 and clean["git_dirty"] is False
    (project / "data" / "study").mkdir(parents=True)
    (project / "data" / "study" / "kept.json").write_text("")  # by the study that trains
    assert runs.this_process()["git_dirty"] is False
    (project / "variant.py").write_text("")
    assert runs.this_process()["git_dirty"] is True


def test_provenance_without_git_does_not_raise(project, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert runs.this_process()["git_commit"] is None


def test_provenance_ignores_somebody_elses_repository(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(provenance, "CODE", tmp_path)  # installed, not cloned
    monkeypatch.setattr(provenance, "_git", lambda *_: pytest.fail("asked git outside the project"))
    assert runs.this_process()["git_commit"] is None


def test_saved_figure_has_stable_bytes_and_smoke_has_its_own_folder(project, monkeypatch):
    monkeypatch.setenv("DETRNB_FIGURES", "workbook")  # as the workbook's runner
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    path = runs.save_figure(figure, "01_curves")
    assert path == project / "runs" / "workbook" / "figures" / "01_curves.png"
    first = path.read_bytes()
    assert b"Software" not in first
    assert runs.save_figure(figure, "01_curves").read_bytes() == first
    smoke = runs.save_figure(figure, "01_curves", smoke=True)
    assert smoke == project / "runs" / "workbook" / "smoke_figures" / "01_curves.png"


def test_figure_of_a_notebook_that_runs_by_itself_leaves_the_workbooks_alone(project, monkeypatch):
    monkeypatch.delenv("DETRNB_FIGURES", raising=False)
    path = runs.save_figure(Figure(figsize=(1, 1)), "01_curves")
    assert path == project / "runs" / "notebooks" / "figures" / "01_curves.png"
    assert not (project / "runs" / "workbook").exists()


@pytest.mark.parametrize("name", ["curves", "01_curves.png", "../01_curves", "1_curves"])
def test_save_figure_refuses_other_names(project, name):
    with pytest.raises(ValueError, match="01_detections"):
        runs.save_figure(Figure(), name)


def test_runs_and_logs_import_neither_torch_nor_matplotlib():
    code = (
        "import sys, types; package = types.ModuleType('detrnb'); package.__path__ = sys.argv[1:]\n"
    )
    code += "sys.modules['detrnb'] = package\n"  # without its own imports
    code += "import detrnb.runs.folder\n"
    code += "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    package = str(Path(runs.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code, package], check=True)


def test_history_of_parameters_follows_a_resumed_run(tmp_path):
    folder = RunFolder(tmp_path).create({})
    assert folder.read_history() == {}
    for epochs in (0, 1, 2):
        folder.append_history(epochs, {"gate": np.full(3, epochs, dtype=np.float32)})
    folder.append_history(2, {"gate": np.full(3, 7, dtype=np.float32)})  # the epoch once more
    assert folder.read_history()["gate"].tolist() == [[0] * 3, [1] * 3, [7] * 3]
    folder.history_path.unlink()
    folder.append_history(2, {"gate": np.full(3, 2, dtype=np.float32)})
    assert np.isnan(folder.read_history()["gate"][:2]).all()


def test_result_on_the_test_split_comes_back(run):
    assert run.read_test() == {}
    run.write_test("test2017", 5, [0.25, *[-1.0] * 11], {"0": 0.25}, 3.5)
    assert run.read_test() == {
        "split": "test2017",
        "epoch": 5,
        "coco_eval_bbox": [0.25, *[-1.0] * 11],
        "coco_eval_bbox_per_class": {"0": 0.25},
        "seconds": 3.5,
    }


def test_result_of_other_than_twelve_numbers_is_refused(run):
    with pytest.raises(ValueError, match="stats are 1 numbers; expected COCO's 12"):
        run.write_test("test2017", 5, [0.25], {}, 3.5)
    assert run.read_test() == {}
