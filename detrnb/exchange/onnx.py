"""The network as ONNX."""

import copy
import warnings

import numpy as np
import torch
from torch import Tensor, nn

from detrnb.model import DETR

TOLERANCE = 1e-4  # between ONNX Runtime and torch


class Detector(nn.Module):
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


def onnx_bytes(model: DETR, about: dict[str, str], size: tuple[int, int] | None) -> bytes:
    """A model's network as an ONNX file's content, run beside torch.

    Args:
        about: the file's metadata.
        size: (H, W) of the only images it then takes; None for any.

    Raises:
        ValueError: a missing package, a model that ONNX cannot express, or content that does not
            compute what the model does.
    """
    detector = Detector(copy.deepcopy(model).cpu()).eval()
    try:
        import onnxruntime  # noqa: F401  it runs what was written
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
    content = program.model_proto.SerializeToString()
    check_onnx(detector, content, size)
    return content


@torch.no_grad()
def check_onnx(detector: Detector, content: bytes, size: tuple[int, int] | None) -> None:
    """Run a file's content on other images than it was made with; refuse it where torch disagrees.

    Raises:
        ValueError: it computes something else.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images, padding_mask = _example(3, *(size or (131, 97)))
    found = session.run(None, {"images": images.numpy(), "padding_mask": padding_mask.numpy()})
    expected = detector(images, padding_mask)
    largest = max(np.abs(a - b.numpy()).max() for a, b in zip(found, expected, strict=True))
    if not largest <= TOLERANCE:
        raise ValueError(
            "nothing was written: what ONNX Runtime computes of this model differs from torch's by"
            f" {largest:.1e}, more than {TOLERANCE:g}"
        )
