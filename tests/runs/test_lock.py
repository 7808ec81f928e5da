"""The lock of a run folder: one holder at any time, whatever became of the one before."""

import errno
import json
import os
import platform
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import detrnb
from detrnb.runs import lock as locks
from detrnb.runs import remove_left_over
from detrnb.runs.lock import STALE_AFTER, RunLock


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def _locks_that_tests_leave():
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def elsewhere(folder: Path, silent: float = 0.0) -> None:
    """Leave the lock of another host's process in a folder, last renewed so many seconds ago."""
    folder.mkdir()
    held = {"process": 7, "host": "gpu3", "started": "2026-01-01T00:00:00+00:00", "token": "theirs"}
    (folder / "lock.json").write_text(json.dumps({**held, "namespace": "", "life": "1"}))
    now = (folder / "lock.json").stat().st_mtime
    os.utime(folder / "lock.json", (now - silent, now - silent))


def start(code: str, folder: Path) -> subprocess.Popen:
    """Another process that holds the lock of a folder, and then does something."""
    begin = "import os, time\nfrom pathlib import Path\nfrom detrnb.runs import RunLock\n"
    begin += f"lock = RunLock(Path({str(folder)!r}))\nlock.acquire()\n"
    return subprocess.Popen(
        [sys.executable, "-c", begin + code],
        env=os.environ | {"PYTHONPATH": str(Path(detrnb.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_second_is_refused_and_told_who_holds_it_until_that_is_released(folder):
    first, second = RunLock(folder), RunLock(folder)
    first.acquire()
    who = f"is being trained by process {os.getpid()} on {platform.node()} since 20"
    with pytest.raises(ValueError, match=who):
        second.acquire()
    second.release()  # holds nothing, and so takes nothing away
    first.check()
    assert files(folder) == ["lock.json"]
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    first.release()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert files(folder) == []
    second.acquire()
    second.check()
    second.release()


def test_file_system_without_hard_links_has_a_lock_too(folder, monkeypatch):
    def unsupported(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    first = RunLock(folder)
    first.acquire()
    with pytest.raises(ValueError, match="is being trained by process"):
        RunLock(folder).acquire()
    first.check()
    first.release()
    assert files(folder) == []


def test_lock_of_a_process_that_is_gone_is_taken_over_at_once_and_said(folder, capsys):
    process = start("os._exit(0)", folder)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, though nobody waited for it
    lock = RunLock(folder)
    lock.acquire()
    lock.check()
    said = capsys.readouterr().out
    assert f"run: took over the lock of process {process.pid} on {platform.node()} since" in said
    assert "whose process is gone" in said
    lock.release()
    process.communicate()


def test_number_of_a_process_that_is_gone_may_be_another_ones_now(folder, capsys):
    process = start("os._exit(0)", folder)
    process.communicate()
    held = json.loads((folder / "lock.json").read_text())
    (folder / "lock.json").write_text(json.dumps(held | {"process": os.getpid()}))
    RunLock(folder).acquire()
    assert "whose process is gone" in capsys.readouterr().out


@pytest.mark.parametrize("silent, stale", [(STALE_AFTER - 60, False), (STALE_AFTER + 60, True)])
def test_lock_of_another_host_is_stale_when_it_was_not_renewed(folder, capsys, silent, stale):
    elsewhere(folder, silent)
    lock = RunLock(folder)
    if not stale:
        with pytest.raises(ValueError, match="process 7 on gpu3 since 2026-01-01"):
            lock.acquire()
        return
    lock.acquire()
    assert "which was not renewed for 6 minutes" in capsys.readouterr().out
    assert files(folder) == ["lock.json"]


def test_lock_is_renewed_while_it_is_held_and_never_another_ones(folder, monkeypatch):
    lock = RunLock(folder)
    lock.acquire()
    lock.release()
    waits = iter([False, True, False, True])
    monkeypatch.setattr(lock._released, "wait", lambda seconds: next(waits))
    elsewhere_file = folder / "lock.json"
    held = {"process": 1, "host": "", "started": "", "namespace": "", "token": "mine"}
    elsewhere_file.write_text(json.dumps(held))
    os.utime(elsewhere_file, (1, 1))
    lock._renew("mine")
    assert elsewhere_file.stat().st_mtime > 1
    os.utime(elsewhere_file, (1, 1))
    lock._renew("another")
    assert elsewhere_file.stat().st_mtime == 1


def test_of_two_that_find_a_lock_stale_the_slower_does_not_take_the_quickers(folder, monkeypatch):
    """The slower has decided, and only then the quicker takes over: its lock is not the stale."""
    elsewhere(folder, STALE_AFTER + 60)
    quicker, slower, decide = RunLock(folder), RunLock(folder), locks._is_gone

    def slow(held):
        monkeypatch.setattr(locks, "_is_gone", decide)
        quicker.acquire()
        return decide(held)

    monkeypatch.setattr(locks, "_is_gone", slow)
    with pytest.raises(ValueError, match=f"by process {os.getpid()} "):
        slower.acquire()
    quicker.check()


def test_of_many_that_race_for_a_stale_lock_one_gets_it(folder):
    elsewhere(folder, STALE_AFTER + 60)

    def attempt(lock: RunLock) -> bool:
        try:
            lock.acquire()
        except ValueError:
            return False
        return True

    several = [RunLock(folder) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, several))
    assert sum(won) == 1
    several[won.index(True)].check()
    assert files(folder) == ["lock.json"]


def test_process_that_lost_its_lock_finds_out_and_leaves_the_new_one(folder):
    """As one that was stopped for minutes and goes on."""
    stopped = RunLock(folder)
    stopped.acquire()
    now = (folder / "lock.json").stat().st_mtime
    os.utime(folder / "lock.json", (now - STALE_AFTER - 60,) * 2)
    new = RunLock(folder)
    new.acquire()
    with pytest.raises(ValueError, match=r"has lost its lock\.json, which process .* holds now"):
        stopped.check()
    stopped.release()
    new.check()
    (folder / "lock.json").unlink()
    with pytest.raises(ValueError, match=r"lock\.json, which is gone; it writes nothing more"):
        new.check()


def test_sigterm_ends_a_process_in_order(folder):
    code = "try:\n    print('held', flush=True)\n    time.sleep(60)\nfinally:\n    lock.release()\n"
    process = start(code, folder)
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert files(folder) == []


@pytest.mark.parametrize(
    "spoiled", ["", "[]", "1", '{"process": 7}', '{"qrocess": 7}', "\x80\x04."]
)
def test_lock_that_says_nobody_is_an_unknown_processs_until_it_is_stale(folder, spoiled, capsys):
    folder.mkdir()
    (folder / "lock.json").write_text(spoiled)
    with pytest.raises(ValueError, match="is being trained by an unknown process"):
        RunLock(folder).acquire()
    os.utime(folder / "lock.json", (1, 1))
    RunLock(folder).acquire()
    assert "took over the lock of an unknown process" in capsys.readouterr().out


@pytest.mark.parametrize("at", ["open", "write"])
def test_lock_is_given_back_where_a_full_disk_has_no_room_for_a_claim(folder, monkeypatch, at):
    lock = RunLock(folder)
    lock.acquire()
    opened = Path.open

    def no_room(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    def full(path, *given, **named):
        if path.suffix == ".claim" and at == "open":
            no_room()
        file = opened(path, *given, **named)
        if path.suffix == ".claim":
            file.write = no_room
        return file

    monkeypatch.setattr(Path, "open", full)
    lock.release()
    assert files(folder) == []


@pytest.mark.parametrize("instant", ["os.unlink", "os.replace"])
def test_process_killed_while_it_changes_a_lock_holds_up_nobody(folder, instant, capsys):
    """As it gives its own back, or takes over that of one that is gone."""
    begun = "os._exit(0)" if instant == "os.replace" else "pass"
    dies = f"{instant} = lambda *given, **named: os._exit(9) if 'lock.json' in str(given) else None"
    taken = start(begun, folder)
    taken.communicate()
    if instant == "os.unlink":
        start(f"{dies}; lock.release()", folder).communicate()
    else:
        code = "import os, sys; from pathlib import Path; from detrnb.runs import RunLock\n"
        code += f"{dies}\nRunLock(Path(sys.argv[1])).acquire()"
        environment = os.environ | {"PYTHONPATH": str(Path(detrnb.__file__).parents[1])}
        subprocess.run([sys.executable, "-c", code, str(folder)], env=environment)
    assert any(name.endswith(".claim") for name in files(folder))
    lock = RunLock(folder)
    lock.acquire()
    assert "whose process is gone" in capsys.readouterr().out
    lock.release()
    remove_left_over(folder)
    assert files(folder) == []


@pytest.mark.parametrize(
    "ends", ["os._exit(9)", "os.unlink = lambda *given: os._exit(9); lock.release()"]
)
def test_what_a_process_left_that_was_killed_at_its_end_is_removed(folder, ends):
    """Before it gave the lock back, or while it did."""
    start(ends, folder).wait()
    assert "lock.json" in files(folder)
    RunLock(folder).remove_dead()
    assert files(folder) == []


def test_lock_of_a_process_that_lives_is_not_removed(folder):
    held = RunLock(folder)
    held.acquire()
    RunLock(folder).remove_dead()
    held.check()
    held.release()


def test_lock_that_finds_no_room_is_named_and_leaves_nothing(folder, monkeypatch):
    def no_room(path, text):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", no_room)
    lock = RunLock(folder)
    with pytest.raises(OSError, match=r"lock\.json could not be written: No space"):
        lock.acquire()
    lock.release()
    assert files(folder) == []
