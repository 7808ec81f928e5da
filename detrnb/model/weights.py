"""Weights into a model: of a run, of a file, or the reference's own by name."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detrnb.checkpoints import fetched, read_state
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
            built) or of queries (of which as many are taken as both have), or deleted from the
            weights on purpose (they stay as they were built).
        new: names of those that the weights lack because the variant adds them.
        classes: in the weights, None where their head was deleted, and in the model.
        queries: as `classes`.
        notes: how the tensors were found in the file, in words, where that was not plain.
    """

    origin: str
    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    new: tuple[str, ...]
    classes: tuple[int | None, int]
    queries: tuple[int | None, int]
    notes: tuple[str, ...] = ()

    @property
    def changes(self) -> tuple[str, ...]:
        """What is not as in the weights, in words; empty where all of the model is."""
        changes = []
        there, here = self.classes
        if there is None:
            changes.append(f"not in them, so new for {here} classes: {', '.join(_HEAD)}")
        elif there != here:
            changes.append(f"reset for {here} classes instead of {there}: {', '.join(_HEAD)}")
        there, here = self.queries
        if there is None:
            changes.append(f"not in them, so {here} new queries: {_QUERIES}")
        elif there != here:
            rest = f", {here - there} more are new" if here > there else ""
            changes.append(f"{_QUERIES}: the first {min(there, here)} of {there}{rest}")
        if self.new:
            changes.append(f"new to them: {', '.join(self.new)}")
        return tuple(changes)

    def __str__(self) -> str:
        count = len(self.loaded)
        loaded = f"weights of {self.origin}: {count} tensors loaded"
        return "\n".join((loaded, *self.notes, *self.changes))


def load_weights(model: DETR, origin: str | Path) -> LoadedWeights:
    """Load weights into a model: official ones, a run's, another checkpoint's, a state dict's.

    All tensors must be there in the model's shapes, with three exceptions. What a variant adds to
    DETR is new; one with `starts_as_detr` in the registry then computes what that DETR computes.
    The head stays as it was built where the number of classes differs, or where it was deleted from
    the weights, as fine-tuning recipes have it. Where the number of queries differs, the first are
    taken, as many as both have. Counters of batches, which frozen norms lack, are left out.

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
    state, notes = read_state(_file_of(str(origin)))
    ours = model.state_dict()
    state, left_out = _without_counters(state, ours)
    deleted = {n for part in (_HEAD, (_QUERIES,)) if not {*part} & state.keys() for n in part}
    adding = {  # modules all of whose own parameters are absent
        prefix: (module, names)
        for prefix, module, names in added_parameters(model)
        if not names & state.keys()
    }
    new = {name for _, names in adding.values() for name in names}
    adapted = deleted | {
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
        (None if name in deleted else len(state[name]) - no_object, len(ours[name]) - no_object)
        for name, no_object in ((_HEAD[0], 1), (_QUERIES, 0))
    )
    notes = (*notes, *left_out, *_converted(ours, state))
    for name in adapted - deleted:
        kept = min(queries) if name == _QUERIES else 0
        state[name] = torch.cat([state[name][:kept], ours[name][kept:].cpu()])
    state |= {name: ours[name] for name in deleted}
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
        notes,
    )


def _without_counters(
    theirs: dict[str, Tensor], ours: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights without what norms that train count and frozen ones lack; and that in words."""
    counters = {n for n in theirs.keys() - ours.keys() if n.endswith(".num_batches_tracked")}
    kept = {name: tensor for name, tensor in theirs.items() if name not in counters}
    what = f"left out: {len(counters)} num_batches_tracked, which frozen norms do without"
    return kept, [what] if counters else []


def _converted(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """That numbers are of another kind than the model's, in words."""
    pairs = {(theirs[n].dtype, x.dtype) for n, x in ours.items() if n in theirs}
    differing = sorted((pair for pair in pairs if pair[0] != pair[1]), key=str)
    return [f"{there} turned into {here}" for there, here in differing]


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
    """The file of official weights, as from `fetched`.

    Args:
        name: in `official.OFFICIAL`.
    """
    official = OFFICIAL[name]
    return fetched(name, official.url, official.sha256, official.megabytes)
