"""The shim's one thread: descriptors that become ready, and children that end. Standard library only."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal makes an enum of each number
import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Ready = Callable[[int], object]  # called with the epoll mask
    Ended = Callable[[int, int], None]  # called with the exit status, or minus the signal, and the time in nanoseconds


class Loop:
    def __init__(self) -> None:
        self._poll = select.epoll()
        self._ready: dict[int, Ready] = {}
        self._children: dict[int, Ended] = {}
        self._unclaimed: dict[int, tuple[int, int]] = {}
        self._expected = 0
        self._running = True
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        _signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        self._wakeup = reader
        self.watch(reader, select.EPOLLIN, self._reap)

    def run(self) -> None:
        while self._running:
            for fd, mask in self._poll.poll():
                ready = self._ready.get(fd)
                if ready is not None:
                    ready(mask)

    def stop(self) -> None:
        self._running = False

    def watch(self, fd: int, mask: int, ready: Ready) -> None:
        if fd in self._ready:
            self._poll.modify(fd, mask)
        else:
            self._poll.register(fd, mask)
        self._ready[fd] = ready

    def forget(self, fd: int) -> None:
        if self._ready.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def close(self, fd: int) -> None:
        self.forget(fd)
        os.close(fd)

    def on_end(self, pid: int, ended: Ended) -> None:
        """Calls ``ended`` once; at once when the child ended since ``expect``."""
        if pid in self._unclaimed:
            ended(*self._unclaimed.pop(pid))
        else:
            self._children[pid] = ended

    def expect(self) -> None:
        """From now until ``expected`` a child may end whose pid is not yet known."""
        self._expected += 1

    def expected(self) -> None:
        self._expected -= 1
        if not self._expected:
            self._unclaimed.clear()

    def _reap(self, _: int) -> None:
        try:  # noqa: SIM105 - contextlib is not loaded
            os.read(self._wakeup, 512)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._ended(pid, os.waitstatus_to_exitcode(status), time.time_ns())

    def _ended(self, pid: int, status: int, when: int) -> None:
        ended = self._children.pop(pid, None)
        if ended is not None:
            ended(status, when)
        elif self._expected:
            self._unclaimed[pid] = (status, when)
