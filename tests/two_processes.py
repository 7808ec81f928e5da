"""What each of two processes does in test_processes.py, which starts them with torchrun.

In the folder given: train a run, evaluate it, be refused its folder, train it again with an
interruption, train it with accumulated batches, and so that the second process alone meets a NaN.
What was raised is written to files.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from interrupting import interrupted
from torch import Tensor

from detrnb.datasets.batches import TrainBatches
from detrnb.loss.criterion import SetCriterion
from detrnb.loss.matcher import NonFiniteError
from detrnb.model.transformer import TransformerEncoder
from detrnb.settings.config import Config
from detrnb.training.global_batch import TrainingDiverged
from detrnb.training.opening import Run, keep_test
from detrnb.training.run import fit

SETTINGS = {
    "model.num_encoder_layers": 1,
    "model.num_decoder_layers": 2,
    "data.toy.num_images": (18, 9, 2),  # two steps of 8 images; a batch of 8 to evaluate, and of 1
    "train.batch_size": 4,
    "train.epochs": 2,
    "train.precision": "fp32",
}
ACCUMULATED = {"batch_size": 2, "accumulate": 2}  # the same images a step


def config(**train: int) -> Config:
    dotted = {f"train.{key}": value for key, value in train.items()}
    return Config.preset("smoke", overrides=SETTINGS | dotted)


def second_process_first_batch() -> list[int]:
    """Places of the images in its first batch of all."""
    return next(iter(TrainBatches(18, 4, config().train.seed, process=(1, 2))))


@contextmanager
def recorded_norms(file: Path) -> Iterator[None]:
    """Write the norm of each step's gradient to a file.

    Losses and weights do not tell a gradient's scale: clipping and AdamW's division undo it.
    """
    clip, norms = Accelerator.clip_grad_norm_, []

    def recording(self: Accelerator, *arguments: object) -> Tensor:
        norms.append(clip(self, *arguments))
        return norms[-1]

    Accelerator.clip_grad_norm_ = recording
    yield
    Accelerator.clip_grad_norm_ = clip
    file.write_text(json.dumps([norm.item() for norm in norms]))


def evaluated(run: Run, name: str) -> None:
    """Evaluate a run on both splits that it was not trained on; write what that gives."""
    found = {}
    for split in ("val2017", "test2017"):
        evaluation = run.evaluate(split)
        scores = {image: d["scores"].tolist() for image, d in evaluation.detections.items()}
        found[split] = [evaluation.log, evaluation.metrics.stats, scores]
    keep_test(run)
    Path(f"evaluated-{name}.json").write_text(json.dumps(found))


def refused(rank: int) -> None:
    """The first process sees that the folder is taken; the second has made nothing of it."""
    try:
        fit(config(), name="together", resume="never")
    except ValueError as error:
        Path(f"refused-{rank}.txt").write_text(str(error))


def broken_off() -> None:
    """A run that breaks off between training and evaluation of its second epoch, and goes on."""
    with interrupted("evaluate_epoch"):
        fit(config(), name="interrupted")
    fit(config(), name="interrupted")


def diverging(rank: int, place: type, name: str) -> None:
    """A run in which the second process meets a NaN in the first of a step's two batches.

    Args:
        place: the module that meets it: the loss, or one inside the model.
    """
    forward, calls = place.forward, []

    def spoiled(self: object, *arguments: object) -> object:
        calls.append(1)
        if rank == 1 and len(calls) == 3:
            raise NonFiniteError("pred_boxes of decoder layer 1", [1])
        return forward(self, *arguments)

    place.forward = spoiled
    try:
        fit(config(**ACCUMULATED), name=name)
    except TrainingDiverged as error:
        Path(f"{name}-{rank}.txt").write_text(str(error))
    place.forward = forward


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    rank = int(os.environ["RANK"])
    with recorded_norms(Path(f"norms-together-{rank}.json")):
        evaluated(fit(config(), name="together"), f"together-{rank}")
    refused(rank)
    broken_off()
    with recorded_norms(Path(f"norms-accumulated-{rank}.json")):
        fit(config(**ACCUMULATED), name="accumulated")
    diverging(rank, SetCriterion, "diverging")
    diverging(rank, TransformerEncoder, "diverging-inside")
