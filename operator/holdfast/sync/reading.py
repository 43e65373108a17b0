"""Reads the source of the asynchronous library for the generator; nothing of it is imported."""

import ast
import builtins
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
"""The folder that the package is in."""
WIDTH = 100
"""Characters in a line of what is made."""


class GenerationError(Exception):
    """The library has something that the generator has no rule for."""


class Origin(NamedTuple):
    """Where a name comes from.

    Attributes:
        module: that it is imported from.
        name: there; empty for a module as a whole.
        typing_only: for type checkers alone.
    """

    module: str
    name: str
    typing_only: bool = False


class Parameter(NamedTuple):
    """A parameter as it is written; the annotation is where the text has a NUL."""

    name: str
    annotation: ast.expr | None
    text: str


class Source:
    """One module.

    Args:
        module: its full name.
    """

    def __init__(self, module: str) -> None:
        self.module = module
        self._text = _path(module).read_text(encoding="utf-8")
        self._tree = ast.parse(self._text)

    @cached_property
    def origins(self) -> dict[str, Origin]:
        """The names that the module imports or defines."""
        found: dict[str, Origin] = {}
        for node in self._tree.body:
            match node:
                case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body):
                    for inner in body:
                        found |= _imported(inner, typing_only=True)
                case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                    found[name] = Origin(self.module, name)
                case ast.Assign(targets=[ast.Name(id=name)]):
                    found[name] = Origin(self.module, name)
                case _:
                    found |= _imported(node, typing_only=False)
        return found

    def segment(self, node: ast.expr) -> str:
        """Return an expression as it is written, on one line."""
        text = ast.get_source_segment(self._text, node)
        assert text is not None
        return " ".join(text.split())

    def function(self, name: str) -> "Function":
        """Return a function of the module."""
        for node in self._tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
                return Function(self, node, method=False)
        raise GenerationError(f"{self.module} has no function {name}")

    def functions(self, name: str, *, stop: str | None = None) -> dict[str, "Function"]:
        """Return the public methods of a class, inherited ones too, up to the base `stop`."""
        found: dict[str, Function] = {}
        for source, node in self.family(name, stop):
            for item in node.body:
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and _is_public(item):
                    found.setdefault(item.name, Function(source, item))
        return found

    def attributes(self, name: str) -> dict[str, tuple[ast.expr, "Source"]]:
        """Return the public attributes that a constructor takes over from its parameters."""
        found: dict[str, tuple[ast.expr, Source]] = {}
        for item in self._class(name).body:
            if not isinstance(item, ast.FunctionDef) or item.name != "__init__":
                continue
            given = {one.arg: one.annotation for one in (*item.args.args, *item.args.kwonlyargs)}
            for statement in ast.walk(item):
                match statement:
                    case ast.Assign(
                        targets=[ast.Attribute(value=ast.Name(id="self"), attr=attribute)],
                        value=value,
                    ) if not attribute.startswith("_"):
                        annotation = given.get(value.id) if isinstance(value, ast.Name) else None
                        if annotation is None:
                            raise GenerationError(f"{name}.{attribute}: of which type?")
                        found[attribute] = annotation, self
                    case _:
                        pass
        return found

    def class_docstring(self, name: str) -> str:
        """Return what a class says of itself, without how to construct it."""
        text = ast.get_docstring(self._class(name)) or ""
        return text.split("\n\nArgs:")[0].split("\n\nAttributes:")[0]

    def _class(self, name: str) -> ast.ClassDef:
        for node in self._tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return node
        raise GenerationError(f"{self.module} has no class {name}")

    def family(self, name: str, stop: str | None) -> Iterator[tuple["Source", ast.ClassDef]]:
        """Give a class and those of the library that it inherits from, nearest first."""
        node = self._class(name)
        yield self, node
        for base in node.bases:
            base_name = base.id if isinstance(base, ast.Name) else ""
            origin = self.origins.get(base_name)
            if base_name == stop or origin is None or not origin.module.startswith("holdfast."):
                continue
            source = self if origin.module == self.module else Source(origin.module)
            yield from source.family(base_name, stop)


