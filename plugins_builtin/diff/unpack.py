"""The worker that unpacks one layer: a child of the spawner, entry ``plugins_builtin.diff.unpack:main``.

``fds`` are the blob (a file, or a pipe that the daemon feeds) and the result's pipe. ``params``:

- ``mounts``: [[type, source, target, options]…] of the root to unpack into
- ``stage``: a directory that is mounted over, in the worker's own mount namespace
- ``compression``: "", gzip, zstd or detect; ``digest``: the blob's, verified unless it is empty
- ``site``: the folder of the codecs; ``sync``: whether to syncfs(2)
- ``memory``, ``output``, ``entries``, ``headers``: limits, in bytes or as a number

The result is JSON, one object a line: {"entries", "size"} of the progress every 100 ms, at last {"digest", "size",
"blob_size", "entries"} or {"error": class, "message"}. End of file before that means that the worker was killed.
Standard library only.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plugin_sdk import errors, mounts, tars
from plugins_builtin.diff import confine, streams, tree

_PROGRESS = 0.1  # seconds
_ERRORS: Mapping[int, type[errors.Error]] = {
    errno.ENOSPC: errors.ResourceExhausted,
    errno.EDQUOT: errors.ResourceExhausted,
    errno.EMFILE: errors.ResourceExhausted,
    errno.EFBIG: errors.ResourceExhausted,
    errno.EROFS: errors.FailedPrecondition,
    errno.ENAMETOOLONG: errors.InvalidArgument,
    errno.EINVAL: errors.InvalidArgument,
    errno.E2BIG: errors.InvalidArgument,
    errno.ERANGE: errors.InvalidArgument,
    errno.ELOOP: errors.InvalidArgument,
    errno.EPERM: errors.PermissionDenied,
    errno.EACCES: errors.PermissionDenied,
}


def main(params: Mapping[str, Any], fds: Sequence[int]) -> int:
    blob, result = fds
    return report(result, lambda: _unpack(params, blob, result))


def report(result: int, work: Callable[[], Mapping[str, object]]) -> int:
    """Does the work and writes the last line; the exit status is 1 after an error."""
    try:
        answer, status = work(), 0
    except errors.Error as err:
        answer, status = {"error": type(err).__name__, "message": err.message}, 1
    except MemoryError:
        answer, status = {"error": "ResourceExhausted", "message": "the layer needs more memory than allowed"}, 1
    except OSError as err:
        answer, status = {"error": kind_of(err).__name__, "message": f"{err.strerror}: {err.filename!r}"}, 1
    except Exception as err:  # noqa: BLE001 - the edge of the process
        answer, status = {"error": "Internal", "message": f"{type(err).__name__}: {err}"}, 1
    return status if _tell(result, answer) else 1


def _tell(result: int, line: Mapping[str, object]) -> bool:
    """False when the daemon, who would read it, has gone."""
    try:
        os.write(result, json.dumps(line).encode() + b"\n")
    except BrokenPipeError:
        return False
    return True


def kind_of(err: OSError) -> type[errors.Error]:
    return _ERRORS.get(err.errno or 0, errors.Unknown)


def _unpack(params: Mapping[str, Any], blob: int, result: int) -> Mapping[str, object]:
    codecs = streams.Codecs(params["site"])
    confine.limit(params["memory"], params["output"])
    root = enter(params["stage"], mounts_of(params["mounts"]))
    algorithm = params["digest"].partition(":")[0]
    source = streams.Source(blob, codecs, params["compression"], algorithm, params["output"])
    progress = _Progress(result, source)
    try:
        entries = _read(params, source, root, progress)
        source.finish()
        _verify(params["digest"], source.blob.digest())
    except errors.InvalidArgument:
        if not params["digest"]:
            raise
        _verify(params["digest"], source.abandon())  # a blob that is not what it was explains all that it says
        raise
    finally:
        progress.end()
    if params["sync"]:
        confine.sync(root.upper)
    return {"digest": source.tar.digest(), "size": source.tar.size, "blob_size": source.blob.size, "entries": entries}


def mounts_of(tuples: Sequence[tuple[str, str, str, Sequence[str]]]) -> list[mounts.Mount]:
    return [mounts.Mount(kind, source, target, tuple(options)) for kind, source, target, options in tuples]


def enter(stage: str, root: Sequence[mounts.Mount]) -> tree.Tree:
    """Mounts, and gives up everything else."""
    overlay = tree.Overlay.of(root)
    if overlay is None:
        confine.stage(stage, {"upper": root})
    else:
        confine.stage(stage, {"upper": overlay.upper, "lower": overlay.lower})
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    upper = os.open("upper", flags)
    lower = None if overlay is None else os.open("lower", flags)
    confine.fence([upper], [] if lower is None else [lower])
    return tree.Tree(upper, lower, overlay.opaque if overlay else b"")


def _read(params: Mapping[str, Any], source: streams.Source, root: tree.Tree, progress: _Progress) -> int:
    reader = tars.Reader(source.take, params["headers"])
    limit = params["entries"]
    while (entry := reader.next()) is not None:
        progress.entries += 1
        if progress.entries > limit:
            raise errors.ResourceExhausted(f"the layer has more than {limit} entries")
        end = source.position + (entry.size + 511 & ~511)
        try:
            root.put(entry, source)
        except OSError as err:
            name = tars.show(entry.name)
            raise kind_of(err)(f"layer entry {name}: {os.strerror(err.errno or 0)}") from err
        if rest := end - source.position:
            source.skip(rest)
    root.finish()
    return progress.entries


def _verify(expected: str, digest: str) -> None:
    if expected != digest:
        raise errors.DataLoss(f"blob {expected} has the digest {digest}")


class _Progress:
    """A thread that tells how far the work is."""

    def __init__(self, result: int, source: streams.Source) -> None:
        self.entries = 0
        self._result = result
        self._source = source
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_PROGRESS):
            if not _tell(self._result, {"entries": self.entries, "size": self._source.position}):
                return
