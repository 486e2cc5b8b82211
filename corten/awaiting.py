"""What ``corten.aio`` is made of: calls in threads, which end with the task that awaits them.

Each call has a thread for its time, started for it, so that ten thousand tasks may wait for ten thousand processes; a
thread that waits costs some tens of kilobytes. The alternative, a second client on asyncio's own sockets, would be a
second implementation of each method that makes several calls, and save nothing where the daemon is the one that works.

A task that is cancelled cancels what its thread asks the daemon for: the scope of each such call is bound to the
thread's own (``Linked``).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Generic, ParamSpec, TypeVar

from google.protobuf.message import Message

from plugin_sdk import errors
from plugin_sdk.scope import Scope
from plugin_sdk.transfer import Progress
from plugin_sdk.wire import rpc

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

_AHEAD = 64  # entries that an iteration reads before they are asked for
_GRACE = 5.0  # seconds for a thread to end when nobody waits for it any more

_thread = threading.local()


class Linked(rpc.Channel):
    """A channel whose calls are cancelled with the call of this module that makes them."""

    def __init__(self, channel: rpc.Channel) -> None:
        self._channel = channel

    def unary(self, service: str, method: rpc.Method, request: Message, scope: Scope) -> Message:
        with contextlib.ExitStack() as stack:
            return self._channel.unary(service, method, request, _bound(scope, stack))

    def stream(
        self, service: str, method: rpc.Method, requests: Iterable[Message], scope: Scope
    ) -> rpc.Stream[Message]:
        with contextlib.ExitStack() as stack:
            answers = self._channel.stream(service, method, requests, _bound(scope, stack))
            return _LinkedStream(answers, stack.pop_all())

    def close(self) -> None:
        self._channel.close()


class _LinkedStream(rpc.Stream[Message]):
    def __init__(self, answers: rpc.Stream[Message], stack: contextlib.ExitStack) -> None:
        self._answers = answers
        self._stack = stack

    def __iter__(self) -> _LinkedStream:
        return self

    def __next__(self) -> Message:
        try:
            return next(self._answers)
        except BaseException:
            self._stack.close()
            raise

    def cancel(self) -> None:
        self._answers.cancel()

    def __enter__(self) -> _LinkedStream:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._answers.__exit__(*exc)
        self._stack.close()


def current() -> Scope | None:
    """Of the call of this module that runs in this thread."""
    found: Scope | None = getattr(_thread, "scope", None)
    return found


def _bound(scope: Scope, stack: contextlib.ExitStack) -> Scope:
    """A scope that is cancelled with both ``scope`` and that of the thread, until the stack is closed."""
    caller = current()
    if caller is None:
        return scope
    inner = Scope(scope.namespace, scope.lease, scope.deadline)
    stack.callback(scope.on_cancel(inner.cancel))
    stack.callback(caller.on_cancel(inner.cancel))
    return inner


async def call(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """``work`` in a thread of its own."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    scope = Scope("")

    def run() -> None:
        _thread.scope = scope
        try:
            value = work(*args, **kwargs)
        except BaseException as err:  # noqa: BLE001  # raised where it is awaited
            _settle(loop, functools.partial(_fail, done, err))
        else:
            _settle(loop, functools.partial(_succeed, done, value))

    threading.Thread(target=run, name=getattr(work, "__name__", "call"), daemon=True).start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        scope.cancel()
        done.add_done_callback(_looked_at)
        await asyncio.wait([done], timeout=_GRACE)
        raise


def _looked_at(done: asyncio.Future[Any]) -> None:
    """So that asyncio does not complain of an error that nobody hears."""
    if not done.cancelled():
        done.exception()


