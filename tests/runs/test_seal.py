"""What a run folder's files say is what was written there, and for this run; else it is said."""

import json

import numpy as np
import pytest

from detrnb.runs import RunFolder, read_log


def made(path, seed: int = 0) -> RunFolder:
    folder = RunFolder(path).create({"train": {"seed": seed}})
    folder.write_provenance({"seed": seed})
    folder.write_test("test2017", 1, [0.5] * 12, {"star": 0.5}, 3.0)
    folder.write_thresholds({"epoch": 1})
    folder.write_timing(0.1, 5)
    folder.append_history(0, {"gate": np.full(2, float(seed))})
    for epoch in (0, 1):
        folder.append_log({"train_loss": 1.25 + seed, "epoch": epoch})
    return folder


READERS = {
    "config.json": RunFolder.read_config,
    "provenance.json": RunFolder.read_provenance,
    "test.json": RunFolder.read_test,
    "thresholds.json": RunFolder.read_thresholds,
    "timing.json": RunFolder.read_timing,
    "log.txt": RunFolder.read_log,
    "history.npz": RunFolder.read_history,
}


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return made(tmp_path / "run")


def test_checksum_whose_name_is_damaged_is_no_missing_one(folder):
    text = folder.config_path.read_text()
    folder.config_path.write_text(text.replace("crc32", "crg32"))
    with pytest.raises(ValueError, match="'crg32' is 'crc32' damaged"):
        folder.read_config()
    folder.config_path.write_text(text.replace("crc32", "mine"))
    assert folder.read_config()["mine"]  # left out by hand: nothing is checked


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_is_refused_or_changes_nothing(folder, name):
    path, read = folder.path / name, READERS[name]
    sound, expected = path.read_bytes(), read(folder)
    refused = tried = 0
    for place in range(0, len(sound), max(1, len(sound) // 100)):
        spoiled = bytearray(sound)
        spoiled[place] ^= 1 << place % 8
        path.write_bytes(spoiled)
        tried += 1
        try:
            # A line without its end may be one that a crash cut short, and is left out.
            found = read(folder)
            left_out = name == "log.txt" and len(found) < 2
            assert str(found) == str(expected[: len(found)] if left_out else expected)
        except ValueError as error:
            assert name in str(error)
            refused += 1
    assert refused > tried / 2


@pytest.mark.parametrize("name", [name for name in READERS if name not in ("config.json",)])
def test_a_file_of_another_run_is_refused_by_name(folder, name, tmp_path):
    other = made(tmp_path / "other", seed=1)
    (folder.path / name).write_bytes((other.path / name).read_bytes())
    with pytest.raises(ValueError, match=f"{name}.*another run"):
        READERS[name](folder)


@pytest.mark.parametrize("name", [name for name in READERS if name != "config.json"])
@pytest.mark.parametrize("kind", ["link in a circle", "link to nothing", "folder"])
def test_what_is_no_file_is_no_missing_file(folder, name, kind):
    path = folder.path / name
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(name if kind == "link in a circle" else "nothing")
    with pytest.raises(ValueError, match=name):
        READERS[name](folder)


def test_folders_of_before_there_were_checksums_are_read_as_they_are(folder):
    for name in READERS:
        path = folder.path / name
        if path.suffix == ".json":
            value = {k: v for k, v in json.loads(path.read_text()).items() if k != "crc32"}
            path.write_text(json.dumps(value))
    folder.log_path.write_text('{"train_loss": 1.25, "epoch": 0}\n')
    folder.append_log({"train_loss": 1.0, "epoch": 1})
    assert [line["train_loss"] for line in folder.read_log()] == [1.25, 1.0]
    assert folder.read_provenance() == {"seed": 0}


def test_a_log_away_from_its_folder_is_read_without_its_checksums(folder, tmp_path):
    (tmp_path / "copy.txt").write_bytes(folder.log_path.read_bytes())
    assert read_log(tmp_path / "copy.txt") == folder.read_log()
