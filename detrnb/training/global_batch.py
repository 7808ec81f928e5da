"""The losses of a batch that processes and accumulated passes share out."""

import math
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from detrnb.datasets import Batch
from detrnb.loss import Layout, NonFiniteError, SetCriterion, Targets
from detrnb.training.device import sum_over_hosts

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

    What is not finite in one process raises in all of them, so that none waits for another. Losses
    are read from the device once, by `losses`; until then it need not be waited for.

    Args:
        passes: targets and layout of each of this process's; targets may be none.
        where: in the run, for the error.
        begun: what the passes begin with, which the error hands on.

    Attributes:
        overflows: whether gradients are infinite because of fp16's loss scale, which skips the
            step and becomes smaller; known after `losses`. accelerate's own word on it is wrong
            where the optimizer is a fused one, which leaves the step out itself.
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
        self.begun = begun | {"normalizers": self.normalizers}
        self._names = ["loss", *criterion.names(passes[0][1])]
        self._targets = [target for targets, _ in passes for target in targets]
        self._passes: list[tuple[Tensor, Targets]] = []  # losses in the names' order
        self._failures: list[tuple[int, str, list[int]]] = []  # process, tensor, image ids
        self.overflows = False

    def attempt(self, make: Callable[..., T], batch: Batch) -> T | None:
        """One pass, from model to losses; what is not finite ends it here, and `agree` raises.

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
            self._fail(error, batch[-1])
            return None

    def loss_share(self, outputs: dict, targets: Targets, layout: Layout) -> Tensor:
        """Predictions of one pass: their share of the batch's total loss.

        Raises:
            NonFiniteError: a prediction is NaN or infinite.
        """
        losses = self.criterion(outputs, targets, layout, self.normalizers)
        values = {"loss": self.criterion.total(losses), **losses}
        numbers = torch.stack([values[name] for name in self._names]).detach()
        self._passes.append((numbers, targets))
        return values["loss"]

    def agree(self) -> None:
        """Go on only where every pass of all processes has its loss; all of them must ask.

        Raises:
            TrainingDiverged: in all processes where one of them failed.
        """
        if sum_over_hosts(len(self._failures)):
            self._end()

    def _fail(self, error: NonFiniteError, targets: Targets) -> None:
        """Note an error for all processes, with the ids of its images."""
        ids = [target["image_id"] for target in targets]
        images = [ids[i] for i in error.images] or ids
        self._failures.append((self.accelerator.process_index, error.tensor, images))

    def losses(self, norm: Tensor | None = None) -> dict[str, float]:
        """The whole batch's losses after all passes, in all processes, which must all ask.

        Args:
            norm: of the gradient; None where there is none.

        Raises:
            TrainingDiverged: in all processes where something in one of them is NaN or infinite;
                names tensor and images. Of a pass's losses it is the last, a single one where the
                total is infinite because of it.
        """
        several, size = self.accelerator.num_processes > 1, len(self._names)
        rows = [numbers for numbers, _ in self._passes]
        if several:
            zeros = torch.zeros(size, dtype=torch.float64, device=self.accelerator.device)
            rows = [sum(rows, zeros)]
        numbers = torch.cat(rows if norm is None else [*rows, norm.reshape(1)])
        # The norm too: what is not finite in one process is so in the sum of all.
        read = (self.accelerator.reduce(numbers, "sum") if several else numbers).tolist()
        values = dict.fromkeys(self._names, 0.0)
        for i in range(size * len(rows)):
            values[self._names[i % size]] += read[i]
        if _not_finite(values):
            for numbers, targets in self._passes:
                bad = _not_finite(dict(zip(self._names, numbers.tolist(), strict=True)))
                if bad:
                    self._fail(NonFiniteError(bad[-1]), targets)
            self._end()
        if norm is not None and not math.isfinite(read[-1]):
            self.overflows = self._may_overflow()
            if not self.overflows:
                self._fail(NonFiniteError("gradient norm"), self._targets)
                self._end()
        return values

    def _may_overflow(self) -> bool:
        """Whether fp16's loss scale can be why gradients are infinite."""
        scaler = self.accelerator.scaler
        return scaler is not None and scaler.get_scale() > 1

    def _end(self) -> NoReturn:
        """Raise what failed, the same in all processes."""
        failures = self._failures
        if self.accelerator.num_processes > 1:
            failures = gather_object(failures)
        process, tensor, _ = failures[0]
        images = [i for _, name, ids in failures if name == tensor for i in ids]
        error = TrainingDiverged(
            f"{tensor} is not finite {self.where}, image ids {images}. The last checkpoint is"
            " kept; lower train.lr, or look at these images' boxes"
        )
        error.process, error.begun = process, self.begun | {"message": str(error)}
        raise error


def _not_finite(values: dict[str, float]) -> list[str]:
    """Names of the losses that are not; of a batch without boxes the class error is unknown."""
    return [n for n, v in values.items() if n != "class_error" and not math.isfinite(v)]
