"""Runs on this machine, one after the other or several at a time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from types import MappingProxyType

import torch

from detrnb.runs import cpu_count
from detrnb.settings import Config
from detrnb.study.jobs import HOME, Job
from detrnb.training import duration, make_data

GRACE = 10  # seconds that a child takes to end in order


def run_here(jobs: Sequence[Job], workers: int, done: Callable[[Job], None]) -> dict[str, str]:
    """Train jobs, each in a process of its own, so that the peak of memory it reports is its own.

    Several share out the processor's threads and take GPUs in turn. Data and features of a
    replicate are then made before its first run, so that they are made once.

    Args:
        workers: jobs at a time.
        done: called after each that ended as it should, or diverged; never twice at a time. What it
            refuses with a ValueError ended otherwise.

    Returns:
        By name, why those did that ended otherwise; what they said stands above, or in their file.
    """
    machine, begin = _Machine(workers), time.monotonic()
    failed: dict[str, str] = {}
    lock = Lock()

    def say(text: str) -> None:
        with lock:  # print writes a line and its end apart
            print(text, flush=True)

    def one(job: Job) -> None:
        with machine.place() as environment:
            if workers > 1:
                machine.prepare(job, environment)
            say(f"{job.name} begins")
            code = _process(job, environment, alone=workers == 1)
        with lock:
            try:
                if job.is_trained:
                    done(job)
                else:
                    said = "" if workers == 1 else f", see {_said_in(job)}"
                    failed[job.name] = f"exit code {code}{said}"
            except ValueError as error:
                failed[job.name] = str(error)

    with ThreadPoolExecutor(workers) as pool:
        tasks = {pool.submit(one, job): job for job in jobs}
        try:
            for number, task in enumerate(as_completed(tasks), start=1):
                task.result()
                left = (time.monotonic() - begin) / number * (len(jobs) - number)
                about = f", about {duration(left)} left" if number < len(jobs) else ""
                say(f"{tasks[task].name}: {number} of {len(jobs)} ended{about}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return failed


class _Machine:
    """What runs at a time share out: threads, GPUs, and the making of a replicate's data."""

    def __init__(self, workers: int) -> None:
        self.threads = max(1, int(os.environ.get("OMP_NUM_THREADS", cpu_count() or 1)) // workers)
        self.workers, self.places = workers, SimpleQueue()
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
        for number in range(workers):
            self.places.put(gpus[number % len(gpus)] if gpus else None)
        self.made: dict[Path, Lock] = {}
        self.ready: set[Path] = set()
        self.lock = Lock()

    @contextmanager
    def place(self) -> Iterator[dict[str, str]]:
        """A place to run in: environment variables of a run."""
        gpu = self.places.get()
        try:
            environment = {} if self.workers == 1 else {"OMP_NUM_THREADS": str(self.threads)}
            yield environment | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu and self.workers > 1 else {})
        finally:
            self.places.put(gpu)

    def prepare(self, job: Job, environment: dict[str, str]) -> None:
        """Make the data and features that a job shares with others of its home, on its GPU."""
        with self.lock:
            making = self.made.setdefault(job.home, Lock())
        with making:
            if job.home not in self.ready:
                in_process(job.home, make_data, job.config, environment=environment)
                self.ready.add(job.home)


def _process(job: Job, environment: dict[str, str], *, alone: bool) -> int:
    """Train one job; gives the exit code. Of several, each writes to a file of its own."""
    command = [sys.executable, "-m", "detrnb.commands.tied", *job.words]
    environment = os.environ | environment | {HOME: str(job.home)}
    job.home.mkdir(parents=True, exist_ok=True)
    with open(os.devnull if alone else _said_in(job), "a") as file:
        said = None if alone else file
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=said, stderr=said
        )
        try:
            return child.wait()
        finally:  # standard input ends with this process, whatever ends it
            child.stdin.close()
            child.wait()


def _said_in(job: Job) -> Path:
    """The file of what a job says that is one of several at a time."""
    return job.home / f"{job.name}.txt"


def in_process(
    home: Path,
    compute: Callable[..., object],
    *arguments: Config | int,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> object:
    """What a function gives in a process of its own, whose data and runs lie in a home."""
    changed = {**environment, HOME: str(home)}
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=_begin, initargs=(changed,)
    ) as pool:
        return pool.submit(compute, *arguments).result()


def _begin(environment: dict[str, str]) -> None:
    """Where a child's runs and data lie; it ends with its parent, however that ends."""
    os.environ.update(environment)

    def wait() -> None:
        connection.wait([parent_process().sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)  # the pool's loop goes on after what SIGTERM raises

    Thread(target=wait, daemon=True).start()
