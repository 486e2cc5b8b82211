"""Writes corten/aio.py, the asynchronous face of the client library, from the classes of the library itself.

    python -m scripts.aio            # writes it
    python -m scripts.aio --check    # exit code 1 if it is not as it would be written

A method becomes a coroutine that runs the blocking one in a thread (``corten.awaiting``); an iterator an asynchronous
one; a context an asynchronous one; a property stays, since none asks the daemon. The types are those of the blocking
methods, in full names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import inspect
import io
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from corten import client, containers, content, events, images, leases, metrics, snapshots, streams, tasks, transfers
from plugin_sdk import content as content_contract
from plugin_sdk import namespaces
from plugin_sdk.scope import Scope

TARGET = Path(__file__).parent.parent / "corten" / "aio.py"

MIRRORED: dict[type, str] = {
    client.Client: "Client",
    containers.Container: "Container",
    containers.Containers: "Containers",
    content.Content: "Content",
    events.Events: "Events",
    images.Images: "Images",
    leases.Leases: "Leases",
    namespaces.Store: "Namespaces",
    tasks.Process: "Process",
    content_contract.Reader: "Reader",
    snapshots.Snapshotter: "Snapshotter",
    tasks.Task: "Task",
    tasks.Tasks: "Tasks",
    transfers.Transfers: "Transfers",
    content_contract.Writer: "Writer",
}
IMMEDIATE = {"view", "namespace"}  # they ask nothing of the daemon
LEFT_OUT = {
    *("channel", "client", "lacks", "note_lack", "check", "over", "registries", "leased"),  # inner workings
    *("differ", "open", "fileno"),  # of blocking objects
}
FILES = (streams.Input, io.BufferedReader)
OTHERS = {"Metrics": metrics.Metrics, "Tls": client.Tls, "Registries": object, "ReadableBuffer": bytes}

HEAD = '''"""The client library for asyncio: ``corten`` with the same names, made of it by scripts/aio.py. Do not edit.

