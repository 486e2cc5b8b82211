"""Workers of the daemon: children forked by one small process, since a process with threads must not fork.

The spawner is started before grpc is imported and from the standard library alone; its half of the protocol, and what
is said between the two, stands in ``kernel/spawner_child.py``. It ends with the daemon. When it ends by itself, its
workers end too and it is started again; until then ``start`` raises Unavailable. Shims outlive both.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path

from kernel import spawner_child
from plugin_sdk import errors

LOADABLE = spawner_child.LOADABLE
BOOT = (
    "import sys; sys.path.append(sys.argv[1]); import kernel.spawner_child as child; "
    "child.main(sys.argv[1], int(sys.argv[2]))"
)

_START_TIMEOUT = 10.0  # seconds
_LARGE = 32 << 10  # bytes of JSON that go into a memfd instead of the datagram
_MODULES = frozenset(spawner_child.module_of(path) for path in LOADABLE)


class Worker:
    """A child of the spawner; implements ``plugin_sdk.workers.Worker``."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self._pid = pid
        self._pidfd = pidfd
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._status: int | None = None

    @property
    def pid(self) -> int:
        return self._pid

    def kill(self, signal: int = signal.SIGKILL) -> None:
        with self._lock:
            if self._pidfd >= 0:
                _send_signal(self._pidfd, signal)

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        if self._ended.wait(timeout):
            if self._status is not None:
                return self._status
            if self._gone(until):
                return -signal.SIGKILL
        raise errors.DeadlineExceeded(f"process {self._pid} has not ended after {timeout} s")

    def close(self) -> None:
        with self._lock:
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1

    def _end(self, status: int | None) -> None:
        """None: the spawner has gone, and with it the exit status; workers are being killed, shims live on."""
        self._status = status
        self._ended.set()
        if status is not None:
            self.close()

    def _gone(self, until: float | None) -> bool:
        with self._lock:
            if self._pidfd < 0:
                return True
            pidfd = os.dup(self._pidfd)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            return bool(poll.poll(None if until is None else max(0.0, until - time.monotonic()) * 1000))
        finally:
            os.close(pidfd)

    def __del__(self) -> None:
        self.close()


class Spawner:
    """Implements ``plugin_sdk.workers.Workers``. ``root`` is the folder of our packages, the one this file is of."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root or Path(__file__).resolve().parent.parent
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._pending: dict[int, Future[Worker]] = {}
        self._workers: dict[int, Worker] = {}
        self._closing = threading.Event()
        self._process, self._channel = _launch(self._root)
        self._reader = threading.Thread(target=self._run, name="spawner", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, entry: str, params: Mapping[str, object], fds: Sequence[int] = ()) -> Worker:
        if entry.partition(":")[0] not in _MODULES:
            raise errors.InvalidArgument(f"entry {entry!r} is not loadable by the spawner")
        if len(fds) > spawner_child.MAX_FDS:
            raise errors.InvalidArgument(f"{len(fds)} descriptors for {entry} are more than {spawner_child.MAX_FDS}")
        id, answer = next(self._ids), Future[Worker]()
        self._send(id, answer, json.dumps({"id": id, "entry": entry, "params": dict(params)}).encode(), fds)
        try:
            return answer.result(_START_TIMEOUT)
        except FutureTimeoutError:
            with self._lock:
                late = self._pending.pop(id, None) is None
            if late:
                return answer.result()
            raise errors.Unavailable(f"the spawner did not start {entry} in {_START_TIMEOUT:.0f} s") from None

    def close(self) -> None:
        """Ends the spawner and, with it, the workers; shims live on."""
        self._closing.set()
        with self._lock:
            _hang_up(self._channel)
        self._reader.join()

    def _send(self, id: int, answer: Future[Worker], data: bytes, fds: Sequence[int]) -> None:
        memfd = -1
        if len(data) > _LARGE:
            memfd = _in_memory(data)
            data, fds = json.dumps({"id": id, "memfd": True}).encode(), [memfd, *fds]
        try:
            with self._lock:
                self._pending[id] = answer
                socket.send_fds(self._channel, [data], fds)
        except OSError as err:
            with self._lock:
                self._pending.pop(id, None)
            raise errors.Unavailable("the spawner is being started again") from err
        finally:
            if memfd >= 0:
                os.close(memfd)

    def _run(self) -> None:
        """The reader thread: answers and ends, and a new spawner when the old one has gone."""
        pause = 0.0
        while True:
            started = time.monotonic()
            self._read()
            self._lost()
            pause = 0.0 if time.monotonic() - started > 10 else min(5.0, pause * 2 + 0.05)
            if self._closing.wait(pause):
                return
            process, channel = _launch(self._root)
            with self._lock:
                self._process, self._channel = process, channel
                if self._closing.is_set():
                    _hang_up(channel)

    def _read(self) -> None:
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._channel, 4096, 1, socket.MSG_CMSG_CLOEXEC)
            except ConnectionResetError:
                return
            if not data:
                return
            message = json.loads(data)
            if "id" in message:
                self._answered(message, fds)
            elif (worker := self._workers.pop(message["pid"], None)) is not None:
                worker._end(message["status"])

    def _answered(self, message: dict[str, object], fds: list[int]) -> None:
        with self._lock:
            answer = self._pending.pop(int(str(message["id"])), None)
        worker = Worker(int(str(message["pid"])), fds[0])
        self._workers[worker.pid] = worker
        if answer is None:  # its caller has given up
            worker.kill()
        else:
            answer.set_result(worker)

    def _lost(self) -> None:
        with self._lock:
            self._channel.close()
            pending, self._pending = list(self._pending.values()), {}
        self._process.wait()
        for answer in pending:
            answer.set_exception(errors.Unavailable("the spawner has ended"))
        for worker in self._workers.values():
            worker._end(None)
        self._workers.clear()


def _launch(root: Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", BOOT, str(root), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return process, ours


def _hang_up(channel: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed, or the spawner has gone
        channel.shutdown(socket.SHUT_RDWR)


def _in_memory(data: bytes) -> int:
    memfd = os.memfd_create("corten-params")
    with open(memfd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(memfd, 0, os.SEEK_SET)
    return memfd


def _send_signal(pidfd: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)
