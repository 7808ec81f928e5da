"""Weights and predictions of other codes, in and out."""

from detrnb.exchange.onnx import onnx_bytes
from detrnb.exchange.writing import export

__all__ = [
    "export",
    "onnx_bytes",
]
