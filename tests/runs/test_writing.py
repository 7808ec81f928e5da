"""Writing: whole files or none, on the disk when it says so, and nothing left over."""

import errno
import os
import platform
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from detrnb.runs import writing
from detrnb.runs.folder import RunFolder
from detrnb.runs.writing import append_whole, copy_whole, remove_left_over, write_whole


def in_a_process(code: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="needs Linux file size limits")
def test_full_disk_names_the_file_and_keeps_what_was_there(tmp_path):
    """Whatever the writer makes of it: torch.save raises a RuntimeError of its own."""
    (tmp_path / "it").write_bytes(b"before")
    code = (
        "import resource, signal, sys, numpy, torch; from pathlib import Path\\n"
        "from detrnb.runs.writing import *\\n"
        "from detrnb.runs.writing import copy_whole\\n"
        "folder = Path(sys.argv[1]); (folder / 'large').write_bytes(bytes(300_000))\\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, -1))\\n"
        "large = numpy.zeros(100_000)\\n"
        "writers = [\\n"
        "    lambda path: write_whole(path, lambda f: torch.save(torch.from_numpy(large), f)),\\n"
        "    lambda path: write_whole(path, lambda f: numpy.savez(f, large)),\\n"
        "    lambda path: write_whole(path, lambda f: f.write(large.tobytes())),\\n"
        "    lambda path: copy_whole(folder / 'large', path),\\n"
        "    lambda path: append_whole(path, large.tobytes()),\\n"
        "]\\n"
        "for write in writers:\\n"
        "    try: write(folder / 'it')\\n"
        "    except OSError as error: print(error.errno, error)\\n"
    ).replace("\\n", "\n")
    done = in_a_process(code, tmp_path)
    said = done.stdout.splitlines()
    assert len(said) == 5, done.stderr
    for line in said:
        assert int(line.split()[0]) in (errno.EFBIG, errno.ENOSPC)
        assert f"{tmp_path / 'it'} could not be written: " in line
        assert "what was there stays. Make room on its disk" in line
    assert content_of(tmp_path) == {"it": b"before", "large": bytes(300_000)}


def test_error_that_is_no_disks_comes_through(tmp_path):
    def broken(file):
        file.write(b"half")
        raise RuntimeError("no number")

    with pytest.raises(RuntimeError, match="no number"):
        write_whole(tmp_path / "it", broken)
    assert content_of(tmp_path) == {}


def test_folder_that_must_not_be_written_names_the_file_and_a_way(tmp_path, monkeypatch):
    def refused(path, mode):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(writing, "_NotingFile", refused)
    with pytest.raises(PermissionError) as caught:
        write_whole(tmp_path / "it", lambda file: None)
    assert caught.value.errno == errno.EACCES
    assert str(caught.value).startswith(
        f"{tmp_path / 'it'} could not be written: Permission denied"
    )
    assert "allow writing there, or work on a copy elsewhere" in str(caught.value)


@pytest.mark.parametrize("write", ["whole", "copy", "append"])
def test_file_then_name_are_on_the_disk_when_writing_returns(write, tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace

    def noting(handle):
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    (tmp_path / "other").write_bytes(b"x")
    if write == "append":
        append_whole(tmp_path / "it", b"x")
    elif write == "copy":
        copy_whole(tmp_path / "other", tmp_path / "it")
    else:
        write_whole(tmp_path / "it", lambda file: file.write(b"x"))
    steps = ["file", "replace", "folder"]
    assert done == [step for step in steps if write != "append" or step != "replace"]
    assert (tmp_path / "it").read_bytes() == b"x"


def test_two_writers_of_one_name_never_mix(tmp_path):
    """The others, a process and a thread, write between this one's write and its replacing."""
    path = tmp_path / "it"
    other = "import sys; from pathlib import Path; from detrnb.runs.writing import write_whole\n"
    other += "write_whole(Path(sys.argv[1]) / 'it', lambda file: file.write(b'other'))"

    def slow(file):
        file.write(b"this")
        assert in_a_process(other, tmp_path).returncode == 0
        assert path.read_bytes() == b"other"
        write_whole(path, lambda file: file.write(b"a thread's"))
        assert path.read_bytes() == b"a thread's"

    write_whole(path, slow)
    assert content_of(tmp_path) == {"it": b"this"}


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    killed = (
        "import os, sys; from pathlib import Path; from detrnb.runs.writing import write_whole\n"
    )
    killed += "write_whole(Path(sys.argv[1]) / 'it', lambda file: (file.write(b'x'), os._exit(9)))"
    assert in_a_process(killed, tmp_path).returncode == 9
    (left_over,) = tmp_path.iterdir()
    assert left_over.suffix == ".tmp"
    here = f".it.{platform.node()}.{os.getpid()}.0.tmp"
    for name in (here, ".it.elsewhere.1.0.tmp", ".it.elsewhere.2.0.tmp", "last.tmp", "it", "tmp"):
        (tmp_path / name).write_bytes(b"x")
    for name in (".it.elsewhere.2.0.tmp", "last.tmp", "it"):
        os.utime(tmp_path / name, (1, 1))
    remove_left_over(tmp_path)
    assert content_of(tmp_path).keys() == {here, ".it.elsewhere.1.0.tmp", "it", "tmp"}
    remove_left_over(tmp_path / "absent")


def test_run_that_goes_on_is_cleaned_up(tmp_path):
    folder = RunFolder(tmp_path).create({})
    folder.log_path.write_text('{"epoch": 0}\n{"epo')
    (tmp_path / "last.tmp").write_bytes(b"x")
    os.utime(tmp_path / "last.tmp", (1, 1))
    folder.clean_up()
    assert folder.log_path.read_text() == '{"epoch": 0}\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "figures", "log.txt"]


@pytest.mark.parametrize("text", ['{"epoch": 0}', '{"epoch": 0}\n{"epo'])
def test_log_that_is_repaired_is_whole_at_any_time(text, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path).create({})
    folder.log_path.write_text(text)

    def dies(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            folder.repair_log()
    assert folder.log_path.read_text() == text
    folder.repair_log()
    assert folder.log_path.read_text() == '{"epoch": 0}\n'


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"text"])
def test_damaged_history_is_named_with_what_to_do(content, tmp_path):
    folder = RunFolder(tmp_path).create({})
    folder.history_path.write_bytes(content)
    with pytest.raises(ValueError, match=r"history\.npz is damaged; bring it back.*or delete it"):
        folder.append_history(1, {"gate": np.zeros(3)})
