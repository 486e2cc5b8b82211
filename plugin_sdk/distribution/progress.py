"""Progress of one transfer, in the words that ctr draws.

| event | of | meaning |
|---|---|---|
| ``waiting`` | a blob | it is known, nothing has come yet |
| ``downloading``, ``uploading`` | a blob | so many of its bytes are through |
| ``extracting``, ``extracted`` | a layer that was there | it becomes a snapshot |
| ``complete`` | a blob | it is there |
| ``already exists`` | a blob | it was there before |

What changes is gathered, and told ten times a second by a thread of its own: a slow listener delays no download. A
name's numbers never fall, and are equal at its end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plugin_sdk import transfer
from plugin_sdk.distribution import graph
from plugin_sdk.distribution.job import Job
from plugin_sdk.oci import Descriptor

WAITING, COMPLETE, EXISTS = "waiting", "complete", "already exists"
DOWNLOADING, UPLOADING, EXTRACTING, EXTRACTED = "downloading", "uploading", "extracting", "extracted"
_INTERVAL = 0.1  # seconds


@dataclass(slots=True)
class _Part:
    descriptor: Descriptor
    parents: tuple[str, ...]
    event: str = WAITING
    progress: int = 0


class Tracker:
    """Of the transfer of the image ``name``; ``moving`` is the word for its direction. A context that ends with all
    told."""

    def __init__(self, job: Job, name: str, moving: str) -> None:
        self._job = job
        self._name = name
        self._moving = moving
        self._parts: dict[str, _Part] = {}
        self._changed: dict[str, None] = {}
        self._lock = threading.Lock()
        self._telling = threading.Lock()  # so that what changed first is told first
        self._ending = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def check(self) -> None:
        """Raises when nobody waits any more, or what the listener has raised."""
        if self._failure is not None:
            raise self._failure
        self._job.check()

    def say(self, sentence: str, name: str = "", of: Descriptor | None = None) -> None:
        """At once, of the whole or of a name, after all that was before it."""
        self._flush()
        self._job.tell(transfer.Progress(sentence, name, descriptor=of))

    def add(self, of: Descriptor, parents: Sequence[Descriptor] = ()) -> None:
        above = tuple(map(graph.ref, parents)) or (self._name,)
        with self._lock:
            if graph.ref(of) not in self._parts:
                self._parts[graph.ref(of)] = _Part(of, above)
                self._changed[graph.ref(of)] = None

    def moved(self, of: Descriptor, offset: int) -> None:
        """So many bytes are through."""
        self._set(of, lambda old: self._moving if old in (WAITING, self._moving) else old, offset)

    def complete(self, of: Descriptor) -> None:
        self._set(of, lambda old: COMPLETE if old in (WAITING, self._moving) else old, of.size)

    def exists(self, of: Descriptor) -> None:
        self._set(of, lambda old: {WAITING: EXISTS, self._moving: COMPLETE}.get(old, old), of.size)

    def extracting(self, of: Descriptor) -> None:
        """Its bytes are all there."""
        self._set(of, lambda old: EXTRACTING, of.size)

    def extracted(self, of: Descriptor) -> None:
        self._set(of, lambda old: EXTRACTED, of.size)

    def _set(self, of: Descriptor, event: Callable[[str], str], progress: int) -> None:
        name = graph.ref(of)
        with self._lock:
            part = self._parts.get(name)
            if part is None:
                part = self._parts[name] = _Part(of, (self._name,))
            part.event = event(part.event)
            part.progress = max(part.progress, min(progress, of.size))
            self._changed[name] = None

    def _run(self) -> None:
        while not self._ending.wait(_INTERVAL):
            try:
                self._flush()
            except BaseException as err:  # noqa: BLE001 - raised by the next check
                self._failure = err
                return

    def _flush(self) -> None:
        with self._telling:
            with self._lock:
                steps = [_step(name, self._parts[name]) for name in self._changed]
                self._changed.clear()
            for step in steps:
                self._job.tell(step)

    def __enter__(self) -> Tracker:
        if self._job.progress is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._ending.set()
        if self._job.progress is not None:
            self._thread.join()
        if kind is None:
            self._flush()


def _step(name: str, part: _Part) -> transfer.Progress:
    return transfer.Progress(part.event, name, part.parents, part.progress, part.descriptor.size, part.descriptor)
