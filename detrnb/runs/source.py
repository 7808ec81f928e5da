"""Hashes of source code that only what it computes decides: no comments, docstrings, formatting."""

import ast
import hashlib
import inspect
import textwrap
from functools import lru_cache
from pathlib import Path


def hash_of_file(path: Path) -> str:
    """A Python file's hash, of its text as it stands there now."""
    state = path.stat()
    return _hash_of_text(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)  # parsing the package takes half a second
def _hash_of_text(path: Path, size: int, changed: int) -> str:
    return _hash(path.read_text(encoding="utf-8"))


def hash_of_class(of: type) -> str | None:
    """The hash of a class that stands in no file of its own, as in a notebook's cell.

    None where Python does not keep its text, as of what `python -c` runs.
    """
    try:
        return _hash(textwrap.dedent(inspect.getsource(of)))
    except (OSError, TypeError):
        return _hash_of_functions(of)


def _hash_of_functions(of: type) -> str | None:
    """Of a notebook's class older Pythons find no text, but that of its functions."""
    try:
        texts = [inspect.getsource(f) for f in vars(of).values() if inspect.isfunction(f)]
    except (OSError, TypeError):
        return None
    return _hash("".join(map(textwrap.dedent, texts))) if texts else None


def _hash(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body.pop(0)
    return hashlib.sha256(repr(_structure(tree)).encode()).hexdigest()[:12]


def _structure(node: object) -> object:
    """A syntax tree as nested tuples, without places and empty fields.

    Python's own dump names fields that some versions have and others do not.
    """
    if isinstance(node, list):
        return tuple(map(_structure, node))
    if not isinstance(node, ast.AST):
        return node
    fields = ((name, _structure(value)) for name, value in ast.iter_fields(node))
    return type(node).__name__, *((n, v) for n, v in fields if v is not None and v != ())
