"""What can be set: a Config, its presets, the variants by name, how long a run is to be.

No torch here. Other rooms take the values that they need from a Config's sections.
"""

import detrnb.settings.builtin  # noqa: F401  enters the package's variants
from detrnb.settings.config import (
    LEFT_TO_THE_DATA,
    SCENES,
    Config,
    DataConfig,
    ToyConfig,
    TrainConfig,
)
from detrnb.settings.model import ModelConfig
from detrnb.settings.official import OFFICIAL
from detrnb.settings.own import (
    asked_for,
    load_variants,
    name_of,
    own_sources,
    register,
    variant,
)
from detrnb.settings.planning import cautions, describe, planned, steps_per_epoch
from detrnb.settings.presets import PRESETS
from detrnb.settings.registry import (
    BASELINE,
    ONCE_A_LAYER,
    PARTS,
    SIZES,
    VARIANTS,
    Options,
    Part,
    Variant,
    class_of,
    combinations,
    import_string,
    nearest,
    resolve,
)
from detrnb.settings.source import Source, differences, is_library, plain

__all__ = [
    "BASELINE",
    "Config",
    "DataConfig",
    "LEFT_TO_THE_DATA",
    "ModelConfig",
    "OFFICIAL",
    "ONCE_A_LAYER",
    "Options",
    "PARTS",
    "PRESETS",
    "SCENES",
    "Part",
    "SIZES",
    "Source",
    "ToyConfig",
    "TrainConfig",
    "VARIANTS",
    "Variant",
    "asked_for",
    "cautions",
    "class_of",
    "combinations",
    "describe",
    "differences",
    "import_string",
    "is_library",
    "load_variants",
    "nearest",
    "name_of",
    "own_sources",
    "plain",
    "planned",
    "register",
    "resolve",
    "steps_per_epoch",
    "variant",
]
