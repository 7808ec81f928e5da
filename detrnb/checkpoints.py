"""Files of tensors, read in one place: the sound are opened, of others it is said what they are.

Nothing that a file holds is ever run, and no reader's own text is shown: torch's advises to load
unsafely.
"""

import argparse
import hashlib
import pickletools
import re
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

# Where codes of the field keep weights in a checkpoint; the first that is there is taken.
CONTAINERS = ("model", "state_dict", "model_state_dict", "model_ema", "ema", "module")
# What wrappers put before every name: DDP, torch.compile, Lightning, the reference's segmentation.
PREFIXES = ("module.", "_orig_mod.", "model.", "detr.")

_ZIP, _TORCHS_PICKLE = b"PK", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
_FOREIGN = {
    b"version https://git-lfs": "is a Git LFS pointer, a few lines that stand for the file;"
    " `git lfs pull` in its repository fetches the file itself",
    b"<": "is a web page, saved in place of the file; download the file itself",
    b"\x1f\x8b": "is compressed (gzip); unpack it first",
    b"BZh": "is compressed (bzip2); unpack it first",
    b"\xfd7zXZ": "is compressed (xz); unpack it first",
    b"(\xb5/\xfd": "is compressed (zstd); unpack it first",
    b"\x89HDF": "is an HDF5 file, as Keras writes them",
}
_TORCHS_OWN = re.compile(
    r"torch\.(_utils\.)?\w+|collections\.OrderedDict|_codecs\.encode|argparse\.Namespace"
    r"|(builtins|__builtin__)\.(list|dict|set|tuple|bytearray|complex)"
)
_EXPECTED = "expected a file of torch.save or safetensors"
_AGAIN = "a sound copy is needed"


def _harmless() -> list:
    """What may stand in a checkpoint besides torch's own: the reference's arguments, numbers."""
    numbers = {type(np.dtype(code)) for code in np.typecodes["AllInteger"] + "?efd"}
    makers = [np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]]
    named = [
        (maker, f"numpy.{core}.multiarray.{maker.__name__}")  # of NumPy 1 and of NumPy 2
        for maker in makers
        for core in ("core", "_core")
    ]
    return [argparse.Namespace, np.dtype, np.ndarray, *numbers, *named]


def read_checkpoint(path: Path, *, mmap: bool = False) -> object:
    """What a file of torch.save or safetensors holds, on the CPU.

    Args:
        mmap: whether tensors may stay in the file until they are used.

    Raises:
        ValueError: it is neither, is damaged, or holds Python objects; says which.
        OSError: it cannot be opened.
    """
    refusal = _refusal(path)
    if refusal is None:
        try:
            if is_safetensors(path):
                return load_file(path)
            # Torch maps archives only, and goes by the ending of a path, not of an open file.
            mmap = mmap and zipfile.is_zipfile(path) and path.suffix != ".safetensors"
            with torch.serialization.safe_globals(_harmless()), path.open("rb") as file:
                source = path if mmap else file
                return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
        except (OSError, MemoryError):
            raise
        except Exception:  # on bytes that are no checkpoint the readers fail in many ways
            refusal = _reason(path)
    raise ValueError(f"{path} {refusal}")


def read_state(path: Path, content: object = None) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors in a file of weights, by name.

    They may stand in a checkpoint, in one of `CONTAINERS`; one of `PREFIXES` that all names begin
    with is left out.

    Args:
        content: of the file, where it was read before.

    Returns:
        The tensors, and what there is to say about where they were found, in words.

    Raises:
        ValueError: as for `read_checkpoint`, or there are none.
    """
    content, notes = read_checkpoint(path, mmap=True) if content is None else content, []
    if is_safetensors(path) != (path.suffix == ".safetensors"):
        notes.append(f"{path.name} is a file of {_writer(path)}, whatever its ending says")
    states = dict(_states(content))
    if not states:
        raise ValueError(
            f"{path} holds no weights, but {_in_short(content)}; expected tensors by name, or a"
            f" checkpoint with them under {', '.join(map(repr, CONTAINERS))}"
        )
    place, *others = states
    state = states[place]
    if others or place not in ("", CONTAINERS[0]):
        besides = f"; not from {', '.join(map(repr, others))}, which is there too" if others else ""
        notes.append(f"taken from {place!r}{besides}")
    while prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        notes.append(f"names without {prefix!r}, which all began with")
    return dict(state), tuple(notes)


def _states(content: object, place: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Dicts of tensors by name with where they stand in a checkpoint, such as `ema.module`."""
    if not isinstance(content, dict) or not content:
        return
    if all(isinstance(n, str) and isinstance(x, Tensor) for n, x in content.items()):
        yield place, content
        return
    for key in CONTAINERS:
        yield from _states(content.get(key), f"{place}.{key}" if place else key)


def _in_short(content: object) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    found = [f"{key!r} ({type(value).__name__})" for key, value in content.items()]
    return ", ".join(found[:6]) + (", ..." if len(found) > 6 else "") or "an empty dict"


