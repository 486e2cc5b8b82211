"""Workers of the daemon: children forked by small processes, since a process with threads must not fork.

There are two: one for shims, started before grpc is imported and kept, and one for other workers, started when first
needed and ended after a while without work. What they load, and what is said between them and the daemon, stands in
``kernel/spawner_child.py``. They end with the daemon. One that ends by itself takes its workers along and is started
again by the next request; the requests under way get Unavailable. Shims outlive all of them.
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
    "child.main(sys.argv[1], int(sys.argv[2]), sys.argv[3])"
)

_SHIMS, _WORKERS = spawner_child.GROUPS
_START_TIMEOUT = 10.0  # seconds
_IDLE = 3.0  # seconds after which the process for workers ends
_LARGE = 32 << 10  # bytes of JSON that go into a memfd instead of the datagram
_GROUP_OF = {
    spawner_child.module_of(path): group
    for group, stages in spawner_child.GROUPS.items()
    for paths in stages
    for path in paths
}


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

    def __init__(self, root: Path | None = None, idle: float = _IDLE) -> None:
        self._root = root or Path(__file__).resolve().parent.parent
        self._idle = {_WORKERS: idle}
        self._lock = threading.Lock()
        self._closed = False
        self._processes = {_SHIMS: _Process(self._root, _SHIMS, None)}

    @property
    def pids(self) -> list[int]:
        """Of the processes that fork."""
        with self._lock:
            return [process.pid for process in self._processes.values() if process.open]

    def start(self, entry: str, params: Mapping[str, object], fds: Sequence[int] = ()) -> Worker:
        group = _GROUP_OF.get(entry.partition(":")[0])
        if group is None:
            raise errors.InvalidArgument(f"entry {entry!r} is not loadable by the spawner")
        if len(fds) > spawner_child.MAX_FDS:
            raise errors.InvalidArgument(f"{len(fds)} descriptors for {entry} are more than {spawner_child.MAX_FDS}")
        for _ in range(2):
            try:
                return self._process(group).start(entry, params, fds)
            except _NotSent:  # it has just ended
                continue
        raise errors.Unavailable("the spawner does not stay alive")

    def close(self) -> None:
        """Ends the spawner and, with it, the workers; shims live on."""
        with self._lock:
            self._closed = True
            processes = list(self._processes.values())
        for process in processes:
            process.close()

    def _process(self, group: str) -> _Process:
        with self._lock:
            if self._closed:
                raise errors.Unavailable("the spawner is closed")
            current = self._processes.get(group)
            if current is None or not current.open:
                current = self._processes[group] = _Process(self._root, group, self._idle.get(group))
            return current


class _NotSent(Exception):
    pass


class _Process:
    """One life of a process that forks, and the thread that listens to it."""

    def __init__(self, root: Path, group: str, idle: float | None) -> None:
        self._ids = itertools.count(1)
        self._idle = idle
        self._lock = threading.Lock()
        self._pending: dict[int, Future[Worker]] = {}
        self._workers: dict[int, Worker] = {}
        self._popen, self._channel = _launch(root, group)
        self.open = True
        self._reader = threading.Thread(target=self._run, name=f"spawner-{group}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def start(self, entry: str, params: Mapping[str, object], fds: Sequence[int]) -> Worker:
        """Raises _NotSent when the process has ended before the request reached it."""
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
        with self._lock:
            self._hang_up()
        self._reader.join()

    def _send(self, id: int, answer: Future[Worker], data: bytes, fds: Sequence[int]) -> None:
        memfd = -1
        if len(data) > _LARGE:
            memfd = _in_memory(data)
            data, fds = json.dumps({"id": id, "memfd": True}).encode(), [memfd, *fds]
        try:
            with self._lock:
                if not self.open:
                    raise _NotSent
                self._pending[id] = answer
                socket.send_fds(self._channel, [data], fds)
        except OSError as err:
            with self._lock:
                self.open = False
                self._pending.pop(id, None)
            raise _NotSent from err
        finally:
            if memfd >= 0:
                os.close(memfd)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while True:
            patience = None if self._idle is None or self._workers else self._idle * 1000
            if not poll.poll(patience):
                self._end_if_idle()
            elif not self._read():
                break
        self._lost()

    def _end_if_idle(self) -> None:
        """Unless a request has just been sent."""
        with self._lock:
            if not self._pending:
                self._hang_up()

    def _hang_up(self) -> None:
        self.open = False
        with contextlib.suppress(OSError):  # closed, or the process has gone
            self._channel.shutdown(socket.SHUT_RDWR)

    def _read(self) -> bool:
        """One message; False at the end."""
        try:
            data, fds, _, _ = socket.recv_fds(self._channel, 4096, 1, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return False
        if not data:
            return False
        message = json.loads(data)
        if "id" in message:
            self._answered(message["id"], Worker(message["pid"], fds[0]))
        elif (worker := self._workers.pop(message["pid"], None)) is not None:
            worker._end(message["status"])
        return True

    def _answered(self, id: int, worker: Worker) -> None:
        with self._lock:
            answer = self._pending.pop(id, None)
        self._workers[worker.pid] = worker
        if answer is None:  # its caller has given up
            worker.kill()
        else:
            answer.set_result(worker)

    def _lost(self) -> None:
        with self._lock:
            self.open = False
            self._channel.close()
            pending, self._pending = list(self._pending.values()), {}
        self._popen.wait()
        for answer in pending:
            answer.set_exception(errors.Unavailable("the spawner has ended"))
        for worker in self._workers.values():
            worker._end(None)
        self._workers.clear()


def _launch(root: Path, group: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    cache = ["-X", f"pycache_prefix={sys.pycache_prefix}"] if sys.pycache_prefix else []  # -I ignores the environment
    with theirs:
        process = subprocess.Popen(
            [sys.executable, *cache, "-I", "-S", "-c", BOOT, str(root), str(theirs.fileno()), group],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return process, ours


def _in_memory(data: bytes) -> int:
    memfd = os.memfd_create("corten-params")
    with open(memfd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(memfd, 0, os.SEEK_SET)
    return memfd


def _send_signal(pidfd: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)
