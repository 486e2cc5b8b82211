"""Where the command keeps what containers in the background print, and the FIFOs by which one attaches to them.

Both are on the daemon's machine, in folders that belong to the daemon's socket: ``corten-io`` beside it for FIFOs, and
for the logs ``$CORTEN_LOGS``, or ``corten-logs`` beside it; of a socket below /run, which is memory,
``/var/lib/corten-logs/FOLDER``. A container's labels say where its own are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

LOG_LABEL = "corten.io/log"
FIFO_LABEL = "corten.io/fifos"
STOP_LABEL = "io.containerd.image.config.stop-signal"
"""As containerd's clients name it: the signal by which an image wants to be stopped."""

_LOGS = Path("/var/lib/corten-logs")
_REMOTE = Path("/run/corten-remote")  # for a daemon at a TCP address


def logs(address: str) -> Path:
    """The folder of all logs."""
    if given := os.environ.get("CORTEN_LOGS"):
        return Path(given)
    folder = _folder(address)
    if folder.is_relative_to("/run"):
        return _LOGS / "-".join(folder.parts[2:] or ("run",))
    return folder / "corten-logs"


def log(address: str, namespace: str, id: str) -> Path:
    return logs(address) / namespace / f"{id}.log"


def fifos(address: str, namespace: str, id: str) -> Path:
    """The folder of a container's FIFOs."""
    return _folder(address) / "corten-io" / namespace / id


def remove(labels: Mapping[str, str]) -> None:
    """What the container with these labels has there."""
    if path := labels.get(LOG_LABEL):
        with contextlib.suppress(OSError):
            Path(path).unlink()
        _tidy(Path(path).parent)
    if path := labels.get(FIFO_LABEL):
        shutil.rmtree(path, ignore_errors=True)
        _tidy(Path(path).parent)


def _tidy(folder: Path) -> None:
    """The folder of a namespace and that of all, when they are empty."""
    with contextlib.suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()


def _folder(address: str) -> Path:
    from plugin_sdk.wire import address as address_

    path, is_path = address_.split(address)
    if not is_path:
        return _REMOTE
    folder = Path(os.path.realpath(path)).parent
    return Path("/run", *folder.parts[3:]) if folder.is_relative_to("/var/run") else folder
