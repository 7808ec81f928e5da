"""Runs on a cluster: an array job of SLURM's, a line each, that goes on where it was cut off."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detrnb.study.jobs import Job

PACKAGE_IN = Path(__file__).resolve().parents[2]
WARNING = 120  # seconds before a job's time is up at which it is queued again


@dataclass(frozen=True)
class Slurm:
    """What is asked of the cluster for each run.

    Attributes:
        name: of the array job; `judge` makes one where there is none.
        time: limit, as sbatch takes it; empty for the partition's.
        partition: empty for the cluster's own choice.
        gpus: of each run; several train it together under torchrun, and share out its batches.
        cpus: of each run.
    """

    name: str = ""
    time: str = ""
    partition: str = ""
    gpus: int = 0
    cpus: int = 1

    def lines(self, jobs: Sequence[Job]) -> list[str]:
        """A command a run, with this process's interpreter and code.

        Raises:
            ValueError: the GPUs cannot share out a run's batches.
        """
        start = [sys.executable, "-m", "detrnb"]
        if self.gpus > 1:
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            start = [*torchrun, "--nproc-per-node", str(self.gpus), "-m", "detrnb"]
        return [job.shared_out(max(1, self.gpus)).line(start) for job in jobs]

    def script(self, count: int, folder: Path) -> str:
        """The array job: a task reads its line, and is queued again when its time is up.

        `--requeue` has SLURM queue again what it preempts or loses with a node. A run goes on from
        its last epoch; its folder's lock keeps two tasks out of it.

        Args:
            count: of lines in `folder/lines`.
            folder: for what tasks say, which all nodes must see.
        """
        asked = {"time": self.time, "partition": self.partition, "cpus-per-task": str(self.cpus)}
        if self.gpus:
            asked["gres"] = f"gpu:{self.gpus}"
        options = [f"#SBATCH --{key}={value}" for key, value in asked.items() if value]
        paths = os.pathsep.join(filter(None, [str(PACKAGE_IN), os.environ.get("PYTHONPATH", "")]))
        return "\n".join(
            [
                "#!/bin/bash",
                f"#SBATCH --job-name={self.name}",
                f"#SBATCH --array=1-{count}",
                "#SBATCH --requeue",
                "#SBATCH --open-mode=append",
                f"#SBATCH --signal=B:USR1@{WARNING}",
                f"#SBATCH --output={folder}/%a.txt",
                *options,
                f"cd {shlex.quote(str(Path.cwd()))}",
                f"export PYTHONPATH={shlex.quote(paths)}",
                "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}",
                "again() {",
                '  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"',
                "}",
                "trap again USR1",
                f'line=$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {shlex.quote(str(folder / "lines"))})',
                'bash -c "exec env $line" &',
                "child=$!",
                'wait "$child"',
                'wait "$child"  # the first ends at the signal too',
                "",
            ]
        )

    def submit(self, jobs: Sequence[Job], folder: Path) -> str:
        """Write lines and script into a folder and hand them to sbatch; gives the job's number.

        Raises:
            ValueError: as for `lines`; there is no SLURM here, this study's jobs are queued
                already, or sbatch refuses.
        """
        if shutil.which("sbatch") is None:
            raise ValueError(
                "there is no sbatch here: run this on a machine that submits to SLURM, or take"
                " --list, a command a run, to whatever else distributes commands"
            )
        queued = _said(["squeue", "--me", "--noheader", "--name", self.name, "--format", "%i"])
        queued = queued.split()
        if queued:
            raise ValueError(
                f"jobs of {self.name} are queued or running ({', '.join(queued[:5])}): wait for"
                f" them, or scancel --me --name {self.name} first"
            )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lines").write_text("".join(f"{line}\n" for line in self.lines(jobs)))
        (folder / "job.sh").write_text(self.script(len(jobs), folder))
        return _said(["sbatch", "--parsable", str(folder / "job.sh")]).strip()


def _said(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{shlex.join(command)} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout
