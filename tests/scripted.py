"""Plugins in memory that do what a script says: answers are lost, effects come late, the daemon dies in between.

Modes of a call: ``ok``; ``lost`` (done, but no answer comes); ``late`` (no answer, and done some calls later);
``killed`` (as late, and the daemon dies while it waits); ``refused`` (a definite no); ``unclear`` (an error that tells
nothing, not done) and ``unclear but done``.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from plugin_sdk import content, errors, snapshots
from plugin_sdk.mounts import Mount
from plugin_sdk.snapshots import Info, Kind, Usage

MODES = ("ok", "lost", "late", "killed", "refused", "unclear", "unclear but done")


class Kill(BaseException):
    """The daemon dies here."""


class Steps:
    """Counts the steps of the daemon, and kills it at the ``last``."""

    def __init__(self, last: int | None = None) -> None:
        self.last = last
        self.taken: list[str] = []

    def __call__(self, name: str) -> None:
        self.taken.append(name)
        if len(self.taken) == self.last:
            raise Kill(name)


class Scripted:
    def __init__(self) -> None:
        self.steps: Callable[[str], None] = lambda name: None
        self.modes: dict[str, list[str]] = defaultdict(list)
        self.delay = 1
        self.log: list[tuple[str, ...]] = []
        self._late: list[tuple[int, Callable[[], object]]] = []
        self._calls = 0

    def land(self) -> None:
        """All effects that are still to come, come now."""
        late, self._late = self._late, []
        for _, effect in late:
            with suppress(errors.Error):
                effect()

    def restart(self) -> None:
        """What was not done is never done."""
        self._late.clear()

    def do(self, method: str, effect: Callable[[], Any], *arguments: str) -> Any:
        self.steps(f"before {method}")
        self._calls += 1
        self._land_due()
        self.log.append((method, *arguments))
        mode = self.modes[method].pop(0) if self.modes[method] else "ok"
        if mode in ("late", "killed"):
            self._late.append((self._calls + self.delay, effect))
            raise errors.DeadlineExceeded(f"{method} has not answered") if mode == "late" else Kill(method)
        if mode == "refused":
            raise errors.PermissionDenied(f"{method} is refused")
        if mode == "unclear":
            raise errors.Unknown(f"{method} has failed")
        result = effect()
        self.steps(f"after {method}")
        if mode == "lost":
            raise errors.Unavailable(f"the answer to {method} is lost")
        if mode == "unclear but done":
            raise errors.Unknown(f"{method} has failed")
        return result

    def _land_due(self) -> None:
        due = [effect for when, effect in self._late if when <= self._calls]
        self._late = [(when, effect) for when, effect in self._late if when > self._calls]
        for effect in due:
            with suppress(errors.Error):
                effect()


class Snapshotter(Scripted):
    """Implements ``plugin_sdk.snapshots.Snapshotter``."""

    def __init__(self) -> None:
        super().__init__()
        self.snapshots: dict[str, Info] = {}

    def stat(self, key: str) -> Info:
        return self.do("stat", lambda: self._find(key), key)

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        def effect() -> Info:
            old = self._find(info.name)
            self.snapshots[info.name] = Info(old.name, old.kind, old.parent, dict(info.labels))
            return self.snapshots[info.name]

        return self.do("update", effect, info.name)

    def usage(self, key: str) -> Usage:
        return self.do("usage", lambda: self._find(key) and Usage(0, 0), key)

    def mounts(self, key: str) -> list[Mount]:
        return self.do("mounts", lambda: self._find(key) and [Mount("bind", key)], key)

    def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        return self.do("prepare", lambda: self._make(Kind.ACTIVE, key, parent, labels), key, parent)

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        return self.do("view", lambda: self._make(Kind.VIEW, key, parent, labels), key, parent)

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        def effect() -> None:
            if name in self.snapshots:
                raise errors.AlreadyExists(f'snapshot "{name}": already exists')
            old = self._find(key)
            if old.kind is not Kind.ACTIVE:
                raise errors.FailedPrecondition(f'snapshot "{key}" is not active')
            self.snapshots[name] = Info(name, Kind.COMMITTED, old.parent, dict(labels or {}))
            del self.snapshots[key]

        self.do("commit", effect, name, key)

    def remove(self, key: str) -> None:
        def effect() -> None:
            self._find(key)
            if any(info.parent == key for info in self.snapshots.values()):
                raise errors.FailedPrecondition(f'cannot remove snapshot "{key}" with child')
            del self.snapshots[key]

        self.do("remove", effect, key)

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        return filter(snapshots.matcher(filters), self.do("walk", lambda: list(self.snapshots.values())))

    def cleanup(self) -> None:
        self.do("cleanup", lambda: None)

    def close(self) -> None:
        pass

    def _find(self, key: str) -> Info:
        if key not in self.snapshots:
            raise errors.NotFound(f"snapshot {key} does not exist: not found")
        return self.snapshots[key]

    def _make(self, kind: Kind, key: str, parent: str, labels: Mapping[str, str] | None) -> list[Mount]:
        if key in self.snapshots:
            raise errors.AlreadyExists(f'snapshot "{key}": already exists')
        target = (labels or {}).get(snapshots.TARGET_LABEL)
        if any(target and info.labels.get(snapshots.TARGET_LABEL) == target for info in self.snapshots.values()):
            raise errors.AlreadyExists(f'target snapshot "{target}": already exists')
        if parent and self._find(parent).kind is not Kind.COMMITTED:
            raise errors.InvalidArgument(f'parent "{parent}" is not committed snapshot')
        self.snapshots[key] = Info(key, kind, parent, dict(labels or {}))
        return [Mount("bind", key)]


class Store(Scripted):
    """Implements ``plugin_sdk.content.Store``."""

    def __init__(self) -> None:
        super().__init__()
        self.blobs: dict[str, bytes] = {}
        self.ingests: dict[str, bytearray] = {}
        self._open: set[str] = set()

    def restart(self) -> None:
        super().restart()
        self._open.clear()

    def info(self, digest: str) -> content.Info:
        return self.do("info", lambda: content.Info(digest, len(self.blob(digest))), digest)

    def update(self, info: content.Info, fieldpaths: Sequence[str] = ()) -> content.Info:
        raise errors.Unimplemented("no labels here")

    def walk(self, filters: Sequence[str] = ()) -> Iterator[content.Info]:
        infos = [content.Info(digest, len(data)) for digest, data in self.blobs.items()]
        return filter(content.matcher(filters), infos)

    def delete(self, digest: str) -> None:
        self.do("delete", lambda: self.blob(digest) is not None and self.blobs.pop(digest), digest)

    def reader(self, digest: str) -> _Reader:
        return self.do("reader", lambda: _Reader(self.blob(digest)), digest)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> _Writer:
        def effect() -> _Writer:
            if expected in self.blobs:
                raise errors.AlreadyExists(f"content {expected}: already exists")
            if ref in self._open:
                raise errors.Unavailable(f'ref "{ref}" locked: unavailable')
            self.ingests.setdefault(ref, bytearray())
            return _Writer(self, ref)

        made: _Writer = self.do("writer", effect, ref)
        self._open.add(ref)  # not when the answer is lost: then the stream has ended too
        return made

    def status(self, ref: str) -> content.Status:
        return self.do("status", lambda: content.Status(ref, len(self.ingest(ref))), ref)

    def list_statuses(self, filters: Sequence[str] = ()) -> list[content.Status]:
        return [content.Status(ref, len(data)) for ref, data in self.ingests.items()]

    def abort(self, ref: str) -> None:
        self.do("abort", lambda: self.ingest(ref) is not None and self.ingests.pop(ref), ref)

    def blob(self, digest: str) -> bytes:
        if digest not in self.blobs:
            raise errors.NotFound(f"content digest {digest}: not found")
        return self.blobs[digest]

    def ingest(self, ref: str) -> bytearray:
        if ref not in self.ingests:
            raise errors.NotFound(f'ingest "{ref}": not found')
        return self.ingests[ref]

    def let_go(self, ref: str) -> None:
        self._open.discard(ref)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read_at(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]

    def fileno(self) -> int:
        raise errors.Unimplemented("no file")

    def close(self) -> None:
        pass

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *failure: object) -> None:
        pass


class _Writer:
    def __init__(self, store: Store, ref: str) -> None:
        self._store = store
        self._ref = ref

    def status(self) -> content.Status:
        return content.Status(self._ref, len(self._store.ingest(self._ref)))

    def digest(self) -> str:
        return digest_of(bytes(self._store.ingest(self._ref)))

    def write(self, data: bytes | memoryview) -> int:
        self._store.ingest(self._ref).extend(data)
        return len(data)

    def truncate(self, size: int) -> None:
        del self._store.ingest(self._ref)[size:]

    def commit(self, size: int = 0, expected: str = "", labels: Mapping[str, str] | None = None) -> str:
        def effect() -> str:
            data = bytes(self._store.ingest(self._ref))
            digest = digest_of(data)
            if (size and size != len(data)) or (expected and expected != digest):
                raise errors.FailedPrecondition(f"unexpected commit digest {digest}, expected {expected}")
            del self._store.ingests[self._ref]
            if digest in self._store.blobs:
                raise errors.AlreadyExists(f"content {digest}: already exists")
            self._store.blobs[digest] = data
            return digest

        return self._store.do("commit", effect, self._ref)

    def close(self) -> None:
        self._store.let_go(self._ref)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
