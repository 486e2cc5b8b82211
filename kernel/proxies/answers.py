"""What proxy plugins answer, looked at before it is believed, and calls that a restart has cut off, made again.

Each class implements a contract over the client half of its wire. A call that was lost with its connection has been
repeated when it comes back here (``Repeats.repeated``): then an answer that says it is done already is a success.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from kernel.metadata import fields
from plugin_sdk import content as contents
from plugin_sdk import diff, errors, identifiers, snapshots
from plugin_sdk.mounts import Mount
from plugin_sdk.oci import Descriptor
from plugin_sdk.wire.rpc import Lost

_OVERLAY_KEYS = ("lowerdir", "upperdir", "workdir", "lowerdir+", "datadir+")
_DEVICES = "/dev/"
_COLON = re.compile(r"(?<!\\):")  # a backslash makes it part of a path
_TEMPLATE = "{{"  # an option or a source that later mounts fill in


class Repeats(Protocol):
    """The way to the plugin, for one use of it."""

    @property
    def repeated(self) -> bool:
        """Whether the last call was made more than once."""
        ...

    def wrong(self, text: str) -> errors.Internal:
        """The error for an answer that is wrong, of which the log is told: ``text`` follows the plugin's name."""
        ...


@dataclass(frozen=True, slots=True)
class Fence:
    """Where mounts may lead: into ``root`` if the plugin exports one, and not into ``forbidden``, the daemon's own
    directories, of which ``own`` is the plugin's."""

    root: str
    forbidden: Sequence[str]
    own: str

    def wrong(self, mounts: Sequence[Mount]) -> str:
        """What of the mounts may not be; empty when all is well."""
        for mount in mounts:
            if not mount.type:
                return "a mount without a type"
            for path in _paths(mount):
                if wrong := self._wrong_path(path):
                    return f"a mount of {wrong}"
        return ""

    def _wrong_path(self, path: str) -> str:
        if not os.path.isabs(path):
            return f"the relative path {path!r}"
        path = os.path.normpath(path)
        if self.root and not _is_within(path, self.root):
            return f"{path!r}, which is outside of its root {self.root!r}"
        for folder in self.forbidden:
            if _is_within(path, folder) and not _is_within(path, self.own):
                return f"{path!r}, which is in the daemon's own directory {folder!r}"
        return ""


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _paths(mount: Mount) -> Iterator[str]:
    """Of the files that a mount shows."""
    source, bound = mount.source, mount.type == "bind" or {"bind", "rbind"} & set(mount.options)
    if bound or (source.startswith("/") and not source.startswith(_DEVICES)):
        yield source
    for option in mount.options:
        key, _, value = option.partition("=")
        if key in _OVERLAY_KEYS and _TEMPLATE not in value:
            yield from (path.replace("\\:", ":") for path in _COLON.split(value) if path)


@contextmanager
def readable(repeats: Repeats) -> Iterator[None]:
    """What cannot be made a value of the contract is told of the plugin, and is no defect of the daemon."""
    try:
        yield
    except (ValueError, TypeError, OverflowError) as err:
        raise repeats.wrong(f"gave an answer that cannot be read: {err}") from err


class Snapshotter(snapshots.Snapshotter):
    """``fence`` is asked for when an answer is there: what the plugin exports may be known only then."""

    def __init__(self, inner: snapshots.Snapshotter, repeats: Repeats, fence: Callable[[], Fence]) -> None:
        self._inner = inner
        self._repeats = repeats
        self._fence = fence

    def stat(self, key: str) -> snapshots.Info:
        with readable(self._repeats):
            return self._about(self._inner.stat(key), key)

    def update(self, info: snapshots.Info, fieldpaths: Sequence[str] = ()) -> snapshots.Info:
        with readable(self._repeats):
            return self._about(self._inner.update(info, fieldpaths), info.name)

    def usage(self, key: str) -> snapshots.Usage:
        with readable(self._repeats):
            usage = self._inner.usage(key)
        if usage.size < 0 or usage.inodes < 0:
            raise self._repeats.wrong(f"answered with a negative usage of {key!r}")
        return usage

    def mounts(self, key: str) -> list[Mount]:
        with readable(self._repeats):
            return self._checked(self._inner.mounts(key))

    def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        return self._make(self._inner.prepare, key, parent, labels)

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        return self._make(self._inner.view, key, parent, labels)

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        try:
            self._inner.commit(name, key, labels)
        except (errors.NotFound, errors.AlreadyExists):
            if not (self._repeats.repeated and self._has(name)):
                raise

    def remove(self, key: str) -> None:
        try:
            self._inner.remove(key)
        except errors.NotFound:
            if not self._repeats.repeated:
                raise

    def walk(self, filters: Sequence[str] = ()) -> Iterator[snapshots.Info]:
        with readable(self._repeats):
            yield from self._inner.walk(filters)

    def cleanup(self) -> None:
        self._inner.cleanup()

    def close(self) -> None:
        """Nothing: the connection belongs to the plugin's Remote."""

    def _make(
        self,
        make: Callable[[str, str, Mapping[str, str] | None], list[Mount]],
        key: str,
        parent: str,
        labels: Mapping[str, str] | None,
    ) -> list[Mount]:
        with readable(self._repeats):
            try:
                return self._checked(make(key, parent, labels))
            except errors.AlreadyExists:  # of the key, which only we know: made by the call that was lost
                if not (self._repeats.repeated and self._has(key)):
                    raise
                return self._checked(self._inner.mounts(key))

    def _checked(self, mounts: Sequence[Mount]) -> list[Mount]:
        if wrong := self._fence().wrong(mounts):
            raise self._repeats.wrong(f"answered with {wrong}: it is not used")
        return list(mounts)

    def _has(self, key: str) -> bool:
        try:
            self._inner.stat(key)
        except errors.NotFound:
            return False
        return True

    def _about(self, info: snapshots.Info, key: str) -> snapshots.Info:
        if info.name != key or info.kind is snapshots.Kind.UNKNOWN:
            raise self._repeats.wrong(f"answered with {info.name!r}, {info.kind.name.lower()}, for {key!r}")
        return info


