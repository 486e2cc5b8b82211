"""Starts ``cortend`` and ``containerd`` side by side, each in a directory of its own, and stops them without a trace.

    with daemons.scratch() as directory:                       # on tmpfs; scratch(ext4_size="4G") loop-mounts one
        corten = daemons.start_corten(directory / "c")
        peer = daemons.start_containerd(directory / "p", peer=None)
        corten.ctr("images", "import", str(archive))           # subprocess.CompletedProcess, bytes
        corten.stop(); peer.stop()

Images come from ``scripts/images.py``: ``from scripts import images``; ``images.write_busybox(path)``,
``images.write_archive(path, images.oci_files(layers, name, compression))``.
Keep the directory's path short: sockets lie in it, and 108 bytes are the limit.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MARK = "CORTEN_TEST_DAEMON"
MNT_DETACH = 2
# containerd's shims keep the state of runc here, wherever the daemon's own directories are.
SHIM_STATES = "run/containerd/runc/*/*/state.json"
UNWANTED = (
    *(f"io.containerd.snapshotter.v1.{name}" for name in ("aufs", "blockfile", "btrfs", "devmapper", "erofs", "zfs")),
    *(f"io.containerd.internal.v1.{name}" for name in ("opt", "restart", "tracing")),
    "io.containerd.grpc.v1.cri",
    "io.containerd.nri.v1.nri",
    "io.containerd.tracing.processor.v1.otlp",
)
CONTAINERD_CONFIG = """version = 2
root = "{root}"
state = "{state}"
disabled_plugins = [{unwanted}]
[grpc]
  address = "{address}"
"""
NO_COLLECTION = """
[plugins."io.containerd.gc.v1.scheduler"]
  startup_delay = "1000h"
  mutation_threshold = 0
