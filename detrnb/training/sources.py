"""The source of a user's own variants, beside the runs that they trained: kept, compared, told."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from detrnb.model import DETR
from detrnb.runs import RunFolder
from detrnb.settings import (
    ONCE_A_LAYER,
    VARIANTS,
    Config,
    ModelConfig,
    class_of,
    differences,
    load_variants,
    own_sources,
    plain,
    resolve,
)


def see_placed(model: DETR, settings: ModelConfig) -> None:
    """See that each class of a model's variants is somewhere in it.

    One is not where another variant's decoder or encoder makes its layers by itself: the join would
    bear its name and lack it.

    Raises:
        ValueError: one is nowhere.
    """
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    for one in resolve(settings.variant):
        for part, target in one.parts.items():
            if target is None or part == "criterion":
                continue
            if part in ONCE_A_LAYER and not settings.replaced_layers(one.name, part):
                continue
            cls = class_of(target)
            if isinstance(cls, type) and cls not in kinds:
                raise ValueError(
                    f"{settings.variant!r}: {cls.__name__} of {one.name!r} is in no place, so that"
                    f" nothing of its {part} is in the model; a class that makes its layers by"
                    " itself says None for their parts in its entry, register(Variant(name,"
                    f" {{..., {part!r}: None}})), and then joins with none that has one"
                )


def stated_sources(config: Config) -> dict[str, str]:
    """What of a config's own variants decides what they compute, by name; nothing of built-ins."""
    return {name: plain(source.text) for name, source in own_sources(config.model.variant).items()}


def keep_sources(folder: RunFolder, config: Config) -> list[str]:
    """Keep the source of a run's own variants in its folder.

    Returns:
        What could not be kept, in sentences.
    """
    sources = own_sources(config.model.variant)
    folder.write_variants({name: source.text for name, source in sources.items()})
    return [
        f"the source kept of {name!r} lacks {what}: what it computes cannot be told from it alone"
        for name, source in sources.items()
        for what in source.missing
    ]


def changed_sources(folder: RunFolder, config: Config) -> list[str]:
    """What is no longer as it was when a run's own variants were kept, in sentences."""
    kept = folder.read_variants()
    changes = {
        name: differences(kept[name], source.text)
        for name, source in own_sources(config.model.variant).items()
        if name in kept
    }
    return [
        f"{name!r} is not as it was trained: {', '.join(parts)}"
        f" changed (its source then: {folder.variants / f'{name}.py'})"
        for name, parts in changes.items()
        if parts
    ]


def open_variants(folder: RunFolder, variants: Iterable[type | str | Path]) -> None:
    """See that the variants of a folder's run are known here. What lies in the folder is never run.

    Args:
        variants: a user's own: classes, or files that register them.

    Raises:
        ValueError: one is not known; says where its source is kept. The folder is another tool's.
    """
    load_variants(variants)
    model = folder.read_config().get("model")
    if not isinstance(model, Mapping) or "variant" not in model:
        raise ValueError(
            f"{folder.path} is no run folder: its config.json is another tool's. A folder that"
            f" transformers saved is a start, train.init_from={str(folder.path)!r}"
        )
    for name in model["variant"].split("+"):
        if name not in VARIANTS:
            kept = folder.variants / f"{name}.py"
            source = f" Its source is kept in {kept}; look at it first" if kept.exists() else ""
            raise ValueError(
                f"{folder.path} is a run of the variant {name!r}, which is not known here: give its"
                f" class or a file that registers it, load_run(path, variants=[MyIdea]) or"
                f" variants=['my_idea.py'].{source}"
            )
