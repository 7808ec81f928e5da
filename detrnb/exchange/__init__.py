"""Weights and predictions of other codes, in and out."""

from detrnb.exchange.writing import export

__all__ = [
    "export",
]
