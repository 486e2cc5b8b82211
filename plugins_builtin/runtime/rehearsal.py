"""A shim's first minutes, gone through once in the spawner before any shim is forked. Standard library only.

What Python prepares on first use (built-in types, caches, specialised code) is memory that is written once. Written
here it is shared by all shims; written after the fork it would be a copy in each.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os
import select

from plugin_sdk import lines
from plugins_builtin.runtime.shim import Shim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugins_builtin.runtime.clients import Message

_ROUNDS = 9  # Python specialises a function at its eighth call
_ENGINE = "/bin/true"  # stands in for the engine: succeeds and does nothing


def prepare() -> None:
    """Called by the spawner after loading. Leaves descriptors open."""
    for _ in range(_ROUNDS if os.access(_ENGINE, os.X_OK) else 0):
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        listener.bind("")
        listener.listen(1)
        client = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        client.connect(listener.getsockname())
        _rehearse(listener.detach(), client)
        client.close()
    _signal.set_wakeup_fd(-1)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)


def _rehearse(listener: int, client: _socket.socket) -> None:
    """With ``Shim`` itself: what Python learns of a subclass does not help its base."""
    folder = f"/proc/{os.getpid()}/fd"  # of no files, but of FIFOs
    gate, inside = os.pipe()
    os.write(inside, b"0")
    shim = Shim({"bundle": folder, "id": "rehearsal", "engine": [_ENGINE], "gate": f"{folder}/{gate}"}, listener)
    shim._read_pid = lambda path: os.getpid()  # type: ignore[method-assign]  # nobody's child
    steps = _steps([f"{folder}/{os.pipe()[0]}" for _ in range(3)])

    def answered(_: int) -> None:
        client.recv(4096)
        if steps:
            client.send(lines.encode(steps.pop(0)) + b"\n")
        else:
            shim._loop.stop()

    shim._loop.watch(client.fileno(), select.EPOLLIN, answered)
    client.send(lines.encode(steps.pop(0)) + b"\n")
    shim.run()


def _steps(fifos: Sequence[str]) -> list[Message]:
    stdio = {"stdin": fifos[0], "stdout": fifos[1], "stderr": fifos[2], "terminal": False}
    return [
        {"id": 1, "method": "hello", "protocol": 1},
        {"id": 2, "method": "create", "stdio": stdio, "rootfs": [], "flags": []},
        {"id": 3, "method": "start"},
        {"id": 4, "method": "state"},
        {"id": 5, "method": "list"},
    ]
