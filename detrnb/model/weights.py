"""Weights into a model: of a run, of a file, or the reference's own by name."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detrnb.checkpoints import fetched, read_state
from detrnb.model.detr import DETR, added_parameters, assemble
from detrnb.model.hugging_face import fetched_from_hub, is_saved, read_saved
from detrnb.runs import RunFolder, project_root
from detrnb.settings import BASELINE, OFFICIAL

_HEAD = ("class_embed.weight", "class_embed.bias")
_QUERIES = "query_embed.weight"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")  # owner and name


def _alike(names: Iterable[str]) -> str:
    """Names in a line; those that differ in a number alone, such as of layers, are said once."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"\.\d+\.", ".*.", name), []).append(name)
    said = (each[0] if len(each) == 1 else f"{one} ({len(each)})" for one, each in groups.items())
    return ", ".join(said)


@dataclass(frozen=True)
class LoadedWeights:
    """What became of a model's tensors when weights were loaded; `str` says it in words.

    Attributes:
        origin: the weights, as they were named.
        loaded: names of the tensors taken as they are.
        adapted: names of those of another number of classes (the head, which then stays as it was
            built) or of queries (of which as many are taken as both have), or deleted from the
            weights on purpose (they stay as they were built).
        new: names of those that the weights lack because the variant adds them, or has in another
            shape.
        left: names of the weights' tensors that the variant has no use for.
        classes: in the weights, None where their head was deleted, and in the model. Of a variant
            without no-object they are logits.
        queries: as `classes`; None where the variant's queries are of another kind.
        notes: how the tensors were found in the file, in words, where that was not plain.
    """

    origin: str
    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]
    classes: tuple[int | None, int]
    queries: tuple[int | None, int] | None
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
        there, here = self.queries or (0, 0)
        if there is None:
            changes.append(f"not in them, so {here} new queries: {_QUERIES}")
        elif there != here:
            rest = f", {here - there} more are new" if here > there else ""
            changes.append(f"{_QUERIES}: the first {min(there, here)} of {there}{rest}")
        if self.new:
            changes.append(f"new to them: {_alike(self.new)}")
        if self.left:
            changes.append(f"left out of them: {_alike(self.left)}")
        return tuple(changes)

    def __str__(self) -> str:
        count = len(self.loaded)
        loaded = f"weights of {self.origin}: {count} tensors loaded"
        return "\n".join((loaded, *self.notes, *self.changes))


def load_weights(model: DETR, origin: str | Path, content: object = None) -> LoadedWeights:
    """Load weights into a model: official ones, a run's, another checkpoint's, a state dict's.

    All tensors must be there in the model's shapes, with exceptions. Weights of DETR load into any
    variant by name and shape: what it adds is new, what it has no use for is left; one with
    `starts_as_detr` in the registry then computes what that DETR computes. The head stays as it was
    built where the number of classes differs, or where it was deleted from the weights, as
    fine-tuning recipes have it. Where the number of queries differs, the first are taken, as many
    as both have. Counters of batches, which frozen norms lack, are left out.

    Args:
        origin: a name in `official.OFFICIAL`; the path of a run folder (its best epoch), of a
            folder that transformers saved, or of a file, from the project's folder; or the name of
            a model of Hugging Face's hub, such as `facebook/detr-resnet-50`.
        content: of the file, where it was read before.

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
    state, notes = _read(model, _place_of(str(origin)), content)
    ours = model.state_dict()
    state, left_out = _without_counters(state, ours)
    adding = {  # modules all of whose own parameters are absent
        prefix: (module, names)
        for prefix, module, names in added_parameters(model)
        if not names & state.keys()
    }
    new, left = _beside_detr(model, ours, state)
    new |= {name for _, names in adding.values() for name in names}
    state = {name: tensor for name, tensor in state.items() if name not in left}
    heads = [part for part in (_HEAD, (_QUERIES,)) if {*part} <= ours.keys() - new]
    deleted = {n for part in heads if not {*part} & state.keys() for n in part}
    adapted = deleted | {
        name
        for part in heads
        for name in part
        if name in state and _differ_in_number_only(ours[name], state[name])
    }
    faults = _faults(ours, state, new | adapted)
    if faults:
        settings = f": {official.settings_text()}" if official else ""
        raise ValueError(
            f"the weights {origin} do not fit this model: {'; '.join(faults)}. Build it from the"
            f" settings that they were trained with{settings}"
        )
    loaded = tuple(name for name in ours if name not in new | adapted)
    if not any(name.startswith("transformer.") for name in loaded):
        raise ValueError(f"the weights {origin} fit nothing of this model's transformer")
    no_object = len(ours[_HEAD[0]]) - model.settings.num_classes
    classes, queries = (
        (None if name in deleted else len(state[name]) - less, len(ours[name]) - less)
        if {name} <= ours.keys() - new
        else None
        for name, less in ((_HEAD[0], no_object), (_QUERIES, 0))
    )
    notes = (*notes, *left_out, *_converted(ours, state))
    for name in adapted - deleted:
        kept = min(queries) if name == _QUERIES else 0
        state[name] = torch.cat([state[name][:kept], ours[name][kept:].cpu()])
    state = {**{name: ours[name] for name in deleted | new}, **state}
    for prefix, (module, _) in adding.items():
        module.start_as_detr(state, prefix)
    model.load_state_dict(state)
    return LoadedWeights(
        str(origin),
        loaded,
        tuple(name for name in ours if name in adapted),
        tuple(name for name in ours if name in new),
        tuple(sorted(left)),
        classes,
        queries,
        notes,
    )


def _beside_detr(
    model: DETR, ours: dict[str, Tensor], theirs: dict[str, Tensor]
) -> tuple[set[str], set[str]]:
    """Of weights of DETR: what the model's variant has that they lack, and what it lacks.

    Both are empty where the weights hold anything of the variant's own: then they are its, and all
    must fit.
    """
    if model.settings.variant == BASELINE:
        return set(), set()
    plain = {"variant": BASELINE, "options": {}}
    with torch.device("meta"):
        detr = assemble(model.settings.model_copy(update=plain), False).state_dict()
    if (ours.keys() - detr.keys()) & theirs.keys():
        return set(), set()
    other = {
        name
        for name in ours.keys() & detr.keys() & theirs.keys()
        if ours[name].shape != detr[name].shape == theirs[name].shape and name not in _HEAD
    }
    return (ours.keys() - detr.keys()) | other, (theirs.keys() & detr.keys() - ours.keys()) | other


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


def _read(model: DETR, place: Path, content: object) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors at a place by our names, and what there is to say about them."""
    if place.is_dir():
        body = model.backbone[0].body
        saved = read_saved(place, model.settings, body.mean, body.std)
        return saved.state, saved.notes
    return read_state(place, content)


def _place_of(origin: str) -> Path:
    """The file that weights are in, or a folder that transformers saved."""
    if origin in OFFICIAL:
        return official_file(origin)
    path = project_root() / Path(origin).expanduser()
    if path.is_dir() and is_saved(path):
        return path
    if not path.exists() and _HUB_NAME.fullmatch(origin) and not path.parent.is_dir():
        return fetched_from_hub(origin)
    path = RunFolder(path).best if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"no weights at {path}: expected a checkpoint such as a run's best.pt, a run folder, a"
            f" folder saved by transformers, or one of {', '.join(OFFICIAL)}"
        )
    return path


def official_file(name: str) -> Path:
    """The file of official weights, as from `fetched`.

    Args:
        name: in `official.OFFICIAL`.
    """
    official = OFFICIAL[name]
    return fetched(name, official.url, official.sha256, official.megabytes)
