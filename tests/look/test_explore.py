"""The explorer without a browser: controls change, the picture follows, the model rests."""

import base64
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from detrnb import Config, build_detr
from detrnb.look.explore import AttentionExplorer
from detrnb.look.views import Subject
from detrnb.runs.folder import RunFolder
from detrnb.training.run import Run, load_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An untrained run of the smoke preset, as a folder of a project of its own."""
    config = Config.preset(
        "smoke", variant="svd_split", overrides={"data.toy.num_images": (4, 4, 4)}
    )
    folder = RunFolder(tmp_path_factory.mktemp("project") / "runs" / "first")
    folder.create(config.model_dump(mode="json"))
    torch.manual_seed(0)
    torch.save({"model": build_detr(config.model).state_dict()}, folder.last)
    return folder.path


@pytest.fixture(scope="module")
def subject(run):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.parents[1])
        return Subject.from_run(load_run(run))


@pytest.fixture
def explorer(subject, run, monkeypatch):
    monkeypatch.chdir(run.parents[1])
    explorer = AttentionExplorer(subject, 2)
    explorer.threshold.value = 0.0  # untrained scores are low
    return explorer


@pytest.fixture
def passes(explorer):
    """Grows by one with each forward pass."""
    counted = []
    hook = explorer.subject.model.register_forward_hook(lambda *_: counted.append(1))
    yield counted
    hook.remove()


def titles(explorer):
    return [ax.get_title() for ax in explorer.figure.axes if ax.get_title()]


def test_it_starts_with_the_surest_query_in_the_last_layer(explorer):
    query, found = next(iter(explorer.view.found(0).items()))
    assert titles(explorer) == [f"query {query}"]
    assert explorer.figure.axes[0].texts[0].get_text() == f"{query}: {found}"
    assert explorer.figure.get_suptitle() == "image 3 · first\ndecoder cross, layer 3, head 1"
    drawn = explorer.figure.axes[1].images[1].get_array()
    assert np.array_equal(drawn, explorer.view.maps("decoder.2.cross")[0, query])


@pytest.mark.parametrize(
    ("attention", "control", "value", "name"),
    [
        ("decoder cross", "layer", 1, "decoder.0.cross"),
        ("decoder cross", "query", 7, "decoder.2.cross"),
        ("decoder self", "head", 4, "decoder.2.self"),
        ("decoder self", "query", 7, "decoder.2.self"),
        ("encoder self", "layer", 2, "encoder.1.self"),
        ("encoder self", "row", 0, "encoder.2.self"),
        ("encoder self", "column", 7, "encoder.2.self"),
    ],
)
def test_a_control_changes_the_picture_and_runs_nothing(
    explorer, passes, attention, control, value, name
):
    explorer.attention.value = attention
    before, figure = explorer.picture.value, explorer.figure
    getattr(explorer, control).value = value
    assert explorer.picture.value != before and explorer.figure is not figure
    assert bytes(explorer.picture.value).startswith(b"\x89PNG")
    assert explorer.message.value == "" and passes == []
    maps = explorer.view.maps(name)[explorer.head.value - 1]
    drawn = explorer.figure.axes[0 if attention == "decoder self" else 1].images[-1].get_array()
    if attention == "encoder self":
        assert np.array_equal(drawn, maps[explorer.row.value, explorer.column.value])
    elif attention == "decoder cross":
        assert np.array_equal(drawn, maps[explorer.query.value])
    else:
        assert drawn[0, 0] == maps[(first := next(iter(explorer.view.found(0)))), first]


def test_the_first_and_another_image_run_the_model_once(explorer, passes):
    AttentionExplorer(explorer.subject, 2)
    assert passes == [1]
    passes.clear()
    before = explorer.picture.value
    explorer.image.value = 0
    assert explorer.figure.get_suptitle().startswith("image 1 ") and passes == [1]
    assert explorer.picture.value != before
    explorer.layer.value = 1
    assert passes == [1]


def test_split_attention_is_shown_with_its_parts(explorer):
    explorer.attention.value = "encoder self"
    parts = ["attention", "object", "context"]
    assert titles(explorer)[1:] == parts
    drawn = [ax.images[0].get_array() for ax in explorer.figure.axes[1:4]]
    np.testing.assert_allclose(drawn[1] + drawn[2], drawn[0], atol=1e-6)
    explorer.layer.value = 1  # dot-product attention, as in DETR
    assert titles(explorer)[1:] == parts[:1]


@pytest.fixture(scope="module")
def sampling(run):
    """Looks into a model whose queries have points, around which it samples."""
    config = Config.preset(
        "smoke", variant="deformable", overrides={"data.toy.num_images": (4, 4, 4)}
    )
    torch.manual_seed(1)
    model = build_detr(config.model).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.parents[1])
        return Subject.from_run(Run(run.parent / "sampling", config, model))


def test_what_is_sampled_is_shown_for_the_chosen_head_and_query_or_cell(sampling):
    explorer = AttentionExplorer(sampling, 2)
    view = explorer.view
    explorer.query.value, explorer.layer.value, explorer.head.value = 7, 2, 3
    (dots,) = explorer.figure.axes[1].collections
    points, weights = view.samples("decoder.1.cross")
    assert np.allclose(dots.get_offsets() + 0.5, points[2, 7], atol=1e-3)
    sizes = dots.get_sizes()
    assert np.allclose(sizes / sizes.sum(), weights[2, 7], atol=1e-5)
    assert explorer.figure.get_suptitle().endswith(
        "\ndots: what is sampled, by weight; white: the anchor"
    )
    anchor = explorer.figure.axes[1].lines[0].get_xydata()[0]
    assert np.allclose(anchor, view.anchors[1, 7])
    explorer.attention.value = "encoder self"
    explorer.row.value, explorer.column.value = 2, 6
    (dots,) = explorer.figure.axes[1].collections
    assert np.allclose(dots.get_offsets() + 0.5, view.samples("encoder.1.self").points[2, 2, 6])
    explorer.attention.value = "decoder self"
    assert explorer.message.value == "" and not explorer.figure.axes[0].collections


def test_anchors_are_offered_where_a_model_has_them(sampling, explorer):
    assert "anchors" not in explorer.attention.options
    explorer = AttentionExplorer(sampling, 2)
    assert explorer.attention.options[-1] == "anchors"
    explorer.threshold.value = 1.0  # none found: the chosen query alone
    explorer.attention.value, explorer.query.value = "anchors", 7
    assert titles(explorer) == ["every layer"]  # they stay where they are
    ax = explorer.figure.axes[1]
    assert np.allclose(ax.lines[0].get_xydata()[0], explorer.view.anchors[0, 7])
    assert len(ax.lines) == 1 and len(ax.collections[0].get_offsets()) == 15
    assert explorer.figure.axes[0].texts[0].get_text() == explorer.query.label
    assert explorer.layer.disabled and explorer.head.disabled
    explorer.threshold.value = 0.0
    assert len(explorer.figure.axes[1].lines) == 16
    explorer.attention.value = "decoder cross"
    assert not explorer.layer.disabled and explorer.message.value == ""


def test_controls_without_meaning_are_switched_off(explorer):
    off = {
        "decoder cross": {"row", "column", "threshold"},
        "decoder self": {"row", "column"},
        "encoder self": {"query"},
    }
    controls = ("layer", "head", "query", "row", "column", "image", "threshold")
    for attention, expected in off.items():
        explorer.attention.value = attention
        assert {name for name in controls if getattr(explorer, name).disabled} == expected


def test_queries_are_offered_best_first_and_the_chosen_one_stays(explorer):
    labels = [f"{query}: {found}" for query, found in explorer.view.found(0).items()]
    assert [label for label, _ in explorer.query.options] == labels and len(labels) == 16
    explorer.query.value = 7
    explorer.image.value = 0
    assert explorer.query.value == 7 and explorer.query.label != labels[0]
    assert explorer.query.label.startswith("7: ")


def test_the_threshold_decides_which_boxes_are_outlined(explorer):
    explorer.view.detections["scores"] = torch.arange(16) / 16  # untrained ones are nearly equal
    explorer.attention.value = "encoder self"
    assert len(explorer.figure.axes[0].patches) == 16
    explorer.threshold.value = 0.85
    assert len(explorer.figure.axes[0].patches) == 2
    explorer.attention.value = "decoder self"
    assert [label.get_text()[:3] for label in explorer.figure.axes[0].get_yticklabels()] == [
        "15:",
        "14:",
    ]


def test_an_image_of_ones_own_is_shown_and_a_wrong_path_explained(explorer, passes, tmp_path):
    Image.new("RGB", (200, 100), "red").save(tmp_path / "red.png")
    explorer.file.value = str(tmp_path / "red.png")
    assert explorer.figure.get_suptitle().startswith("red.png · first") and passes == [1]
    assert explorer.image.disabled
    before = explorer.picture.value
    explorer.file.value = "<none>.png"
    assert "&lt;none&gt;.png cannot be read as an image" in explorer.message.value
    assert explorer.picture.value == before and passes == [1]
    explorer.file.value = ""
    assert explorer.figure.get_suptitle().startswith("image 3 ")
    assert explorer.message.value == "" and not explorer.image.disabled


def test_runs_beside_the_given_model_can_be_chosen(subject, run, monkeypatch):
    monkeypatch.chdir(run.parents[1])
    other = run.parent / "second"
    shutil.copytree(run, other)
    explorer = AttentionExplorer(subject, 3)
    assert explorer.model.options == ("first", "second")
    explorer.model.value = "second"
    assert explorer.figure.get_suptitle().startswith("image 4 · second")
    explorer.model.value = "first"
    assert explorer.subject is subject
    (other / "last.pt").write_bytes((other / "last.pt").read_bytes()[:1000])
    explorer.model.value = "second"
    assert "last.pt is cut off" in explorer.message.value


def test_a_model_without_data_takes_a_file(subject, tmp_path):
    Image.new("RGB", (100, 200), "red").save(tmp_path / "red.png")
    alone = replace(subject, name="weights x", dataset=None)
    explorer = AttentionExplorer(alone, tmp_path / "red.png")
    assert explorer.image.disabled and explorer.file.value == str(tmp_path / "red.png")
    explorer.file.value = ""
    assert "weights x has no data set here; give the path" in explorer.message.value


def test_readers_without_a_kernel_get_the_picture_in_the_same_output(explorer):
    data, _ = DisplayFormatter().format(explorer)
    assert base64.b64decode(data["image/png"]) == explorer.picture.value
    view = data["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == explorer.widget.model_id
    assert "image 3 · first" in data["text/plain"]
    json.dumps(data)
