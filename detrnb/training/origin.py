"""How a run is made: what its provenance says, held against what a folder's run began with."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import torch
from accelerate import Accelerator

from detrnb.datasets import CocoDataset, fingerprint
from detrnb.runs import (
    RunFolder,
    code_differences,
    config_differences,
    data_differences,
    hash_of_file,
    hash_of_text,
    parts_of,
    this_process,
    trained_by,
    what_counts,
)
from detrnb.settings import Config, import_string, own_sources, resolve
from detrnb.training.device import device_name

PACKAGE = Path(__file__).resolve().parents[1]
# What is between settings and numbers. Left out is what refuses or reports, and what only passes
# things on: a change there would call every run another one.
COMPUTING = (
    "boxes.py",
    "loss/*.py",
    "model/*.py",
    *(
        f"training/{name}.py"
        for name in (
            *("average_precision", "averaging", "epochs", "global_batch", "loop", "metrics"),
            "prepare",
        )
    ),
    # faults too: `find` there gives each box its image.
    *(
        f"datasets/{name}.py"
        for name in (
            *("annotations", "batches", "coco", "collating", "faults", "fields", "json_lists"),
            *("loader", "pictures", "splits", "transforms"),
        )
    ),
)
DRAWING = ("datasets/toy.py", "datasets/toy_drawing.py")
VARIANT_FILES = "detrnb.variants"
SHOWN = 4  # files in a line


def code_of(config: Config) -> dict[str, str | None]:
    """The hash of each file that computes what a config describes, as it stands now.

    Returns:
        Path from the package to hash; of a variant of a user's own that of its source in the run's
        folder, None where Python did not keep it.
    """
    patterns = COMPUTING + (DRAWING if config.data.toy is not None else ())
    code = hashes(*patterns)
    for variant in resolve(config.model.variant):
        for target in filter(None, variant.parts.values()):
            if isinstance(target, str):
                named = [target]
            else:  # a class of a user's own may derive from a published variant's
                bases = map(import_string, target.__mro__)
                named = [base for base in bases if base.startswith(f"{VARIANT_FILES}.")]
            for one in named:
                code |= _code_of_class(one)
    for name, source in own_sources(config.model.variant).items():
        code[f"variants/{name}.py"] = hash_of_text(source.text) if source.is_whole else None
    return code


def hashes(*patterns: str) -> dict[str, str]:
    """The hash of each of the package's files that patterns name; doors compute nothing."""
    files = sorted(path for pattern in patterns for path in PACKAGE.glob(pattern))
    return {
        path.relative_to(PACKAGE).as_posix(): hash_of_file(path)
        for path in files
        if path.name != "__init__.py"
    }


def _code_of_class(target: str) -> dict[str, str]:
    file = Path(import_module(target.partition(":")[0]).__file__).resolve()
    key = file.relative_to(PACKAGE).as_posix() if file.is_relative_to(PACKAGE) else target
    return {key: hash_of_file(file)}


def other_settings(
    folder: RunFolder, config: Config, processes: int | None = None
) -> dict[str, tuple[object, object]]:
    """Settings that change numbers and in which a folder's run and a config differ: there, here.

    What the config leaves to the data is taken as that run began.

    Args:
        processes: that the config is stated for; as many as the run had where it is None.
    """
    settings = folder.read_config()
    stated = config.as_begun(settings).model_dump(mode="json")
    there = folder.read_provenance().get("processes") or 1
    return config_differences(
        what_counts(Config.completed(settings), there),
        what_counts(stated, there if processes is None else processes),
    )


def other_code(provenance: Mapping[str, object], now: Mapping[str, str | None]) -> str:
    """In a line, whether a run was trained by other code than there is now; empty where not."""
    known = [code for code in trained_by(provenance) if code is not None]
    parts = []
    if len(known) < len(trained_by(provenance)):
        parts.append("trained by code that is not known, since 0.1 kept no hash of it")
    changed = sorted({file for code in known for file in code_differences(code, now)})
    if changed:
        parts.append(f"trained by other code than there is now: {_listed(changed)}")
    untold = sorted(file for file in now if now[file] is None)
    if untold:
        parts.append(f"whether {_listed(untold)} has changed is not known: its text is not kept")
    return "; ".join(parts)


def _listed(files: Sequence[str]) -> str:
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return ", ".join(files[:SHOWN]) + more


