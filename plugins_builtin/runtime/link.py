"""Connections to shims: requests from any thread, one watcher thread that reads all of them."""

from __future__ import annotations

import itertools
import json
import os
import select
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from plugin_sdk import errors

Message = dict[str, object]

_CHUNK = 1 << 16


class Watcher:
    """Calls a function when a descriptor becomes ready. Descriptors are closed on its thread only: by what the function
    does, or by ``later``."""

    def __init__(self, name: str) -> None:
        self._poll = select.epoll()
        self._ready: dict[int, Callable[[int], None]] = {}
        self._posted: list[Callable[[], None]] = []
        self._running = True
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wakeup, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def watch(self, fd: int, mask: int, ready: Callable[[int], None]) -> None:
        self._ready[fd] = ready
        self._poll.register(fd, mask)

    def forget(self, fd: int) -> None:
        """On the watcher's thread."""
        if self._ready.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def later(self, work: Callable[[], None]) -> None:
        self._posted.append(work)
        os.eventfd_write(self._wakeup, 1)

    def close(self) -> None:
        """Ends after what was posted."""
        self.later(self._stop)
        self._thread.join()
        self._poll.close()
        os.close(self._wakeup)

    def _stop(self) -> None:
        self._running = False

    def _run(self) -> None:
        while self._running:
            for fd, mask in self._poll.poll():
                if fd == self._wakeup:
                    os.eventfd_read(fd)
                elif (ready := self._ready.get(fd)) is not None:
                    ready(mask)
            while self._posted:
                self._posted.pop(0)()


class Link:
    """To one shim. ``event`` gets what it says by itself, ``lost`` is called once when it has gone; both on the
    watcher's thread, and neither after ``close``."""

    def __init__(self, watcher: Watcher, path: str, event: Callable[[Message], None], lost: Callable[[], None]) -> None:
        """Raises OSError when nobody listens."""
        self._watcher = watcher
        self._path = path
        self._event = event
        self._lost = lost
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._pending: dict[int, Future[Message]] = {}
        self._open = True
        self._expected = False
        self._rest = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        watcher.watch(self._socket.fileno(), select.EPOLLIN, self._read)

    def request(self, method: str, fields: Message, timeout: float) -> Message:
        """Raises what the shim answers; Unavailable when it is gone; DeadlineExceeded after ``timeout`` seconds."""
        id, answer = next(self._ids), Future[Message]()
        line = json.dumps({"id": id, "method": method, **fields}).encode() + b"\n"
        try:
            with self._lock:
                if not self._open:
                    raise OSError
                self._pending[id] = answer
                self._socket.sendall(line)
            return _result(answer.result(timeout))
        except FutureTimeoutError:
            raise errors.DeadlineExceeded(f"shim {self._path} did not answer {method} in {timeout:.0f} s") from None
        except OSError as err:
            raise errors.Unavailable(f"shim {self._path} has ended") from err
        finally:
            self._pending.pop(id, None)

    def farewell(self, expected: bool = True) -> None:
        """From now on the shim's end is expected: ``lost`` is not called."""
        self._expected = expected

    def close(self) -> None:
        with self._lock:
            if not self._open:
                return
            self._open = False
        self._watcher.later(self._end)

    def _read(self, _: int) -> None:
        try:
            data = self._socket.recv(_CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._dispatch(json.loads(line))
        if not data:
            was_open, self._open = self._open, False
            self._end()
            if was_open and not self._expected:
                self._lost()

    def _dispatch(self, message: Message) -> None:
        if "event" in message:
            if self._open:
                self._event(message)
            return
        answer = self._pending.pop(int(str(message["id"])), None)
        if answer is not None:
            answer.set_result(message)

    def _end(self) -> None:
        if self._socket.fileno() >= 0:
            self._watcher.forget(self._socket.fileno())
            self._socket.close()
        with self._lock:
            pending, self._pending = list(self._pending.values()), {}
        for answer in pending:
            answer.set_exception(OSError("closed"))


def _result(message: Message) -> Message:
    error = message.get("error")
    if isinstance(error, dict):
        kind = getattr(errors, str(error.get("code")), errors.Unknown)
        raise kind(str(error.get("message")))
    result = message.get("result")
    return result if isinstance(result, dict) else {}
