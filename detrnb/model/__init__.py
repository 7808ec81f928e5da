"""DETR itself: backbone, transformer, heads; building it from settings, and weights into it."""

from detrnb.model.attention import MultiheadAttention
from detrnb.model.backbone import (
    Backbone,
    PositionEmbeddingSine,
    ResNetBody,
    TimmBody,
    load_backbone_weights,
)
from detrnb.model.detr import DETR, added_parameters, build_criterion, build_detr, postprocess
from detrnb.model.transformer import Transformer, TransformerEncoder
from detrnb.model.weights import LoadedWeights, load_weights

__all__ = [
    "Backbone",
    "DETR",
    "LoadedWeights",
    "MultiheadAttention",
    "PositionEmbeddingSine",
    "ResNetBody",
    "TimmBody",
    "Transformer",
    "TransformerEncoder",
    "added_parameters",
    "build_criterion",
    "build_detr",
    "load_backbone_weights",
    "load_weights",
    "postprocess",
]
