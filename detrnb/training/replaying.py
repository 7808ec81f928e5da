"""A step that gave NaN or infinity, made again from the file that the run kept of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from detrnb.checkpoints import read_checkpoint
from detrnb.datasets import Batch
from detrnb.loss import NonFiniteError
from detrnb.model import DETR, build_criterion, build_detr
from detrnb.settings import Config
from detrnb.training.device import default_device, device_name, make_accelerator
from detrnb.training.loop import forward

_KEPT = {"config", "model", "batches", "training", "random", "normalizers"}
_KEPT |= {"precision", "device", "message"}


def replay(file: Path) -> str:
    """Make the step of a run's nonfinite.pt again and say what is not finite first.

    Looked for in this order: the weights before the step; each module's output as the model runs,
    batch after batch; the losses; then gradients, from the losses backwards. No weight is changed.

    Returns:
        A few lines: what ended the run, and what gives it.

    Raises:
        ValueError: the file holds no such step, or a variant that is not registered.
    """
    kept = _read(file)
    config = Config.from_dict(kept["config"])
    accelerator = make_accelerator({"no": "fp32"}.get(kept["precision"], kept["precision"]))
    model = build_detr(config.model, train_backbone=config.train.lr_backbone > 0)
    model.load_state_dict(kept["model"])
    model.place(default_device()).train(kept["training"])
    _restore(kept["random"], accelerator.device)
    with torch.set_grad_enabled(kept["training"]):
        found = _first(model, config, kept, accelerator.autocast)
    here = device_name(accelerator.device)
    if accelerator.mixed_precision != kept["precision"]:
        here += f" in {accelerator.mixed_precision}, where the run had {kept['precision']},"
    if found is None:
        found = (
            f"everything is finite; the run was on {kept['device']}. What failed depends on the"
            " device, on other processes' part of the step, or on code that has changed since"
        )
    return f"the run ended: {kept['message']}\nreplayed on {here}: {found}"


def _read(file: Path) -> dict:
    """What the file holds."""
    try:
        kept = read_checkpoint(Path(file))
    except FileNotFoundError:
        raise ValueError(f"{file} not found; expected a run's nonfinite.pt") from None
    if not isinstance(kept, dict) or not kept.keys() >= _KEPT:
        raise ValueError(f"{file} holds no step to replay; expected a run's nonfinite.pt")
    return kept


def _restore(random: list[Tensor], device: torch.device) -> None:
    """Random numbers go on as before the step; on another kind of device they cannot."""
    torch.set_rng_state(random[0])
    if device.type != "cpu" and len(random) > 1:
        torch.get_device_module(device).set_rng_state(random[1])


def _first(model: DETR, config: Config, kept: dict, autocast: object) -> str | None:
    """What is not finite first, in words; None where everything is finite."""
    bad = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if bad:
        return f"weights are not finite before the step, first {bad[0]} ({len(bad)} tensors)"
    device = next(model.parameters()).device
    criterion = build_criterion(config.model).to(device)
    for number, batch in enumerate(kept["batches"], start=1):
        inputs, padding_mask, targets = _to(batch, device)
        used = targets if kept["training"] else None
        where = f"batch {number} of {len(kept['batches'])}"
        if inputs.is_floating_point() and not inputs.isfinite().all():
            return f"{where}: the features that go in are not finite"
        with _watched(model) as watch:
            try:
                with autocast():
                    outputs = forward(model, model, inputs, padding_mask, used)
            except NonFiniteError as error:
                return f"{where}: {watch.inside[-1]} refuses it: {error}"
            if watch.outputs:
                return f"{where}: the output of {watch.outputs[0]} is not finite"
            try:
                losses = criterion(outputs, targets, model.layout(used), kept["normalizers"])
            except NonFiniteError as error:
                return f"{where}: the model's output is finite, but not the loss: {error}"
            wrong = [k for k, v in losses.items() if k != "class_error" and not v.isfinite()]
            if wrong:
                return f"{where}: the model's output is finite, {wrong[0]} is not"
            if kept["training"]:
                criterion.total(losses).backward()
            if watch.gradients:
                name = watch.gradients[0]
                return f"{where}: the loss is finite, its gradient by the output of {name} is not"
    return _bad_gradient(model) if kept["training"] else None


def _bad_gradient(model: DETR) -> str | None:
    """The parameter whose gradient is not finite, or that all together have no finite norm."""
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    for name, gradient in reversed(gradients.items()):  # as they are computed
        if not gradient.isfinite().all():
            return f"losses are finite, the gradient of {name} is not"
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    return None if norm.isfinite() else "all gradients are finite, but their norm is too large"


def _to(batch: Batch, device: torch.device) -> Batch:
    inputs, padding_mask, targets = batch
    moved = [
        {k: v.to(device) if isinstance(v, Tensor) else v for k, v in t.items()} for t in targets
    ]
    return inputs.to(device), None if padding_mask is None else padding_mask.to(device), moved


@dataclass
class _Watch:
    """Modules by name, in the order in which it was seen.

    Attributes:
        inside: those running, the innermost last; one that raises stays.
        outputs: those whose output is not finite. The innermost ends first.
        gradients: those by whose output the loss's gradient is not finite, backwards.
    """

    inside: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    gradients: list[str] = field(default_factory=list)


@contextmanager
def _watched(model: nn.Module) -> Iterator[_Watch]:
    """Inside, every module's outputs and their gradients are looked at."""
    watch, handles = _Watch(), []

    def watch_module(module: nn.Module, name: str) -> None:
        def enter(module: nn.Module, given: tuple) -> None:
            watch.inside.append(name)

        def leave(module: nn.Module, given: tuple, output: object) -> None:
            watch.inside.pop()
            for tensor in _tensors(output):
                if not tensor.isfinite().all():
                    watch.outputs.append(name)
                if tensor.requires_grad:
                    tensor.register_hook(look)

        def look(gradient: Tensor) -> None:
            if not gradient.isfinite().all():
                watch.gradients.append(name)

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave))

    for name, module in model.named_modules():
        watch_module(module, name or "the model")
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def _tensors(output: object) -> Iterator[Tensor]:
    """All floating tensors in what a module gives."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _tensors(part)
