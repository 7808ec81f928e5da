"""A second copy of a run folder, for machines that are taken away: on Colab, Google Drive.

Where Drive is mounted, each run is copied to `MyDrive/detrnb/runs/<name>/` after each epoch, and
`fit` brings a folder back from there that is gone, so that a new machine goes on where the old one
was cut off. The environment variable DETRNB_MIRROR names another folder; empty, it switches this
off.
"""

import os
import shutil
import tempfile
from pathlib import Path

from detrnb.runs.folder import RunFolder
from detrnb.runs.writing import copy_whole, remove_left_over

DRIVE = Path("/content/drive/MyDrive")


def mirror_of(folder: RunFolder) -> Path | None:
    """Where the copy of a run folder is or would be; None where there is no place for one."""
    chosen = os.environ.get("DETRNB_MIRROR")
    if chosen is None:
        chosen = DRIVE / "detrnb" / "runs" if DRIVE.is_dir() else ""
    if not str(chosen):
        return None
    copy = Path(chosen).expanduser() / folder.path.name
    return None if copy.resolve() == folder.path.resolve() else copy


def bring_back(folder: RunFolder, resume: str = "auto") -> None:
    """Fetch a run folder that is gone from its copy, if there is one, and say so.

    Whether a machine was taken away or somebody deleted the folder cannot be told.

    Args:
        resume: `never` where only a new run is wanted.

    Raises:
        ValueError: the folder is gone and its copy not wanted, or it is behind its copy.
    """
    copy = mirror_of(folder)
    if copy is None or not RunFolder(copy).config_path.exists():
        return
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
        unfinished = shutil.ignore_patterns("*.tmp", "lock.json")
        whole = shutil.copytree(copy, Path(new) / "run", ignore=unfinished)
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
    """Keeps the copy of one run folder up to date."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.copy = folder, mirror_of(folder)
        self._copied: dict[Path, tuple[int, int]] = {}  # size and time of change

    def update(self) -> None:
        """Copy the files that changed, each wholly or not at all.

        A copy that fails is tried again after the next epoch: training does not depend on it.
        """
        if self.copy is None:
            return
        try:
            self.copy.mkdir(parents=True, exist_ok=True)
            remove_left_over(self.copy)
            for path in self._files():
                self._update(path)
        except OSError as error:
            print(f"{self.folder.path.name} was not copied to {self.copy}: {error}", flush=True)

    def _files(self) -> list[Path]:
        """What makes a run, the log last: a copy cut short then lacks an epoch's line at most."""
        run = self.folder
        return [
            path
            for path in (
                run.config_path,
                run.provenance_path,
                run.history_path,
                run.last,
                run.best,
                run.log_path,
            )
            if path.exists()
        ]

    def _update(self, path: Path) -> None:
        state = path.stat()
        stamp = state.st_size, state.st_mtime_ns
        if self._copied.get(path) == stamp:
            return
        copy_whole(path, self.copy / path.name)
        self._copied[path] = stamp
