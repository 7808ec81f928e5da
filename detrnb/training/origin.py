"""How a run is made: what its provenance says, held against what a folder's run began with."""

from collections.abc import Sequence

from accelerate import Accelerator

from detrnb.datasets import CocoDataset, fingerprint
from detrnb.runs import RunFolder, this_process
from detrnb.settings import Config
from detrnb.training.device import device_name


def origin(
    config: Config, folder: RunFolder, accelerator: Accelerator, datasets: Sequence[CocoDataset]
) -> dict:
    """How the run is made; of a resumed run, how it began, and when it went on.

    Args:
        datasets: training and validation split.

    Raises:
        ValueError: the folder's run began with other data, or with another number of images a step.
    """
    data, train = config.data, config.train
    num_processes = accelerator.num_processes
    global_batch = train.global_batch(num_processes)
    fingerprints = {
        split if split in data.splits else d.annotations.stem: fingerprint(d.annotations)
        for split, d in zip((data.train_split, data.val_split), datasets, strict=True)
    }
    before, now = folder.read_provenance(), this_process()
    known = {"data": fingerprints, "global_batch": global_batch}
    unknown = [key for key in known if before and key not in before]
    if unknown:
        accelerator.print(
            f"{folder.provenance_path} does not say {' and '.join(unknown)}: whether the run goes"
            " on as it began was not checked"
        )
    before = before and known | before
    if before and before["data"] != fingerprints:
        raise ValueError(
            f"{folder.path} was trained on other annotations ({before['data']} there,"
            f" {fingerprints} now); give this run another name"
        )
    if before and before["global_batch"] != global_batch:
        raise ValueError(
            f"{folder.path} was trained with {before['global_batch']} images a step, now it would"
            f" be {global_batch} (train.batch_size {train.batch_size} x train.accumulate"
            f" {train.accumulate} x {num_processes} processes). Start as many processes as before,"
            " or give this run another name"
        )
    now["device"] = device_name(accelerator.device)
    now["precision"] = accelerator.mixed_precision
    if before:
        keys = ("started", "git_commit", "git_dirty", "device", "precision")
        going_on = {key: now[key] for key in keys}
        return before | {"resumed": [*before.get("resumed", []), going_on]}
    return now | {
        "seed": train.seed,
        "data": fingerprints,
        "processes": num_processes,
        "global_batch": global_batch,
    }
