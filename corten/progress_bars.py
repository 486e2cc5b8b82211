"""Progress of transfers: on a terminal a bar for each layer, with rate and remaining time; elsewhere a line for each
change of state; or nothing. All of it goes to the standard error.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from corten import tables
from corten.command import say
from plugin_sdk.transfer import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

_KINDS = (("index", "index"), ("manifest.list", "index"), ("manifest", "manifest"), ("config", "config"))
_LEAST = 32 << 10  # bytes of what gets a bar without being a layer


class Shown(Protocol):
    def tell(self, step: Progress) -> None:
        """May be called from any thread, one call at a time."""
        ...


class Silent:
    def tell(self, step: Progress) -> None:
        pass


class Lines:
    """One for each change of state of each thing; none for how far it is."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}

    def tell(self, step: Progress) -> None:
        if self._states.get(step.name) == step.event:
            return
        self._states[step.name] = step.event
        say(f"{title(step)}: {step.event}" if step.name else step.event)


class Bars:
    """Of layers and other large things, in the order in which they begin. They are gone at the end."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.TextColumn("{task.fields[state]}", style="dim"),
            progress.BarColumn(bar_width=None),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
            expand=True,
        )
        self._bars: dict[str, TaskID] = {}
        self._states: dict[str, str] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def tell(self, step: Progress) -> None:
        if not step.name or not _wants_bar(step):
            return
        total = float(step.total) if step.total else None
        if (bar := self._bars.get(step.name)) is None:
            bar = self._progress.add_task(title(step), total=total, state=step.event)
            self._bars[step.name] = bar
        elif self._states[step.name] != step.event and self._begins_again(bar, step):
            self._progress.reset(bar, total=total, completed=step.progress, state=step.event)
        self._states[step.name] = step.event
        self._progress.update(bar, total=total, completed=step.progress, state=step.event)

    def _begins_again(self, bar: TaskID, step: Progress) -> bool:
        """Another state with bytes of its own: unpacked after it was fetched."""
        return step.progress < self._progress.tasks[self._progress.task_ids.index(bar)].completed


@contextlib.contextmanager
def shown(quiet: bool) -> Iterator[Shown]:
    """How progress is shown here, now."""
    if quiet:
        yield Silent()
    elif sys.stderr.isatty():
        with Bars() as bars:
            yield bars
    else:
        yield Lines()


def title(step: Progress) -> str:
    """As ``layer 3fa2c1d0e5b2``; the name of what is no blob."""
    if step.descriptor is None:
        return step.name
    media_type = step.descriptor.media_type
    kind = next((word for part, word in _KINDS if part in media_type), "layer")
    return f"{kind} {tables.short(step.descriptor.digest)}"


def _wants_bar(step: Progress) -> bool:
    return step.total >= _LEAST or (step.descriptor is not None and title(step).startswith("layer"))


class Clock:
    """How long something took, as ``3.1 s``."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def __str__(self) -> str:
        return f"{time.monotonic() - self._begin:.1f} s"
