"""Hashes of source code that only what it computes decides: no comments, docstrings, formatting."""

import ast
import hashlib
from functools import lru_cache
from pathlib import Path


def hash_of_file(path: Path) -> str:
    """A Python file's hash, of its text as it stands there now."""
    state = path.stat()
    return _hash_of_state(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)  # parsing the package takes half a second
def _hash_of_state(path: Path, size: int, changed: int) -> str:
    return hash_of_text(path.read_text(encoding="utf-8"))


def hash_of_text(source: str) -> str:
    """A Python text's hash."""
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
