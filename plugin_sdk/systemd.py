"""What systemd is told, sd_notify(3), and the sockets it hands over, sd_listen_fds(3), without its library."""

from __future__ import annotations

import contextlib
import os
import socket

_FIRST = 3


def notify(state: str) -> None:
    """Sends such as ``READY=1`` to the service manager, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
    ):
        channel.sendto(state.encode(), address)


def listeners() -> list[socket.socket]:
    """The sockets that the service manager has bound for this process; those who ask again get none."""
    here, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    if here != str(os.getpid()) or not count.isdigit():
        return []
    found = [socket.socket(fileno=fd) for fd in range(_FIRST, _FIRST + int(count))]
    for listener in found:
        listener.set_inheritable(False)
    return found