What would block is awaited; what is iterated is iterated with ``async for``; contexts are ``async with``. Streams of
processes are ``corten.awaiting.File``. Each object has the blocking one as ``blocking``.
"""

from __future__ import annotations

'''

CONNECT = '''

def connect(address: str | None = None, namespace: str | None = None, *, tls: Tls | None = None) -> Client:
    """As ``corten.connect``."""
    return Client(corten.connect(address, namespace, tls=tls).over(awaiting.Linked, awaiting.current))
'''


def written() -> str:
    classes = "".join(_class(kind, name) for kind, name in sorted(MIRRORED.items(), key=_by_bases))
    exported = sorted(["connect", "File", "Following", "follow", *MIRRORED.values()], key=_isort)
    names = "__all__ = [" + ", ".join(f'"{name}"' for name in exported) + "]\n"
    imports = sorted(set(re.findall(r"\b((?:[a-z_0-9]+\.)+)(?=[A-Z_]|timedelta)", classes)))
    modules = [name.rstrip(".") for name in imports]
    lines = [f"import {name}\n" for name in modules if not name.startswith("awaiting")]
    own = "import corten\nfrom corten import awaiting\nfrom corten.awaiting import File, Following, follow\n"
    types = "if typing.TYPE_CHECKING:\n    from corten.client import Tls\n"
    checked = [line for line in lines if line.startswith(("import corten.", "import plugin_sdk."))]
    plain = {*(line for line in lines if line not in checked), "import builtins\n", "import typing\n"}
    text = HEAD + "".join(sorted(plain)) + own + types + "".join(f"    {line}" for line in checked)
    return formatted(text + names + classes + CONNECT)


def _by_bases(item: tuple[type, str]) -> tuple[int, str]:
    return len(item[0].__mro__) if item[0] is tasks.Task else 0, item[1]


def _isort(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def formatted(text: str) -> str:
    for arguments in (["check", "--fix", "--quiet", "--select", "I,F401"], ["format", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", str(TARGET), "-"]
        text = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    return text


def _class(kind: type, name: str) -> str:
    base = "Process" if kind is tasks.Task else f'awaiting.Mirror["{_shown(kind, raw=True)}"]'
    lines = [f'\n\nclass {name}({base}):\n    """As ``{_shown(kind, raw=True)}``."""\n']
    inherited = set(dir(tasks.Process)) if kind is tasks.Task else set()
    if kind is tasks.Task:
        lines.append(f"\n    blocking: {_shown(kind, raw=True)}\n")
    lines += [_field(each) for each in _fields(kind)]
    lines += [_member(kind, each, member) for each, member in _members(kind) if each not in inherited]
    if hasattr(kind, "__enter__"):
        lines.append(f"\n    async def __aenter__(self) -> {name}:\n        return self\n")
        if kind is not tasks.Task:
            lines.append(
                "\n    async def __aexit__(self, *exc: typing.Any) -> None:\n"
                "        await awaiting.call(self.blocking.__exit__, *exc)\n"
            )
    return "".join(lines)


def _fields(kind: type) -> Sequence[Any]:
    if kind is tasks.Process:
        return [("id", str), ("exec_id", str), ("pid", int)]
    if kind is client.Client:
        return [("scope", Scope)]
    if not dataclasses.is_dataclass(kind):
        return []
    hints = _hints(kind)
    return [(field.name, hints[field.name]) for field in dataclasses.fields(kind) if field.name not in LEFT_OUT]


def _field(field: tuple[str, Any]) -> str:
    name, hint = field
    return f"\n    @property\n    def {name}(self) -> {_shown(hint)}:\n        return self.blocking.{name}\n"


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    fields = {name for name, _ in _fields(kind)}
    for name in dir(kind):
        member = inspect.getattr_static(kind, name)
        if name.startswith("_") or name in LEFT_OUT or name in fields:
            continue
        if kind is content.Content and name == "create":  # a file
            continue
        if isinstance(member, property) or inspect.isfunction(member):
            yield name, member


def _member(kind: type, name: str, member: Any) -> str:
    if isinstance(member, property):
        return _property(name, _hints(member.fget)["return"])
    overloads = "".join(
        f"\n    @typing.overload\n    async def {name}{_signature(each, Any)} ...\n" for each in _overloads(member)
    )
    return overloads + _method(name, member)


def _overloads(member: Any) -> Sequence[Callable[..., Any]]:
    return typing.get_overloads(member)


def _property(name: str, hint: Any) -> str:
    blocking = f"self.blocking.{name}"
    if any(each in FILES for each in typing.get_args(hint)):
        result, value = "File | None", f"None if {blocking} is None else File({blocking})"
    else:
        result, value = _shown(hint), _wrapped(hint, blocking)
    return f"\n    @property\n    def {name}(self) -> {result}:\n        return {value}\n"


def _method(name: str, member: Any) -> str:
    hint = _hints(member).get("return")
    call = f"self.blocking.{name}"
    passed = _passed(member)
    if member.__code__.co_filename == contextlib.__file__:
        (inner,) = typing.get_args(hint)
        shown = MIRRORED.get(inner, "lambda value: value")
        result = f"contextlib.AbstractAsyncContextManager[{_shown(inner)}]"
        return _def(f"def {name}", member, result, f"return awaiting.entered({call}({passed}), {shown})")
    if (entry := _entry(hint)) is not None:
        work = f"return awaiting.Iteration(lambda: {call}({passed}))"
        return _def(f"def {name}", member, f"awaiting.Iteration[{_shown(entry)}]", work)
    if name in IMMEDIATE:
        return _def(f"def {name}", member, _shown(hint), f"return {_wrapped(hint, f'{call}({passed})')}")
    if _overloads(member):
        call = f'typing.cast("typing.Any", {call})'
    value = _wrapped(hint, f"await awaiting.call({call}{', ' + passed if passed else ''})")
    return _def(f"async def {name}", member, _shown(hint), value if hint in (None, type(None)) else f"return {value}")


def _entry(hint: Any) -> Any:
    """Of an iterator, what it iterates over."""
    if hint is events.Subscription:
        return events.Envelope
    return typing.get_args(hint)[0] if getattr(hint, "__origin__", None) is Iterator else None


def _wrapped(hint: Any, value: str) -> str:
    if hint in MIRRORED:
        return f"{MIRRORED[hint]}({value})"
    inner = typing.get_args(hint)
    if len(inner) == 1 and inner[0] in MIRRORED:
        return f"[{MIRRORED[inner[0]]}(each) for each in {value}]"
    return value


def _def(head: str, member: Any, result: str, body: str) -> str:
    return f"\n    {head}{_signature(member, result)}\n        {body}\n"


def _signature(member: Any, result: Any) -> str:
    hints = _hints(member)
    parts = ["self"]
    found = [each for each in inspect.signature(member).parameters.values() if each.name != "self"]
    for number, each in enumerate(found):
        if each.kind is each.KEYWORD_ONLY and not any(before.kind is each.KEYWORD_ONLY for before in found[:number]):
            parts.append("*")
        stars = {each.VAR_KEYWORD: "**", each.VAR_POSITIONAL: "*"}.get(each.kind, "")
        default = "" if each.default is each.empty else f" = {_literal(each.default)}"
        parts.append(f"{stars}{each.name}: {_shown(hints[each.name])}{default}")
        is_last = number + 1 == len(found) or found[number + 1].kind is not each.POSITIONAL_ONLY
        if each.kind is each.POSITIONAL_ONLY and is_last:
            parts.append("/")
    shown = result if isinstance(result, str) else _shown(hints["return"])
    return f"({', '.join(parts)}) -> {shown}:"


def _passed(member: Any) -> str:
    parts = []
    for each in inspect.signature(member).parameters.values():
        if each.name != "self":
            star = {each.VAR_KEYWORD: "**", each.VAR_POSITIONAL: "*"}.get(each.kind)
            named = f"{each.name}={each.name}" if each.kind is each.KEYWORD_ONLY else each.name
            parts.append(f"{star}{each.name}" if star else named)
    return ", ".join(parts)


def _hints(member: Any) -> dict[str, Any]:
    names = {kind.__name__: kind for kind, name in MIRRORED.items() if kind.__name__ == name}
    return typing.get_type_hints(member, localns={**OTHERS, **names})


def _literal(value: Any) -> str:
    return str(int(value)) if isinstance(value, enum.IntEnum) else repr(value)


def _shown(hint: Any, raw: bool = False) -> str:
    """A type, as it is written."""
    if hint is None or hint is type(None):
        return "None"
    if hint in MIRRORED and not raw:
        return MIRRORED[hint]
    if isinstance(hint, type) and not typing.get_args(hint):
        own = {client.Tls: "Tls"}.get(hint)
        module = "" if hint.__module__ == "builtins" else f"{hint.__module__}."
        return own or f"{module}{hint.__qualname__}"
    arguments = typing.get_args(hint)
    if not arguments:
        return repr(hint).removeprefix("~")
    origin = typing.get_origin(hint)
    if getattr(origin, "__name__", "") in ("Union", "UnionType"):
        return " | ".join(_shown(each) for each in arguments)
    if getattr(origin, "__name__", "") == "Callable":
        *taken, given = arguments
        return f"collections.abc.Callable[[{', '.join(map(_shown, taken[0]))}], {_shown(given)}]"
    name = "typing.Unpack" if "Unpack" in repr(origin) else f"{origin.__module__}.{origin.__qualname__}"
    return f"{name}[{', '.join('...' if each is ... else _shown(each) for each in arguments)}]"


def main() -> int:
    text = written()
    if "--check" in sys.argv[1:]:
        return int(TARGET.read_text() != text)
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
