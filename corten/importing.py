"""Import: an image archive becomes content, image records and snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from plugin_sdk import daemon, images, platforms, transfer
from plugin_sdk.distribution import directories, importing, references, unpacking
from plugin_sdk.distribution.job import Job
from plugin_sdk.oci import Descriptor


@dataclass(frozen=True, slots=True)
class Options:
    """``name`` becomes one more name, of all that the archive holds; ``unpack`` makes snapshots of this machine's
    platform."""

    name: str = ""
    snapshotter: str = "overlayfs"
    unpack: bool = True
    all_platforms: bool = False


def import_images(
    connection: daemon.Daemon, namespace: str, path: Path, options: Options, say: Callable[[str], None]
) -> list[images.Image]:
    """Imports all images of the archive. Raises InvalidArgument for a malformed one, NotFound for a missing blob."""

    def unpack(view: daemon.View, target: Descriptor, name: str) -> None:
        say(f"importing {name}")
        if options.unpack:
            unpacking.unpack(job, view, target, [transfer.Unpack(None, options.snapshotter)], name)

    prefix = transfer.Name("import-" + datetime.now(UTC).strftime("%Y-%m-%d"), is_prefix=True, allow_overwrite=True)
    store = transfer.ImageStore(
        references.familiar(options.name) if options.name else "",
        platforms=[] if options.all_platforms else [platforms.host()],
        extra=[prefix],
    )
    job, view = Job(connection, namespace), connection.view(namespace)
    with directories.opened(path) as file:
        names = importing.import_stream(job, transfer.ImportStream(file), store, unpack)
    return [view.images.get(name) for name in names]


@contextmanager
def leased(connection: daemon.Daemon, namespace: str) -> Iterator[daemon.View]:
    """A view under a lease of its own: what is made is kept until the end, when only what is referred to stays."""
    with Job(connection, namespace).leased() as view:
        yield view