def origin(
    config: Config, folder: RunFolder, accelerator: Accelerator, datasets: Sequence[CocoDataset]
) -> dict:
    """How the run is made; of a resumed run, how it began, and when it went on.

    What has changed since it began is said.

    Args:
        datasets: training and validation split.

    Raises:
        ValueError: the folder's run began with other data, or with another number of images a step.
    """
    train = config.train
    global_batch = train.global_batch(accelerator.num_processes)
    data, files = _fingerprints(config, datasets)
    now = this_process() | {
        "code": code_of(config),
        "device": device_name(accelerator.device),
        "precision": accelerator.mixed_precision,
        "threads": torch.get_num_threads(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "image_files": files,
    }
    before = folder.read_provenance()
    begun = {
        "seed": train.seed,
        "data": data,
        "processes": accelerator.num_processes,
        "global_batch": global_batch,
    }
    unknown = [key for key in ("data", "global_batch") if key not in before]
    if unknown and folder.last.exists():
        accelerator.print(
            f"{folder.provenance_path} does not say {' and '.join(unknown)}: whether the run goes"
            " on as it began was not checked"
        )
    if not before:
        return now | begun
    before = begun | before
    changed = data_differences(before["data"], data)
    if changed:
        pairs = "; ".join(f"{name}: {a} there, {b} now" for name, (a, b) in changed.items())
        raise ValueError(
            f"{folder.path} was trained on other annotations or images ({pairs}); bring those back"
            " to go on, or give this run another name"
        )
    if before["global_batch"] != global_batch:
        raise ValueError(
            f"{folder.path} was trained with {before['global_batch']} images a step, now it would"
            f" be {global_batch} (train.batch_size {train.batch_size} x train.accumulate"
            f" {train.accumulate} x {accelerator.num_processes} processes). Start as many processes"
            " as before, or give this run another name"
        )
    return before | {
        "resumed": [*before.get("resumed", []), _going_on(config, folder, before, now)]
    }


def _fingerprints(
    config: Config, datasets: Sequence[CocoDataset]
) -> tuple[dict[str, str], dict[str, str]]:
    """By split, what must stay the same (`runs.same_data`), and what is said where it does not.

    The images of a generated set follow from settings that its annotations hold; its files need not
    be equal to the byte on another machine. Of other sets names and sizes must stay the same, while
    times change with every copy.
    """
    data, splits = config.data, (config.data.train_split, config.data.val_split)
    must, said = {}, {}
    for split, dataset in zip(splits, datasets, strict=True):
        named = split in data.splits
        name = split if named else dataset.annotations.stem
        sizes, said[name] = dataset.image_stamps()
        must[name] = fingerprint(dataset.annotations)
        if named or data.toy is None:
            must[name] += f"+{sizes}"
    return must, said


def _going_on(config: Config, folder: RunFolder, before: Mapping, now: Mapping) -> dict:
    """What is kept of a run's going on; says what is not as it was."""
    parts = parts_of(before)

    def last(key: str) -> object:
        return next((part[key] for part in reversed(parts) if key in part), None)

    keys = (
        *("started", "git_commit", "git_dirty", "precision"),
        *("versions", "device", "threads", "instruction_set"),
    )
    entry = {key: now[key] for key in keys}
    code, files = trained_by(before)[-1], last("image_files")
    said = []
    if code != now["code"]:
        entry["code"] = now["code"]
        changed = "0.1 kept no hash of its code" if code is None else "its code has changed: "
        said.append(changed + _listed(code_differences(code or now["code"], now["code"])))
    if last("precision") != now["precision"]:
        said.append(f"its precision was {last('precision')} and is {now['precision']} now")
    rounding = ["device", *["threads", "instruction_set"] * (now["device"] == "cpu")]
    was = {key: last(key) for key in rounding} | (last("versions") or {})
    said += [
        f"its {what} was {was[what]} and is {value} now, which rounds otherwise"
        for what, value in ({key: now[key] for key in rounding} | now["versions"]).items()
        if was.get(what) not in (None, value)
    ]
    if files != now["image_files"]:
        entry["image_files"] = now["image_files"]
        if files is not None:
            other = ", ".join(name for name in files if files[name] != now["image_files"].get(name))
            said.append(f"image files were changed, copied or drawn anew since: {other}")
    settings = config.model_dump(mode="json")
    differing = config_differences(Config.completed(folder.read_config()), settings)
    said += [f"{key} was {old!r} and is {new!r} now" for key, (old, new) in differing.items()]
    if said:
        print(f"{folder.path.name} goes on, but {'; '.join(said)}", flush=True)
    return entry
