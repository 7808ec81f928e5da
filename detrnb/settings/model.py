"""The section `model` of a config: sizes, and the variant with its options."""

from pydantic import ValidationError, model_validator

from detrnb.settings.registry import BASELINE, ONCE_A_LAYER, VARIANTS, Part, nearest, resolve
from detrnb.settings.section import NonNegative, Positive, Rate, Section, Share, Weight


class ModelConfig(Section):
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
            if variant.needs_encoder and not self.num_encoder_layers:
                raise ValueError(f"{name!r} changes the encoder, which has no layers here")
            if self.pre_norm and not variant.pre_norm:
                raise ValueError(f"{name!r} does not go with pre_norm=True; set it to False")
            for key in variant.unused:
                default = ModelConfig.model_fields[key].default
                if getattr(self, key) != default:
                    raise ValueError(
                        f"{key}={getattr(self, key)!r} would do nothing: {name!r} does not use it;"
                        f" leave it at {default!r}"
                    )
            for part in variant.parts:
                if part in ONCE_A_LAYER:
                    self.replaced_layers(name, part)
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

    def replaced_layers(self, name: str, part: Part) -> frozenset[int]:
        """Layers, from 0, of which a variant replaces a part.

        Raises:
            ValueError: there is no such layer, or one is named twice.
        """
        stack = ONCE_A_LAYER[part]
        count = getattr(self, f"num_{stack}_layers")
        options = self.variant_options(name)
        key = "layers" if "layers" in options else f"{stack}_layers"
        layers = options.get(key)
        chosen = range(count) if layers is None else [i + count if i < 0 else i for i in layers]
        if not chosen or not set(chosen) <= set(range(count)) or len(set(chosen)) < len(chosen):
            raise ValueError(
                f"options.{name}.{key} is {list(layers or ())}; expected one or more of the"
                f" {stack}'s {count} layers, each once: 0 to {count - 1}, or -1 for the last"
            )
        return frozenset(chosen)
