"""All settings of a run: model, data, training. Presets, dotted overrides, one default a knob.

`Config` is frozen and checks itself, so that a wrong name or value fails before any work is done.
Its JSON in a run folder rebuilds the run. No torch is imported here.
"""

import copy
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from detrnb.settings.official import OFFICIAL
from detrnb.settings.presets import PRESETS
from detrnb.settings.registry import BASELINE, VARIANTS, nearest, resolve

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Sizes = Annotated[tuple[Positive, ...], Field(min_length=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class ModelConfig(_Section):
    """What is built. Defaults are the reference's for COCO (its main.py).

    `options` holds settings of variants: `model.options.<variant>.<key>`.
    """

    variant: str = BASELINE
    options: dict[str, dict[str, object]] = {}
    num_classes: Positive | None = 91  # without no-object; None: as many as the data has
    num_queries: Positive = 100
    backbone: str = "resnet50"
    backbone_weights: str = "imagenet"  # or 'none', or a path from the project's folder
    stride: Positive = 32
    dilation: bool = False
    d_model: Positive = 256
    num_heads: Positive = 8
    num_encoder_layers: NonNegative = 6
    num_decoder_layers: Positive = 6
    dim_feedforward: Positive = 2048
    dropout: Share = 0.1
    pre_norm: bool = False
    position_temperature: Rate = 10000.0  # of the sine position embedding
    cost_class: Weight = 1.0
    cost_bbox: Weight = 5.0
    cost_giou: Weight = 2.0
    weight_ce: Weight = 1.0
    weight_bbox: Weight = 5.0
    weight_giou: Weight = 2.0
    eos_coef: Weight = 0.1

    @model_validator(mode="after")
    def _fits(self) -> "ModelConfig":
        if self.d_model % self.num_heads or self.d_model % 4:
            raise ValueError(
                f"d_model {self.d_model} must be a multiple of num_heads ({self.num_heads})"
                " and of 4 (sines and cosines of rows and columns)"
            )
        variants = {variant.name: variant for variant in resolve(self.variant)}
        known = [name for name in VARIANTS if name != BASELINE]
        for name in self.options:
            if name not in known:
                raise ValueError(
                    f"options of unknown variant {name!r}; known: {', '.join(known)}"
                    f"{nearest(name, known)}"
                )
            if name not in variants:
                raise ValueError(
                    f"options of {name!r} would do nothing: the variant is {self.variant!r}"
                )
        for name, variant in variants.items():
            self.variant_options(name)
            if not self.num_encoder_layers:
                raise ValueError(f"{name!r} changes the encoder, which has no layers here")
            if variant.part == "encoder_attention":
                self.replaced_layers(name)
        return self

    def variant_options(self, name: str) -> dict[str, object]:
        """A variant's options: its defaults with what was set here over them.

        Raises:
            ValueError: it has no such option, or the option no such value.
        """
        options = VARIANTS[name].options
        try:
            return options(**self.options.get(name, {})).model_dump()
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                known = ", ".join(options.model_fields) or "none"
                hint = nearest(key, options.model_fields)
                raise ValueError(
                    f"variant {name!r} has no option {key!r}; it has {known}{hint}"
                ) from None
            raise ValueError(
                f"options.{name}.{key}: {first['msg']}, found {first['input']!r}"
            ) from None

    def replaced_layers(self, name: str) -> frozenset[int]:
        """Encoder layers, from 0, whose attention a variant replaces.

        Raises:
            ValueError: the encoder has no such layer, or one is named twice.
        """
        count = self.num_encoder_layers
        layers = self.variant_options(name)["layers"]
        chosen = range(count) if layers is None else [i + count if i < 0 else i for i in layers]
        if not chosen or not set(chosen) <= set(range(count)) or len(set(chosen)) < len(chosen):
            raise ValueError(
                f"options.{name}.layers is {list(layers)}; expected one or more of the encoder's"
                f" {count} layers, each once: 0 to {count - 1}, or -1 for the last"
            )
        return frozenset(chosen)


class ToyConfig(_Section):
    """The generated set of handwritten digits on photographs (datasets/toy.py)."""

    num_images: tuple[int, int, int] = (12000, 500, 1000)  # train, val, test
    image_size: int = 128  # side, in pixels
    digits: tuple[int, ...] = (0, 3, 4, 7)  # the classes, in category order
    objects: tuple[int, int] = (1, 4)  # fewest and most in an image
    scale: tuple[float, float] = (0.15, 0.45)  # of a digit's long side, as share of the image's
    seed: int = 0  # of everything random

    @model_validator(mode="after")
    def _fits(self) -> "ToyConfig":
        low, high = self.scale
        fewest, most = self.objects
        checks = (
            (
                len(self.num_images) == 3 and all(n >= 1 for n in self.num_images),
                f"num_images is {self.num_images}; expected three counts (train, val, test) from 1",
            ),
            (32 <= self.image_size <= 512, f"image_size is {self.image_size}; expected 32 to 512"),
            (
                len(self.digits) >= 1 and set(self.digits) <= set(range(10)),
                f"digits is {self.digits}; expected one or more of 0 to 9",
            ),
            (len(set(self.digits)) == len(self.digits), f"digits {self.digits} repeats a digit"),
            (0 < low <= high <= 1, f"scale is {self.scale}; expected 0 < smallest <= largest <= 1"),
            (
                int(high * self.image_size) >= max(8, low * self.image_size),
                f"scale {self.scale} of {self.image_size} pixels holds no whole number from 8 up",
            ),
            (1 <= fewest <= most, f"objects is {self.objects}; expected 1 <= fewest <= most"),
            (
                most * low * low <= 0.5,
                f"{most} objects of scale {low} cannot be placed apart; lower objects or scale",
            ),
            (0 <= self.seed < 2**32, f"seed is {self.seed}; expected 0 to 2**32 - 1"),
        )
        for holds, message in checks:
            if not holds:
                raise ValueError(message)
        return self


class DataConfig(_Section):
    """What is trained and evaluated on: a folder laid out as COCO, or splits named one by one.

    `splits` says where a split's images and annotations lie, for instance
    `{"train2017": ("photos", "photos/train.json")}`; a split not named there is in COCO layout
    under `path`. All from the project's folder.

    `train_sizes` are short sides drawn from in training, `eval_size` the one of evaluation; None
    leaves images as they are, which excludes `crop` and `flip`.
    """

    path: str = "data/coco"
    splits: dict[str, tuple[str, str]] = {}  # name -> folder of images, annotation file
    toy: ToyConfig | None = None  # set: the folder is generated by these settings
    train_split: str = "train2017"
    val_split: str = "val2017"
    contiguous_labels: bool = True  # False: labels are COCO's own category ids
    train_sizes: Sizes | None = tuple(range(480, 801, 32))
    eval_size: Positive | None = 800
    max_size: Positive = 1333
    crop: bool = True
    flip: bool = True
    group_by_aspect: bool = False  # batches of training of like width / height: less padding
    num_workers: NonNegative = 2

    @model_validator(mode="after")
    def _fits(self) -> "DataConfig":
        if self.train_sizes is None and (self.crop or self.flip):
            raise ValueError(
                "train_sizes=None leaves images as they are; set crop=False and flip=False too,"
                f" found crop={self.crop}, flip={self.flip}"
            )
        return self


class TrainConfig(_Section):
    """How it is trained. Defaults are the reference's (its main.py).

    `fit` plans `epochs`, `lr_drop` and `warmup` from the size of the data where they are None
    (planning.py).
    """

    seed: Annotated[int, Field(ge=0, lt=2**43)] = 0  # generators take a million times as much
    epochs: Positive | None = 300
    batch_size: Positive = 2  # of one process and pass
    accumulate: Positive = 1  # passes a step; a step sees batch_size · accumulate · processes
    lr: Rate = 1e-4
    lr_backbone: Annotated[float, Field(ge=0)] = 1e-5  # 0: frozen
    weight_decay: Weight = 1e-4
    schedule: Literal["step", "cosine"] = "step"
    lr_drop: Positive | None = 200  # epochs until the rate falls to a tenth ('step')
    warmup: Share | None = 0.0  # share of all steps in which the rate rises linearly to its peak
    clip_max_norm: Weight = 0.1  # 0: no clipping
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    cache_features: bool = False  # of a frozen backbone: computed once, kept in runs/features
    patience: Positive | None = None  # epochs without a better AP that end the run
    # Weights to start from: a name in official.py, or path of a checkpoint or run in the project.
    init_from: str | None = None

    def global_batch(self, num_processes: int) -> int:
        """Images that a step sees, over all passes of so many processes."""
        return self.batch_size * self.accumulate * num_processes


class Config(_Section):
    """A run's settings; `Config.preset` makes one."""

    preset_name: str = "coco"
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        fixed = self.data.train_sizes is None and self.data.eval_size is None
        if self.train.cache_features and not (fixed and self.train.lr_backbone == 0):
            raise ValueError(
                "train.cache_features needs images that stay as they are and a backbone that does"
                " not train: set data.train_sizes=None, data.eval_size=None (found"
                f" {self.data.train_sizes}, {self.data.eval_size}) and train.lr_backbone=0 (found"
                f" {self.train.lr_backbone})"
            )
        official = OFFICIAL.get(self.train.init_from)
        wrong = [
            f"model.{key}={expected!r} (found {getattr(self.model, key)!r})"
            for key, expected in (official.settings if official else {}).items()
            if getattr(self.model, key) != expected
        ]
        if wrong:
            raise ValueError(f"train.init_from={self.train.init_from!r} needs {', '.join(wrong)}")
        return self

    @classmethod
    def preset(
        cls,
        name: str,
        *,
        variant: str = BASELINE,
        seed: int = 0,
        overrides: Mapping[str, object] | None = None,
    ) -> "Config":
        """Settings by name, with single ones replaced.

        Args:
            name: `coco`, `finetune`, `toy` or `smoke`.
            variant: a registered name, or several joined by `+`.
            seed: governs initial weights, data order, augmentation and dropout.
            overrides: dotted names to values, such as `{"train.epochs": 2}`; `data.toy.num_images`
                and `model.options.<variant>.<key>` reach deeper.

        Raises:
            ValueError: an unknown preset, variant, name or an impossible value; the message names
                the nearest known name.
        """
        if name not in PRESETS:
            raise ValueError(
                f"unknown preset {name!r}; known: {', '.join(PRESETS)}{nearest(name, PRESETS)}"
            )
        settings: dict = {"preset_name": name}
        chosen = {"model.variant": variant, "train.seed": seed}
        # Overrides come last: what the caller says, wins, also over what the preset puts inside it.
        for stated in (PRESETS[name], chosen, overrides or {}):
            for dotted, value in stated.items():
                _place(settings, dotted, copy.deepcopy(value))
        return cls.from_dict(settings)

    @classmethod
    def from_dict(cls, settings: Mapping[str, object]) -> "Config":
        """The config that `model_dump` or a run folder's config.json holds.

        Raises:
            ValueError: as for `preset`.
        """
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise ValueError("\n".join(_explain(e) for e in error.errors())) from None

    def as_begun(self, settings: Mapping[str, object]) -> "Config":
        """This config as a run of it began: what it leaves to the data, as that run resolved it.

        Args:
            settings: the run's config.json.

        Raises:
            ValueError: as for `preset`.
        """
        begun, sections = Config.from_dict(settings), {}
        for name, keys in LEFT_TO_THE_DATA.items():
            section = getattr(self, name)
            open_keys = [key for key in keys if getattr(section, key) is None]
            resolved = {key: getattr(getattr(begun, name), key) for key in open_keys}
            sections[name] = section.model_copy(update=resolved)
        return self.model_copy(update=sections)

    @classmethod
    def completed(cls, settings: Mapping[str, object]) -> dict:
        """A config.json's settings with the defaults of those that its version did not have yet.

        Raises:
            ValueError: as for `preset`.
        """
        return cls.from_dict(settings).model_dump(mode="json")


# Settings by section whose None stands for what follows from the data; `fit` resolves them.
LEFT_TO_THE_DATA = {"model": ("num_classes",), "train": ("epochs", "lr_drop", "warmup")}


def _place(settings: dict, dotted: str, value: object) -> None:
    """Put a value at its dotted place, making sections as needed."""
    *sections, key = dotted.split(".")
    if not sections:
        raise ValueError(
            f"override {dotted!r} must name its section: model, data or train, as in 'train.epochs'"
        )
    for section in sections:
        settings = settings.setdefault(section, {})
        if not isinstance(settings, dict):
            raise ValueError(f"override {dotted!r}: {section!r} is a value, not a section")
    inside = settings.get(key)
    # A section given as a whole keeps what the preset says of it and this does not.
    both = isinstance(inside, dict) and isinstance(value, Mapping)
    settings[key] = {**inside, **value} if both else value


def _known_names(section: tuple) -> list[str]:
    """Field names at a place in the config, for the hint after a misspelt one."""
    model: type[BaseModel] = Config
    for name in section:
        annotation = model.model_fields[name].annotation
        model = ToyConfig if annotation == ToyConfig | None else annotation
    return list(model.model_fields)


def _explain(error: dict) -> str:
    """One of pydantic's errors in a sentence: where, what was found, what was expected."""
    place = ".".join(str(part) for part in error["loc"]) or "config"
    if error["type"] == "extra_forbidden":
        *section, key = error["loc"]
        known = _known_names(tuple(section))
        return f"unknown setting {place!r}{nearest(str(key), known)}; known: {', '.join(known)}"
    found = "" if isinstance(error["input"], Mapping | BaseModel) else f", found {error['input']!r}"
    return f"{place}: {error['msg'].removeprefix('Value error, ')}{found}"
