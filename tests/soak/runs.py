"""The toy trainings that drills break, by the command that a person types."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import nasty
import torch
from accelerate.state import AcceleratorState

import detrnb.training  # noqa: F401  that forks find it imported
from detrnb.commands import main
from detrnb.runs import RunFolder
from soak.forking import Child

# A tenth of a second an epoch, checkpoints of a megabyte; two steps an epoch, dropout, crops.
SMALLEST = {
    "model.backbone": "test_efficientnet",
    "model.d_model": 16,
    "model.num_heads": 2,
    "model.dim_feedforward": 16,
    "data.train_sizes": [32, 48],
    "data.eval_size": 32,
    "data.max_size": 64,
    "train.lr_backbone": 0.0,
}
VARIANTS = ("detr", "adaptive_res", "svd_split", "dn_dab")


def settings(**changes: object) -> dict[str, object]:
    """Dotted settings of the smallest run there is, over those of `nasty`; `__` for the dot."""
    plain = nasty.config().model_dump(mode="json", exclude_defaults=True)
    dotted = {f"{part}.{key}": value for part in plain for key, value in _section(plain, part)}
    return dotted | SMALLEST | {key.replace("__", "."): value for key, value in changes.items()}


def _section(plain: dict, part: str) -> list[tuple[str, object]]:
    return [*plain[part].items()] if isinstance(plain[part], dict) else []


def typed(name: str, variant: str = "detr", **changes: object) -> list[str]:
    """The command line of a run."""
    pairs = [f"{key}={json.dumps(value)}" for key, value in settings(**changes).items()]
    return ["train", "--preset", "coco", "--variant", variant, "--name", name, *pairs]


def train(project: Path, *line: str) -> Child:
    """Start `detrnb ...` in a project's folder."""
    return Child(lambda: main(list(line)), project)


def trained(project: Path, *line: str) -> Child:
    """A command that has ended."""
    child = train(project, *line)
    child.wait()
    return child


def outcome(project: Path, name: str) -> dict:
    """What must be equal of two equal runs, to the bit: log, times aside, weights, state, history.

    Raises:
        ValueError: something of it cannot be read.
    """
    folder = RunFolder(project / "runs" / name)
    lines = folder.read_log()
    return {
        "log": [{k: v for k, v in line.items() if not k.endswith("_time_s")} for line in lines],
        "last": torch.load(folder.last, weights_only=True),
        "best": torch.load(folder.best, weights_only=True),
        "thresholds": folder.read_thresholds(),
        "history": folder.read_history(),
        "left over": " ".join(p.name for p in folder.path.iterdir() if p.name.endswith(TRACES)),
    }


TRACES = (".tmp", ".claim", "lock.json")


def difference(ours: object, theirs: object, where: str = "") -> str:
    """Where two outcomes differ first, in words; empty where they do not."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if ours.keys() != theirs.keys():
            return f"{where}: {sorted(map(str, ours.keys() ^ theirs.keys()))[:3]} on one side only"
        told = (difference(ours[key], theirs[key], f"{where}.{key}") for key in ours if _lasts(key))
        return next(filter(None, told), "")
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        if len(ours) != len(theirs):
            return f"{where}: {len(ours)} and {len(theirs)} of them"
        pairs = enumerate(zip(ours, theirs, strict=True))
        told = (difference(a, b, f"{where}.{i}") for i, (a, b) in pairs)
        return next(filter(None, told), "")
    if hasattr(ours, "shape") and hasattr(theirs, "shape"):
        equal = torch.equal(
            torch.as_tensor(ours).nan_to_num(), torch.as_tensor(theirs).nan_to_num()
        )
        return "" if equal else f"{where} differs"
    same = ours == theirs or (ours != ours and theirs != theirs)
    return "" if same else f"{where}: {ours!r:.60} and {theirs!r:.60}"


def _lasts(key: object) -> bool:
    """Whether a value is the same in every equal run: no time is, nor what is made of times, nor
    the mark of a config that differs in who reads the images.
    """
    return not str(key).endswith(("_time_s", "log_before")) and key != "run"


def together(
    project: Path, count: int, line: list[str], before: Callable[[int], None] = lambda rank: None
) -> list[Child]:
    """Start processes that train one run, as torchrun does.

    Args:
        before: called in each with its number.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])

    def of(rank: int) -> Callable[[], int]:
        def do() -> int:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": port}
            os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
            os.environ["MASTER_ADDR"] = "127.0.0.1"
            # What the process that this is a fork of took itself for, if it did.
            AcceleratorState._reset_state(reset_partial_state=True)
            before(rank)
            return main(line)

        return do

    return [Child(of(rank), project) for rank in range(count)]
