"""The client library of Corten, and of containerd.

::

    import corten

    with corten.connect() as client:
        for image in client.images.list():
            print(image.name, image.target.digest)
        container = client.containers.create("hello", image="docker.io/library/busybox:latest", args=["echo", "hello"])
        with container.new_task(stdout=corten.PIPE) as task:
            task.start()
            print(task.stdout.read(), task.wait().status)
        container.delete()

A client is a ``plugin_sdk.daemon.Daemon``, and a ``plugin_sdk.daemon.View`` of its namespace: the same contracts that
plugins are given inside of the daemon, with more methods. All methods block, may be called from several threads and
raise ``corten.errors``. ``corten.aio`` is the same for asyncio. docs/client.md shows the whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugin_sdk import errors

if TYPE_CHECKING:
    from corten.client import Client, Tls, Version
    from corten.containers import Container
    from corten.content import Blob
    from corten.following import Following, follow
    from corten.images import Usage
    from corten.metrics import Metrics
    from corten.specs import SpecOptions
    from corten.tasks import Process, Task
    from corten.transfers import Challenge, Credentials, Progress, Registry, RegistryOptions

__all__ = [
    "ADDRESS",
    "NAMESPACE",
    "PIPE",
    "Blob",
    "Challenge",
    "Client",
    "Container",
    "Credentials",
    "Following",
    "Metrics",
    "Process",
    "Progress",
    "Registry",
    "RegistryOptions",
    "SpecOptions",
    "Task",
    "Tls",
    "Usage",
    "Version",
    "connect",
    "errors",
    "follow",
]

ADDRESS = "/run/corten/corten.sock"
NAMESPACE = "default"
PIPE = -1
"""Given as a stream of a task: the task object gets the other end, as with ``subprocess``."""


def connect(address: str | None = None, namespace: str | None = None, *, tls: Tls | None = None) -> Client:
    """A client of the daemon at ``address``: ``unix:///path``, a path, or ``tcp://host:port``.

    None is ``$CORTEN_ADDRESS`` or ``ADDRESS``, and ``$CORTEN_NAMESPACE`` or ``NAMESPACE``. Does not wait for the
    daemon: the first call raises Unavailable when nobody answers. Raises InvalidArgument for a malformed address.
    """
    import os

    from corten import client

    return client.connect(
        address or os.environ.get("CORTEN_ADDRESS") or ADDRESS,
        namespace or os.environ.get("CORTEN_NAMESPACE") or NAMESPACE,
        tls,
    )


def __getattr__(name: str) -> object:
    """What takes a while to import is imported when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from corten import exports

    return getattr(exports, name)
