"""Quick versions of the drills that spoil something: Files, Numbers, Data, Long, Wide, Trust."""

import random
import signal

import pytest

from soak import data, files, long, numbers, trust, wide
from soak.drill import Try
from soak.runs import outcome, trained, typed

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="forks and signals")


def held(one: Try) -> None:
    if one.survived is None:
        pytest.skip(one.why)
    assert one.survived, one.why


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> files.Folder:
    return files.Folder(tmp_path_factory.mktemp("spoiled"))


SPOILED = [
    ("config.json", files.exchanged),
    ("log.txt", files.exchanged),
    ("log.txt", files.flipped(random.Random(4))),
    ("provenance.json", files.circle),
    ("last.pt", files.cut(0.5)),
    ("last.pt", files.exchanged),
    ("best.pt", files.exchanged),
    ("history.npz", files.exchanged),
    ("thresholds.json", files.folder_of),
    ("test.json", files.zeroed),
]


@pytest.mark.parametrize("name, spoil", SPOILED)
def test_spoiled_file_is_refused_by_name_or_changes_nothing(run, name, spoil):
    path = run.spoiled(name, spoil)
    assert files.what_is_read(run, path, name) == ""


@pytest.mark.parametrize("name", ["log.txt", "last.pt", "provenance.json"])
def test_run_does_not_go_on_with_another_runs_file(run, name):
    assert files.goes_on(run, name, files.exchanged) == ""


@pytest.fixture(scope="module")
def planting(tmp_path_factory) -> tuple:
    folder = tmp_path_factory.mktemp("numbers")
    numbers.nasty.write(folder)
    assert trained(folder, *typed("unbroken", train__epochs=numbers.EPOCHS)).code == 0
    return folder, outcome(folder, "unbroken")


@pytest.mark.parametrize(
    "place, value, when",
    [("optimizer", "NaN", "last"), ("gradient", "infinity", "middle"), ("box", "NaN", "first")],
)
def test_number_that_is_none_ends_the_run_which_goes_on_without_it(planting, place, value, when):
    folder, expected = planting
    held(numbers.one(folder, f"{place}-{when}", place, value, when, expected))


# A spoiled optimizer shows in that process's weights alone, and after the epoch.
@pytest.mark.parametrize("place", ["weight", "optimizer"])
def test_number_that_is_none_in_one_process_ends_both_alike(planting, place):
    held(numbers.in_one_of_two(planting[0], f"both-{place}", place, "NaN", "middle", 1))


def test_boxes_of_annotations_by_hypothesis_are_used_or_said_to_be_left_out(tmp_path):
    for one in data.fuzzed_annotations(tmp_path, 60, 7):
        held(one)


def test_images_of_flipped_bytes_are_read_or_refused():
    for one in data.fuzzed_images(random.Random(7), 60):
        held(one)


def test_image_that_goes_while_training_is_named_and_the_run_goes_on_once_it_is_back(tmp_path):
    held(data.image_spoilt(data.Project(tmp_path), "run", 0, data.removed))


def test_nothing_grows_with_epochs(tmp_path):
    for one in long.many_epochs(tmp_path, 12):
        if "time" not in one.part:  # other tests run beside
            held(one)


def test_four_processes_train_as_one_with_images_without_boxes(tmp_path):
    wide.project(tmp_path)
    assert wide.compared(tmp_path, "detr") == ""


@pytest.mark.parametrize("name", trust.NAMES[:6])
def test_hostile_names_are_shown_as_text(name, tmp_path):
    assert trust.in_pictures(name, tmp_path) == ""
    assert trust.in_pages(name, tmp_path) == ""


@pytest.mark.parametrize("name", trust.OUT)
def test_images_outside_their_folder_are_refused(name, tmp_path):
    assert trust.leading_out(tmp_path, name.format(tmp_path)) == ""


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_pickle_that_runs_code_is_not_opened(form, tmp_path):
    assert trust.opening(tmp_path, "checkpoint", form) == ""


def test_jupyterlab_listens_on_this_machine_and_asks_for_a_token():
    assert trust.lab() == ""
