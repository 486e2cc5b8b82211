"""A blob comes from a registry into the content store, once for all who want it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from plugin_sdk import content, daemon, errors
from plugin_sdk.distribution import graph, keeping, sharing
from plugin_sdk.distribution.job import Job
from plugin_sdk.distribution.tee import Tee
from plugin_sdk.oci import Descriptor


class Fetcher(Protocol):
    """What of ``registry.Repository`` a download needs."""

    def fetch(self, of: Descriptor, offset: int = 0) -> Iterator[bytes]: ...

    def reject(self, of: Descriptor) -> bool: ...

    def rejected(self, of: Descriptor) -> list[str]: ...


class Download:
    """Implements ``sharing.Work``; tells bytes that are there. The bytes go through the tees that were attached before
    the first came."""

    def __init__(
        self, job: Job, of: Descriptor, labels: Mapping[str, str], fetcher: Callable[[Callable[[], None]], Fetcher]
    ) -> None:
        """``fetcher`` is given what raises when nobody wants the blob any more."""
        self._job = job
        self._of = of
        self._labels = labels
        self._fetcher = fetcher
        self._tees: list[Tee] | None = []  # None: too late
        self._fed: list[Tee] = []
        self._lock = threading.Lock()

    def attach(self, tee: Tee) -> None:
        with self._lock:
            if self._tees is None:
                tee.take(False)
            else:
                self._tees.append(tee)

    def run(self, flight: sharing.Flight) -> None:
        view = flight.hold(self._job.own())
        try:
            self._write(view, flight)
        except errors.AlreadyExists:
            self._void()  # the bytes of another count, and nobody has compared ours
            keeping.label(view.content, self._of.digest, self._labels)
        except BaseException as err:
            self._end(err)
            self._void()
            keeping.keep_ingest(self._job.daemon.view(self._job.namespace), self._of)
            raise
        self._end(None)

    def _end(self, failure: BaseException | None) -> None:
        for tee in self._begin(False):
            tee.end(failure)

    def _begin(self, taken: bool) -> list[Tee]:
        """The tees, once told whether they get the bytes; no more come after that."""
        with self._lock:
            tees, self._tees = self._tees or [], None
        for tee in tees:
            tee.take(taken)
        return tees

    def _write(self, view: daemon.View, flight: sharing.Flight) -> None:
        if not self._of.size:
            raise errors.InvalidArgument(f"{self._of.digest} has the size 0")
        fetcher = self._fetcher(flight.check)
        anew = False
        while not self._fill(view, flight, fetcher, anew=anew):
            anew = True
            self._void()

    def _void(self) -> None:
        """What went through the tees is not known to be the blob."""
        for tee in self._fed:
            tee.void()

    def _fill(self, view: daemon.View, flight: sharing.Flight, fetcher: Fetcher, *, anew: bool) -> bool:
        """False when the bytes are not those of the digest, and may be if they come once more: those of an earlier
        attempt were wrong, or those of a host while there is another one."""
        of = self._of
        with keeping.opened(view.content, of, flight.check, flight.tell) as writer:
            begun = writer.status().offset
            if anew or begun > of.size:
                writer.truncate(0)
                begun = 0
            self._copy(writer, begun, flight, fetcher)
            try:
                writer.commit(of.size, of.digest, self._labels)
            except errors.FailedPrecondition as err:
                damage = err
            else:
                return True
        if begun or fetcher.reject(of):
            return False
        with contextlib.suppress(errors.NotFound):
            view.content.abort(graph.ref(of))
        hosts = ", ".join(fetcher.rejected(of)) or "earlier"
        raise errors.DataLoss(f"what came for {of.digest} from {hosts} has another digest: {damage.message}")

    def _copy(self, writer: content.Writer, offset: int, flight: sharing.Flight, fetcher: Fetcher) -> None:
        tees = self._begin(offset == 0)
        flight.tell(offset)
        if offset == self._of.size:
            return
        tees = self._fed = tees if offset == 0 else []
        try:
            for chunk in self._chunks(offset, flight, fetcher):
                writer.write(chunk)
                for tee in tees:
                    tee.put(chunk)
                offset += len(chunk)
                flight.tell(offset)
        except BaseException as err:
            _end_all(tees, err)
            raise
        _end_all(tees, None)

    def _chunks(self, offset: int, flight: sharing.Flight, fetcher: Fetcher) -> Iterator[bytes]:
        """No more than the size, and no less. Raises DataLoss."""
        of = self._of
        with contextlib.closing(fetcher.fetch(of, offset)) as chunks:  # type: ignore[type-var]
            for chunk in chunks:
                flight.check()
                offset += len(chunk)
                if offset > of.size:
                    raise errors.DataLoss(f"{of.digest} has more bytes than the {of.size} of its descriptor")
                yield chunk
        if offset < of.size:
            raise errors.DataLoss(f"{of.digest} has {offset} bytes, its descriptor says {of.size}")


def _end_all(tees: list[Tee], failure: BaseException | None) -> None:
    for tee in tees:
        tee.end(failure)
