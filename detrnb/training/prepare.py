"""From settings to things: data, model, loss, optimizer, batches."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader

from detrnb.datasets import (
    Classes,
    CocoDataset,
    FeatureDataset,
    check_splits,
    compute_features,
    make_loader,
    open_split,
)
from detrnb.loss import SetCriterion
from detrnb.model import (
    DETR,
    LoadedWeights,
    build_criterion,
    build_detr,
    load_backbone_weights,
    load_weights,
)
from detrnb.runs import project_root
from detrnb.settings import Config, ModelConfig, TrainConfig, resolve
from detrnb.training.device import device_name, from_main
from detrnb.training.origin import hashes

# The files between images on disk and the features that are kept of them.
ENCODING = (
    *(f"datasets/{name}.py" for name in ("coco", "loader", "transforms")),
    *(f"model/{name}.py" for name in ("backbone", "detr")),
    "training/prepare.py",
)


@dataclass(frozen=True)
class Prepared:
    """All that a run trains with.

    Attributes:
        model: on its device, wrapped for its processes; `core` is the DETR inside.
        classes: label -> category id and name.
        train_loader: this process's batches, shuffled; `val_loader`: in order.
        steps: optimizer steps of an epoch.
        rate_factor: of the learning rates at a step, counted over all epochs.
    """

    accelerator: Accelerator
    model: nn.Module
    criterion: SetCriterion
    optimizer: torch.optim.Optimizer
    classes: Classes
    train_loader: DataLoader
    val_loader: DataLoader
    steps: int
    rate_factor: Callable[[int], float]

    @property
    def core(self) -> DETR:
        return self.accelerator.unwrap_model(self.model)

    @property
    def train_set(self) -> CocoDataset | FeatureDataset:
        return self.train_loader.dataset


def open_data(config: Config, accelerator: Accelerator) -> tuple[CocoDataset, CocoDataset]:
    """Training and validation split, checked.

    Raises:
        ValueError: the data cannot be read, has faults (`datasets.check`), or other classes than
            the model.
    """
    # Only the main process reads all of it, and makes the toy set.
    data, report = config.data, from_main(partial(check_splits, config))
    if report.errors:
        raise ValueError("\n".join(["the data has errors:", *map(str, report.errors)]))
    if report.warnings and accelerator.is_main_process:
        print("\n".join(f"warning: {fault.short}" for fault in report.warnings))
        print("`detrnb data` with the data's folder shows which")
    return (
        open_split(data, data.train_split, train=True, seed=config.train.seed),
        open_split(data, data.val_split),
    )


def prepare(
    config: Config,
    accelerator: Accelerator,
    datasets: Sequence[CocoDataset],
    state: dict | None = None,
) -> Prepared:
    """Turn settings into what a run trains with.

    Args:
        datasets: as `open_data` gives them.
        state: checkpoint to go on from, or None to start.
    """
    classes, train = datasets[0].classes, config.train
    model = _build(config.model, train, accelerator, state)
    if train.cache_features:
        with accelerator.local_main_process_first():  # the others read what it keeps
            datasets = [_with_features(d, model, config.model, accelerator) for d in datasets]
    train_loader, val_loader = _loaders(config, accelerator, datasets)
    steps = len(train_loader) // train.accumulate
    accelerator.ddp_handler = DistributedDataParallelKwargs(broadcast_buffers=_can_drift(model))
    if train.compile:
        model.compile()  # in place: names of its tensors stay as they are
    wrapped, optimizer = accelerator.prepare(model, build_optimizer(model, train))
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
        # None: of a run that began on a device which needs no scaler.
        if accelerator.scaler is not None and state["scaler"] is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
    return Prepared(
        accelerator,
        wrapped,
        build_criterion(config.model).to(accelerator.device),
        optimizer,
        classes,
        train_loader,
        val_loader,
        steps,
        rate_factor(train, steps),
    )


def rate_factor(train: TrainConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """What the learning rates are multiplied by at a step: warm-up, then drop or cosine to 0."""
    total = train.epochs * steps_per_epoch
    warmup = round(train.warmup * total)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if train.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
        return 0.1 ** (step // steps_per_epoch // train.lr_drop)

    return factor


def build_optimizer(model: DETR, train: TrainConfig) -> torch.optim.AdamW:
    """AdamW in the reference's two groups, all but the backbone, then the backbone's part; after
    them one for each rate that a variant has for parameters of its own.
    """
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    shares = {name: model.rates.get(name, 1.0) for name in trained}
    wanted = [("backbone" in n, shares[n]) for n in trained]
    kinds = dict.fromkeys([(False, 1.0), (True, 1.0), *wanted])
    groups = []
    for kind in kinds:
        rate = (train.lr_backbone if kind[0] else train.lr) * kind[1]
        params = [p for p, other in zip(trained.values(), wanted, strict=True) if other == kind]
        groups.append({"params": params, "lr": rate, "initial_lr": rate})
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], weight_decay=train.weight_decay, fused=True
    )


def _build(
    settings: ModelConfig, train: TrainConfig, accelerator: Accelerator, state: dict | None
) -> DETR:
    """The model with the weights it goes on or starts from, on its device."""
    torch.manual_seed(train.seed)
    model = build_detr(settings, train_backbone=train.lr_backbone > 0)
    if state is not None:
        _refill(model, state["model"])
    elif train.init_from is not None:
        with accelerator.local_main_process_first():  # it downloads
            loaded = load_weights(model, train.init_from)
        accelerator.print(_describe_start(loaded, settings.variant))
    else:
        source = settings.backbone_weights
        for note in load_backbone_weights(model.backbone[0], settings.backbone, source):
            accelerator.print(f"backbone weights {source}: {note}")
    return model.place(accelerator.device)


def _can_drift(model: DETR) -> bool:
    """Whether training changes buffers, in each process by what it sees.

    Norms of a backbone are frozen; what a checkpoint leaves out is constant.
    """
    buffers = {name for name, _ in model.named_buffers()} & model.state_dict().keys()
    return any(not name.startswith("backbone.") for name in buffers)


def _refill(model: DETR, weights: Mapping[str, Tensor]) -> None:
    """Put a checkpoint's weights into the model that they were written from."""
    ours = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if ours != {name: tensor.shape for name, tensor in weights.items()}:
        raise ValueError(
            "last.pt does not hold the model of its folder's config.json; it is of another run."
            " Bring back the right one, or delete the folder"
        )
    model.load_state_dict(weights)


