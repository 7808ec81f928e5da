"""A run's model for other codes: safetensors, ONNX, a folder for transformers."""

from detrnb.exchange.hugging_face import export_to_transformers
from detrnb.exchange.onnx import onnx_bytes
from detrnb.exchange.writing import export

__all__ = [
    "export",
    "export_to_transformers",
    "onnx_bytes",
]
