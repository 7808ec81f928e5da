"""Pictures of what variants hold."""

from types import SimpleNamespace

import numpy as np
import torch

from detrnb import plots


def test_spectrum_shows_the_median_the_mean_and_how_many_lie_above():
    values = np.array([[8.0, 1.0, 1.0, 0.0], [8.0, 2.0, 1.0, 1.0], [4.0, 3.0, 1.0, 0.0]])
    spectrum = SimpleNamespace(
        values=torch.tensor(values),
        mean=values.mean(1),
        is_context=values > values.mean(1)[:, None],
    )
    figure = plots.plot_spectrum({"layer 1": spectrum, "layer 2": spectrum})
    ax = figure.axes[0]
    assert figure.axes[1].get_ylim() == ax.get_ylim()
    line, threshold = ax.lines
    np.testing.assert_allclose(line.get_ydata(), [8, 2, 1, 0], atol=1e-6)
    assert threshold.get_ydata()[0] == 2.5 == np.median(values.mean(1))
    assert ax.get_title("left") == "layer 1\n1 of 4 above"
    figure.canvas.draw()


def test_layer_weights_are_shown_with_their_change_and_its_mean_size():
    history = np.zeros((3, 2, 5))
    history[:, 1] = 1.0
    history[1:, 0] = [[0.1], [-0.3]]
    figure = plots.plot_layer_weights(history)
    weights, change, moved = figure.axes[:3]
    np.testing.assert_allclose(weights.images[0].get_array(), history[-1])
    np.testing.assert_allclose(change.images[0].get_array(), history[-1] - history[0])
    for ax in (weights, change):
        low, high = ax.images[0].get_clim()
        assert low == -high < 0  # zero is the middle of the colours
    np.testing.assert_allclose([line.get_ydata() for line in moved.lines], [[0, 0.1, 0.3], [0] * 3])
    figure.canvas.draw()
