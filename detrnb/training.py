"""A run while it trains: data, model and optimizer, and the run folder they are written to."""

import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from detrnb.backbone import load_backbone_weights
from detrnb.config import Config
from detrnb.datasets.annotations import fingerprint
from detrnb.datasets.coco import CocoDataset
from detrnb.datasets.loader import compute_features, make_loader
from detrnb.datasets.splits import check_splits, open_split
from detrnb.detr import DETR, added_parameters, build_criterion, build_detr
from detrnb.device import device_name, from_main, make_accelerator, peak_memory_mb
from detrnb.epoch import build_optimizer, evaluate, train_one_epoch
from detrnb.global_batch import TrainingDiverged
from detrnb.progress import Progress
from detrnb.registry import resolve
from detrnb.runs import RunFolder, project_root, provenance
from detrnb.weights import LoadedWeights, load_weights

HISTORY_SIZE = 65_536  # numbers in a parameter; larger ones are not kept for every epoch


def _save(path: Path, content: dict) -> None:
    """Write a checkpoint wholly or not at all."""
    beside = path.with_suffix(".tmp")
    torch.save(content, beside)
    os.replace(beside, path)


def _describe_start(loaded: LoadedWeights, variant: str) -> str:
    """What a run starts from, in words."""
    lines = [f"starts from {loaded}"]
    for part in resolve(variant):
        if not part.starts_as_detr:
            lines.append(f"{part.name} computes another function of a DETR's weights")
    return "\n".join(lines)


