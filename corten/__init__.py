"""The client library of Corten.

::

    import corten

    with corten.connect("/run/corten/corten.sock") as connection:
        view = connection.view("default")
        for image in view.images.list():
            print(image.name, image.target.digest)

A connection is a ``plugin_sdk.daemon.Daemon``, a view a ``plugin_sdk.daemon.View``: the same contracts that plugins are
given inside of the daemon. All methods block and raise ``plugin_sdk.errors``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corten.client import Connection

__all__ = ["ADDRESS", "NAMESPACE", "connect"]

ADDRESS = "/run/corten/corten.sock"
NAMESPACE = "default"


def connect(address: str = ADDRESS) -> Connection:
    """Does not wait for the daemon: the first call raises Unavailable when nobody answers."""
    from corten.client import Connection  # imports grpc, which takes a while

    return Connection(address)
