"""The synchronous library, made from the source of the asynchronous one.

python -m holdfast.sync.generate write     writes `facade.py`
python -m holdfast.sync.generate check     says how it differs from what it should be, and fails
"""

import argparse
import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from holdfast.sync.reading import WIDTH, Function, GenerationError, Imports, Source

FACADE: Final = Path(__file__).with_name("facade.py")
HEADER: Final = '''"""The synchronous library; see `holdfast.sync`."""
# Written by `python -m holdfast.sync.generate write`; do not edit.
'''


@dataclass(frozen=True, slots=True)
class Facade:
    """A class of the library and what its counterpart is made of.

    Attributes:
        name: of both.
        module: of the asynchronous one.
        handle: names the asynchronous object in the facade.
        base: the facade it inherits from; else everything that it inherits is written out.
    """

    name: str
    module: str
    handle: str
    base: str | None = None


# A class comes after those that it returns.
FACADES: Final = (
    Facade("MessageLog", "holdfast.log", "log"),
    Facade("Turn", "holdfast.turn", "turn", base="MessageLog"),
    Facade("Session", "holdfast.session", "session", base="MessageLog"),
    Facade("Memory", "holdfast.client", "memory"),
    Facade("Client", "holdfast.client", "client"),
)
WRAPPERS: Final = {facade.name for facade in FACADES} | {"Signal"}

# Public attributes that a constructor sets: their docstring, or None for what threads must not touch.
ATTRIBUTES: Final[Mapping[str, str | None]] = {
    "Memory.address": "Where it is: namespace and name.",
    "Memory.format": "The format of its messages by name; None finds it by each message's shape.",
    "Memory.policies": None,
}

# Types of parameters that the library follows in its loop, where a thread's iterators must not run.
FED: Final = frozenset({"Lines"})

# Statements in front of a call: what a thread cannot do as a task does.
GUARDS: Final[Mapping[str, str]] = {"Session.turn": "refuse_cancelling(on_interrupt)"}

# Parts of docstrings that say something else here; None cuts off the rest.
WORDS: Final[Mapping[str, tuple[tuple[str, str | None], ...]]] = {
    "connect": (
        ("No I/O happens before", "No I/O happens and no thread starts before"),
        (
            "are made with its settings.",
            "are made with its settings.\n        It is one of `redis.asyncio`, for this client alone.",
        ),
    ),
    "Client.aclose": (
        (
            "End turns that are still open, finish what runs, and close",
            "End turns that are still open, cancel calls that still run, and close",
        ),
        ("the library's own connections.", "connections.\n\nThe end of the program does so too."),
    ),
    "Session.turn": (
        ('`"cancel"` cancels\n', "nothing can\n"),
        (
            "its task, within about a second, and leaving the turn raises `TurnInterrupted`; None\n",
            'cancel a thread, so `"cancel"` is refused, and None leaves it to the next call, which\n',
        ),
        ("leaves it to the next call, which raises it,", "raises `TurnInterrupted`,"),
    ),
    "Turn.__aexit__": (("\n\nRaises:", None),),
    "Turn.interrupted": (
        ("Await it to learn that", "True once"),
        ("took the turn; false until then.", "took the turn; `wait` waits for that."),
    ),
    "Turn.lost": (
        (
            "Await it to learn of the loss of the turn; false until then.",
            "True once the turn is lost; `wait` waits for that.",
        ),
    ),
}


def facade_text() -> str:
    """Return the text of `facade.py`.

    Raises:
        GenerationError: the asynchronous library has something for which this module has no rule.
    """
    imports = Imports(local={facade.name for facade in FACADES})
    for facade in FACADES:
        imports.module(facade.module)
    imports.module("holdfast.connecting")
    imports.name("holdfast.sync.portal", "Portal")
    classes = [_class(facade, imports) for facade in FACADES]
    text = "\n\n\n".join([*classes, _connect(imports)])
    text = f"{HEADER}\n{imports.text()}\n\n{text}\n"
    if found := re.search(r".*\b(?i:await)\b.*", text):
        raise GenerationError(f"asynchronous words are left, see WORDS: {found.group().strip()}")
    return text