class Training:
    """What `fit` holds while it trains.

    Args:
        state: checkpoint to go on from, or None to start.

    Raises:
        ValueError: the data cannot be read, has faults (`datasets.check`), other classes than the
            model, or is not the data that the run began with.
    """

    def __init__(self, config: Config, folder: RunFolder, state: dict | None) -> None:
        self.config, self.folder = config, folder
        self.accelerator = make_accelerator(config.train.precision)
        datasets = self._open_data()
        self.classes = datasets[0].classes
        self.provenance = self._provenance(datasets)
        model = self._build(state)
        self.num_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if config.train.cache_features:
            with self.accelerator.local_main_process_first():  # the others read what it keeps
                datasets = [
                    compute_features(d, self._encoder(model), kept=self._features_path(d, model))
                    for d in datasets
                ]
        self.train_set = datasets[0]
        self.criterion = build_criterion(config.model).to(self.accelerator.device)
        self.train_loader, self.val_loader = self._loaders(datasets)
        self.steps = len(self.train_loader) // config.train.accumulate  # of an epoch
        self.model, self.optimizer = self.accelerator.prepare(
            model, build_optimizer(model, config.train)
        )
        self.provenance["steps_per_epoch"] = self.steps
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            # None: of a run that began on a device which needs no scaler.
            if self.accelerator.scaler is not None and state["scaler"] is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
        else:
            self._keep_history(0)

    def _open_data(self) -> list[CocoDataset]:
        """Training and validation split, checked."""
        # Only the main process reads all of it, and makes the toy set.
        data, report = self.config.data, from_main(lambda: check_splits(self.config))
        if report.errors:
            raise ValueError("\n".join(["the data has errors:", *map(str, report.errors)]))
        if report.warnings and self.accelerator.is_main_process:
            print("\n".join(f"warning: {fault.short}" for fault in report.warnings))
            print("`python -m detrnb.datasets` with the data's folder shows which")
        return [
            open_split(data, data.train_split, train=True, seed=self.config.train.seed),
            open_split(data, data.val_split),
        ]

    def _provenance(self, datasets: list[CocoDataset]) -> dict:
        """How the run is made; of a resumed run, how it began, and when it went on."""
        data, train = self.config.data, self.config.train
        num_processes = self.accelerator.num_processes
        global_batch = train.global_batch(num_processes)
        fingerprints = {
            split if split in data.splits else d.annotations.stem: fingerprint(d.annotations)
            for split, d in zip((data.train_split, data.val_split), datasets, strict=True)
        }
        before, now = self.folder.read_provenance(), provenance()
        if before and before["data"] != fingerprints:
            raise ValueError(
                f"{self.folder.path} was trained on other annotations ({before['data']} there,"
                f" {fingerprints} now); give this run another name"
            )
        if before and before["global_batch"] != global_batch:
            raise ValueError(
                f"{self.folder.path} was trained with {before['global_batch']} images a step, now"
                f" it would be {global_batch} (train.batch_size {train.batch_size} x"
                f" train.accumulate {train.accumulate} x {num_processes} processes). Start as many"
                " processes as before, or give this run another name"
            )
        now["device"] = device_name(self.accelerator.device)
        now["precision"] = self.accelerator.mixed_precision
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

    def _build(self, state: dict | None) -> DETR:
        """The model with the weights it goes on or starts from, on its device."""
        model_config, train = self.config.model, self.config.train
        torch.manual_seed(train.seed)
        model = build_detr(model_config, train_backbone=train.lr_backbone > 0)
        if state is not None:
            model.load_state_dict(state["model"])
        elif train.init_from is not None:
            with self.accelerator.local_main_process_first():  # it downloads
                loaded = load_weights(model, train.init_from)
            if self.accelerator.is_main_process:
                print(_describe_start(loaded, model_config.variant))
        else:
            load_backbone_weights(
                model.backbone[0], model_config.backbone, model_config.backbone_weights
            )
        return model.place(self.accelerator.device)

    def _loaders(self, datasets: list[Dataset]) -> list[torch.utils.data.DataLoader]:
        """This process's batches to train on, shuffled, and to evaluate."""
        train, data, accelerator = self.config.train, self.config.data, self.accelerator
        train_set, val_set = datasets
        shared = {
            "num_workers": data.num_workers,
            "process": (accelerator.process_index, accelerator.num_processes),
            "pin_memory": accelerator.device.type == "cuda",
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

    def _features_path(self, dataset: CocoDataset, model: DETR) -> Path:
        """Where features are kept for other runs: named after all that they depend on."""
        digest = hashlib.sha256()
        for name, tensor in model.backbone[0].state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        made_by = (
            fingerprint(dataset.annotations),
            dataset.image_stamp(),
            self.config.model.model_dump(include={"backbone", "stride", "dilation"}),
            self.accelerator.mixed_precision,
            device_name(self.accelerator.device),
            torch.__version__,
        )
        digest.update(repr(made_by).encode())
        name = f"{dataset.annotations.stem}-{digest.hexdigest()[:16]}.pt"
        return project_root() / "runs" / "features" / name

    def _encoder(self, model: DETR) -> Callable[[Tensor, Tensor], Tensor]:
        """What turns images into features once and for all."""

        @torch.no_grad()
        def encode(images: Tensor, padding_mask: Tensor) -> Tensor:
            device = self.accelerator.device
            images, padding_mask = images.to(device), padding_mask.to(device)
            with self.accelerator.autocast():
                return model.backbone[0](model.normalize(images, padding_mask))

        model.eval()
        return encode

    def _keep_history(self, epochs: int) -> None:
        """Add to the run folder's history what the variant's own parameters are by now."""
        model = self.accelerator.unwrap_model(self.model)
        added = {name for _, _, names in added_parameters(model) for name in names}
        small = {
            name: parameter.detach().cpu().numpy()
            for name, parameter in model.named_parameters()
            if name in added and parameter.numel() <= HISTORY_SIZE
        }
        if small and self.accelerator.is_main_process:
            self.folder.append_history(epochs, small)

    def train_epoch(self, epoch: int, progress: Progress) -> dict:
        """Train one epoch, write its checkpoint and return what that holds."""
        begin = time.perf_counter()
        # Seeded anew each epoch, so that a resumed run draws what the unbroken one draws; processes
        # draw different dropout.
        rank = self.accelerator.process_index
        torch.manual_seed(self.config.train.seed * 1_000_003 + epoch + rank * 2**40)
        self.train_loader.batch_sampler.set_epoch(epoch)
        if isinstance(self.train_set, CocoDataset):
            self.train_set.set_epoch(epoch)
        line = train_one_epoch(
            self.model,
            self.criterion,
            self.train_loader,
            self.optimizer,
            self.accelerator,
            self.config.train,
            epoch,
            progress.step,
        )
        scaler = self.accelerator.scaler
        weights = self.accelerator.unwrap_model(self.model).state_dict()
        bad = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
        if bad:
            raise TrainingDiverged(
                f"{bad[0]} is not finite after epoch {epoch + 1}; the last checkpoint is kept;"
                " lower train.lr"
            )
        state = {
            "model": weights,
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "epoch": epoch,
            "classes": self.classes,
            "train_line": line,
            "train_time_s": time.perf_counter() - begin,
        }
        self._keep_history(epoch + 1)  # before the checkpoint, so that none is without its history
        if self.accelerator.is_main_process:
            _save(self.folder.last, state)
        return state

    def evaluate_epoch(self, state: dict) -> None:
        """Evaluate the model, keep it if it is the best, write the epoch's log line."""
        begin = time.perf_counter()
        result = evaluate(self.model, self.criterion, self.val_loader, self.accelerator)
        line = {
            **state["train_line"],
            **result.log,
            "test_coco_eval_bbox": result.metrics.stats,
            "epoch": state["epoch"],
            "n_parameters": self.num_parameters,
            "test_coco_eval_bbox_per_class": result.metrics.per_class,
            "train_time_s": state["train_time_s"],
            "test_time_s": time.perf_counter() - begin,
        }
        if not self.accelerator.is_main_process:
            return
        best = max((e["test_coco_eval_bbox"][0] for e in self.folder.read_log()), default=-math.inf)
        if result.metrics.stats[0] > best:
            beside = self.folder.best.with_suffix(".tmp")
            shutil.copyfile(self.folder.last, beside)
            os.replace(beside, self.folder.best)
        self.folder.append_log(line)

    def write_provenance(self, seconds: float) -> None:
        """Say how the run was made, with what it took so far."""
        if self.accelerator.is_main_process:
            peak = peak_memory_mb(self.accelerator.device)
            measured = {"wall_time_s": seconds, "peak_memory_mb": peak}
            self.folder.write_provenance(self.provenance | measured)
