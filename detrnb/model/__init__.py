"""DETR itself: backbone, transformer, heads; building it from settings, and weights into it."""

from detrnb.model.attention import (
    DecoderCrossAttention,
    DecoderSelfAttention,
    DotProductAttention,
    EncoderAttention,
    MultiheadAttention,
    given_position,
)
from detrnb.model.backbone import Backbone, ResNetBody, TimmBody
from detrnb.model.detr import (
    DETR,
    added_parameters,
    build_criterion,
    build_detr,
    idle_parameters,
)
from detrnb.model.hugging_face import (
    SAVED_CLASSES,
    SAVED_CONFIG,
    SAVED_PROCESSOR,
    SAVED_TEMPERATURE,
    as_saved,
)
from detrnb.model.parts import FOR_ALL, ROWS, Row
from detrnb.model.positions import PositionEmbeddingSine
from detrnb.model.pretrained import load_backbone_weights
from detrnb.model.queries import LearnedQueries, Queries
from detrnb.model.transformer import Transformer, TransformerDecoder, TransformerEncoder
from detrnb.model.weights import LoadedWeights, load_weights

__all__ = [
    "Backbone",
    "DETR",
    "DecoderCrossAttention",
    "DecoderSelfAttention",
    "DotProductAttention",
    "EncoderAttention",
    "FOR_ALL",
    "LearnedQueries",
    "LoadedWeights",
    "MultiheadAttention",
    "PositionEmbeddingSine",
    "Queries",
    "ROWS",
    "SAVED_CLASSES",
    "SAVED_CONFIG",
    "SAVED_PROCESSOR",
    "SAVED_TEMPERATURE",
    "ResNetBody",
    "Row",
    "TimmBody",
    "Transformer",
    "TransformerDecoder",
    "TransformerEncoder",
    "added_parameters",
    "as_saved",
    "build_criterion",
    "build_detr",
    "given_position",
    "idle_parameters",
    "load_backbone_weights",
    "load_weights",
]
