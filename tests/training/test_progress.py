"""What a person sees while a run trains: lines when headless, updated displays in a notebook."""

import pytest
from matplotlib.figure import Figure

from detrnb.bar import Bar
from detrnb.training.progress import Progress

LINE = {
    "train_loss": 12.3456,
    "test_loss": 13.0,
    "test_coco_eval_bbox": [0.125, 0.5] + [0.0] * 10,
    "epoch": 1,
}


def test_headless_prints_one_line_an_epoch(capsys):
    shown = Progress("a-run", epochs=10, steps=3)
    for _ in range(3):
        shown.step(12.0)
    shown.epoch([LINE | {"epoch": 0}, LINE], seconds=83, remaining=4000)
    shown.close()
    output = capsys.readouterr()
    assert output.out == (
        "epoch 2/10  loss 12.346  val loss 13.000  AP 0.125  AP50 0.500  1:23  about 1:06:40 left\n"
    )
    assert output.err == ""


@pytest.fixture
def displays(monkeypatch) -> list:
    """Pretend to be in a kernel; what is shown, in order, as (event, object)."""
    events = []

    class Handle:
        def update(self, value: object) -> None:
            events.append(("update", value))

    def display(value: object, *, display_id: bool) -> Handle:
        assert display_id
        events.append(("display", value))
        return Handle()

    monkeypatch.setattr("detrnb.bar.in_kernel", lambda: True)
    monkeypatch.setattr("detrnb.training.progress.in_kernel", lambda: True)
    monkeypatch.setattr("IPython.display.display", display)
    return events


def test_notebook_updates_one_bar_and_one_plot_in_place(displays, monkeypatch):
    monkeypatch.setattr("detrnb.training.progress.Bar", lambda steps: Bar(steps, mininterval=0.0))
    shown = Progress("a-run", epochs=2, steps=3)
    for epoch in range(2):
        for step in range(3):
            shown.step(10.0 - step)
        shown.epoch([LINE | {"epoch": e} for e in range(epoch + 1)], seconds=1, remaining=1 - epoch)
    shown.close()
    plots = [event for event, value in displays if isinstance(value, Figure)]
    bars = [(event, repr(value)) for event, value in displays if not isinstance(value, Figure)]
    assert plots == ["display", "update"]
    assert [event for event, _ in bars] == ["display"] + ["update"] * (len(bars) - 1)
    assert any("3/3" in text and "loss 8.00" in text for _, text in bars)
    assert bars[-1][1].strip() == ""  # a finished bar leaves nothing in an executed notebook


def test_remaining_time_is_left_out_when_nothing_remains(capsys):
    shown = Progress("a-run", epochs=2, steps=1)
    shown.epoch([LINE], seconds=5, remaining=0)
    assert capsys.readouterr().out.endswith("0:05\n")
