"""The differ ``walking``: layers are unpacked and trees compared in children of the spawner.

Nothing is mounted, parsed or written by a thread of the daemon: a file system that hangs costs a child, which dies with
its mounts when it is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import select
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plugin_sdk import content, errors, oci
from plugin_sdk.mounts import Mount
from plugin_sdk.oci import Descriptor
from plugin_sdk.workers import Worker, Workers

if TYPE_CHECKING:
    from plugins_builtin.diff.plugin import Config

UNPACK = "plugins_builtin.diff.unpack:main"
PACK = "plugins_builtin.diff.pack:main"
_CHUNK = 1 << 20
_PATIENCE = 100  # milliseconds between two looks at whether the caller still waits
_LAST_WORDS = 10.0  # seconds that a worker has for its end after its result


class Differ:
    """Implements ``plugin_sdk.diff.Differ``. ``state`` is a directory of its own, over which workers mount.

    A blob's reader with a true attribute ``verified`` has bytes of which somebody else sees to the digest.
    """

    def __init__(self, workers: Workers, state: Path, config: Config) -> None:
        self._workers = workers
        self._state = state
        self._config = config

    def apply(
        self,
        descriptor: Descriptor,
        mounts: Sequence[Mount],
        content: content.Store,
        *,
        payloads: Mapping[str, tuple[str, bytes]] | None = None,
        sync: bool = False,
    ) -> Descriptor:
        compression = oci.compression(descriptor.media_type)
        what = f"unpacking {descriptor.digest}"
        with contextlib.ExitStack() as stack:
            reader = stack.enter_context(content.reader(descriptor.digest))
            digest = "" if getattr(reader, "verified", False) else descriptor.digest
            params = self._params(mounts=_tuples(mounts), compression=compression, digest=digest, sync=sync)
            blob = stack.enter_context(_readable(reader))
            result = stack.enter_context(_Pipe())
            worker = stack.enter_context(self._worker(UNPACK, params, [blob.fileno(), result.end.fileno()]))
            blob.started()
            result.end.close()
            answer = _answer(result.file, worker, what, lambda: reader.read_at(0, 0))
        if descriptor.size and answer["blob_size"] != descriptor.size:
            found = f"has {answer['blob_size']} bytes, its descriptor says {descriptor.size}"
            raise errors.InvalidArgument(f"blob {descriptor.digest} {found}")
        return Descriptor(oci.LAYER, answer["digest"], answer["size"])

    def compare(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        content: content.Store,
        *,
        media_type: str = "",
        ref: str = "",
        labels: Mapping[str, str] | None = None,
        source_date_epoch: int | None = None,
    ) -> Descriptor:
        media_type = media_type or oci.LAYER_GZIP
        if media_type not in (oci.LAYER, oci.LAYER_GZIP, oci.LAYER_ZSTD):
            raise errors.Unimplemented(f'media type "{media_type}": not written by the differ walking')
        compression = oci.compression(media_type)
        params = self._params(
            lower=_tuples(lower), upper=_tuples(upper), compression=compression, epoch=source_date_epoch
        )
        with content.writer(ref or f"compare-{uuid.uuid4()}") as writer:
            if writer.status().offset:
                writer.truncate(0)
            answer = self._pack(params, writer)
            kept = dict(labels or {})
            if compression:
                kept[oci.UNCOMPRESSED_LABEL] = answer["digest"]
            digest, size = writer.digest(), writer.status().offset
            _commit(content, writer, digest, size, kept)
        return Descriptor(media_type, digest, size)

    def _params(self, **more: object) -> dict[str, object]:
        self._state.mkdir(parents=True, exist_ok=True)
        return {
            "stage": str(self._state),
            "site": [path for path in sys.path if path.endswith("-packages")],
            "memory": self._config.memory_limit,
            "output": self._config.layer_limit,
            "entries": self._config.entry_limit,
            "headers": self._config.header_limit,
            **more,
        }

    def _pack(self, params: Mapping[str, object], writer: content.Writer) -> dict[str, Any]:
        with (
            _Pipe() as output,
            _Pipe() as result,
            self._worker(PACK, params, [output.end.fileno(), result.end.fileno()]) as worker,
        ):
            output.end.close()
            result.end.close()
            while block := output.file.read(_CHUNK):
                writer.write(block)
            return _answer(result.file, worker, "comparing", lambda: None)

    @contextlib.contextmanager
    def _worker(self, entry: str, params: Mapping[str, object], fds: Sequence[int]) -> Iterator[Worker]:
        """Ended, with all its mounts, when the context is left."""
        worker = self._workers.start(entry, params, fds)
        try:
            yield worker
            with contextlib.suppress(errors.DeadlineExceeded):
                worker.wait(_LAST_WORDS)
        finally:
            worker.kill()
            worker.wait()
            worker.close()


class _Pipe:
    """A pipe whose ``end`` a worker gets; ``file`` is ours."""

    def __init__(self) -> None:
        ours, theirs = os.pipe()
        self.file = io.FileIO(ours, "rb")
        self.end = io.FileIO(theirs, "wb")

    def __enter__(self) -> _Pipe:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        self.end.close()


class _File:
    """A blob that is a plain file: the worker reads it by itself."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def started(self) -> None:
        pass


