"""What a person sees while a run trains: one line an epoch; in a notebook a bar and a plot too."""

import io
import sys

from tqdm import tqdm

from detrnb.plots import plot_curves
from detrnb.runs import log_table

REFRESH_SECONDS = 0.5  # between two updates of the bar


def _in_kernel() -> bool:
    """Whether a Jupyter kernel runs this; IPython is only there if somebody started it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """Shows one run. In a notebook the bar and the plot are each one output, updated in place.

    Updating a display instead of printing keeps executed notebooks clean: papermill and nbconvert
    then hold the last state, neither a bar stuck at 0 % nor a line for every step.
    """

    def __init__(self, name: str, epochs: int, steps: int) -> None:
        self.name, self.epochs, self.reached = name, epochs, 0
        self.kernel = _in_kernel()
        shown = self.kernel or sys.stderr.isatty()
        self.bar = tqdm(
            total=steps,
            disable=not shown,
            file=io.StringIO() if self.kernel else sys.stderr,
            mininterval=REFRESH_SECONDS,
            leave=False,
        )
        self._displays: dict[str, object] = {}
        self._drawn = 0.0

    def _show(self, key: str, value: object) -> None:
        """Show something in the cell, in place of what the same key showed before."""
        from IPython.display import display

        if key in self._displays:
            self._displays[key].update(value)
        else:
            self._displays[key] = display(value, display_id=True)

    def step(self, loss: float) -> None:
        """After a training step."""
        if self.bar.disable:
            return
        self.bar.set_postfix_str(f"loss {loss:.2f}", refresh=False)
        self.bar.update()
        if self.kernel and self.bar.last_print_t != self._drawn:
            self._drawn = self.bar.last_print_t
            self._show("bar", _Text(str(self.bar)))

    def epoch(self, log: list[dict], seconds: float, remaining: float) -> None:
        """After an epoch was evaluated and logged.

        Args:
            log: the run's lines, the last one of this epoch.
            seconds: what the epoch took; remaining: estimate for the rest.
        """
        line = log[-1]
        self.reached = line["epoch"] + 1
        ap, ap50 = line["test_coco_eval_bbox"][:2]
        left = f"  about {_duration(remaining)} left" if remaining else ""
        tqdm.write(
            f"epoch {self.reached}/{self.epochs}  loss {line['train_loss']:.3f}"
            f"  val loss {line['test_loss']:.3f}  AP {ap:.3f}  AP50 {ap50:.3f}"
            f"  {_duration(seconds)}{left}",
            file=sys.stdout,
        )
        sys.stdout.flush()
        self.bar.reset()
        if self.kernel:
            self._show("plot", plot_curves({self.name: log_table(log)}))

    def close(self) -> None:
        """When training is over, or broke off."""
        if "bar" in self._displays:
            self._show("bar", _Text(f"{self.name}: {self.reached} of {self.epochs} epochs"))
        self.bar.close()


class _Text:
    """A line that a notebook shows without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text
