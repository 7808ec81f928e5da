"""From predictions and targets to losses: matching, and the set criterion."""

from detrnb.loss.criterion import SetCriterion, Targets
from detrnb.loss.matcher import HungarianMatcher, NonFiniteError

__all__ = [
    "HungarianMatcher",
    "NonFiniteError",
    "SetCriterion",
    "Targets",
]
