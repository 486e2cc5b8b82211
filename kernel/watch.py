"""Files that are read again when they change, or when somebody says so."""

from __future__ import annotations

import fnmatch
import logging
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers.api import BaseObserver, ObservedWatch

log = logging.getLogger("watch")

_CHANGES = ("created", "modified", "moved", "deleted", "closed")  # and not: opened, closed without a write
_SETTLED = 0.1  # seconds without a change, after which a file is taken for complete
_LATEST = 1.0  # seconds after the first change when it is read in any case


class Watch:
    """Calls ``read`` in a thread of its own, never twice at once, when a file has changed that one of the ``patterns``
    matches: paths with ``*`` in the last part. It answers those of the next time. A folder that is not there is passed
    over: ``poke`` helps then."""

    def __init__(self, patterns: Iterable[Path], read: Callable[[], Iterable[Path]]) -> None:
        self._patterns = _resolved(patterns)
        self._read = read
        self._watches: dict[Path, ObservedWatch] = {}
        self._changed = threading.Event()
        self._changed.set()  # something may have changed since the first reading
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def poke(self) -> None:
        """Something may have changed. From any thread."""
        self._changed.set()

    def close(self) -> None:
        """Returns when a reading that has begun has ended."""
        self._ended = True
        self._changed.set()
        self._thread.join()

    def _run(self) -> None:
        from watchdog.events import FileSystemEventHandler
        from watchdog.observers import Observer

        logging.getLogger("watchdog").setLevel(logging.WARNING)
        look = self._look

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                if event.event_type in _CHANGES:
                    look(event.src_path, event.dest_path)

        observer = Observer()
        observer.start()
        try:
            while not self._ended:
                self._watch(observer, {pattern.parent for pattern in self._patterns}, Handler())
                self._changed.wait()
                self._settle()
                if not self._ended:
                    self._patterns = _resolved(self._read())
        finally:
            observer.stop()
            observer.join()

    def _look(self, *paths: str | bytes) -> None:
        named = [os.fsdecode(path) for path in paths if path]
        if any(fnmatch.fnmatchcase(path, str(pattern)) for path in named for pattern in self._patterns):
            self._changed.set()

    def _settle(self) -> None:
        for _ in range(round(_LATEST / _SETTLED)):
            self._changed.clear()
            if self._ended or not self._changed.wait(_SETTLED):
                return
        self._changed.clear()

    def _watch(self, observer: BaseObserver, folders: set[Path], handler: FileSystemEventHandler) -> None:
        """These and nothing else."""
        for folder in folders - self._watches.keys():
            try:
                self._watches[folder] = observer.schedule(handler, str(folder))
            except OSError as err:
                log.debug("%s is not watched: %s", folder, err)
        for folder in self._watches.keys() - folders:
            observer.unschedule(self._watches.pop(folder))


def _resolved(patterns: Iterable[Path]) -> tuple[Path, ...]:
    """With folders as they are told when something changes in them."""
    return tuple(pattern.parent.resolve() / pattern.name for pattern in patterns)