def _settle(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
        loop.call_soon_threadsafe(work)


def _succeed(done: asyncio.Future[T], value: T) -> None:
    if not done.done():
        done.set_result(value)


def _fail(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        # A coroutine cannot raise StopIteration.
        done.set_exception(RuntimeError("no more") if isinstance(error, StopIteration) else error)


class Iteration(AsyncIterator[T]):
    """An iterator that blocks, read ahead by a thread: from its first use on, or from the begin of an ``async with``,
    which also ends it. One that is not read to its end, and not in such a statement, wants ``aclose``."""

    def __init__(self, begin: Callable[[], Iterator[T]]) -> None:
        self._begin = begin
        self._entries: asyncio.Queue[Callable[[], T]] | None = None
        self._room = threading.Semaphore(_AHEAD)
        self._scope = Scope("")
        self._ended = False

    def __aiter__(self) -> Iteration[T]:
        return self

    async def __anext__(self) -> T:
        if self._ended:
            raise StopAsyncIteration
        entry = await self._started().get()
        self._room.release()
        try:
            return entry()
        except BaseException:
            self._ended = True
            raise

    def _started(self) -> asyncio.Queue[Callable[[], T]]:
        if self._entries is None:
            self._entries = asyncio.Queue()
            read = functools.partial(self._read, asyncio.get_running_loop(), self._entries)
            threading.Thread(target=read, name="iteration", daemon=True).start()
        return self._entries

    def _read(self, loop: asyncio.AbstractEventLoop, entries: asyncio.Queue[Callable[[], T]]) -> None:
        _thread.scope = self._scope

        def tell(entry: Callable[[], T]) -> None:
            self._room.acquire()
            _settle(loop, functools.partial(entries.put_nowait, entry))

        try:
            for value in self._begin():
                tell(functools.partial(_same, value))
                self._scope.check()
        except BaseException as err:  # noqa: BLE001  # raised where it is iterated
            tell(functools.partial(_raise, err))
        else:
            tell(functools.partial(_raise, StopAsyncIteration()))

    async def aclose(self) -> None:
        """Ends it, also for a task that waits."""
        self._ended = True
        self._room.release(_AHEAD)
        await call(self._scope.cancel)
        if self._entries is not None:
            self._entries.put_nowait(functools.partial(_raise, StopAsyncIteration()))

    async def __aenter__(self) -> Iteration[T]:
        self._started()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


class Mirror(Generic[T]):
    """An object of ``corten.aio``: the one of the client library that does the work is ``blocking``."""

    __slots__ = ("blocking",)

    def __init__(self, blocking: T) -> None:
        self.blocking = blocking

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mirror) and bool(self.blocking == other.blocking)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<corten.aio of {self.blocking!r}>"


def _same(value: T) -> T:
    return value


def _raise(error: BaseException) -> Any:
    raise error


@contextlib.asynccontextmanager
async def entered(context: AbstractContextManager[T], shown: Callable[[T], S]) -> AsyncIterator[S]:
    """A context whose begin and end block; ``shown`` makes what its statement is given."""
    value = await call(context.__enter__)
    try:
        yield shown(value)
    except BaseException as err:
        if not await call(context.__exit__, type(err), err, err.__traceback__):
            raise
    else:
        await call(context.__exit__, None, None, None)


class File:
    """A stream of a process: an open file that blocks."""

    def __init__(self, file: io.BufferedReader | io.RawIOBase) -> None:
        self._file = file

    async def read(self, size: int = -1) -> bytes:
        """``size`` bytes, fewer at the end; all without."""
        return await call(self._file.read, size) or b""

    async def read_some(self, size: int = 1 << 16) -> bytes:
        """What is there, at most ``size`` bytes; waits for the first of them. Empty at the end."""
        return await call(self._file.read1, size) if isinstance(self._file, io.BufferedReader) else b""

    async def readline(self) -> bytes:
        return await call(self._file.readline)

    async def write(self, data: bytes) -> None:
        """All of ``data``. Raises BrokenPipeError when nobody reads."""
        await call(self._file.write, data)

    async def close(self) -> None:
        await call(self._file.close)

    def __aiter__(self) -> Iteration[bytes]:
        return Iteration(lambda: iter(self._file))


class Following(AsyncIterator[Progress], Generic[T]):
    """The steps of a transfer; ``result`` is what it returns. Leaving the context before its end cancels it."""

    def __init__(
        self, work: Callable[..., Coroutine[Any, Any, T]], args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        self._steps: asyncio.Queue[Progress | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(work(*args, **options, progress=self._tell))
        self._task.add_done_callback(lambda _: self._steps.put_nowait(None))

    def _tell(self, step: Progress) -> None:
        """In a thread of the transfer's."""
        if self._task.cancelling():
            raise errors.Canceled("nobody follows this any more")
        _settle(self._loop, functools.partial(self._steps.put_nowait, step))

    def __aiter__(self) -> Following[T]:
        return self

    async def __anext__(self) -> Progress:
        step = await self._steps.get()
        if step is not None:
            return step
        self._steps.put_nowait(None)
        await self.result()
        raise StopAsyncIteration

    async def result(self) -> T:
        return await asyncio.shield(self._task)

    async def __aenter__(self) -> Following[T]:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        _looked_at(self._task)


def follow(work: Callable[..., Coroutine[Any, Any, T]], *args: Any, **options: Any) -> Following[T]:
    """As ``corten.follow``; within a running loop."""
    return Following(work, args, options)
