"""The batch that is drawn is the batch that is trained on."""

import numpy as np

from detrnb import Config
from detrnb.commands import main
from detrnb.look import plot_batch

SMALL = {"data.toy.num_images": (8, 4, 4), "train.batch_size": 4}


def test_the_first_batch_is_drawn_with_its_boxes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {"data.train_sizes": (96, 112), "data.max_size": 150, "train.cache_features": False}
    config = Config.preset("smoke", overrides=SMALL | sizes)
    axes = [ax for ax in plot_batch(config).axes if ax.images]
    assert len(axes) == 4
    shapes = {ax.images[0].get_array().shape for ax in axes}
    assert len(shapes) == 1 and shapes.pop()[0] in (96, 112)  # padded alike
    assert all(1 <= len(ax.patches) <= 4 for ax in axes)
    for ax in axes:
        height, width = ax.images[0].get_array().shape[:2]
        for patch in ax.patches:
            (x, y), w, h = patch.get_xy(), patch.get_width(), patch.get_height()
            assert min(x, y) >= -1e-3 and x + w <= width + 1e-3 and y + h <= height + 1e-3
    other = [ax for ax in plot_batch(config, epoch=1).axes if ax.images]
    first, second = (np.asarray(ax[0].images[0].get_array()) for ax in (axes, other))
    assert first.shape != second.shape or (first != second).any()


def test_the_command_writes_the_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    typed = ["data", "show", "--preset", "smoke", "--out", "seen.png", "train.batch_size=4"]
    assert main([*typed, "data.toy.num_images=[8,4,4]"]) == 0
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")
    assert "seen.png: the first batch of epoch 0" in capsys.readouterr().out
    assert main(["data", "show", "--preset", "smoke", "train.epoch=2"]) == 2