class _Feed:
    """A blob that only its store can read: a thread writes it into the worker's pipe."""

    def __init__(self, reader: content.Reader) -> None:
        self.failure: errors.Error | None = None
        self._reader = reader
        ours, theirs = os.pipe()
        with contextlib.suppress(OSError):  # more than an unprivileged user may have
            fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, _CHUNK)
        self._theirs = io.FileIO(ours, "rb")
        self._ours = io.FileIO(theirs, "wb")
        self._thread = threading.Thread(target=self._run, name="feed")

    def fileno(self) -> int:
        return self._theirs.fileno()

    def started(self) -> None:
        self._theirs.close()
        self._thread.start()

    def close(self) -> None:
        """After the worker's end, so that a thread that is still writing finds no reader."""
        self._theirs.close()
        if self._thread.ident is not None:
            self._thread.join()
        self._ours.close()

    def _run(self) -> None:
        offset = 0
        try:
            with self._ours:
                while block := self._reader.read_at(offset, _CHUNK):
                    offset += os.write(self._ours.fileno(), block)
        except BrokenPipeError:
            pass
        except errors.Error as err:
            self.failure = err


@contextlib.contextmanager
def _readable(reader: content.Reader) -> Iterator[_File | _Feed]:
    try:
        fd = reader.fileno()
    except errors.Unimplemented:
        pass
    else:
        yield _File(fd)
        return
    feed = _Feed(reader)
    try:
        yield feed
    except errors.Error:
        feed.close()
        if feed.failure is not None:
            raise feed.failure from None
        raise
    finally:
        feed.close()


def _answer(result: io.FileIO, worker: Worker, what: str, check: Callable[[], object]) -> dict[str, Any]:
    """The worker's last line; progress comes before it. ``check`` raises when nobody waits for it any more."""
    last: dict[str, Any] = {}
    rest = b""
    ready = select.poll()
    ready.register(result, select.POLLIN)
    while True:
        if not ready.poll(_PATIENCE):
            check()
            continue
        block = result.read(_CHUNK)
        if not block:
            break
        check()
        *lines, rest = (rest + block).split(b"\n")
        if lines:
            last = json.loads(lines[-1])
    if "error" in last:
        raise _error(last["error"])(last["message"])
    if "digest" not in last:
        status = worker.wait(_LAST_WORDS)
        end = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        raise errors.Unavailable(f"{what}: the worker was {end}" if status < 0 else f"{what}: the worker {end}")
    return last


def _error(name: str) -> type[errors.Error]:
    kind = getattr(errors, name, errors.Unknown)
    return kind if isinstance(kind, type) and issubclass(kind, errors.Error) else errors.Unknown


def _commit(store: content.Store, writer: content.Writer, digest: str, size: int, labels: Mapping[str, str]) -> None:
    try:
        writer.commit(size, digest, labels)
    except errors.AlreadyExists:
        if labels:
            store.update(content.Info(digest, size, labels=labels), [f"labels.{key}" for key in labels])


def _tuples(mounts: Sequence[Mount]) -> list[tuple[str, str, str, tuple[str, ...]]]:
    return [(mount.type, mount.source, mount.target, tuple(mount.options)) for mount in mounts]
