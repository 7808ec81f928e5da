"""From predictions and targets to losses and detections: layout, matching, the set criterion."""

from detrnb.loss.criterion import SetCriterion, Targets
from detrnb.loss.detecting import at_least_float32, postprocess
from detrnb.loss.layout import Layout, Pairs
from detrnb.loss.matcher import HungarianMatcher, NonFiniteError, softmax_cost

__all__ = [
    "HungarianMatcher",
    "Layout",
    "NonFiniteError",
    "Pairs",
    "SetCriterion",
    "Targets",
    "at_least_float32",
    "postprocess",
    "softmax_cost",
]
