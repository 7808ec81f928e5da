"""Weights and predictions of other codes, in and out."""

from detrnb.exchange.hugging_face import export_to_transformers
from detrnb.exchange.onnx import onnx_bytes
from detrnb.exchange.writing import export

__all__ = [
    "export",
    "export_to_transformers",
    "onnx_bytes",
]
