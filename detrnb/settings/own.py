"""Variants of a user's own: a class of a notebook's cell, a script or a file as good as a built-in.

No torch here: all that is read of a class are its signature and its source.
"""

import importlib.util
import inspect
import json
import sys
import typing
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from pydantic import create_model

from detrnb.settings.registry import (
    ONCE_A_LAYER,
    SIZES,
    VARIANTS,
    Options,
    Part,
    Variant,
    enter,
    import_string,
    nearest,
    resolve,
)
from detrnb.settings.source import Source, differences, forget_text, source_of

_PLAIN = Variant("plain", {})  # an entry that says nothing but its parts
_KNOWN: dict[str, Source] = {}  # of users' variants, as they were registered last


def variant(name: str, part: Part, **entry: object) -> Callable[[type], type]:
    """Over a class: makes it the part of a variant, in this process.

    Its options are the keyword-only parameters of its `__init__`; what else that asks for by name
    are sizes of its place (`model/parts.py`). Weights of linear layers, convolutions and embeddings
    start as DETR's do, whatever `__init__` has put there; a layer with `own_init = True` keeps it,
    and so do parameters that the class holds itself. Running the cell again replaces the variant
    and says what changed.

    Args:
        name: what `Config.preset(..., variant=name)` then takes.
        part: what it replaces.
        entry: other fields of `Variant`, such as `rates`; `starts_as_detr` is False unless said.

    Raises:
        ValueError: as for `register`.

    Example:
        >>> @variant("my_idea", part="encoder_attention")
        ... class MyIdea(EncoderAttention):
        ...     def __init__(self, d_model, num_heads, dropout, *, start: float = 1.0): ...
    """

    def over(cls: type) -> type:
        register(Variant(name, {part: cls}, **{"starts_as_detr": False, **entry}))
        return cls

    return over


def register(variant: Variant) -> None:
    """Make a variant known by its name; one with classes of a user's own replaces an earlier one.

    The options of such classes are read from their signatures.

    Raises:
        ValueError: the name is the package's or cannot be one; a part or head that there is not; a
            signature that does not say what its class needs.
    """
    if not variant.is_own:
        enter(variant)
        return
    if variant.options is not Options:
        raise ValueError(
            f"variant {variant.name!r} states options, and those of a class of yours are its"
            " keyword-only parameters: leave `options` out"
        )
    before, known = VARIANTS.get(variant.name), _KNOWN.get(variant.name)
    changes_encoder = {"encoder", "encoder_attention"} & variant.parts.keys()
    variant = replace(
        variant,
        options=_options(variant),
        needs_encoder=variant.needs_encoder or bool(changes_encoder),
    )
    enter(variant)
    for lost in _not_inherited(variant):
        print(f"variant {variant.name!r}: {lost}")
    forget_text(variant)
    _KNOWN[variant.name] = source_of(variant)
    if before is not None and known is not None:
        changes = _changes(before, variant, known, _KNOWN[variant.name])
        print(f"variant {variant.name!r} replaced: {'; '.join(changes) or 'nothing changed'}")


def _not_inherited(variant: Variant) -> list[str]:
    """What the entry of a variant whose class it derives from says and its own does not."""
    told = []
    bases = {
        import_string(base)
        for target in variant.parts.values()
        if isinstance(target, type)
        for base in target.__mro__[1:]
    }
    for other in filter(None, VARIANTS.values()):
        if other.is_own or not bases & {*filter(None, other.parts.values())}:
            continue
        more = {
            key: getattr(other, key)
            for key in ("pre_norm", "heads", "rates", "unused")
            if getattr(other, key) != getattr(variant, key) == getattr(_PLAIN, key)
        }
        nowhere = [part for part, target in other.parts.items() if target is None]
        stated = [f"{key}={value!r}" for key, value in more.items()]
        stated += [f"None for the {part}" for part in nowhere if part not in variant.parts]
        if stated:
            told.append(
                f"its class derives from {other.name}'s, whose entry also has"
                f" {', '.join(stated)}; say so in this one where it is meant"
            )
    return told


def _changes(before: Variant, now: Variant, known: Source, source: Source) -> list[str]:
    """What is different about a variant that was registered again."""
    said = [f"{name} changed" for name in differences(known.text, source.text)]
    if {*before.parts} != {*now.parts}:
        said.append(f"it replaces {', '.join(now.parts)}, before {', '.join(before.parts)}")
    old, new = (v.options().model_dump() for v in (before, now))
    for key in {**old, **new}:
        was, is_ = (repr(x[key]) if key in x else "absent" for x in (old, new))
        if was != is_:
            said.append(f"option {key}: {is_}, before {was}")
    return said


