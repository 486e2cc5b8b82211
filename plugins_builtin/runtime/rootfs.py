"""The container's root, mounted and unmounted in a child of its own: a dead file server must not stop the shim.

Standard library only. The shim has this file loaded and never runs it: it keeps its memory small.
"""

from __future__ import annotations

import os

from plugin_sdk import errors, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def mount(listed: Sequence[Mapping[str, object]], target: str) -> None:
    mounts.mount_all([_mount(each) for each in listed], target)


def unmount(target: str) -> None:
    mounts.unmount_all(target, mounts.MNT_DETACH)


def unmount_below(target: str) -> None:
    mounts.unmount_below(target, mounts.MNT_DETACH)


def _mount(fields: Mapping[str, object]) -> mounts.Mount:
    options = fields["options"]
    assert isinstance(options, list)
    return mounts.Mount(str(fields["type"]), str(fields["source"]), str(fields.get("target") or ""), tuple(options))


def answer(writer: int, work: str, arguments: Sequence[object]) -> int:
    """The life of the child: 0, or 1 and the error's class and text in the pipe."""
    try:
        globals()[work](*arguments)
    except errors.Error as err:
        os.write(writer, f"{type(err).__name__}\n{err.message}".encode()[:4096])
    except OSError as err:
        os.write(writer, f"FailedPrecondition\n{err.filename}: {err.strerror}".encode()[:4096])
    else:
        return 0
    return 1