def _class(facade: Facade, imports: Imports) -> str:
    source = Source(facade.module)
    known = {one.name: one for one in FACADES}
    stop = known[facade.base] if facade.base is not None else None
    blocks = [_constructor(facade), *_attributes(facade, source, imports)]
    inherited = Source(stop.module).functions(stop.name) if stop is not None else {}
    for name, function in source.functions(facade.name, stop=facade.base).items():
        if name not in inherited or function.signature() != inherited[name].signature():
            blocks += _method(facade, function, imports)
    base = f"({facade.base})" if facade.base is not None else ""
    head = _docstring(facade.name, source.class_docstring(facade.name), 4)
    return f"class {facade.name}{base}:\n{head}\n\n" + "\n\n".join(blocks)


def _constructor(facade: Facade) -> str:
    wrapped, handle = f"{facade.module}.{facade.name}", facade.handle
    if facade.name == "Client":
        return (
            f"    def __init__(self, {handle}: {wrapped}) -> None:\n"
            f"        self._{facade.handle} = {handle}\n"
            f"        self._portal = Portal({handle}.aclose)"
        )
    first = (
        "self._portal = portal" if facade.base is None else f"super().__init__(portal, {handle})"
    )
    return (
        f"    def __init__(self, portal: Portal, {handle}: {wrapped}) -> None:\n"
        f"        {first}\n"
        f"        self._{facade.handle} = {handle}"
    )


def _attributes(facade: Facade, source: Source, imports: Imports) -> Iterator[str]:
    for name, (annotation, owner) in source.attributes(facade.name).items():
        path = f"{facade.name}.{name}"
        if path not in ATTRIBUTES:
            raise GenerationError(f"{path} is new: describe it in ATTRIBUTES, or hide it there")
        if (words := ATTRIBUTES[path]) is not None:
            returns = imports.annotation(annotation, owner)
            yield _property(
                name, returns, _docstring(path, words, 8), f"self._{facade.handle}.{name}"
            )


def _property(name: str, returns: str, docstring: str, value: str) -> str:
    return f"    @property\n    def {name}(self) -> {returns}:\n{docstring}\n        return {value}"


def _method(facade: Facade, function: Function, imports: Imports) -> list[str]:
    path = f"{facade.name}.{function.name}"
    words = function.docstring
    docstring = _docstring(path, words, 8) if words else f'        """Like `{path}`."""'
    if function.name == "__aenter__":
        imports.name("typing", "Self")
        return [_enter(facade, docstring)]
    if function.name == "__aexit__":
        return [_exit(facade, function, docstring, imports)]
    if function.name == "aclose":
        return [f"    def close(self) -> None:\n{docstring}\n        self._portal.close()"]
    items = function.items
    returns = imports.annotation(items or function.returns, function.source)
    target = f"self._{facade.handle}.{function.name}"
    if function.is_property:
        value = f"{returns}(self._portal, {target})" if returns in WRAPPERS else target
        if returns == "Signal":
            imports.name("holdfast.sync.signals", "Signal")
        return [_property(function.name, returns, docstring, value)]
    body = [docstring]
    if path in GUARDS:
        guard = GUARDS[path]
        imports.name("holdfast.sync.refusals", guard.partition("(")[0])
        body.append(f"        {guard}")
    way = "run" if function.is_coroutine else "direct"
    if items is not None:
        way, returns = "iterate", f"Iterator[{returns}]"
        imports.name("collections.abc", "Iterator")
    call = [target, *_passed_on(function, imports)]
    if returns in WRAPPERS:
        handle = returns.lower()
        body.append(_spread(f"        {handle} = self._portal.{way}(", call, ")"))
        body.append(f"        return {returns}(self._portal, {handle})")
    else:
        begin = "" if returns == "None" else "return "
        body.append(_spread(f"        {begin}self._portal.{way}(", call, ")"))
    if leftover := re.search(r"\b(?:Async\w+|Awaitable|Coroutine)\b", returns):
        raise GenerationError(f"{path} returns {returns}: no rule for {leftover.group()}")
    head = _spread(
        f"    def {function.name}(",
        ["self", *_parameters(path, function, imports)],
        f") -> {returns}:",
    )
    return ["\n".join([head, *body])]


