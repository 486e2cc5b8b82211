"""``corten plugin new``: a package with a small plugin that works, its program and its tests, from ``templates/``.

A template's text has these words behind a ``$``: ``NAME`` as the author gave it, ``MODULE`` the same as Python's import
needs it, and what follows from the kind. Its path has ``MODULE``, and ``SUITE`` for the module of tests.
"""

from __future__ import annotations

import keyword
import re
import shutil
import string
import sys
from collections.abc import Mapping
from pathlib import Path

from plugin_sdk import errors

TEMPLATES = Path(__file__).parent / "templates"
SUFFIX = ".tmpl"

KINDS: Mapping[str, Mapping[str, str]] = {
    "snapshotter": {
        "TYPE": "snapshot",
        "FILE": "snapshotter",
        "WHAT": "A snapshotter",
        "CONTRACT": "the snapshotter, which keeps the contract `plugin_sdk.snapshots`",
        "TESTS": "every sentence of the contract, on the object and on the program",
        "NOTE": "",
    },
    "content": {
        "TYPE": "content",
        "FILE": "store",
        "WHAT": "A content store",
        "CONTRACT": "the content store, which keeps the contract `plugin_sdk.content`",
        "TESTS": "every sentence of the contract, on the object and on the program",
        "NOTE": "\nThere is exactly one content store: the daemon's own is left out by\n"
        '`disabled_plugins = ["io.containerd.content.v1.content"]` at the top of plugins.toml.\n',
    },
    "differ": {
        "TYPE": "diff",
        "FILE": "differ",
        "WHAT": "A differ",
        "CONTRACT": "the differ, which keeps the contract `plugin_sdk.diff`",
        "TESTS": "what the contract says, on the object and on the program",
        "NOTE": "",
    },
}

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 40  # of a name: it becomes part of a socket's path, and of labels
_TAKEN = {"corten", "kernel", "plugin_sdk", "plugins_builtin", "proxy_plugins", "tests"}


def write(kind: str, name: str, directory: Path) -> Path:
    """Makes the package ``directory/name`` and answers its path. ``kind`` is one of ``KINDS``.

    Raises InvalidArgument for a name that cannot be one of a package, AlreadyExists when the directory is there,
    FailedPrecondition when it cannot be written; then nothing is left of it."""
    words = {"NAME": name, "MODULE": _module(name), "KIND": kind, **KINDS[kind]}
    target = directory / name
    try:
        target.mkdir(parents=True)
    except FileExistsError as err:
        raise errors.AlreadyExists(f"{target} is there already") from err
    except OSError as err:
        raise errors.FailedPrecondition(f"{target} cannot be made: {err.strerror}") from err
    try:
        for source in (TEMPLATES / "shared", TEMPLATES / kind):
            _fill(source, target, words)
    except OSError as err:
        shutil.rmtree(target, ignore_errors=True)
        raise errors.FailedPrecondition(f"{target} cannot be written: {err.strerror}") from err
    return target


def _module(name: str) -> str:
    """Raises InvalidArgument."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise errors.InvalidArgument(
            f'name "{name}": must be at most {_LONGEST} lower-case letters and digits, in words joined by "-"'
        )
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module in _TAKEN:
        raise errors.InvalidArgument(f'name "{name}": {module} is a word of Python, or the name of another module')
    return module


def _fill(source: Path, target: Path, words: Mapping[str, str]) -> None:
    for template in sorted(source.rglob(f"*{SUFFIX}")):
        name = str(template.relative_to(source)).removesuffix(SUFFIX)
        path = target / name.replace("SUITE", f"test_{words['MODULE']}").replace("MODULE", words["MODULE"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(string.Template(template.read_text()).substitute(words))