@dataclass(frozen=True, slots=True)
class Function:
    """A function or a method, as it is written."""

    source: Source
    node: ast.FunctionDef | ast.AsyncFunctionDef
    method: bool = True

    @property
    def name(self) -> str:
        """Its name."""
        return self.node.name

    @property
    def docstring(self) -> str:
        """Its docstring; empty if it has none."""
        return ast.get_docstring(self.node) or ""

    @property
    def returns(self) -> ast.expr:
        """The annotation of what it returns."""
        if self.node.returns is None:
            raise GenerationError(f"{self.name} does not say what it returns")
        return self.node.returns

    @property
    def items(self) -> ast.expr | None:
        """The annotation of what it gives one by one, if it returns an asynchronous iterator."""
        match self.returns:
            case ast.Subscript(value=ast.Name(id="AsyncIterator"), slice=item):
                return item
            case ast.Subscript(
                value=ast.Name(id="AsyncGenerator"), slice=ast.Tuple(elts=[item, _])
            ):
                return item
            case _:
                return None

    @property
    def is_property(self) -> bool:
        """Whether it is a property; no other decorator is known."""
        written = [self.source.segment(one) for one in self.node.decorator_list]
        if written not in ([], ["property"]):
            raise GenerationError(f"no rule for the decorators of {self.name}: {written}")
        return bool(written)

    @property
    def is_coroutine(self) -> bool:
        """Whether calling it gives a coroutine, and not an asynchronous iterator."""
        return isinstance(self.node, ast.AsyncFunctionDef) and not any(
            isinstance(one, ast.Yield) for one in ast.walk(self.node)
        )

    def signature(self) -> tuple[object, ...]:
        """Return what tells whether one function may stand for another."""
        said = [
            (text, self.source.segment(annotation) if annotation is not None else "")
            for _, annotation, text in self.parameters()
        ]
        return (self.is_coroutine, self.source.segment(self.returns), *said)

    def parameters(self) -> Iterator[Parameter]:
        """Give the parameters but for `self`, with the marks `/` and `*` between them."""
        all_ = self.node.args
        plain = [*all_.posonlyargs, *all_.args]
        defaults = [None] * (len(plain) - len(all_.defaults)) + list(all_.defaults)
        for at, (each, default) in enumerate(zip(plain, defaults, strict=True), 1):
            if not self.method or at > 1:
                yield self._parameter(each, default)
            if at == len(all_.posonlyargs):
                yield Parameter("/", None, "/")
        if all_.vararg is not None:
            yield self._parameter(all_.vararg, None, "*")
        elif all_.kwonlyargs:
            yield Parameter("*", None, "*")
        for each, default in zip(all_.kwonlyargs, all_.kw_defaults, strict=True):
            yield self._parameter(each, default)
        if all_.kwarg is not None:
            yield self._parameter(all_.kwarg, None, "**")

    def arguments(self) -> list[str]:
        """Return the parameters as they are passed on."""
        all_ = self.node.args
        plain = [each.arg for each in (*all_.posonlyargs, *all_.args)][1 if self.method else 0 :]
        rest = [f"*{all_.vararg.arg}"] if all_.vararg is not None else []
        named = [f"{each.arg}={each.arg}" for each in all_.kwonlyargs]
        more = [f"**{all_.kwarg.arg}"] if all_.kwarg is not None else []
        return [*plain, *rest, *named, *more]

    def _parameter(self, each: ast.arg, default: ast.expr | None, stars: str = "") -> Parameter:
        if each.annotation is None:
            raise GenerationError(f"{self.name}: of which type is {each.arg}?")
        value = "" if default is None else f" = {self.source.segment(default)}"
        return Parameter(each.arg, each.annotation, f"{stars}{each.arg}: \0{value}")


class Imports:
    """The imports of the module that is made.

    Args:
        local: names that it defines itself.
    """

    def __init__(self, local: set[str]) -> None:
        self._local = local
        self._origins: set[Origin] = set()

    def module(self, module: str) -> None:
        """Import a whole module."""
        self._origins.add(Origin(module, ""))

    def name(self, module: str, name: str) -> None:
        """Import a name."""
        self._origins.add(Origin(module, name))

    def annotation(self, node: ast.expr, source: Source) -> str:
        """Return an annotation as it must be written here, and import what it names."""
        text = source.segment(node)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
            if not any(origin.typing_only for origin in _named(node, source).values()):
                text = text[1:-1]
        for name, origin in _named(node, source).items():
            if name in self._local or name == "Signal":
                continue
            if origin.name not in ("", name):
                raise GenerationError(
                    f"{source.module} calls {origin.name} {name}: no rule for that"
                )
            self._origins.add(origin)
        return text

    def text(self) -> str:
        """Return the imports, sorted as the linter wants them."""
        always = {origin for origin in self._origins if not origin.typing_only}
        if typing_only := self._origins - always:
            always.add(Origin("typing", "TYPE_CHECKING"))
        blocks = [_sections(always)]
        if typing_only:
            lines = _sections(typing_only).splitlines()
            indented = [f"    {line}" if line else "" for line in lines]
            blocks.append("\n".join(["if TYPE_CHECKING:", *indented]))
        return "\n\n".join(blocks) + "\n"


def _path(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _is_public(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return not node.name.startswith("_") or node.name in ("__aenter__", "__aexit__")


def _imported(node: ast.stmt, *, typing_only: bool) -> dict[str, Origin]:
    match node:
        case ast.ImportFrom(module=str(module), names=names, level=0):
            return {
                each.asname or each.name: Origin(module, each.name, typing_only) for each in names
            }
        case ast.Import(names=names):
            return {each.asname or each.name: Origin(each.name, "", typing_only) for each in names}
        case _:
            return {}


def _named(node: ast.expr, source: Source) -> dict[str, Origin]:
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    found: dict[str, Origin] = {}
    for name in names:
        if name in source.origins:
            found[name] = source.origins[name]
        elif not hasattr(builtins, name):
            raise GenerationError(f"{source.module}: where does {name} come from?")
    return found


def _sections(origins: set[Origin]) -> str:
    def section(origin: Origin) -> int:
        root = origin.module.partition(".")[0]
        return 0 if root in sys.stdlib_module_names else 2 if root.startswith("holdfast") else 1

    blocks: list[str] = []
    for number in range(3):
        found = [origin for origin in origins if section(origin) == number]
        lines = [f"import {module}" for module in sorted({o.module for o in found if not o.name})]
        for module in sorted({origin.module for origin in found if origin.name}):
            names = sorted((o.name for o in found if o.module == module and o.name), key=_rank)
            lines.append(_import(module, names))
        if lines:
            blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _import(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in names), ")"])


def _rank(name: str) -> tuple[int, str]:
    """Sort as the linter does: constants, classes, the rest."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2, name)
