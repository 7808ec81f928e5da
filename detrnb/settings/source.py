"""The source of a user's variant: its classes, their bases, and what of the user's own they name.

`inspect.getsource` fails for a class of a notebook's cell, which has no file; but its methods know
the text that they were compiled from, which Python's line cache holds for cells and files alike.
"""

import ast
import builtins
import inspect
import linecache
import re
import symtable
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detrnb.settings.registry import Variant

_LIBRARIES = (
    *(Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib", "platlib")),
    Path(__file__).resolve().parents[1],
)


@dataclass(frozen=True)
class Source:
    """What is kept of a variant.

    Attributes:
        text: a Python file that registers it again.
        missing: what could not be kept, in words.
    """

    text: str
    missing: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing


def forget_text(variant: "Variant") -> None:
    """Have the files that have just defined a variant's classes read again, where they changed.

    Not later: once a class is defined, what its file becomes is not its source.
    """
    for target in variant.parts.values():
        module = sys.modules.get(getattr(target, "__module__", None))
        if (path := getattr(module, "__file__", None)) and isinstance(target, type):
            linecache.checkcache(path)


def source_of(variant: "Variant") -> Source:
    """The source of a variant's own classes, as it was when they were defined."""
    collected = _Collected()
    for target in variant.parts.values():
        if isinstance(target, type):
            collected.define(target.__name__, target)
    imports = dict.fromkeys(collected.imports)
    over = re.compile(rf"@variant\(\s*['\"]{re.escape(variant.name)}['\"]")
    if not any(map(over.match, collected.pieces)):
        imports["from detrnb import Variant, register"] = None
        collected.pieces.append(_registration(variant))
    pieces = ["\n".join(imports), *collected.pieces]
    return Source("\n\n\n".join(filter(None, pieces)) + "\n", tuple(collected.missing))


def _registration(variant: "Variant") -> str:
    """The line that enters a variant into the registry."""
    named = [
        f"{part!r}: {made.__name__ if isinstance(made, type) else repr(made)}"
        for part, made in variant.parts.items()
    ]
    rest = {
        key: getattr(variant, key)
        for key in (
            "summary",
            "starts_as_detr",
            "needs_encoder",
            "pre_norm",
            "heads",
            "rates",
            "unused",
        )
    }
    stated = [f"    {key}={value!r},\n" for key, value in rest.items()]
    entry = f"    {variant.name!r},\n    {{{', '.join(named)}}},\n{''.join(stated)}"
    return f"register(Variant(\n{entry}))"


class _Collected:
    """Definitions in an order in which they run, and the imports that these need."""

    def __init__(self) -> None:
        self.imports: list[str] = []
        self.pieces: list[str] = []
        self.missing: list[str] = []
        self._seen: set[int] = set()

    def define(self, name: str, thing: object) -> None:
        """Add what `name` stands for, after what that needs."""
        if isinstance(thing, types.ModuleType):
            if _is_own(thing.__name__):
                self.missing.append(f"module {thing.__name__}, a file of yours")
            alias = "" if thing.__name__ == name else f" as {name}"
            self.imports.append(f"import {thing.__name__}{alias}")
        elif isinstance(thing, type | types.FunctionType) and _is_own(thing.__module__):
            self._definition(thing)
            if thing.__name__ not in (name, "<lambda>"):
                self.pieces.append(f"{name} = {thing.__name__}")
        elif not self._imported(name, thing):
            self._constant(name, thing)

    def _definition(self, thing: type | types.FunctionType) -> None:
        if id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        text = _text_of(thing)
        if text is None:
            self.missing.append(f"{thing.__qualname__}, whose source cannot be found")
            return
        text = _without_computed_name(text)
        scope, settled = _scope(thing), _defaults(thing, text)
        for name in _names(text):
            if name in settled:
                self._constant(name, settled[name])
            elif name in scope and name != thing.__name__:
                self.define(name, scope[name])
            elif name != thing.__name__ and not hasattr(builtins, name):
                self.missing.append(f"{name}, which is not known where {thing.__name__} is used")
        self.pieces.append(text)

    def _imported(self, name: str, thing: object) -> bool:
        """Whether a library has it under its own name, so that an import gives it again."""
        module = getattr(thing, "__module__", None)
        own = getattr(thing, "__name__", name)
        if not isinstance(module, str) or getattr(sys.modules.get(module), own, None) is not thing:
            return False
        alias = "" if own == name else f" as {name}"
        self.imports.append(f"from {module} import {own}{alias}")
        return True

    def _constant(self, name: str, thing: object) -> None:
        if id(thing) in self._seen and not isinstance(thing, int | float | str):
            return
        self._seen.add(id(thing))
        written = f"{name} = {thing!r}"
        try:
            kept = ast.literal_eval(repr(thing)) == thing
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            kept = False
        if not kept:
            self.missing.append(f"{name}, a {type(thing).__name__}")
        elif written not in self.pieces:
            self.pieces.append(written)


def _is_own(module: str | None) -> bool:
    """Whether a module is the user's: a notebook, a script, a file; no library, not this one."""
    if module is None or module.partition(".")[0] in sys.builtin_module_names:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return module == "__main__" if file is None else not is_library(file)


def is_library(file: str) -> bool:
    """Whether a file is of Python's, an installed package's or this one's; a cell is of none."""
    return any(Path(file).resolve().is_relative_to(folder) for folder in _LIBRARIES)


def _scope(thing: type | types.FunctionType) -> Mapping[str, object]:
    """What names mean inside a class or function: its module's, and where it was made."""
    scope = dict(vars(sys.modules[thing.__module__])) if thing.__module__ in sys.modules else {}
    for function in _functions(thing):
        scope |= function.__globals__
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        for name, cell in cells:
            try:
                scope[name] = cell.cell_contents
            except ValueError:  # of a name that is bound later
                continue
    return scope


def _functions(thing: type | types.FunctionType) -> Iterator[types.FunctionType]:
    """A function itself, or the functions that a class's body defines."""
    if isinstance(thing, types.FunctionType):
        yield inspect.unwrap(thing)
        return
    for member in vars(thing).values():
        inner = member.fget if isinstance(member, property) else member
        inner = inspect.unwrap(getattr(inner, "__func__", inner))
        written_here = getattr(inner, "__qualname__", "").startswith(f"{thing.__qualname__}.")
        if isinstance(inner, types.FunctionType) and written_here:
            yield inner


def _text_of(thing: type | types.FunctionType) -> str | None:
    """The text of a class's or function's definition, decorators included."""
    for text, line in _texts(thing):
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        for node in _definitions(tree, thing, line):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            lines = text.splitlines()[first - 1 : node.end_lineno]
            return inspect.cleandoc("\n" + "\n".join(lines)) if lines else None
    return None


def _definitions(
    tree: ast.AST, thing: type | types.FunctionType, line: int | None
) -> Iterator[ast.stmt]:
    """Statements that may define it: the last of its name, or the one that holds the line."""
    kind = ast.ClassDef if isinstance(thing, type) else (ast.FunctionDef, ast.AsyncFunctionDef)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, kind):
            named = node.name == thing.__name__
        else:
            named = thing.__name__ == "<lambda>" and isinstance(node, ast.Assign)
        if named:
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            if line is None or first <= line <= node.end_lineno:
                found.append(node)
    yield from reversed(found)


