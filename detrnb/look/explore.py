"""Attention by hand: controls over the pictures of `plots`, in a notebook.

Only widgets that ipywidgets 7 (Colab) and 8 share, and sliders in place of drop-downs: JupyterLab
takes the up and down keys of a drop-down for its own. The picture is an image widget that gets new
PNGs; the first one stands in the cell's output too, for readers without a kernel.
"""

from __future__ import annotations

import base64
import gc
import html
import io
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from detrnb.look.views import Subject, layer_of
from detrnb.plots import (
    plot_anchors,
    plot_attention_from_point,
    plot_cross_attention,
    plot_query_attention,
)
from detrnb.runs import project_root
from detrnb.training import load_run

ANCHORS = "anchors"  # in the control of attention, though none: what boxes are relative to
DPI = 130  # of the picture; redrawing takes time in proportion to its pixels


class AttentionExplorer:
    """Choose model, image, attention, layer, head, and query or point; the picture follows.

    The model runs once for each model and image, everything else only draws. A control that means
    nothing for what is shown is switched off. What cannot be done is said below the controls, and
    the last picture stays.

    Attributes:
        subject, view: what is looked into.
        figure: what is drawn.
        widget: controls and picture.
    """

    def __init__(self, subject: Subject, image: int | str | Path = 0) -> None:
        """Show the last cross-attention of the surest detection first.

        Args:
            subject: a model; the runs in runs/ are offered beside it.
            image: its place in the subject's data set, or the path of an image file.

        Raises:
            ValueError: as for `Subject.look`.
        """
        self._given = self.subject = subject
        self.view = subject.look(image)
        self._source = subject.name, image if isinstance(image, int) else str(image)
        self._runs = {
            path.parent.name: path.parent
            for path in sorted((project_root() / "runs").glob("*/last.pt"))
        }
        controls = self._make_controls()
        self.message = widgets.HTML()
        self.picture = widgets.Image(format="png")
        self.picture.layout = widgets.Layout(max_width="100%", align_self="flex-start")
        columns = [
            widgets.VBox(part, layout=widgets.Layout(width=width))
            for part, width in ((controls[:5], "30em"), (controls[5:], "22em"))
        ]
        wrapped = widgets.HBox(columns, layout=widgets.Layout(flex_flow="wrap"))
        self.widget = widgets.VBox([wrapped, self.message, self.picture])
        self._busy = False
        self._redraw()
        for control in controls:
            control.observe(self._redraw, names="value")

    def _make_controls(self) -> list[widgets.Widget]:
        """The controls in the order of the Tab key; `_adjust` sets most of their ranges."""
        image = self._source[1]
        file = image if isinstance(image, str) else ""
        models = list(dict.fromkeys([self.subject.name, *self._runs]))
        kinds = self.view.kinds
        first = "decoder cross" if "decoder cross" in kinds else next(iter(kinds), None)
        if first is None:
            raise ValueError(f"no attention of {self.view.title.replace(chr(10), ', ')}")
        layers = len(kinds[first])
        queries = self._queries()
        surest = next(iter(self.view.found(0)))
        row, column = self.view.cell(self.view.detections["boxes"][surest])
        self.model = _control(widgets.SelectionSlider, "model", options=models)
        self.image = _control(widgets.IntSlider, "image", max=self._last(self.subject))
        self.image.continuous_update = False  # each value on the way would run the model
        self.image.value = 0 if file else image
        self.file = _control(widgets.Text, "own image", value=file, continuous_update=False)
        self.file.placeholder = "path of a file, then Enter"
        self.attention = _control(widgets.SelectionSlider, "attention", options=[first])
        self.threshold = _control(widgets.FloatSlider, "score from", value=0.5, max=1.0, step=0.05)
        self.layer = _control(widgets.IntSlider, "layer", min=1, max=layers, value=layers)
        self.head = _control(widgets.IntSlider, "head", min=1)
        self.query = _control(widgets.SelectionSlider, "query", options=queries)
        self.row = _control(widgets.IntSlider, "row", value=row)
        self.column = _control(widgets.IntSlider, "column", value=column)
        return [
            *(self.model, self.image, self.file, self.attention, self.threshold),
            *(self.layer, self.head, self.query, self.row, self.column),
        ]

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict:
        """The widget, and where no kernel answers for it, the picture."""
        return {
            "text/plain": f"attention in {self.view.title}; its controls need a running kernel",
            "image/png": base64.b64encode(self.picture.value).decode(),
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self.widget.model_id,
            },
        }

    def _redraw(self, _: object = None) -> None:
        """Bring everything in line with the controls."""
        if self._busy:  # a control that this very method is adjusting
            return
        self._busy = True
        # Figures are full of cycles, and beside torch a collection may take longer than the
        # drawing: let it wait until the picture is sent.
        collecting = gc.isenabled()
        gc.disable()
        try:
            self._look()
            self._adjust()
            self.figure = self._plot()
            self.picture.value = _png(self.figure)
            self.message.value = ""
        except ValueError as error:
            self.message.value = f"<b>{html.escape(str(error))}</b>"
        finally:
            self._busy = False
            if collecting:
                gc.enable()

    def _look(self) -> None:
        """Run the model, where another model or image was chosen."""
        name, file = self.model.value, self.file.value.strip()
        subject = self.subject
        if name != subject.name:
            given = name == self._given.name
            subject = self._given if given else Subject.from_run(load_run(self._runs[name]))
        source = name, file or min(self.image.value, self._last(subject))
        if source != self._source:
            self.view = subject.look(source[1])
            self.subject, self._source = subject, source

    def _adjust(self) -> None:
        """Ranges and options as model and image have them; what was chosen stays where it can."""
        view = self.view
        _offer(self.attention, [*view.kinds, *([] if view.anchors is None else [ANCHORS])])
        _offer(self.query, self._queries())
        kind = self.attention.value
        if kind != ANCHORS:
            self.layer.max = len(view.kinds[kind])
            self.head.max = len(view.maps(view.kinds[kind][0]))
        rows, columns = view.grid
        self.image.max = self._last(self.subject)
        self.row.max, self.column.max = rows - 1, columns - 1
        self.image.disabled = self.subject.dataset is None or self.file.value.strip() != ""
        self.layer.disabled = self.head.disabled = kind == ANCHORS
        self.query.disabled = kind == "encoder self"
        self.threshold.disabled = kind == "decoder cross"
        self.row.disabled = self.column.disabled = kind != "encoder self"

    @staticmethod
    def _last(subject: Subject) -> int:
        """Place of the last image; 0 where there is none but the user's own."""
        return 0 if subject.dataset is None else len(subject.dataset) - 1

    def _queries(self) -> list[tuple[str, int]]:
        """What the query control offers: queries with what they found, best first."""
        return [(f"{query}: {what}", query) for query, what in self._found(0).items()]

    def _found(self, threshold: float) -> dict[int, str]:
        """Queries with at least this score, best first, and what they found."""
        found = self.view.found(threshold)
        return {query: found[place] for query, place in self.view.queries(threshold).items()}

    def _plot(self) -> Figure:
        view, kind, query = self.view, self.attention.value, self.query.value
        if kind == ANCHORS:
            return self._plot_anchors()
        name, head = view.kinds[kind][self.layer.value - 1], self.head.value - 1
        boxes, samples = view.detections["boxes"], view.samples(name)
        anchors = view.anchors if kind == "decoder cross" else None
        legend = ["dots: what is sampled, by weight"] if samples else []
        legend += [] if anchors is None else ["white: the anchor"]
        shown = f"{kind}, layer {layer_of(name)}, head {self.head.value}"
        title = "\n".join(filter(None, (view.title, shown, "; ".join(legend))))
        if kind == "encoder self":
            point = self.row.value, self.column.value
            parts = {x: view.maps(name, x)[head][point] for x in view.recording.parts(name)}
            return plot_attention_from_point(
                view.image,
                parts,
                point,
                boxes_xyxy=boxes[list(view.found(self.threshold.value))],
                samples=samples and {"attention": [x[head][point] for x in samples]},
                title=title,
            )
        maps = view.maps(name)[head]
        if kind == "decoder cross":
            panel = f"query {query}"
            return plot_cross_attention(
                view.image,
                {panel: maps[query]},
                boxes[[view.queries(0)[query]]],
                names=[self.query.label],
                anchors=() if anchors is None else anchors[layer_of(name) - 1, [query]],
                samples=samples and {panel: [x[head, query] for x in samples]},
                title=title,
            )
        found = self._found(self.threshold.value)
        return plot_query_attention({"": maps}, found, query=query, title=title)

    def _plot_anchors(self) -> Figure:
        """Anchors of the chosen query, and of those with the score, in each layer; once where they
        stay.
        """
        view, anchors, found = self.view, self.view.anchors, self._found(0)
        boxes, places = view.detections["boxes"], view.queries(0)
        shown = dict.fromkeys((self.query.value, *view.queries(self.threshold.value)))
        layers = {f"layer {i}": of_layer for i, of_layer in enumerate(anchors, start=1)}
        return plot_anchors(
            view.image,
            {"every layer": anchors[0]} if (anchors == anchors[0]).all() else layers,
            {query: boxes[places[query]] for query in shown},
            names={query: f"{query}: {found[query]}" for query in shown},
            title=f"{view.title}\nanchors, and the boxes that come of them",
        )


def _control(kind: type[widgets.Widget], description: str, **settings: object) -> widgets.Widget:
    look = {"style": {"description_width": "6em"}, "layout": widgets.Layout(width="auto")}
    return kind(description=description, **look, **settings)


def _offer(control: widgets.SelectionSlider, options: list[str] | list[tuple[str, int]]) -> None:
    """Other options, the choice kept where it is still among them."""
    if list(control.options) != options:
        chosen = control.value
        control.options = options
        if chosen in [x if isinstance(x, str) else x[1] for x in options]:
            control.value = chosen


def _png(figure: Figure) -> bytes:
    """The figure as PNG, drawn once and packed lightly; `savefig` takes twice as long."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    file = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(file, "png", compress_level=1)
    return file.getvalue()
