"""A model learns one image by heart: what to try first where all boxes come out alike."""

from detrnb import Config
from detrnb.epoch import evaluate, train_one_epoch
from detrnb.runs import RunFolder
from detrnb.training import Training

ONE_IMAGE = {
    "data.toy.num_images": (1, 1, 1),
    "data.val_split": "train2017",
    "train.batch_size": 1,
    "train.epochs": 1,
    "train.lr": 2e-3,
}


def test_one_image_is_learned_by_heart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training = Training(Config.preset("smoke", overrides=ONE_IMAGE), RunFolder(tmp_path), None)
    train_one_epoch(
        training.model,
        training.criterion,
        list(training.train_loader) * 300,
        training.optimizer,
        training.accelerator,
        training.config.train,
        epoch=0,
    )
    found = evaluate(training.model, training.criterion, training.val_loader, training.accelerator)
    assert found.metrics.stats[0] > 0.9, found.metrics.stats