def _texts(thing: type | types.FunctionType) -> Iterator[tuple[str, int | None]]:
    """Texts that it may have been compiled from, with a line of it where that is known."""
    for function in _functions(thing):
        code = function.__code__
        lines = linecache.getlines(code.co_filename, function.__globals__)
        if lines:
            yield "".join(lines), code.co_firstlineno
    module = sys.modules.get(thing.__module__)
    if getattr(module, "__file__", None):
        yield "".join(linecache.getlines(module.__file__)), None
    # A class of a cell that has no methods; IPython keeps the cells of a session here.
    for cell in reversed(getattr(sys.modules.get("__main__"), "In", None) or []):
        yield cell, None


def _without_computed_name(text: str) -> str:
    """A class's text without a `@variant(...)` whose name is computed: it is entered by its own."""
    lines = text.splitlines()
    for over in getattr(ast.parse(text).body[0], "decorator_list", []):
        enters = isinstance(over, ast.Call) and getattr(over.func, "id", "") == "variant"
        if enters and over.args and not isinstance(over.args[0], ast.Constant):
            lines[over.lineno - 1 : over.end_lineno] = [""] * (over.end_lineno - over.lineno + 1)
    return "\n".join(lines).strip("\n")


def _names(text: str) -> list[str]:
    """Names that a definition takes from outside, in order; neither its own nor attributes."""
    found: dict[str, None] = {}
    tables = [symtable.symtable(text, "<kept>", "exec")]
    outermost = tables[0]
    while tables:
        table = tables.pop(0)
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or table is outermost):
                found[symbol.get_name()] = None
    return list(found)


def _defaults(thing: type | types.FunctionType, text: str) -> dict[str, object]:
    """Names that stand for a parameter's default, with what they meant when it was defined.

    Afterwards they may mean something else, such as the last turn of the loop that made classes.
    """
    nodes = {n.name: n.args for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)}
    settled: dict[str, object] = {}
    for function in _functions(thing):
        if (args := nodes.get(function.__name__)) is None:
            continue
        plain = function.__defaults__ or ()
        named = function.__kwdefaults__ or {}
        pairs = [*zip(args.defaults, plain, strict=False)]
        pairs += [
            (node, named[arg.arg])
            for arg, node in zip(args.kwonlyargs, args.kw_defaults, strict=True)
            if arg.arg in named
        ]
        settled |= {node.id: value for node, value in pairs if isinstance(node, ast.Name)}
    return settled


def plain(text: str) -> str:
    """A Python text without comments, docstrings and layout: what it computes."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        ):
            first = body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def differences(before: str, now: str) -> list[str]:
    """What two kept sources define differently: names of functions, methods, constants."""
    old, new = _pieces(before), _pieces(now)
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def _pieces(text: str) -> dict[str, str]:
    """Definitions by name, a class's body by member."""
    pieces: dict[str, str] = {}

    def place(node: ast.stmt, prefix: str) -> None:
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                place(inner, f"{prefix}{node.name}.")
            head = [*node.decorator_list, *node.bases, *node.keywords]
            pieces[prefix + node.name] = " ".join(map(ast.unparse, head))
            return
        named = getattr(node, "name", None)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named = ", ".join(map(ast.unparse, targets))
        key = prefix + named if named else ast.unparse(node)
        pieces[key] = ast.unparse(node)

    for node in ast.parse(plain(text)).body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            place(node, "")
    return pieces
