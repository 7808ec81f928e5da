"""A run's model for use elsewhere: weights as safetensors, the network as ONNX.

What a user needs to know lies in the file's metadata: classes, colours, normalisation, sizes.
"""

import json
from pathlib import Path

from safetensors.torch import save

from detrnb.datasets import class_names, open_split
from detrnb.exchange.onnx import onnx_bytes
from detrnb.model import TimmBody
from detrnb.runs import write_whole
from detrnb.training import Run

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
            that does not compute what the model does. What stood there then stays.
        OSError: the file cannot be written.
    """
    path = Path(to)
    if path.suffix not in _INPUTS:
        raise ValueError(f"{path} ends in {path.suffix!r}; expected {' or '.join(_INPUTS)}")
    about = _about(run, _INPUTS[path.suffix])
    if path.suffix == ".safetensors":
        # The backbone's lie in memory as channels last, which the format does not know.
        state = {name: tensor.contiguous() for name, tensor in run.model.state_dict().items()}
        content = save(state, metadata={"format": "pt", **about})
    else:
        size = None
        if isinstance(run.model.backbone[0].body, TimmBody):
            size = tuple(open_split(run.config.data, run.config.data.val_split)[0][0].shape[1:])
        content = onnx_bytes(run.model, about, size)
    write_whole(path, lambda file: file.write(content))
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
