"""Files of tensors: the sound are read, of all others it is said what they are."""

import argparse
import collections
import gzip
import pickle
import random
import re
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import detrnb
from detrnb.checkpoints import read_checkpoint, read_state

STATE = {"a.weight": torch.arange(20.0).view(4, 5), "a.bias": torch.arange(4)}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "weights.pth"


def refusal(path: Path) -> str:
    """What is said of a file, its name aside."""
    with pytest.raises(ValueError) as caught:
        read_checkpoint(path)
    text = str(caught.value)
    # A traceback shows what an error came of, unless that is suppressed.
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "weights_only" not in text and "\n" not in text and "\x1b" not in text
    assert text.startswith(f"{path} ")
    return text.removeprefix(f"{path} ")


def same(state: dict) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[n], x) for n, x in STATE.items())


def archive_of(path: Path, names: tuple[str, ...]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "text")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty; a sound copy is needed"),
        (b"\0" * 64, "begins with nothing but .*never wholly written; a sound copy"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "LFS pointer.*lfs pull"),
        (b"<!DOCTYPE html><html>", "is a web page.*download the file itself"),
        (gzip.compress(b"weights"), r"is compressed \(gzip\); unpack it first"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b'{"model": 3}', "is a text, which begins .*expected a file of torch.save or safetensors"),
        (b"\x08\x07\x12\x07pytorch", "is no checkpoint, which begins"),
        (b"PK\x03\x04 no archive", "is cut off: a checkpoint's beginning without its end"),
    ],
    ids=["empty", "zeros", "lfs", "html", "gzip", "hdf5", "text", "onnx", "torn"],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_file_of_another_kind_is_refused_by_what_it_is(content, what, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert re.search(what, refusal(tmp_path / name))


def test_folder_and_archives_that_are_no_checkpoint_are_refused(path, tmp_path):
    assert refusal(tmp_path).startswith("is a folder")
    archive_of(path, ("photo.jpg",))
    assert refusal(path).startswith("is a zip archive that is no checkpoint: it holds photo.jpg;")
    np.savez(path.with_suffix(".npz"), a=np.zeros(3))
    assert "it holds a.npy;" in refusal(path.with_suffix(".npz"))
    archive_of(path, ("it/data.pkl", "it/constants.pkl", "it/code/model.py"))
    assert refusal(path).startswith("is a TorchScript program; expected its weights")


def test_missing_file_is_the_systems_error(path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(path)


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize(
    ("foreign", "name"),
    [
        (Path("x"), "pathlib"),
        (collections.defaultdict(list), "collections.defaultdict"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (print, "print"),
    ],
    ids=["path", "defaultdict", "module", "function"],
)
def test_python_objects_are_never_made_and_named(form, foreign, name, path):
    torch.save({"model": STATE, "x": foreign}, path, _use_new_zipfile_serialization=form == "zip")
    said = refusal(path)
    assert said.startswith("holds Python objects, which are refused") and name in said
    assert "torch.save({'model': model.state_dict()}, ...)" in said


@pytest.mark.parametrize("protocol", [2, 4])
def test_plain_pickles_are_refused_with_the_classes_they_name(protocol, path):
    path.write_bytes(pickle.dumps({"args": [Path("a"), Path("b")]}, protocol=protocol))
    assert refusal(path).startswith("holds Python objects") and "pathlib" in refusal(path)
    path.write_bytes(pickle.dumps({"epoch": 3}, protocol=protocol))
    assert refusal(path).startswith("is a plain pickle; expected a file of torch.save")


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_half_a_file_and_spoiled_bytes_never_give_other_tensors(form, path):
    """A flipped byte in safetensors and in torch's old form has no checksum to tell it by."""
    if form == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=form == "zip")
    whole, draw = path.read_bytes(), random.Random(0)
    for size in (1, 8, 9, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert refusal(path)
    for _ in range(60 if form == "zip" else 0):
        spoiled = bytearray(whole)
        spoiled[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(spoiled)
        with suppress(ValueError):
            assert same(read_checkpoint(path))
            continue
        assert refusal(path)


def test_numbers_of_numpy_and_the_references_arguments_may_stand_in_a_checkpoint(path):
    extra = {"map": np.float64(0.25), "n": np.int64(3), "ok": np.bool_(True), "per": np.ones(2)}
    torch.save({"model": STATE, "args": argparse.Namespace(lr=1e-4), **extra}, path)
    content = read_checkpoint(path)
    assert (content["map"], content["n"], content["per"].tolist()) == (0.25, 3, [1, 1])
    assert content["args"].lr == 1e-4
    # As NumPy 1 names them.
    old = path.with_suffix(".old")
    with zipfile.ZipFile(path) as new, zipfile.ZipFile(old, "w") as archive:
        for name in new.namelist():
            archive.writestr(name, new.read(name).replace(b"numpy._core.", b"numpy.core."))
    assert read_checkpoint(old)["map"] == 0.25


def test_arrays_of_objects_are_refused(path):
    torch.save({"model": STATE, "x": np.array([None, 3], dtype=object)}, path)
    assert refusal(path)


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (STATE, ()),
        ({"model": STATE, "epoch": 3}, ()),
        ({"state_dict": STATE}, ("taken from 'state_dict'",)),
        ({"ema": {"module": STATE, "updates": 9}}, ("taken from 'ema.module'",)),
        (
            {"model_ema": {}, "ema": STATE, "model": STATE},
            ("taken from 'model'; not from 'ema', which is there too",),
        ),
    ],
    ids=["bare", "model", "lightning", "ema", "two"],
)
def test_weights_are_found_in_containers_and_that_is_said(content, notes, path):
    torch.save(content, path)
    state, said = read_state(path)
    assert same(state) and said == notes


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "detr.", "module.model."])
def test_prefix_of_all_names_is_left_out_and_that_is_said(prefix, path):
    torch.save({prefix + name: tensor for name, tensor in STATE.items()}, path)
    state, said = read_state(path)
    assert same(state) and len(said) == prefix.count(".") and "which all began with" in said[0]
    torch.save({**STATE, prefix + "b": torch.zeros(1)}, path)  # not of all
    state, said = read_state(path)
    assert prefix + "b" in state and said == ()


