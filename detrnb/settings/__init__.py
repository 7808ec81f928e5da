"""What can be set: a Config, its presets, the variants by name, how long a run is to be.

No torch here. Other rooms take the values that they need from a Config's sections.
"""

from detrnb.settings.config import (
    LEFT_TO_THE_DATA,
    Config,
    DataConfig,
    ModelConfig,
    ToyConfig,
    TrainConfig,
)
from detrnb.settings.official import OFFICIAL
from detrnb.settings.planning import cautions, describe, planned, steps_per_epoch
from detrnb.settings.presets import PRESETS
from detrnb.settings.registry import (
    BASELINE,
    VARIANTS,
    Options,
    Variant,
    combinations,
    nearest,
    register,
    resolve,
)

__all__ = [
    "BASELINE",
    "Config",
    "DataConfig",
    "LEFT_TO_THE_DATA",
    "ModelConfig",
    "OFFICIAL",
    "Options",
    "PRESETS",
    "ToyConfig",
    "TrainConfig",
    "VARIANTS",
    "Variant",
    "cautions",
    "combinations",
    "describe",
    "nearest",
    "planned",
    "register",
    "resolve",
    "steps_per_epoch",
]
