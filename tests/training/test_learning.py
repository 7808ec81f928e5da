"""A model learns one image by heart: what to try first where all boxes come out alike."""

from detrnb import Config
from detrnb.training.device import make_accelerator
from detrnb.training.loop import evaluate, train_one_epoch
from detrnb.training.prepare import open_data, prepare, rate_factor

ONE_IMAGE = {
    "data.toy.num_images": (1, 1, 1),
    "data.val_split": "train2017",
    "train.batch_size": 1,
    "train.epochs": 1,
    "train.lr": 2e-3,
}


def test_one_image_is_learned_by_heart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config.preset("smoke", overrides=ONE_IMAGE)
    accelerator = make_accelerator(config.train.precision)
    ready = prepare(config, accelerator, open_data(config, accelerator))
    train_one_epoch(
        ready.model,
        ready.criterion,
        list(ready.train_loader) * 300,
        ready.optimizer,
        accelerator,
        epoch=0,
        clip_max_norm=config.train.clip_max_norm,
        rate_factor=rate_factor(config.train, 300),
    )
    found = evaluate(ready.model, ready.criterion, ready.val_loader, accelerator)
    assert found.metrics.stats[0] > 0.9, found.metrics.stats