class Store(contents.Store):
    def __init__(self, inner: contents.Store, repeats: Repeats) -> None:
        self._inner = inner
        self._repeats = repeats

    def info(self, digest: str) -> contents.Info:
        with readable(self._repeats):
            return self._about(self._inner.info(digest), digest)

    def update(self, info: contents.Info, fieldpaths: Sequence[str] = ()) -> contents.Info:
        with readable(self._repeats):
            return self._about(self._inner.update(info, fieldpaths), info.digest)

    def walk(self, filters: Sequence[str] = ()) -> Iterator[contents.Info]:
        with readable(self._repeats):
            yield from self._inner.walk(filters)

    def delete(self, digest: str) -> None:
        with self._done_if_gone():
            self._inner.delete(digest)

    def reader(self, digest: str) -> contents.Reader:
        with readable(self._repeats):
            self.info(digest)
            return Reader(self._inner.reader(digest))

    def writer(self, ref: str, total: int = 0, expected: str = "") -> contents.Writer:
        with readable(self._repeats):
            return self._inner.writer(ref, total, expected)

    def status(self, ref: str) -> contents.Status:
        with readable(self._repeats):
            status = self._inner.status(ref)
        if status.ref != ref or status.offset < 0:
            raise self._repeats.wrong(f"answered with ingest {status.ref!r} at {status.offset} for {ref!r}")
        return status

    def list_statuses(self, filters: Sequence[str] = ()) -> list[contents.Status]:
        with readable(self._repeats):
            return self._inner.list_statuses(filters)

    def abort(self, ref: str) -> None:
        with self._done_if_gone():
            self._inner.abort(ref)

    @contextmanager
    def _done_if_gone(self) -> Iterator[None]:
        try:
            yield
        except errors.NotFound:
            if not self._repeats.repeated:
                raise

    def _about(self, info: contents.Info, digest: str) -> contents.Info:
        if info.digest != digest or info.size < 0:
            raise self._repeats.wrong(f"answered with {info.digest!r} of {info.size} bytes for {digest!r}")
        return info


class Reader(contents.Reader):
    """Reads again what was cut off: the connection may have been lost within a piece."""

    def __init__(self, inner: contents.Reader) -> None:
        self._inner = inner

    @property
    def size(self) -> int:
        return self._inner.size

    def read_at(self, offset: int, size: int) -> bytes:
        try:
            return self._inner.read_at(offset, size)
        except Lost:
            return self._inner.read_at(offset, size)

    def fileno(self) -> int:
        return self._inner.fileno()

    def close(self) -> None:
        self._inner.close()

    def __exit__(self, *failure: object) -> None:
        self.close()


class Differ(diff.Differ):
    """The program has its own way to the blobs, and knows no lease: what it has written is opened here once more, which
    makes it the caller's. A label tells whether it was there before."""

    def __init__(self, inner: diff.Differ, repeats: Repeats) -> None:
        self._inner = inner
        self._repeats = repeats

    def apply(
        self,
        descriptor: Descriptor,
        mounts: Sequence[Mount],
        content: contents.Store,
        *,
        payloads: Mapping[str, tuple[str, bytes]] | None = None,
        sync: bool = False,
    ) -> Descriptor:
        with readable(self._repeats):
            return self._checked(self._inner.apply(descriptor, mounts, content, payloads=payloads, sync=sync))

    def compare(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        content: contents.Store,
        *,
        media_type: str = "",
        ref: str = "",
        labels: Mapping[str, str] | None = None,
        source_date_epoch: int | None = None,
    ) -> Descriptor:
        made = {fields.MADE: secrets.token_hex(8)}
        with readable(self._repeats):
            layer = self._inner.compare(
                lower,
                upper,
                content,
                media_type=media_type,
                ref=ref,
                labels={**(labels or {}), **made},
                source_date_epoch=source_date_epoch,
            )
        self._checked(layer)
        with suppress(errors.AlreadyExists), content.writer(f"diff {layer.digest}", layer.size, layer.digest) as writer:
            writer.commit(layer.size, layer.digest, made)
        return layer

    def _checked(self, layer: Descriptor) -> Descriptor:
        try:
            identifiers.validate_digest(layer.digest)
        except errors.InvalidArgument as err:
            raise self._repeats.wrong(f"answered with a layer without a digest: {err.message}") from err
        return layer
