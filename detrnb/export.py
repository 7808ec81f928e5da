"""A run's model for use elsewhere: weights as safetensors, the network as ONNX.

    python -m detrnb.export runs/NAME --to model.onnx

What a user needs to know lies in the file's metadata: classes, colours, normalisation, sizes.
"""

import argparse
import copy
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from detrnb.backbone import TimmBody
from detrnb.datasets.annotations import class_names
from detrnb.datasets.splits import open_split
from detrnb.detr import DETR
from detrnb.engine import Run, load_run

TOLERANCE = 1e-4  # between ONNX Runtime and torch
_PADDING = "padding_mask bool (B, H, W), true on padding, which is at the bottom and right"
_INPUTS = {
    ".safetensors": "images float (B, 3, H, W), RGB: (0..255 / 255 - mean) / std, 0 on padding; "
    + _PADDING,
    ".onnx": "images uint8 (B, 3, H, W), RGB, 0..255, normalised inside; " + _PADDING,
}
_OUTPUTS = (
    "pred_logits (B, queries, classes + 1), the last is no-object, softmax gives scores;"
    " pred_boxes (B, queries, 4): centre x, centre y, width, height as shares of the unpadded image"
)


def export(run: Run, to: str | Path) -> Path:
    """Write a run's model for use elsewhere.

    A `.safetensors` holds the weights by the reference's names; `load_weights` and
    `train.init_from` read it. An `.onnx` holds the network, for any number of images; with a ResNet
    of any size, with a timm backbone of the first validation image's, at which its padding is
    fixed. ONNX Runtime's answer is compared with torch's. It needs the extra `export`.

    Args:
        to: the file; its ending says which.

    Returns:
        The file.

    Raises:
        ValueError: another ending, a missing package, a model that ONNX cannot express, or a file
            that does not compute what the model does.
    """
    path = Path(to)
    if path.suffix not in _INPUTS:
        raise ValueError(f"{path} ends in {path.suffix!r}; expected {' or '.join(_INPUTS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    about = _about(run, _INPUTS[path.suffix])
    if path.suffix == ".safetensors":
        # The backbone's lie in memory as channels last, which the format does not know.
        state = {name: tensor.contiguous() for name, tensor in run.model.state_dict().items()}
        save_file(state, path, metadata={"format": "pt", **about})
    else:
        detector = _Detector(copy.deepcopy(run.model).cpu()).eval()
        size = None
        if isinstance(run.model.backbone[0].body, TimmBody):
            size = tuple(open_split(run.config.data, run.config.data.val_split)[0][0].shape[1:])
        _write_onnx(detector, path, about, size)
        _check_onnx(detector, path, size)
    return path


def _about(run: Run, inputs: str) -> dict[str, str]:
    """What travels with the file; every value is text, numbers and lists as JSON."""
    data, body = run.config.data, run.model.backbone[0].body
    classes = run.classes or open_split(data, data.train_split).classes
    num_classes = run.config.model.num_classes
    category_ids = [classes[i][0] if i in classes else None for i in range(num_classes)]
    return {
        "run": run.path.name,
        "model": run.config.model.model_dump_json(),
        "classes": json.dumps(class_names(classes, num_classes)),  # by label
        "category_ids": json.dumps(category_ids),
        "input": inputs,
        "mean": json.dumps(body.mean),
        "std": json.dumps(body.std),
        "short_side": json.dumps(data.eval_size),  # null: as the images are
        "max_long_side": json.dumps(data.max_size),
        "output": _OUTPUTS,
    }


class _Detector(nn.Module):
    """What the ONNX file computes: from images as they are stored to the last predictions."""

    def __init__(self, model: DETR) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) uint8 and padding_mask (B, H, W) -> logits and boxes."""
        outputs = self.model(self.model.normalize(images, padding_mask), padding_mask)
        return outputs["pred_logits"], outputs["pred_boxes"]


def _example(B: int, H: int, W: int) -> tuple[Tensor, Tensor]:
    """Random images, the last of them padded, and the padding mask."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (B, 3, H, W), dtype=torch.uint8, generator=generator)
    padding_mask = torch.zeros(B, H, W, dtype=torch.bool)
    padding_mask[-1, H * 2 // 3 :] = True
    padding_mask[-1, :, W // 2 :] = True
    return images, padding_mask


def _write_onnx(
    detector: _Detector, path: Path, about: dict[str, str], size: tuple[int, int] | None
) -> None:
    """Write the network for images of one size (H, W), or of any."""
    try:
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise ValueError(f"ONNX needs {error.name}: pip install 'detrnb[export]'") from error
    batch = torch.export.Dim("batch")
    image_axes, mask_axes = {0: batch}, {0: batch}
    if size is None:
        height, width = (torch.export.Dim(side, min=32) for side in ("height", "width"))
        image_axes |= {2: height, 3: width}
        mask_axes |= {1: height, 2: width}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "# The axis name")  # both inputs have the same
            program = torch.onnx.export(
                detector,
                _example(2, *(size or (96, 160))),
                input_names=["images", "padding_mask"],
                output_names=["pred_logits", "pred_boxes"],
                dynamic_shapes=(image_axes, mask_axes),
                dynamo=True,
                optimize=False,  # ONNX Runtime does it in seconds when it loads the file
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(f"this model cannot be written as ONNX: {error}") from error
    program.model.metadata_props.update(about)
    program.save(path)


@torch.no_grad()
def _check_onnx(detector: _Detector, path: Path, size: tuple[int, int] | None) -> None:
    """Run the file on other images than it was made with; delete it where torch disagrees."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images, padding_mask = _example(3, *(size or (131, 97)))
    found = session.run(None, {"images": images.numpy(), "padding_mask": padding_mask.numpy()})
    expected = detector(images, padding_mask)
    largest = max(np.abs(a - b.numpy()).max() for a, b in zip(found, expected, strict=True))
    if not largest <= TOLERANCE:
        path.unlink()
        raise ValueError(
            f"{path} is deleted: what ONNX Runtime computes from it differs from torch's by"
            f" {largest:.1e}, more than {TOLERANCE:g}"
        )


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m detrnb.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--to", required=True, help="a file ending in .safetensors or .onnx")
    parser.add_argument(
        "--checkpoint",
        choices=["last", "best"],
        default="last",
        help="epoch (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    try:
        path = export(load_run(arguments.run, arguments.checkpoint), arguments.to)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
