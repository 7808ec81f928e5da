"""What is known of one run, and how surely: read off its folder and log, or inferred from them."""

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from detrnb.compare.certainty import IF_AS_REFERENCE, UNKNOWN, Finding
from detrnb.compare.counts import counts, rate_within_first_epoch
from detrnb.compare.inference import logs_as_reference, logs_backbones_rate
from detrnb.compare.records import Record
from detrnb.compare.table import places_of
from detrnb.runs import COCO_METRICS, parts_of, trained_by

_SIZES = {"small": "APs", "medium": "APm", "large": "APl"}  # COCO's, of objects


def findings(record: Record) -> dict[str, Finding]:
    """What is known of a run, by name."""
    return {
        "learning rate": _learning_rate(record),
        "schedule": _schedule(record),
        **counts(record),
        "validation objects": _validation_objects(record),
        "parameters": _parameters(record),
        "decoder layers": _decoder_layers(record),
        "data": _data(record),
        "image size": _image_size(record),
        "seed": _seed(record),
        "device": _device(record),
        "precision": _recorded(_through(_parts(record, "precision")).get("precision")),
        "versions": _versions(record),
        "code": _code(record),
        "git commit": _commit(record),
    }


def of_tool(record: Record) -> dict[str, Finding]:
    """Whose log it is and who measured AP, where one of two is another tool's."""
    tool = record.tool or "DETR or a relative"
    return {
        "log": Finding(tool, "logged", value=tool),
        "evaluator": Finding(record.evaluator, "logged", value=record.evaluator),
    }


def _recorded(value: object) -> Finding:
    return UNKNOWN if value is None else Finding(str(value), "recorded", value=value)


def _learning_rate(record: Record) -> Finding:
    if "train_lr" not in record.log or np.isnan(record.log["train_lr"].iloc[0]):
        return UNKNOWN
    mean, epoch = float(record.log["train_lr"].iloc[0]), record.log.index[0]
    rate = rate_within_first_epoch(record)
    text = f"{mean:.4g} (mean of epoch {epoch})" if rate is None else f"{rate:g}"
    if logs_backbones_rate(record.run[0]):
        return Finding(f"{text}: rate of the first group, there the backbone's", "logged")
    if logs_as_reference(record.run[0]):
        return Finding(text, "logged", value=rate or mean)
    because = f"of the first group, in the reference all but the backbone; {IF_AS_REFERENCE}"
    return Finding(text, "likely", because, rate or mean)


def _schedule(record: Record) -> Finding:
    """Its value are the epochs' rates: what a schedule says of later epochs is not compared."""
    if "train_lr" not in record.log:
        return UNKNOWN
    rates = record.log["train_lr"].astype(float).dropna()
    if "schedule" in (train := record.config.get("train", {})):
        text = f"a tenth after every {train['lr_drop']} epochs"
        if train["schedule"] == "cosine":
            text = f"cosine over {train['epochs']} epochs"
        if train["warmup"]:
            text += f", warm-up {train['warmup']:.0%}"
        return Finding(text, "recorded", value=rates)
    if len(rates) < 2 or not rates.any():  # 0 such as a frozen backbone's, of the first group
        return UNKNOWN
    factors = (rates / rates.shift())[1:]
    rising = int((factors > 1 + 1e-6).cummin().sum())
    changes = factors[rising:][~np.isclose(factors[rising:], 1, rtol=1e-6)]
    parts = [f"warm-up to epoch {factors.index[rising - 1]}"] if rising else []
    if len(changes) > 3:
        parts.append("changes from epoch to epoch")
    elif rising == 0 and changes.empty:
        parts.append(f"constant over {len(rates)} epochs")
    elif len(factors) > rising:
        parts.append("constant")
        parts += [f"{factor:.3g} times from epoch {epoch}" for epoch, factor in changes.items()]
    return Finding(", ".join(parts), "logged", value=rates)


def _validation_objects(record: Record) -> Finding:
    """Sizes of which the validation set has objects: COCO's numbers are -1 for one it lacks."""
    key = "test_coco_eval_bbox"
    logged = [line[key] for line in record.run if line.get(key)]
    places = {name: COCO_METRICS.index(metric) for name, metric in _SIZES.items()}
    if not logged or len(logged[-1]) <= max(places.values()):
        return UNKNOWN
    found = {name: logged[-1][place] for name, place in places.items()}
    if not np.isfinite(list(found.values())).all():
        return UNKNOWN
    sizes = tuple(name for name, value in found.items() if value != -1)
    return Finding(", ".join(sizes) or "none", "logged", value=sizes)