def _options(variant: Variant) -> type[Options]:
    """The options of a variant's classes, read from their signatures."""
    fields: dict[str, tuple[object, object]] = {}
    for cls in variant.parts.values():
        if isinstance(cls, type):
            fields |= _keyword_only(variant.name, cls)
    stacks = {
        ONCE_A_LAYER[part] for part, made in variant.parts.items() if made and part in ONCE_A_LAYER
    }
    names = ["layers"] if len(stacks) == 1 else [f"{stack}_layers" for stack in sorted(stacks)]
    every = tuple[int, ...] | None, None
    fields |= {name: every for name in names if name not in fields}  # a class may say which
    return create_model(f"{variant.name}_options", __base__=Options, **fields)


def _keyword_only(name: str, cls: type) -> dict[str, tuple[object, object]]:
    """Options that a class takes: type and default by name."""
    options = {}
    for key, parameter in asked_for(cls).items():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            if key not in (*SIZES, "layers"):
                raise ValueError(
                    f"{name!r}: {cls.__name__} asks for {key!r}, which is no size"
                    f"{nearest(key, SIZES)}; sizes are {', '.join(SIZES)}; an option stands after"
                    " '*' and has a default"
                )
            continue
        if key in SIZES:
            raise ValueError(f"{name!r}: option {key!r} of {cls.__name__} bears the name of a size")
        try:
            json.dumps(parameter.default)
        except TypeError:
            raise ValueError(
                f"{name!r}: option {key!r} of {cls.__name__} needs a default that JSON can hold"
                " (a number, text, list ...), since a run's settings are kept as JSON"
            ) from None
        options[key] = (_type(cls, parameter), parameter.default)
    return options


def asked_for(cls: type) -> dict[str, inspect.Parameter]:
    """What a class is made with, by name; nothing where it leaves `__init__` to torch.

    Raises:
        ValueError: it takes anything (`*args`, `**kwargs`), which does not say what it needs.
    """
    # By the class that has it: the function is another one once torch.compile has wrapped it
    owner = next(kind for kind in cls.__mro__ if "__init__" in vars(kind))
    if owner.__module__ == "torch.nn.modules.module":
        return {}
    parameters = dict(list(inspect.signature(cls.__init__).parameters.items())[1:])
    for parameter in parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ValueError(
                f"{cls.__name__}.__init__ takes {parameter}; name the sizes that it needs, of"
                f" {', '.join(SIZES)}, and its options after '*'"
            )
    return parameters


def _type(cls: type, parameter: inspect.Parameter) -> object:
    """What an option's values must be: as annotated, else of its default's kind."""
    try:
        hint = typing.get_type_hints(cls.__init__).get(parameter.name)
    except (NameError, TypeError):  # annotations may be anything
        hint = None
    if hint is not None:
        return hint
    kind = type(parameter.default)
    if parameter.default is None:
        return object
    return int | float if kind in (int, float) else kind


def load_variants(variants: Iterable[type | str | Path]) -> None:
    """See that a user's variants are known: classes that were registered, or files that do it.

    A file is run, so give only one that you trust.

    Raises:
        ValueError: a class that is registered nowhere, a file that is not there or registers none.
    """
    for given in variants:
        if isinstance(given, type):
            name_of(given)
        else:
            _run(Path(given).expanduser())


def name_of(cls: type) -> str:
    """The variant that a class is a part of.

    Raises:
        ValueError: of none.
    """
    for name, known in VARIANTS.items():
        if known and cls in known.parts.values():
            return name
    raise ValueError(
        f"{cls.__name__} is no variant's part; put @variant('its_name', part=...) over it, or enter"
        " it with `register`"
    )


def _run(path: Path) -> None:
    """Run a file for the variants that it registers."""
    if not path.is_file():
        raise ValueError(f"no file {path}; expected a Python file with a @variant(...) in it")
    before = dict(VARIANTS)
    spec = importlib.util.spec_from_file_location(f"detrnb_own_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where the sources of its classes are looked for
    spec.loader.exec_module(module)
    if all(VARIANTS[name] is before.get(name) for name in VARIANTS):
        raise ValueError(
            f"{path} registers no variant; put @variant('its_name', part=...) over a class"
        )


def own_sources(name: str) -> dict[str, Source]:
    """Of those of a user's own that a variant's name joins: their source as it is now."""
    return {v.name: source_of(v) for v in resolve(name) if v.is_own}
