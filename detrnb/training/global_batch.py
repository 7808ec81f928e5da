"""The losses of a batch that processes and accumulated passes share out."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from detrnb.datasets import Batch
from detrnb.loss import Layout, NonFiniteError, SetCriterion, Targets

T = TypeVar("T")


class TrainingDiverged(ValueError):
    """A loss, prediction or gradient became NaN or infinite; the last checkpoint is sound.

    Attributes:
        process: number of the one that failed first; None where no step did.
        begun: what this process's part of the step began with, for `replay`.
    """

    process: int | None = None
    begun: dict | None = None


class GlobalBatch:
    """One process's part of a batch; its losses sum up with the others' to the batch's own.

    What is not finite in one process raises in all of them, so that none waits for another.

    Args:
        passes: targets and layout of each of this process's; targets may be none.
        where: in the run, for the error.
        begun: what the passes begin with, which the error hands on.
    """

    def __init__(
        self,
        criterion: SetCriterion,
        passes: Sequence[tuple[Targets, Layout]],
        accelerator: Accelerator,
        where: str,
        begun: dict,
    ) -> None:
        self.criterion, self.accelerator, self.where = criterion, accelerator, where
        # Known before the first pass, since they follow from targets and layout.
        parts = [criterion.normalizers(targets, layout) for targets, layout in passes]
        self.normalizers = torch.stack(parts).sum(0)
        if accelerator.num_processes > 1:
            self.normalizers = accelerator.reduce(self.normalizers.to(accelerator.device), "sum")
        self._values = dict.fromkeys(["loss", *criterion.names(passes[0][1])], 0.0)
        self.begun = begun | {"normalizers": self.normalizers}
        self._failures: list[tuple[int, str, list[int]]] = []  # process, tensor, image ids

    def attempt(self, make: Callable[..., T], batch: Batch) -> T | None:
        """One pass, from model to losses; what is not finite ends it here, and `losses` raises.

        A process that failed goes on to where all of them stop, but makes no pass any more: torch's
        parallel model would take up the others' at another place, and all would wait for ever.

        Args:
            make: called with what the batch holds.

        Returns:
            What it gives; None where this or an earlier pass failed.
        """
        if self._failures:
            return None
        try:
            return make(*batch)
        except NonFiniteError as error:
            self.fail(error, batch[-1])
            return None

    def loss_share(self, outputs: dict, targets: Targets, layout: Layout) -> Tensor:
        """Predictions of one pass: their share of the batch's total loss.

        Raises:
            NonFiniteError: a prediction or loss is NaN or infinite. Names the last of them, which
                is a single loss where the total is infinite because of it.
        """
        losses = self.criterion(outputs, targets, layout, self.normalizers)
        loss = self.criterion.total(losses)
        # One copy to the host.
        numbers = torch.stack([loss, *losses.values()]).detach().tolist()
        values = dict(zip(["loss", *losses], numbers, strict=True))
        finite = {n: math.isfinite(v) for n, v in values.items() if n != "class_error"}
        if not all(finite.values()):
            raise NonFiniteError([n for n in finite if not finite[n]][-1])
        for name, value in values.items():
            self._values[name] += value
        return loss

    def fail(self, error: NonFiniteError, targets: Targets) -> None:
        """Note an error for all processes, with the ids of its images."""
        ids = [target["image_id"] for target in targets]
        images = [ids[i] for i in error.images] or ids
        self._failures.append((self.accelerator.process_index, error.tensor, images))

    def losses(self) -> dict[str, float]:
        """The whole batch's losses after all passes, in all processes, which must all ask.

        Raises:
            TrainingDiverged: in all processes where one of them failed; names tensor and images.
        """
        values, failures = self._values, self._failures
        if self.accelerator.num_processes > 1:
            numbers = torch.tensor([len(failures), *values.values()], dtype=torch.float64)
            summed = self.accelerator.reduce(numbers.to(self.accelerator.device), "sum")
            failed, *numbers = summed.tolist()
            values = dict(zip(values, numbers, strict=True))
            failures = gather_object(failures) if failed else []
        if failures:
            process, tensor, _ = failures[0]
            images = [i for _, name, ids in failures if name == tensor for i in ids]
            error = TrainingDiverged(
                f"{tensor} is not finite {self.where}, image ids {images}. The last checkpoint is"
                " kept; lower train.lr, or look at these images' boxes"
            )
            error.process, error.begun = process, self.begun | {"message": str(error)}
            raise error
        return values