def _describe_start(loaded: LoadedWeights, variant: str) -> str:
    """What a run starts from, in words."""
    lines = [f"starts from {loaded}"]
    for part in resolve(variant):
        if not part.starts_as_detr:
            lines.append(f"{part.name} computes another function of a DETR's weights")
    return "\n".join(lines)


def _loaders(
    config: Config, accelerator: Accelerator, datasets: Sequence[CocoDataset | FeatureDataset]
) -> list[DataLoader]:
    """This process's batches to train on, shuffled, and to evaluate."""
    train, data = config.train, config.data
    train_set, val_set = datasets
    shared = {
        "num_workers": data.num_workers,
        "process": (accelerator.process_index, accelerator.num_processes),
        "device": accelerator.device,
    }
    return [
        make_loader(
            train_set,
            train.batch_size,
            seed=train.seed,
            accumulate=train.accumulate,
            group_by_aspect=data.group_by_aspect,
            **shared,
        ),
        make_loader(val_set, train.batch_size, **shared),
    ]


def _with_features(
    dataset: CocoDataset, model: DETR, settings: ModelConfig, accelerator: Accelerator
) -> FeatureDataset:
    """The data set with what the frozen backbone makes of its images, once and for all."""

    @torch.no_grad()
    def encode(images: Tensor, padding_mask: Tensor | None) -> Tensor:
        images, padding_mask = send_to_device((images, padding_mask), accelerator.device)
        with accelerator.autocast():
            return model.backbone[0](model.normalize(images, padding_mask))

    model.eval()
    return compute_features(
        dataset, encode, kept=_features_path(dataset, model, settings, accelerator)
    )


def _features_path(
    dataset: CocoDataset, model: DETR, settings: ModelConfig, accelerator: Accelerator
) -> Path:
    """Where features are kept for other runs: named after all that they depend on."""
    digest = hashlib.sha256()
    for name, tensor in model.backbone[0].state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    made_by = (
        dataset.image_stamps(),
        settings.model_dump(include={"backbone", "stride", "dilation"}),
        hashes(*ENCODING),
        {name: metadata.version(name) for name in ("torch", "torchvision", "timm", "pillow")},
        accelerator.mixed_precision,
        device_name(accelerator.device),
        torch.backends.cpu.get_cpu_capability(),  # another processor rounds in another way
    )
    digest.update(repr(made_by).encode())
    name = f"{dataset.annotations.stem}-{digest.hexdigest()[:16]}.pt"
    return project_root() / "runs" / "features" / name
