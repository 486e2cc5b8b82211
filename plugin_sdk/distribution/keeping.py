"""Blobs of a namespace's content store, as a transfer keeps them: held by its lease and labelled."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from plugin_sdk import content, daemon, errors, identifiers
from plugin_sdk.distribution import graph
from plugin_sdk.oci import Descriptor

SOURCE_LABEL = "containerd.io/distribution.source."
_LOOK = 0.1  # seconds between two looks at an ingest that another program writes


def source_label(host: str, path: str) -> dict[str, str]:
    """Tells that a blob came from this repository. The host is without its port, and an address without brackets."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return {SOURCE_LABEL + name: path}


def hold(view: daemon.View, of: Descriptor, labels: Mapping[str, str]) -> bool:
    """Takes a blob that is there into the view's lease and labels it; False when it is not there.

    A blob that only another namespace has comes into this one.
    """
    store = view.content
    try:
        with store.writer(graph.ref(of), of.size, of.digest) as writer:
            if writer.status().offset != of.size:
                return False
            writer.commit(of.size, of.digest, labels)
            return True
    except errors.AlreadyExists:
        label(store, of.digest, labels)
        return True
    except (errors.FailedPrecondition, errors.Unavailable):
        return False  # it has other bytes, or another program writes it


def put(view: daemon.View, of: Descriptor, data: bytes, labels: Mapping[str, str], check: Callable[[], None]) -> None:
    """Keeps bytes that are known to be those of the digest."""
    with contextlib.suppress(errors.AlreadyExists):
        with opened(view.content, of, check) as writer:
            if writer.status().offset:
                writer.truncate(0)
            writer.write(data)
            writer.commit(of.size, of.digest, labels)
        return
    label(view.content, of.digest, labels)


def label(store: content.Store, digest: str, labels: Mapping[str, str]) -> None:
    """Adds labels; repositories are added to those that are known already, unless the label becomes too long."""
    old = store.info(digest).labels
    new = {
        key: _merged(old.get(key, ""), text) if key.startswith(SOURCE_LABEL) else text for key, text in labels.items()
    }
    new = {key: text for key, text in new.items() if old.get(key) != text and _fits(key, text)}
    if new:
        store.update(content.Info(digest, 0, labels=new), [f"labels.{key}" for key in new])


def _merged(old: str, new: str) -> str:
    return ",".join(sorted(set(filter(None, [*old.split(","), *new.split(",")]))))


def _fits(key: str, text: str) -> bool:
    return len(key.encode()) + len(text.encode()) <= identifiers.MAX_LABEL


@contextlib.contextmanager
def opened(
    store: content.Store,
    of: Descriptor,
    check: Callable[[], None],
    elsewhere: Callable[[int], None] = lambda offset: None,
) -> Iterator[content.Writer]:
    """The writer of the blob's ingest. While another program writes it, ``elsewhere`` is told how far that is.

    Raises AlreadyExists when the blob has come.
    """
    with _writer(store, of, check, elsewhere) as writer:
        yield writer


def _writer(
    store: content.Store, of: Descriptor, check: Callable[[], None], elsewhere: Callable[[int], None]
) -> content.Writer:
    while True:
        try:
            return store.writer(graph.ref(of), of.size, of.digest)
        except errors.Unavailable as err:
            if "lock" not in err.message and "committed" not in err.message:
                raise
        check()
        with contextlib.suppress(errors.NotFound, errors.Unavailable):
            elsewhere(store.status(graph.ref(of)).offset)
        time.sleep(_LOOK)


def keep_ingest(view: daemon.View, of: Descriptor) -> None:
    """What is written of a blob stays for a day; ``view`` has no lease."""
    with contextlib.suppress(errors.Error):
        if view.content.status(graph.ref(of)).offset:
            view.content.writer(graph.ref(of)).close()
            return
        view.content.abort(graph.ref(of))
