"""Weights into a model: of a run, of a file, or the reference's own by name."""

import argparse
import hashlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from detrnb.model.detr import DETR, added_parameters
from detrnb.runs import RunFolder, project_root
from detrnb.settings import OFFICIAL

_HEAD = ("class_embed.weight", "class_embed.bias")
_QUERIES = "query_embed.weight"


@dataclass(frozen=True)
class LoadedWeights:
    """What became of a model's tensors when weights were loaded; `str` says it in words.

    Attributes:
        origin: the weights, as they were named.
        loaded: names of the tensors taken as they are.
        adapted: names of those of another number of classes (the head, which then stays as it was
            built) or of queries (of which as many are taken as both have).
        new: names of those that the weights lack because the variant adds them.
        classes: in the weights and in the model.
        queries: in the weights and in the model.
    """

    origin: str
    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    new: tuple[str, ...]
    classes: tuple[int, int]
    queries: tuple[int, int]

    @property
    def changes(self) -> tuple[str, ...]:
        """What is not as in the weights, in words; empty where all of the model is."""
        changes = []
        there, here = self.classes
        if there != here:
            changes.append(f"reset for {here} classes instead of {there}: {', '.join(_HEAD)}")
        there, here = self.queries
        if there != here:
            rest = f", {here - there} more are new" if here > there else ""
            changes.append(f"{_QUERIES}: the first {min(there, here)} of {there}{rest}")
        if self.new:
            changes.append(f"new to them: {', '.join(self.new)}")
        return tuple(changes)

    def __str__(self) -> str:
        count = len(self.loaded)
        return "\n".join((f"weights of {self.origin}: {count} tensors loaded", *self.changes))


def load_weights(model: DETR, origin: str | Path) -> LoadedWeights:
    """Load weights into a model: official ones, a run's, another checkpoint's, a state dict's.

    All tensors must be there in the model's shapes, with three exceptions. What a variant adds to
    DETR is new; one with `starts_as_detr` in the registry then computes what that DETR computes.
    The head stays as it was built where the number of classes differs. Where the number of queries
    differs, the first are taken, as many as both have.

    Args:
        origin: a name in `official.OFFICIAL`, or the path of a run folder (its best epoch) or a
            file, from the project's folder.

    Raises:
        ValueError: they cannot be had, or do not fit the model; names the first few tensors.
    """
    official = OFFICIAL.get(str(origin))
    # Dilation changes what is computed, but no tensor's shape.
    if official and model.backbone[0].body.stride != official.settings["stride"]:
        raise ValueError(
            f"the weights {origin} are of {official.settings_text()}; this model has stride"
            f" {model.backbone[0].body.stride}"
        )
    state, ours = _read_state(_file_of(str(origin))), model.state_dict()
    adding = {  # modules all of whose own parameters are absent
        prefix: (module, names)
        for prefix, module, names in added_parameters(model)
        if not names & state.keys()
    }
    new = {name for _, names in adding.values() for name in names}
    adapted = {
        name
        for name in (*_HEAD, _QUERIES)
        if name in state and _differ_in_number_only(ours[name], state[name])
    }
    faults = _faults(ours, state, new | adapted)
    if faults:
        settings = f": {official.settings_text()}" if official else ""
        raise ValueError(
            f"the weights {origin} do not fit this model: {'; '.join(faults)}. Build it from the"
            f" settings that they were trained with{settings}"
        )
    classes, queries = (
        (len(state[name]) - no_object, len(ours[name]) - no_object)
        for name, no_object in ((_HEAD[0], 1), (_QUERIES, 0))
    )
    for name in adapted:
        kept = min(queries) if name == _QUERIES else 0
        state[name] = torch.cat([state[name][:kept], ours[name][kept:].cpu()])
    for prefix, (module, _) in adding.items():
        module.start_as_detr(state, prefix)
    model.load_state_dict(state)
    return LoadedWeights(
        str(origin),
        tuple(name for name in ours if name not in new | adapted),
        tuple(name for name in ours if name in adapted),
        tuple(name for name in ours if name in new),
        classes,
        queries,
    )


def _differ_in_number_only(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape[:1] != theirs.shape[:1] and ours.shape[1:] == theirs.shape[1:]


def _faults(ours: dict[str, Tensor], theirs: dict[str, Tensor], excepted: set[str]) -> list[str]:
    """Why tensors do not fit, each reason with its first few names."""
    kinds = {
        "missing": ours.keys() - theirs.keys() - excepted,
        "not in this model": theirs.keys() - ours.keys(),
        "of another shape": {
            f"{name} {tuple(theirs[name].shape)} where the model has {tuple(tensor.shape)}"
            for name, tensor in ours.items()
            if name not in excepted and name in theirs and theirs[name].shape != tensor.shape
        },
    }
    return [
        f"{len(names)} {kind}, such as {', '.join(sorted(names)[:3])}"
        for kind, names in kinds.items()
        if names
    ]


def _file_of(origin: str) -> Path:
    """The file that weights are in."""
    if origin in OFFICIAL:
        return official_file(origin)
    path = project_root() / Path(origin).expanduser()
    path = RunFolder(path).best if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"no weights at {path}: expected a checkpoint such as a run's best.pt, a run folder, or"
            f" one of {', '.join(OFFICIAL)}"
        )
    return path


def official_file(name: str) -> Path:
    """The file of official weights, downloaded where it is not there yet.

    It lies where torch.hub keeps checkpoints, as the reference's own code has it; the first digits
    of its SHA-256 are checked either way.

    Args:
        name: in `official.OFFICIAL`.

    Raises:
        ValueError: it cannot be had, or is another file.
    """
    official = OFFICIAL[name]
    path = Path(torch.hub.get_dir()) / "checkpoints" / official.url.rpartition("/")[2]
    if not path.exists():
        print(f"{name}: downloading {official.megabytes} MB, once, to {path}", flush=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(official.url, str(path), official.sha256, progress=False)
        except (OSError, HTTPException, RuntimeError) as error:
            raise ValueError(
                f"{name} could not be downloaded ({error}). Fetch {official.url} elsewhere and put"
                f" it at {path}, or give the path of your copy instead of the name"
            ) from error
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()[: len(official.sha256)]
    if found != official.sha256:
        raise ValueError(
            f"{path} is not {name}: its SHA-256 begins {found}, expected {official.sha256}; delete"
            f" it, and it is downloaded again from {official.url}"
        )
    return path


def _read_state(path: Path) -> dict[str, Tensor]:
    """The tensors in a file by name."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # The reference's own checkpoints hold the arguments that it was started with.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on bytes that are no checkpoint the readers fail in many ways
        raise ValueError(
            f"{path} cannot be read as weights ({str(error).partition(chr(10))[0]}); expected a"
            " dict of tensors saved by torch.save, without other Python objects, or a .safetensors"
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        raise ValueError(
            f"{path} holds no weights; expected a dict of tensors by name, or a checkpoint with one"
            " under 'model'"
        )
    return dict(state)
