"""An ingest on disk: a directory named by the SHA-256 of its ref, laid out as containerd lays it out.

::

    ingest/HEX/ref          the ref itself
    ingest/HEX/startedat    RFC 3339 with nanoseconds
    ingest/HEX/updatedat    the same, written when a writer closes; while one is open, the time of data counts
    ingest/HEX/total        decimal, if known
    ingest/HEX/expected     a digest, if known
    ingest/HEX/data         the bytes so far, locked with flock(2) while a writer is open
    ingest/HEX/blob         the digest, while the bytes become a blob that is not this file itself

``data`` is made last and renamed away first: a directory without it is the rest of a crash.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from plugin_sdk import content, errors

_TRASH = ".removed-"


def locate(root: Path, ref: str) -> Path:
    return root / hashlib.sha256(ref.encode()).hexdigest()


def not_found(ref: str) -> errors.NotFound:
    return errors.NotFound(f'ingest "{ref}": not found')


def read_status(folder: Path) -> content.Status | None:
    """None when there is no ingest in this directory, or no longer."""
    try:
        data = (folder / "data").stat()
        ref = (folder / "ref").read_bytes().decode()
        return content.Status(
            ref=ref,
            offset=data.st_size,
            total=int(_read(folder / "total") or 0),
            expected=_read(folder / "expected"),
            started_at=_nanoseconds(_read(folder / "startedat")) or data.st_mtime_ns,
            updated_at=data.st_mtime_ns,
        )
    except (FileNotFoundError, NotADirectoryError):
        return None


def open_locked(folder: Path, ref: str, total: int, expected: str) -> int:
    """Opens ``data`` of a new or an old ingest for writing. Raises Unavailable while another writer holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "data").exists():
        (folder / "startedat").write_text(_text(time.time_ns()))
        (folder / "ref").write_bytes(ref.encode())  # as it is: text files would change line ends
    fd = os.open(folder / "data", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _lock(fd, ref)
        if total:
            (folder / "total").write_text(str(total))
        if expected:
            (folder / "expected").write_text(expected)
    except BaseException:
        os.close(fd)
        raise
    return fd


def touch(folder: Path) -> None:
    (folder / "updatedat").write_text(_text(time.time_ns()))


def require_same(folder: Path, fd: int) -> None:
    """Raises FileNotFoundError when ``fd`` is no longer what the ingest writes: it was aborted or committed."""
    if not os.path.samestat(os.stat(folder / "data"), os.fstat(fd)):
        raise FileNotFoundError(folder)


def retire(folder: Path) -> Path:
    """Takes an ingest away at once for everybody who looks; its files are then removed with ``discard``."""
    return folder.rename(folder.with_name(_TRASH + secrets.token_hex(8)))


def discard(trash: Path) -> None:
    shutil.rmtree(trash, ignore_errors=True)


def mark(folder: Path, digest: str) -> None:
    """From now on the ingest may be a blob already."""
    (folder / "blob").write_text(digest)


def clean(root: Path, is_blob: Callable[[str], bool]) -> None:
    """Removes what a crash has left of ingests that were removed or committed."""
    for folder in root.iterdir() if root.is_dir() else ():
        became = _read(folder / "blob") if folder.is_dir() else ""
        if folder.name.startswith(_TRASH) or not (folder / "data").exists() or (became and is_blob(became)):
            shutil.rmtree(folder, ignore_errors=True)


def _lock(fd: int, ref: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        raise errors.Unavailable(f'ref "{ref}" locked: unavailable') from err


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _text(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _nanoseconds(text: str) -> int:
    """0 for a text that is not such a time."""
    whole, _, fraction = text.strip().removesuffix("Z").partition(".")
    try:
        seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
        return seconds * 10**9 + int((fraction or "0").ljust(9, "0")[:9])
    except ValueError:
        return 0
