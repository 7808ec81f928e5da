"""A run of a study as a command, and what there is of it: where it trains, where it is kept."""

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detrnb.runs import (
    ABSENT,
    RunFolder,
    config_differences,
    copy_whole,
    is_over,
    project_root,
)
from detrnb.settings import Config
from detrnb.training import other_settings

HOME = "DETRNB_HOME"  # names the folder that runs/ and data/ of a process lie in


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        name: of its folder.
        config: its settings, as one process trains it.
        home: where it trains: data, features and runs of one replicate lie there.
        kept: where what a verdict needs of it goes.
        tested: whether it is evaluated on the split that nothing is tuned on; a trial is not.
        variants: files of a user's own that it needs.
    """

    name: str
    config: Config
    home: Path
    kept: RunFolder
    tested: bool = True
    variants: tuple[Path, ...] = ()

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.home / "runs" / self.name)

    @property
    def words(self) -> list[str]:
        """What is typed after `detrnb`."""
        config = self.config
        base = Config.preset(
            config.preset_name, variant=config.model.variant, seed=config.train.seed
        )
        stated = config_differences(base.model_dump(mode="json"), config.model_dump(mode="json"))
        settings = [
            f"{key}={json.dumps(value)}"
            for key, (_, value) in sorted(stated.items())
            if value != ABSENT  # such as an empty section that now has something in it
        ]
        words = ["train", "--preset", config.preset_name, "--variant", config.model.variant]
        words += ["--seed", str(config.train.seed), "--name", self.name]
        words += [word for file in self.variants for word in ("--variants", str(file))]
        return [*words, *["--test"] * self.tested, *settings]

    def shared_out(self, processes: int) -> "Job":
        """The same run by several processes: each takes a part of the images of a step.

        Raises:
            ValueError: they cannot be shared out.
        """
        train = self.config.train
        size, rest = divmod(train.batch_size, processes)
        if rest:
            raise ValueError(
                f"{self.name}: train.batch_size {train.batch_size} cannot be shared out among"
                f" {processes} GPUs, and a run takes as many images a step wherever it trains; take"
                " a number of GPUs that divides it"
            )
        train = train.model_copy(update={"batch_size": size})
        return replace(self, config=self.config.model_copy(update={"train": train}))

    def line(self, start: Sequence[str] = ("detrnb",)) -> str:
        """The command as a shell reads it.

        Args:
            start: what runs detrnb, such as `torchrun --nproc-per-node 2 -m detrnb`.
        """
        return f"{HOME}={shlex.quote(str(self.home))} {shlex.join([*start, *self.words])}"

    @property
    def is_kept(self) -> bool:
        """Whether what a verdict needs is there: of a finished run, or of one that diverged.

        Raises:
            ValueError: it is of another config.
        """
        if not self._is_done(self.kept):
            return False
        self._see_settings(self.kept)
        return True

    @property
    def has_failed(self) -> bool:
        """Whether it is kept as one that diverged."""
        return self.kept.failed_path.exists()

    @property
    def is_trained(self) -> bool:
        """Whether it has ended where it trains: finished, or diverged."""
        return self._is_done(self.run)

    def _is_done(self, folder: RunFolder) -> bool:
        if not folder.config_path.exists():
            return False
        if folder.failed_path.exists():
            return True
        if self.tested:
            return folder.test_path.exists()
        return is_over(folder.read_log(), folder.read_config()["train"])

    def _see_settings(self, folder: RunFolder) -> None:
        """See that what a folder holds was trained as stated.

        Raises:
            ValueError: it was not.
        """
        if differing := other_settings(folder, self.config, 1):
            raise ValueError(
                f"{folder.path} is of another config ({', '.join(differing)} differ); a study"
                " compares runs under equal conditions: delete the folder to train it anew"
            )

    def keep(self, study: Mapping[str, object]) -> None:
        """Copy what a verdict needs, what marks the run as ended last.

        Args:
            study: for its provenance: the plan's hash, entry and replicate.

        Raises:
            ValueError: it is not there, or of another config.
        """
        source, kept = self.run, self.kept
        if not source.config_path.exists():
            raise ValueError(f"{source.path} is not there: nothing to keep of it")
        self._see_settings(source)
        kept.path.mkdir(parents=True, exist_ok=True)
        _copy(kept, source.config_path, source.history_path)
        kept.write_provenance(source.read_provenance() | {"study": study})
        # Of a trial it is the log that marks it as ended.
        _copy(kept, source.log_path, source.test_path, source.failed_path)


def _copy(folder: RunFolder, *paths: Path) -> None:
    """Those that are there."""
    for path in paths:
        if path.exists():
            copy_whole(path, folder.path / path.name)  # another study may be reading


def home_of(study: str, replicate: int) -> Path:
    """Where the runs of a replicate train."""
    return project_root() / "runs" / study / str(replicate)


def clear(home: Path) -> None:
    """Remove a replicate's images, features and weights, some gigabytes; a run can be made again
    from its config. Of one that diverged the step that failed stays.
    """
    runs = [path for path in (home / "runs").glob("*") if not RunFolder(path).failed_path.exists()]
    for folder in (home / "data", *runs):
        shutil.rmtree(folder, ignore_errors=True)
