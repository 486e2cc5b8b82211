"""Progress of transfers: on a terminal a bar for each layer, with rate and remaining time; elsewhere a line for each
change of state; or nothing. All of it goes to the standard error.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from corten.terminal import tables
from corten.terminal.command import say
from plugin_sdk.transfer import Progress

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, TaskID

_KINDS = (("index", "index"), ("manifest.list", "index"), ("manifest", "manifest"), ("config", "config"))
_LEAST = 32 << 10  # bytes of what gets a bar without being a layer


class Shown(Protocol):
    def tell(self, step: Progress) -> None:
        """May be called from any thread, one call at a time."""
        ...

    def paused(self) -> AbstractContextManager[None]:
        """Somebody else uses the terminal meanwhile."""
        ...


class Silent:
    def tell(self, step: Progress) -> None:
        pass

    def paused(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()


class Lines:
    """One for each change of state of each thing; none for how far it is."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}

    def tell(self, step: Progress) -> None:
        if step.event == "waiting" or self._states.get(step.name) == step.event:
            return
        self._states[step.name] = step.event
        say(f"{title(step)}: {step.event}" if step.name else step.event)

    def paused(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()


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
            _rate(),
            progress.TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
            expand=True,
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()

    def tell(self, step: Progress) -> None:
        if not step.name or not _wants_bar(step):
            return
        if step.name not in self._bars:
            self._bars[step.name] = self._progress.add_task(title(step), total=None, state="")
        self._progress.update(
            self._bars[step.name],
            total=float(step.total) if step.total else None,
            completed=step.progress,
            state=step.event,
        )


def _rate() -> ProgressColumn:
    """Bytes a second: of the last while, or of the whole time where too little has come to tell."""
    from rich import progress
    from rich.text import Text

    class Rate(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            taken = task.elapsed if task.finished_time is None else task.finished_time
            speed = task.finished_speed or task.speed or task.completed / (taken or 1)
            return Text(f"{tables.size(speed)}/s")

    return Rate()


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
