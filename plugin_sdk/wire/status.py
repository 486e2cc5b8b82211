"""Errors and gRPC's status codes, both ways. The numbers are those of google.rpc.Code."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from plugin_sdk import errors

OK = 0

CODES: Mapping[type[errors.Error], int] = {
    errors.Canceled: 1,
    errors.Unknown: 2,
    errors.InvalidArgument: 3,
    errors.DeadlineExceeded: 4,
    errors.NotFound: 5,
    errors.AlreadyExists: 6,
    errors.PermissionDenied: 7,
    errors.ResourceExhausted: 8,
    errors.FailedPrecondition: 9,
    errors.Aborted: 10,
    errors.OutOfRange: 11,
    errors.Unimplemented: 12,
    errors.Internal: 13,
    errors.Unavailable: 14,
    errors.DataLoss: 15,
    errors.Unauthenticated: 16,
}

SCARCITIES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})

CLASSES: Mapping[int, type[errors.Error]] = {code: kind for kind, code in CODES.items()}


def code(error: errors.Error) -> int:
    """That of the error's class or of the nearest base; Unknown's for a bare Error."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), CODES[errors.Unknown])


def error(code: int, message: str) -> errors.Error:
    """An unassigned code becomes Unknown, as gRPC asks of its clients."""
    return CLASSES.get(code, errors.Unknown)(message)


def scarcity(error: BaseException) -> errors.ResourceExhausted | None:
    """For an OSError that says of what the machine has too little: no defect of ours. None for any other."""
    if isinstance(error, OSError) and error.errno in SCARCITIES:
        return errors.ResourceExhausted(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    return None
