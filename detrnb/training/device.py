"""Where a model runs: device, precision, processes, memory."""

import copy
import math
import os
import pickle
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list

T = TypeVar("T")
# While the main process makes features or copies a run, the others wait; nccl's own limit, after
# which it ends all of them, is ten minutes.
PATIENCE = timedelta(hours=6)


def processes() -> PartialState:
    """This process among those that `torchrun` or accelerate's `notebook_launcher` started."""
    # Without a CUDA device they run on the processor, which accelerate must be told: it would else
    # take each for the only one.
    launched = "LOCAL_RANK" in os.environ
    return PartialState(cpu=launched and not torch.cuda.is_available(), timeout=PATIENCE)


def default_device() -> torch.device:
    """Where to run: a GPU where there is one. Nothing else in the package chooses a device."""
    return processes().device


def from_main(compute: Callable[[], T]) -> T:
    """What a function gives in the main process, in all of them, and so what it raises.

    The other processes wait, and do not call it.
    """
    here = processes()
    if here.num_processes == 1:
        return compute()
    outcome: list = [None, None]
    if here.is_main_process:
        try:
            outcome[0] = compute()
        except Exception as error:
            outcome[1] = _portable(error)
    result, error = broadcast_object_list(outcome)
    if error is not None:
        raise error
    return result


def sum_over_hosts(number: int) -> int:
    """Sum of a number over processes, in all of them; no device is waited for."""
    if processes().num_processes == 1:
        return number
    told = torch.tensor(number)
    torch.distributed.all_reduce(told, group=_hosts())
    return int(told)


@cache
def _hosts() -> torch.distributed.ProcessGroup:
    """All processes, joined by their hosts whatever joins their devices."""
    try:
        return torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
    except RuntimeError as error:
        raise ValueError(
            f"processes of several machines cannot reach each other by their names ({error}); name"
            " the network's interface, as `ip address` shows it, in GLOO_SOCKET_IFNAME on each"
        ) from error


def _portable(error: Exception) -> Exception:
    """An error as other processes can be given it: itself, or its words where it does not pickle.

    One that does not would leave the others with an error of pickle's, or waiting.
    """
    try:
        pickle.dumps(error)
        copy.copy(error)  # makes it anew, as the process that receives it does
    except Exception:
        return ValueError(f"{type(error).__name__}: {error}")
    return error


def make_accelerator(precision: str) -> Accelerator:
    """The default device with a precision, for all processes of a run.

    `auto` is bf16 where a CUDA device computes in it, fp16 on other CUDA devices (a T4 only
    emulates bf16), and fp32 on processors, whatever they offer: one with bf16 would give other
    results than its neighbour without. A processor has no fp16 to train in: asked for it, it
    computes in fp32, and that is said.
    """
    if precision == "auto":
        precision = "fp32"
        if torch.cuda.is_available():
            native = torch.cuda.is_bf16_supported(including_emulation=False)
            precision = "bf16" if native else "fp16"
    if precision == "fp16" and default_device().type == "cpu":
        # accelerate would compute so too, and call it fp16.
        precision = "fp32"
        if processes().is_main_process:
            print("fp16 is of GPUs: this processor computes in fp32", flush=True)
    # accelerate keeps one state a process and refuses another precision; a notebook may want it.
    AcceleratorState._reset_state()
    processes()
    return Accelerator(mixed_precision="no" if precision == "fp32" else precision)


def peak_memory_mb(device: torch.device) -> float:
    """Peak of this process so far, or since `begin_peak_memory`: allocated on a CUDA device, else
    resident, in MiB.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with suppress(OSError, IndexError):
        # On Linux getrusage tells what the process took that started this one, where it took more.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def begin_peak_memory(device: torch.device) -> None:
    """What `peak_memory_mb` tells begins anew, where the system can: on CUDA, on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Seconds that one call takes, all of the device's work included."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def peak_memory_of(function: Callable[[], object], device: torch.device) -> float:
    """Most memory that tensors take while a function runs, beyond what is taken before, in MiB.

    NaN on devices that do not tell, that is, all but CUDA and the CPU.
    """
    if device.type not in ("cpu", "cuda"):
        return math.nan
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler announces itself
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        function()
    changes = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    taken = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        taken += change.nbytes()
        peak = max(peak, taken)
    return peak / 2**20


def device_name(device: torch.device) -> str:
    """What a person calls a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