def is_safetensors(path: Path) -> bool:
    """Whether a file is one of safetensors, by its content."""
    with path.open("rb") as file:
        beginning = file.read(9)
    # The header's length, of which the format allows 100 MB, then the header, which is JSON.
    return beginning[8:] == b"{" and int.from_bytes(beginning[:8], "little") <= 100_000_000


def _writer(path: Path) -> str:
    return "safetensors" if is_safetensors(path) else "torch.save"


def _refusal(path: Path) -> str | None:
    """What a file is that no reader opens, by its beginning and, of an archive, its list."""
    if path.is_dir():
        return f"is a folder; {_EXPECTED}"
    with path.open("rb") as file:
        beginning = file.read(64)
    if not beginning:
        return f"is empty; {_AGAIN}"
    for mark, what in _FOREIGN.items():
        if beginning.startswith(mark):
            return f"{what}; {_EXPECTED}"
    if beginning.startswith(_ZIP):
        return _archive_refusal(path)
    if beginning.startswith(_TORCHS_PICKLE) or is_safetensors(path):
        return None
    if beginning.startswith(b"\x80"):
        names = _classes(path)
        return _objects(names) if names else f"is a plain pickle; {_EXPECTED}"
    if len(set(beginning)) == 1:
        return f"begins with nothing but {beginning[:1]!r}: it was never wholly written; {_AGAIN}"
    text = not beginning.translate(None, bytes(range(32, 127)) + b"\t\r\n")
    return (
        f"is {'a text' if text else 'no checkpoint'}, which begins {beginning[:20]!r}; {_EXPECTED}"
    )


def _archive_refusal(path: Path) -> str | None:
    """What is wrong with a zip archive, the form of torch.save's files."""
    try:
        if not zipfile.is_zipfile(path):
            return f"is cut off: a checkpoint's beginning without its end; {_AGAIN}"
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            inside = {name.partition("/")[2] for name in names}
            # Torch does not look at the checksums.
            spoiled = archive.testzip() if "data.pkl" in inside else None
    except Exception:  # on spoiled bytes the reader fails in many ways
        return f"is a damaged zip archive; {_AGAIN}"
    if "data.pkl" not in inside:
        listed = ", ".join(names[:3]) or "nothing"
        return f"is a zip archive that is no checkpoint: it holds {listed}; {_EXPECTED}"
    if "constants.pkl" in inside:
        return "is a TorchScript program; expected its weights: torch.save(it.state_dict(), ...)"
    if spoiled:
        return f"is damaged: the checksum of {spoiled} inside is wrong; {_AGAIN}"
    return None


def _reason(path: Path) -> str:
    """Why a reader failed at a file that looked sound from outside."""
    names: list[str] = []
    if zipfile.is_zipfile(path):
        with suppress(Exception), torch.serialization.safe_globals(_harmless()):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    elif not is_safetensors(path):
        names = _classes(path)
    return _objects(names) if names else f"is damaged or cut off; {_AGAIN}"


def _objects(names: list[str]) -> str:
    return (
        f"holds Python objects, which are refused since opening them may run anything:"
        f" {', '.join(sorted(names)[:5])}; expected tensors, numbers and text. Where these classes"
        " are at home, keep the tensors alone: torch.save({'model': model.state_dict()}, ...)"
    )


def _classes(path: Path) -> list[str]:
    """Classes and functions that a pickle names, those of tensors and containers aside."""
    with path.open("rb") as file, suppress(ValueError, EOFError):  # cut off, or tensors follow
        while True:
            names = [name for name in _globals(file) if not _TORCHS_OWN.fullmatch(name)]
            if names:
                return list(dict.fromkeys(names))
    return []


def _globals(file: BinaryIO) -> Iterator[str]:
    """What one pickle imports, in dotted names; nothing of it is run."""
    texts: list[str] = []
    memo: dict[int, str] = {}
    last = ""
    for operation, value, _ in pickletools.genops(file):
        kind = operation.name
        if kind == "GLOBAL":
            yield value.replace(" ", ".")
        elif kind == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif kind in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if value is None else value] = last
        elif kind in ("BINGET", "LONG_BINGET"):
            texts.append(memo.get(value, "?"))
        last = value if isinstance(value, str) else ""
        if last and kind != "GLOBAL":
            texts.append(last)


def fetched(what: str, url: str, sha256: str, megabytes: int) -> Path:
    """A file of weights from its publisher, downloaded where it is not there yet.

    It lies where torch.hub keeps checkpoints, as everybody's code has it.

    Args:
        what: the weights' name.
        sha256: the first digits of the file's, checked whether it is downloaded or was there.
        megabytes: of the file, to be told.

    Raises:
        ValueError: it cannot be had, or is another file.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.exists():
        print(f"{what}: downloading {megabytes} MB, once, to {path}", flush=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), sha256, progress=False)
        except (OSError, HTTPException, RuntimeError) as error:
            raise ValueError(
                f"{what} could not be downloaded ({error}). Fetch {url} elsewhere and put"
                f" it at {path}, or give the path of your copy instead of the name"
            ) from error
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()[: len(sha256)]
    if found != sha256:
        raise ValueError(
            f"{path} is not {what}: its SHA-256 begins {found}, expected {sha256}; delete"
            f" it, and it is downloaded again from {url}"
        )
    return path