def _parameters(record: Record) -> Finding:
    if "n_parameters" not in record.log:
        return UNKNOWN
    number = int(record.log["n_parameters"].iloc[-1])
    return Finding(f"{number:,}", "logged", value=number)


def _decoder_layers(record: Record) -> Finding:
    places = places_of(record.run[0]).values()
    layers = {layer for _, metric, layer in places if metric.startswith("loss_")}
    number = sum(layer.isdigit() for layer in layers) + 1
    # Another tool's model need not have a decoder: only its numbered layers tell of one.
    if "last" not in layers or (record.tool and number == 1):
        return UNKNOWN
    if any(layer.endswith(" or encoder") for layer in layers):
        because = "RT-DETR logs the encoder's predictions behind those of the decoder's layers"
        return Finding(f"{number} or {number + 1}", "logged", because)
    return Finding(str(number), "logged", value=number)


def _seed(record: Record) -> Finding:
    noted = record.provenance.get("seed")
    if None in (record.seed, noted) or record.seed == noted:
        return _recorded(record.seed)
    because = "config and provenance are not of one run"
    return Finding(f"{record.seed}, or {noted}", "recorded", because, (record.seed, noted))


def _data(record: Record) -> Finding:
    prints = record.provenance.get("data")
    if not isinstance(prints, Mapping):
        return UNKNOWN
    if tested := record.test.get("data"):
        prints = {**prints, record.test["split"]: tested}
    parts = [f"{name.removeprefix('instances_')} {text[:6]}" for name, text in prints.items()]
    return Finding(", ".join(parts), "recorded", value=dict(prints))


def _image_size(record: Record) -> Finding:
    data = record.config.get("data")
    if not data:
        return UNKNOWN
    sizes, longest = data["train_sizes"], data["max_size"]
    text = (
        "as the images are" if sizes is None else f"{min(sizes)} to {max(sizes)}, at most {longest}"
    )
    if sizes is None and data["toy"]:
        text = str(data["toy"]["image_size"])
    evaluated = data["eval_size"]
    if evaluated is not None:
        text += f"; evaluated at {evaluated}"
    return Finding(text, "recorded", value=text)


def _device(record: Record) -> Finding:
    """What trained it; processors of other instructions or threads round otherwise."""
    on_processor = record.provenance.get("device") == "cpu"
    keys = ("device", *("instruction_set", "threads") * on_processor)
    known = _through(_parts(record, *keys))
    if not known:
        return UNKNOWN
    named = [known[key] for key in ("device", "instruction_set") if key in known]
    value = {{"device": "name"}.get(k, k.replace("_", " ")): text for k, text in known.items()}
    return Finding(", ".join(named), "recorded", value=value)


def _versions(record: Record) -> Finding:
    parts = [part.get("versions") for part in _parts(record, "versions")]
    if not all(isinstance(part, Mapping) for part in parts) or not parts:
        return UNKNOWN
    known = _through([{name: v for name, v in part.items() if v} for part in parts])
    return Finding(f"torch {known.get('torch', 'unknown')}", "recorded", value=known)


def _code(record: Record) -> Finding:
    """The files that compute, each as a hash of its text, or of its texts where they changed.

    Runs of 0.1 have none.
    """
    trained_by_each = trained_by(record.provenance)
    if not all(isinstance(code, Mapping) for code in trained_by_each):
        return UNKNOWN
    files = _through(trained_by_each)
    of_all = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return Finding(f"{len(files)} files, {of_all[:10]}", "recorded", value=files)


def _parts(record: Record, *keys: str) -> list[dict[str, object]]:
    """What provenance keeps under some keys: at a run's start and each time it went on."""
    kept = [
        {key: part[key] for key in keys if part.get(key) is not None}
        for part in parts_of(record.provenance)
    ]
    return [part for part in kept if part]


def _through(parts: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """By name what it was all along, or what it was and then became."""
    known: dict[str, str] = {}
    for part in parts:
        for name, text in part.items():
            was = known.setdefault(name, f"{text}")
            if was.rpartition(", then ")[2] != f"{text}":
                known[name] = f"{was}, then {text}"
    return known


def _commit(record: Record) -> Finding:
    commit = record.provenance.get("git_commit")
    if not commit:
        return UNKNOWN
    text = commit[:10] + (" and changes" if record.provenance.get("git_dirty") else "")
    return Finding(text, "recorded", value=text)