def test_file_is_read_by_its_content_and_a_wrong_ending_is_said(tmp_path):
    save_file(STATE, tmp_path / "weights.pth")
    torch.save(STATE, tmp_path / "weights.safetensors")
    for name, writer in (("weights.pth", "safetensors"), ("weights.safetensors", "torch.save")):
        state, said = read_state(tmp_path / name)
        assert same(state) and said == (f"{name} is a file of {writer}, whatever its ending says",)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2], "a list"),
        (torch.zeros(2), "a Tensor"),
        ({}, "an empty dict"),
        ({"model": 3, "epoch": 1}, r"'model' \(int\), 'epoch' \(int\)"),
        ({"model": {}}, r"'model' \(dict\)"),
        ({"a": torch.zeros(1), "b": 3}, r"'a' \(Tensor\), 'b' \(int\)"),
        ({0: torch.zeros(1)}, r"0 \(Tensor\)"),
    ],
)
def test_checkpoint_without_weights_is_refused_with_what_it_holds(content, found, path):
    torch.save(content, path)
    with pytest.raises(ValueError, match=f"holds no weights, but {found}; expected tensors"):
        read_state(path)


def test_no_other_file_of_the_package_opens_what_torch_wrote():
    package = Path(detrnb.__file__).parent
    reads = re.compile(
        r"torch\.load\(|load_file\(|pickle\.load|load_state_dict_from_url|get_state_dict"
    )
    found = {
        path.name
        for path in package.rglob("*.py")
        if reads.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"checkpoints.py"}
    assert "weights_only=False" not in (package / "checkpoints.py").read_text(encoding="utf-8")
