"""How long to train, planned from the size of the data, and what is known to go wrong.

No torch is imported here.
"""

import math

from detrnb.settings.config import Config

# From scratch, by the reference's authors: facebookresearch/detr#22 (steps) and #9 (images).
SCRATCH_STEPS, SCRATCH_IMAGES = 300_000, 10_000
SCRATCH_EPOCHS = 300  # the reference's schedule on COCO
FINETUNE_STEPS = 10_000
FINETUNE_EPOCHS = 12, 100  # fewest and most
WARMUP_STEPS, WARMUP_MOST = 2000, 0.1  # steps, and as a share of all
REFERENCE_LR, REFERENCE_BATCH = 1e-4, 16  # its command for COCO: 8 GPUs of 2 images


def steps_per_epoch(num_images: int, global_batch: int) -> int:
    """Optimizer steps of an epoch; a last, smaller batch is left out."""
    return num_images // global_batch


def planned(config: Config, num_images: int, global_batch: int) -> Config:
    """The config with `train.epochs`, `lr_drop` and `warmup` planned where they are None.

    Fine-tuning (`train.init_from` is set) gets 10,000 steps, but at least 12 epochs and at most
    100. So a thousand images in batches of four are seen 40 times and some hundred images 100
    times, the range that users report (40 to 120 epochs, facebookresearch/detr#341; 30 epochs of
    850 images in Hugging Face's guide); 12 epochs are the customary short schedule on COCO itself.
    From scratch it is the reference's 300 epochs, or more where these are fewer than the 300,000
    steps that its authors ask for (facebookresearch/detr#22).

    The learning rate drops after two thirds of the epochs, as the reference's after 200 of 300.
    Warm-up takes 2,000 steps, 2 / (1 - 0.999) for AdamW's second moments to be known (Ma and
    Yarats, On the adequacy of untuned warmup for adaptive optimization, AAAI 2021), but at most a
    tenth of all.

    Args:
        num_images: in the training split.
        global_batch: images that a step sees, over all processes.
    """
    train = config.train
    per_epoch = max(1, steps_per_epoch(num_images, global_batch))
    epochs = train.epochs
    if epochs is None and train.init_from is None:
        epochs = max(SCRATCH_EPOCHS, math.ceil(SCRATCH_STEPS / per_epoch))
    elif epochs is None:
        fewest, most = FINETUNE_EPOCHS
        epochs = min(max(math.ceil(FINETUNE_STEPS / per_epoch), fewest), most)
    plan = {
        "epochs": epochs,
        "lr_drop": max(1, round(epochs * 2 / 3)),
        "warmup": round(min(WARMUP_MOST, WARMUP_STEPS / (epochs * per_epoch)), 4),
    }
    open_ones = {key: value for key, value in plan.items() if getattr(train, key) is None}
    return config.model_copy(update={"train": train.model_copy(update=open_ones)})


def describe(config: Config, num_images: int, global_batch: int) -> str:
    """The length of a training in words."""
    train, per_epoch = config.train, steps_per_epoch(num_images, global_batch)
    total = train.epochs * per_epoch
    drops = train.schedule == "step" and train.lr_drop < train.epochs
    drop = f", a tenth of the rate after {train.lr_drop}" if drops else ""
    return (
        f"{num_images:,} images, {global_batch} a step: {per_epoch:,} steps an epoch, {total:,} in"
        f" {train.epochs} epochs, {round(train.warmup * total):,} of them warm-up{drop}"
    )


def cautions(config: Config, num_images: int, global_batch: int) -> list[str]:
    """What the reference's authors warn of, where it holds for a training.

    None for the toy set, whose settings were found by trial.
    """
    train, found = config.train, []
    if train.compile and config.data.train_sizes is not None:
        found.append(
            "train.compile compiles anew for shapes that it has not met, and batches of images of"
            " many sizes hardly repeat any; set data.train_sizes to one size, or leave it out"
        )
    if config.data.toy is not None:
        return found
    limit = REFERENCE_LR * math.sqrt(max(1.0, global_batch / REFERENCE_BATCH))
    if train.lr > limit * 1.001:
        found.append(
            f"train.lr {train.lr:g} is high for {global_batch} images a step: the reference takes"
            f" {REFERENCE_LR:g} for any batch; at most scale it by the square root, {limit:.1e}"
            " here (facebookresearch/detr#48)"
        )
    total = train.epochs * steps_per_epoch(num_images, global_batch)
    few = total < SCRATCH_STEPS or num_images < SCRATCH_IMAGES
    if train.init_from is None and few:
        found.append(
            f"{total:,} steps on {num_images:,} images are few from scratch; DETR needs some"
            f" {SCRATCH_STEPS:,} steps and {SCRATCH_IMAGES:,} images (facebookresearch/detr#22,"
            " #9). Start from weights: set train.init_from, as the preset 'finetune' does"
        )
    if train.batch_size == 1:
        found.append(
            "train.batch_size=1 never shows the model padding; evaluated in batches it loses some"
            " 10 points of AP (facebookresearch/detr#217). Take 2 or more, or evaluate one by one"
        )
    return found
