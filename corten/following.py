"""Following: the steps of a transfer as an iterator.

::

    with corten.follow(client.images.pull, "docker.io/library/busybox:latest") as pull:
        for step in pull:
            print(step.name, step.event, step.progress, step.total)
    image = pull.result()
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

from plugin_sdk import errors
from plugin_sdk.transfer import Progress

T = TypeVar("T")


class Following(Iterator[Progress], AbstractContextManager["Following[Any]"], Generic[T]):
    """Iterates over the steps until the work has ended, and raises what it raises. Leaving the context before ends the
    work at its next step."""

    def __init__(self, work: Callable[..., T], args: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._steps: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
        self._given_up = False
        self._ended = False
        self._error: BaseException | None = None
        self._value: T
        self._thread = threading.Thread(target=self._run, args=(work, args, options), name="following", daemon=True)
        self._thread.start()

    def _run(self, work: Callable[..., T], args: tuple[Any, ...], options: dict[str, Any]) -> None:
        try:
            self._value = work(*args, **options, progress=self._tell)
        except BaseException as err:  # noqa: BLE001  # raised again where the result is asked for
            self._error = err
        self._steps.put(None)

    def _tell(self, step: Progress) -> None:
        if self._given_up:
            raise errors.Canceled("nobody follows this any more")
        self._steps.put(step)

    def __iter__(self) -> Following[T]:
        return self

    def __next__(self) -> Progress:
        step = None if self._ended else self._steps.get()
        if step is not None:
            return step
        self._ended = True
        self.result()
        raise StopIteration

    def result(self) -> T:
        """What the work returns or raises; waits for its end."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value

    def close(self) -> None:
        self._given_up = True
        self._thread.join()

    def __enter__(self) -> Following[T]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def follow(work: Callable[..., T], *args: Any, **options: Any) -> Following[T]:
    """Begins ``work(*args, **options)``, a method that takes ``progress``, in a thread of its own."""
    return Following(work, args, options)
