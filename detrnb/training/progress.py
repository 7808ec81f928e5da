"""What a person sees while a run trains: one line an epoch; in a notebook a bar and a plot too."""

import sys

from matplotlib.figure import Figure
from tqdm import tqdm

from detrnb.bar import Bar, in_kernel
from detrnb.plots import plot_curves
from detrnb.runs import log_table


def duration(seconds: float) -> str:
    """Such as 1:02:03 or 4:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """Shows one run: the bar of the epoch, a line when it is done, and in a notebook the curves."""

    def __init__(self, name: str, epochs: int, steps: int) -> None:
        self.name, self.epochs = name, epochs
        self.bar = Bar(steps)
        self._plot = None

    def step(self, loss: float) -> None:
        """After a training step."""
        self.bar.set_postfix_str(f"loss {loss:.2f}", refresh=False)
        self.bar.update()

    def epoch(self, log: list[dict], seconds: float, remaining: float) -> None:
        """After an epoch was evaluated and logged.

        Args:
            log: the run's lines, the last one of this epoch.
            seconds: what the epoch took; remaining: estimate for the rest.
        """
        line = log[-1]
        ap, ap50 = line["test_coco_eval_bbox"][:2]
        left = f"  about {duration(remaining)} left" if remaining else ""
        skipped = line.get("train_skipped_steps")
        note = f"  {skipped} steps skipped, as fp16's scale was too high" if skipped else ""
        tqdm.write(
            f"epoch {line['epoch'] + 1}/{self.epochs}  loss {line['train_loss']:.3f}"
            f"  val loss {line['test_loss']:.3f}  AP {ap:.3f}  AP50 {ap50:.3f}"
            f"  {duration(seconds)}{left}{note}",
            file=sys.stdout,
        )
        sys.stdout.flush()
        self.bar.reset()
        if in_kernel():
            self._show(plot_curves({self.name: log_table(log)}))

    def _show(self, figure: Figure) -> None:
        """Show the plot, in place of the one before."""
        from IPython.display import display

        if self._plot is None:
            self._plot = display(figure, display_id=True)
        else:
            self._plot.update(figure)

    def close(self) -> None:
        """When training is over, or broke off."""
        self.bar.close()
