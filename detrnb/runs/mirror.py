"""A second copy of a run folder, for machines that are taken away: on Colab, Google Drive.

Where Drive is mounted, each run is copied to `MyDrive/detrnb/runs/<name>/` after each epoch, with
all that its folder holds but the lock and what is half written, and `fit` brings a folder back from
there that is gone, so that a new machine goes on where the old one was cut off. The environment
variable DETRNB_MIRROR names another folder; empty, it switches this off.
"""

import os
import shutil
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from detrnb.runs.folder import RunFolder
from detrnb.runs.seal import identity, of_two_runs
from detrnb.runs.writing import copy_whole, remove_left_over

DRIVE = Path("/content/drive/MyDrive")
PASSING = ("*.tmp", "lock.json", ".lock.*.claim")  # of one machine's processes


def mirror_of(folder: RunFolder) -> Path | None:
    """Where the copy of a run folder is or would be; None where there is no place for one."""
    return _copy_at(folder.path.name, folder.path)


def copy_of(path: Path) -> Path | None:
    """Where the copy of a file in a folder of runs/ that is no run is or would be."""
    return _copy_at(f"{path.parent.name}/{path.name}", path)


def _copy_at(name: str, path: Path) -> Path | None:
    """A place among the copies, unless that is the path itself."""
    chosen = os.environ.get("DETRNB_MIRROR")
    if chosen is None:
        chosen = DRIVE / "detrnb" / "runs" if DRIVE.is_dir() else ""
    if not str(chosen):
        return None
    copy = Path(chosen).expanduser() / name
    return None if copy.resolve() == path.resolve() else copy


def keep_copy(path: Path) -> None:
    """Copy such a file, a judgement's plan, to where runs are copied; a failure is said."""
    copy = copy_of(path)
    if copy is not None:
        try:
            copy_whole(path, copy)
        except OSError as error:
            print(f"{path} was not copied to {copy}: {error}", flush=True)


def bring_back_file(path: Path) -> None:
    """Fetch such a file that is gone from its copy, if there is one, and say so."""
    copy = copy_of(path)
    if copy is not None and copy.exists() and not path.exists():
        copy_whole(copy, path)
        print(
            f"{path.name}: brought back from {copy}; whoever deleted it to begin anew deletes"
            " that copy too",
            flush=True,
        )


def bring_back(folder: RunFolder, resume: str = "auto") -> None:
    """Fetch a run folder that is gone from its copy, if there is one, and say so.

    Whether a machine was taken away or somebody deleted the folder cannot be told.

    Args:
        resume: `never` where only a new run is wanted.

    Raises:
        ValueError: the folder is gone and its copy not wanted, it is behind its copy, or the copy
            is of another run.
    """
    copy = mirror_of(folder)
    if copy is None or not RunFolder(copy).config_path.exists():
        return
    if of_two_runs(folder.identity, identity(copy)):
        raise ValueError(
            f"{copy} is the copy of another run of this name than {folder.path}, of other settings:"
            " give this run another name, or move one of the two folders away"
        )
    if not folder.path.exists() and resume == "never":
        raise ValueError(
            f"{folder.path} is gone, but its copy {copy} holds this run and resume is 'never';"
            " delete the copy too to start over, give another name, or resume='auto' to go on"
        )
    if folder.path.exists():
        here, there = len(folder.read_log()), len(RunFolder(copy).read_log())
        if here < there:
            raise ValueError(
                f"{folder.path} holds {here} epochs, its copy {copy} holds {there}: delete the"
                " folder to go on from the copy, or the copy to go on from the folder"
            )
        return
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.path.name}-", dir=folder.path.parent) as new:
        passing = shutil.ignore_patterns(*PASSING)
        whole = shutil.copytree(copy, Path(new) / "run", ignore=passing)
        try:
            os.replace(whole, folder.path)
        except OSError:
            if not folder.path.exists():  # else another process was quicker
                raise
    print(
        f"{folder.path.name}: brought back from {copy}, as far as epoch"
        f" {len(folder.read_log())}; whoever deleted the run to be rid of it deletes that copy too",
        flush=True,
    )


class Mirror:
    """Keeps the copy of one run folder up to date; one that is another run's it leaves alone."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.copy = folder, mirror_of(folder)
        if self.copy is not None and of_two_runs(folder.identity, identity(self.copy)):
            print(f"{folder.path.name} is not copied: {self.copy} is of another run", flush=True)
            self.copy = None
        self._copied: dict[Path, tuple[int, int]] = {}  # size and time of change

    def update(self) -> None:
        """Copy the files that changed, each wholly or not at all.

        A copy that fails is tried again after the next epoch: training does not depend on it.
        """
        if self.copy is None:
            return
        try:
            self.copy.mkdir(parents=True, exist_ok=True)
            files = self._files()
            for folder in {self.copy, *(self._place(path).parent for path in files)}:
                remove_left_over(folder)
            for path in (self.folder.failed_path, self.folder.nonfinite):
                if path not in files:  # a new try took it back
                    self._place(path).unlink(missing_ok=True)
            for path in files:
                self._update(path)
        except OSError as error:
            print(f"{self.folder.path.name} was not copied to {self.copy}: {error}", flush=True)

    def _files(self) -> list[Path]:
        """All that the folder holds and that does not pass.

        First what a run goes on from: a copy cut short is no run without its variants' source, and
        lacks an epoch's line of the log at most. Then the rest.
        """
        run = self.folder
        first = (
            *sorted(run.variants.glob("*")),
            run.config_path,
            run.provenance_path,
            run.history_path,
            run.last,
            run.best,
            run.log_path,
        )
        rest = sorted(set(run.path.rglob("*")).difference(first))
        return [
            path
            for path in (*first, *rest)
            if path.is_file() and not any(fnmatch(path.name, passing) for passing in PASSING)
        ]

    def _place(self, path: Path) -> Path:
        """Where the copy of one of the folder's files is."""
        return self.copy / path.relative_to(self.folder.path)

    def _update(self, path: Path) -> None:
        state = path.stat()
        stamp = state.st_size, state.st_mtime_ns
        if self._copied.get(path) == stamp:
            return
        copy_whole(path, self._place(path))
        self._copied[path] = stamp
