"""Quick versions of the drills that stop a run: Kill, Disk, Two of everything."""

import signal

import pytest

from soak import disk, kill, twice
from soak.drill import Try

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="forks and signals")
VARIANT = "adaptive_res"  # has a history, so every kind of file


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> kill.Project:
    project = kill.Project(tmp_path_factory.mktemp("stopped"))
    project.know(VARIANT)
    return project


def held(one: Try | None) -> None:
    assert one is None or one.survived is not False, one.why


def number_of(project: kill.Project, operation: str, nth: int = 1) -> int:
    """Of the nth operation of that kind on that file, counted from 0."""
    told = project.operations[VARIANT]
    return [n for n, line in enumerate(told) if line.startswith(operation)][nth]


@pytest.mark.parametrize(
    "operation", ["replace last.pt", "replace history.npz", "write log.txt", "fsync .history.npz"]
)
def test_run_killed_between_file_operations_ends_as_the_unbroken(project, operation):
    held(kill.between_operations(project, VARIANT, number_of(project, operation), torn=False))


@pytest.mark.parametrize("file", [".last.pt", "log.txt"])
def test_run_killed_within_a_write_ends_as_the_unbroken(project, file):
    held(kill.between_operations(project, VARIANT, number_of(project, f"write {file}"), torn=True))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_that_is_told_to_stop_ends_in_order_and_goes_on(project, number):
    held(kill.at_a_moment(project, VARIANT, 0.6, number, "a signal"))


def test_run_that_stood_still_and_was_overtaken_writes_nothing_more(project):
    held(kill.overtaken(project, VARIANT))


@pytest.mark.parametrize(
    "operation, kind",
    [("write .last.pt", "full"), ("write log.txt", "quota"), ("fsync .config", "failing")],
)
def test_disk_that_fails_is_named_and_the_run_goes_on_with_room(project, operation, kind):
    held(disk.at_an_operation(project, number_of(project, operation, 0), kind))


def test_file_system_that_is_full_is_named_and_the_run_goes_on_with_room(project):
    one = disk.on_a_full_one(project, 64)
    if one.survived is None:
        pytest.skip(one.why)
    held(one)


def test_of_eight_processes_into_one_folder_one_works_and_the_rest_say_so(project):
    project.know(twice.VARIANT)
    held(twice.into_one_folder(project, 0.02))


def test_environment_that_two_make_at_once_is_made_once(tmp_path):
    held(twice.environments_at_once(tmp_path))
