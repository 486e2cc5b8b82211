"""A plugin's own program in its tests: started on a socket, called over it, ended as people and crashes end it.

::

    @pytest.fixture(scope="module")
    def program(tmp_path_factory):
        root = tmp_path_factory.mktemp("program")
        with Program([sys.executable, "-m", "stars", "--root", str(root / "root")], root) as made:
            yield made

    class TestProgram(snapshots.SnapshotSuite):
        @pytest.fixture
        def snapshotter(self, program):
            return program.snapshotter

        @pytest.fixture
        def crash(self, program):
            return lambda: program.crash().snapshotter
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from plugin_sdk import content, diff, errors, handshake, release, snapshots
from plugin_sdk.scope import Scope
from plugin_sdk.wire import content as wire_content
from plugin_sdk.wire import diff as wire_diff
from plugin_sdk.wire import handshake as wire_handshake
from plugin_sdk.wire import snapshots as wire_snapshots
from plugin_sdk.wire import transport

_PATIENCE = 20.0  # seconds for its start, and for its end after SIGTERM


class Program:
    """``command`` gets ``--address`` added. What it writes is in ``folder``, in the file ``log``; its socket has a
    directory with a short name. Each of the contracts is there as a Proxy for ``namespace``."""

    def __init__(self, command: Sequence[str], folder: Path, namespace: str = "tests") -> None:
        self._scope = Scope(namespace)
        self._sockets = tempfile.TemporaryDirectory(prefix="corten-")
        self.address = str(Path(self._sockets.name, "plugin.sock"))
        self.log = folder / "log"
        self._command = [*command, "--address", self.address]
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: transport.Channel | None = None

    def start(self) -> Program:
        """Returns when it serves. Raises Unavailable, with what it said, when it does not."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + _PATIENCE
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise errors.Unavailable(f"the program does not serve: {self.log.read_text()[-2000:]}")
            time.sleep(0.01)
        self._channel = transport.connect(self.address, lease=False)
        return self

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.address) == 0

    def stop(self) -> int:
        """Its exit code after SIGTERM."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(_PATIENCE)
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def crash(self) -> Program:
        """Kills it and starts it again."""
        self.kill()
        return self.start()

    def __enter__(self) -> Program:
        try:
            return self.start()
        except BaseException:
            self._sockets.cleanup()
            raise

    def __exit__(self, *exc: object) -> None:
        self.kill()
        self._sockets.cleanup()

    @property
    def channel(self) -> transport.Channel:
        """Raises Unavailable when it has been ended here."""
        if self._channel is None:
            raise errors.Unavailable("the program has been ended")
        return self._channel

    def describe(self) -> handshake.Description:
        return wire_handshake.Proxy(self.channel, Scope("")).describe(release.VERSION, "tests")

    @property
    def snapshotter(self) -> snapshots.Snapshotter:
        return wire_snapshots.Proxy(self.channel, self._scope, "tests")

    @property
    def store(self) -> content.Store:
        return wire_content.Proxy(self.channel, self._scope)

    @property
    def differ(self) -> diff.Differ:
        return wire_diff.Proxy(self.channel, self._scope)
