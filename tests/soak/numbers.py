"""Numbers: NaN and infinity planted anywhere end a run with their place, and no step counts."""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import nasty
import torch
from torch import Tensor

from detrnb.commands import main
from detrnb.runs import RunFolder
from detrnb.training import loop
from soak.drill import Drill, Try
from soak.forking import Child
from soak.runs import difference, outcome, together, trained, typed

EPOCHS, STEPS = 2, 2
WHEN = {"first": (0, 0), "middle": (0, 1), "last": (1, 1)}  # epoch, step
VALUES = {"NaN": math.nan, "infinity": math.inf}
Plant = Callable[[loop._Stepper, list, float], None]


def image(stepper: loop._Stepper, batches: list, value: float) -> None:
    """An image holds bytes; what is made of it before the model can be spoiled."""
    normalize = stepper.core.normalize

    def spoiled(images: Tensor, mask: Tensor | None) -> Tensor:
        stepper.core.normalize = normalize
        found = normalize(images, mask)
        found[0, 0, 0, 0] = value
        return found

    stepper.core.normalize = spoiled


def box(stepper: loop._Stepper, batches: list, value: float) -> None:
    for *_, targets in batches:
        for target in targets:
            if len(target["boxes"]):
                target["boxes"] = target["boxes"].clone()
                target["boxes"][0, 2] = value
                return


def weight(stepper: loop._Stepper, batches: list, value: float) -> None:
    stepper.trained[0].data.view(-1)[0] = value


def gradient(stepper: loop._Stepper, batches: list, value: float) -> None:
    def spoiled(found: Tensor) -> Tensor:
        handle.remove()
        found = found.clone()
        found.view(-1)[0] = value
        return found

    handle = stepper.trained[-1].register_hook(spoiled)


def optimizer(stepper: loop._Stepper, batches: list, value: float) -> None:
    for state in stepper.optimizer.state.values():
        state["exp_avg"].view(-1)[0] = value
        return
    weight(stepper, batches, value)  # before the first step it has none


PLACES = {f.__name__: f for f in (image, box, weight, gradient, optimizer)}


def planted(plant: Plant, value: float, when: tuple[int, int], rank: int = 0) -> None:
    """Have this process's training meet a value at a step."""
    call, count = loop._Stepper.__call__, itertools.count()

    def spoiling(self: loop._Stepper, batches: list, where: str) -> tuple:
        if f"epoch {when[0] + 1}, step {when[1] + 1} (" in where and "rate 0.00" not in where:
            plant(self, batches, value)
        next(count)
        return call(self, batches, where)

    loop._Stepper.__call__ = spoiling


def one(project: Path, name: str, place: str, value: str, when: str, expected: dict) -> Try:
    """Planted in a run, which then goes on without it."""
    line = typed(name, train__epochs=EPOCHS)

    def do() -> int:
        planted(PLACES[place], VALUES[value], WHEN[when])
        return main(line)

    child = Child(do, project)
    code, said = child.wait(), child.said
    why = ""
    if code != 1 or "is not finite" not in said or "Traceback" in said:
        why = f"ended with {code}: {said[-300:]}"
    folder = RunFolder(project / "runs" / name)
    if not why and WHEN[when][0] and len(folder.read_log()) != WHEN[when][0]:
        why = f"{len(folder.read_log())} epochs are logged"
    if not why and folder.last.exists():
        kept = torch.load(folder.last, weights_only=True)["model"].values()
        why = "" if all(t.isfinite().all() for t in kept) else "kept weights are not finite"
    if not why:
        again = trained(project, *line)
        told = difference(outcome(project, name), expected) if again.code == 0 else again.said
        why = told and f"gone on without it: {told[-300:]}"
    return Try(f"{value} in {place}", not why, why and f"at the {when} step: {why}")


def in_one_of_two(project: Path, name: str, place: str, value: str, when: str, rank: int) -> Try:
    """Planted in one of two processes: both end with the same words, and no step counts."""
    line = typed(name, train__epochs=EPOCHS, train__batch_size=2)

    def before(mine: int) -> None:
        if mine == rank:
            planted(PLACES[place], VALUES[value], WHEN[when])

    children = together(project, 2, line, before)
    codes = [child.wait() for child in children]
    said = [child.said for child in children]
    ends = {text[text.find("process ") :].partition(": ")[2].strip()[:80] for text in said}
    why = ""
    if codes != [1, 1] or any("is not finite" not in text for text in said):
        why = f"ended with {codes}: {said[0][-200:]} | {said[1][-200:]}"
    elif len(ends) != 1:
        why = f"ended with other words: {ends}"
    return Try(f"{value} in one of two processes", not why, why and f"{place}, {when}: {why}")


def tries(folder: Path) -> Iterator[Try]:
    nasty.write(folder)
    if trained(folder, *typed("unbroken", train__epochs=EPOCHS)).code != 0:
        raise RuntimeError("the unbroken run did not end")
    expected = outcome(folder, "unbroken")
    every = itertools.product(WHEN, VALUES, PLACES)
    for number, (when, value, place) in enumerate(every):
        yield one(folder, f"run-{number}", place, value, when, expected)
        yield in_one_of_two(folder, f"both-{number}", place, value, when, number % 2)


TAUGHT = (
    "an optimizer's state spoiled in one of two processes ended the other with gloo's words, not "
    "with the error: "
    "soak/test_spoiled.py::test_number_that_is_none_in_one_process_ends_both_alike[optimizer]"
)
NUMBERS = Drill("Numbers", tries, TAUGHT)