"""


@dataclass(slots=True)
class Daemon:
    """A running daemon. ``ctr_path`` is the client that talks to it; ``log`` its standard error."""

    name: str
    directory: Path
    address: str
    command: Sequence[str]
    environment: dict[str, str]
    ctr_path: str = "ctr"
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self, timeout: float = 120) -> None:
        """Returns when the daemon listens. Raises RuntimeError with the end of its log when it does not."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, cwd="/"
            )
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.name} does not answer: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.address) == 0

    def argv(self, *arguments: str, namespace: str = "default") -> list[str]:
        return [self.ctr_path, "--address", self.address, "--namespace", namespace, *arguments]

    def ctr(
        self,
        *arguments: str,
        namespace: str = "default",
        stdin: bytes | None = None,
        timeout: float = 300,
        check: bool = False,
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs one line of ctr. With ``check``, raises CalledProcessError for an exit code that is not 0."""
        source: dict[str, object] = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            self.argv(*arguments, namespace=namespace), capture_output=True, timeout=timeout, check=check, **source
        )

    def kill(self) -> None:
        """As a crash: SIGKILL, nothing tidied. ``start`` starts it again over the same files."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def terminate(self, timeout: float = 120) -> int:
        """SIGTERM; answers the exit code. Tasks run on."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout)

    def stop(self) -> None:
        """Ends tasks, daemon and shims; unmounts what lies in the directory and removes it."""
        if self.process is not None and self.process.poll() is None:
            self._end_tasks()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.terminate()
            self.kill()
        self._end_leftovers()
        unmount_below(self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end_tasks(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            for namespace in self.ctr("namespaces", "ls", "-q", timeout=60).stdout.decode().split():
                for task in self.ctr("tasks", "ls", "-q", namespace=namespace, timeout=60).stdout.decode().split():
                    self.ctr("tasks", "rm", "-f", task, namespace=namespace, timeout=60)

    def _end_leftovers(self) -> None:
        for pid in self.leftovers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for state in (*Path("/").glob(SHIM_STATES), *self.state.rglob("state.json")):
            if str(self.directory) in state.read_text(errors="replace"):
                engine = ["runc", "--root", str(state.parent.parent), "delete", "--force", state.parent.name]
                subprocess.run(engine, check=False, capture_output=True)

    def leftovers(self) -> list[int]:
        """Processes of this daemon that are not the daemon itself: shims, workers, engines."""
        mark = f"{MARK}={self.environment[MARK]}".encode()
        return [pid for pid in _pids() if pid != self._own_pid() and _belongs(pid, mark, str(self.directory).encode())]

    def _own_pid(self) -> int:
        return self.process.pid if self.process is not None and self.process.poll() is None else 0


def start_corten(directory: Path, *arguments: str, ctr: str = "ctr") -> Daemon:
    """``cortend`` of this Python, on embedded defaults but root, state and address. Returns when it answers."""
    address = str(directory / "c.sock")
    command = [sys.executable, "-m", "kernel", "--root", str(directory / "root"), "--state", str(directory / "state")]
    return _started(Daemon("corten", directory, address, [*command, "--address", address, *arguments], _marked(), ctr))


def start_containerd(
    directory: Path,
    peer: Path | None = None,
    more: str = "",
    *,
    unwanted: Sequence[str] = UNWANTED,
    collects: bool = False,
) -> Daemon:
    """Debian's containerd, or the one whose programs lie in ``peer`` (or in ``peer``/usr/bin). Returns when it answers.

    Collection never starts by itself, so that what a test or a benchmark has written stays, unless it ``collects``, as
    it does without a configuration. ``more`` is added to its configuration; ``unwanted`` are plugins not to be loaded.
    """
    directory.mkdir(parents=True, exist_ok=True)
    address = str(directory / "p.sock")
    config = directory / "config.toml"
    paths = {"root": directory / "root", "state": directory / "state", "address": address}
    names = ", ".join(f'"{name}"' for name in unwanted)
    text = CONTAINERD_CONFIG.format(unwanted=names, **paths)
    config.write_text(text + ("" if collects else NO_COLLECTION) + more)
    environment = _marked()
    if peer is not None:
        environment["PATH"] = f"{programs(peer)}:{environment['PATH']}"
    containerd, ctr = (shutil.which(name, path=environment["PATH"]) or name for name in ("containerd", "ctr"))
    command = [containerd, "--config", str(config), "--log-level", "warn"]
    return _started(Daemon("containerd", directory, address, command, environment, ctr))


def programs(peer: Path) -> Path:
    """The folder with containerd, ctr and the shim in an unpacked package. Raises FileNotFoundError."""
    for folder in (peer, peer / "usr/bin", peer / "bin"):
        if (folder / "ctr").exists():
            return folder.absolute()
    raise FileNotFoundError(f"no ctr in {peer} or {peer}/usr/bin")


@contextlib.contextmanager
def scratch(ext4_size: str = "", parent: str = "/dev/shm") -> Iterator[Path]:
    """A directory with a short name on tmpfs, or on an ext4 of that size (``2G``) mounted through a loop device."""
    directory = Path(tempfile.mkdtemp(prefix="corten-", dir="/tmp" if ext4_size else parent))
    image = directory / "ext4"
    target = directory / "m" if ext4_size else directory
    try:
        if ext4_size:
            target.mkdir()
            subprocess.run(["truncate", "-s", ext4_size, image], check=True)
            subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
            subprocess.run(["mount", "-o", "loop", image, target], check=True)
        yield target
    finally:
        unmount_below(directory)
        shutil.rmtree(directory, ignore_errors=True)


def unmount_below(directory: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for target in reversed(mounts_below(directory)):
        libc.umount2(os.fsencode(target), MNT_DETACH)


def mounts_below(directory: Path) -> list[str]:
    """Mount points at or below ``directory``, in the order of mounting."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    targets = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    return [target for target in targets if target == str(directory) or target.startswith(f"{directory}/")]


def _started(daemon: Daemon) -> Daemon:
    daemon.start()
    return daemon


def _marked() -> dict[str, str]:
    return {**os.environ, MARK: uuid.uuid4().hex}


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def _belongs(pid: int, mark: bytes, directory: bytes) -> bool:
    """By the environment it was started with, by its working directory, or by what its own mount namespace shows."""
    process = Path(f"/proc/{pid}")
    try:
        if mark in (process / "environ").read_bytes():
            return True
        if os.fsencode(os.readlink(process / "cwd")).startswith(directory + b"/"):
            return True
        own = os.readlink(process / "ns/mnt") == os.readlink("/proc/self/ns/mnt")
        return not own and directory + b"/" in (process / "mountinfo").read_bytes()
    except OSError:
        return False