def _enter(facade: Facade, docstring: str) -> str:
    enter = (
        "" if facade.name == "Client" else f"        self._portal.enter(self._{facade.handle})\n"
    )
    return f"    def __enter__(self) -> Self:\n{docstring}\n{enter}        return self"


def _exit(facade: Facade, function: Function, docstring: str, imports: Imports) -> str:
    parameters = _parameters(f"{facade.name}.__aexit__", function, imports)
    head = _spread("    def __exit__(", ["self", *parameters], ") -> None:")
    if facade.name == "Client":
        return f"{head}\n{docstring}\n        self.close()"
    call = _spread(
        "        self._portal.leave(", [f"self._{facade.handle}", *function.arguments()], ")"
    )
    return f"{head}\n{docstring}\n{call}"


def _parameters(path: str, function: Function, imports: Imports) -> list[str]:
    found: list[str] = []
    for name, annotation, text in function.parameters():
        if annotation is None:
            found.append(text)
            continue
        said = imports.annotation(annotation, function.source)
        names = set(re.findall(r"\w+", said))
        strange = names & WRAPPERS | {one for one in names if re.match("Async|Await|Coro", one)}
        if strange:
            raise GenerationError(f"{path}: no rule for the parameter {name}: {said}")
        found.append(text.replace("\0", said))
    return found


def _passed_on(function: Function, imports: Imports) -> list[str]:
    fed = {
        parameter.name
        for parameter in function.parameters()
        if parameter.annotation is not None and function.source.segment(parameter.annotation) in FED
    }
    if fed:
        imports.name("holdfast.sync.portal", "feed")
    return [f"feed({each})" if each in fed else each for each in function.arguments()]


def _connect(imports: Imports) -> str:
    source = Source("holdfast.connecting")
    function = source.function("connect")
    head = _spread("def connect(", _parameters("connect", function, imports), ") -> Client:")
    docstring = _docstring("connect", function.docstring, 4)
    call = _spread("    made = holdfast.connecting.connect(", function.arguments(), ")")
    return f"{head}\n{docstring}\n{call}\n    return Client(made)"


def _spread(begin: str, items: Sequence[str], end: str) -> str:
    """Put items between brackets as the formatter does: on one line, on the next, or on many."""
    indent = begin[: len(begin) - len(begin.lstrip())]
    joined = ", ".join(items)
    if len(begin) + len(joined) + len(end) <= WIDTH:
        return begin + joined + end
    if len(indent) + 4 + len(joined) <= WIDTH:
        return f"{begin}\n{indent}    {joined}\n{indent}{end}"
    return "\n".join([begin, *(f"{indent}    {item}," for item in items), f"{indent}{end}"])


def _docstring(path: str, text: str, indent: int) -> str:
    for old, new in WORDS.get(path, ()):
        if old not in text:
            raise GenerationError(f"the docstring of {path} no longer says {old!r}: see WORDS")
        text = text.replace(old, new) if new is not None else text.partition(old)[0]
    text = re.sub(r"\bawait |\basync (?=with )", "", text)
    text = text.replace("holdfast.connect(", "holdfast.sync.connect(")
    lines = text.splitlines()
    close = "" if len(lines) == 1 else "\n"
    return "\n".join(
        f"{' ' * indent}{line}" if line else "" for line in f'"""{text}{close}"""'.splitlines()
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 1 when `check` finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m holdfast.sync.generate")
    parser.add_argument("command", choices=("write", "check"))
    command = parser.parse_args(arguments).command
    wanted = facade_text()
    if command == "write":
        FACADE.write_text(wanted, encoding="utf-8")
        return 0
    present = FACADE.read_text(encoding="utf-8") if FACADE.exists() else ""
    names = (FACADE.name, f"{FACADE.name} as it should be")
    lines = difflib.unified_diff(present.splitlines(), wanted.splitlines(), *names, lineterm="")
    sys.stdout.writelines(f"{line}\n" for line in lines)
    if present != wanted:
        sys.stdout.write("run: python -m holdfast.sync.generate write\n")
    return int(present != wanted)


if __name__ == "__main__":
    sys.exit(main())
