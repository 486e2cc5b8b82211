"""What can go wrong, named for what the caller should do.

::

    Error
    ├── Canceled             the caller went away
    ├── Unknown              an error that says nothing of its kind
    ├── InvalidArgument      the request is wrong whatever the state: correct it
    ├── DeadlineExceeded     no answer in time: the effect may still come
    ├── NotFound             the named object does not exist
    ├── AlreadyExists        the named object exists: use it
    ├── PermissionDenied     not allowed to this caller
    ├── ResourceExhausted    a limit is reached: try later
    ├── FailedPrecondition   right request, wrong state: change the state first
    ├── Aborted              lost against another change: start again
    ├── OutOfRange           an offset that the object does not have
    ├── Unimplemented        nobody here does that: try the next one
    ├── Internal             a defect of ours
    ├── Unavailable          not now: repeat the same request
    ├── DataLoss             stored bytes are not what they were
    └── Unauthenticated      say first who you are

A message is one sentence that names the object. ``plugin_sdk.wire.status`` maps the classes to gRPC's codes and back.
"""

from __future__ import annotations


class Error(Exception):
    """The root of all errors that a contract may raise."""

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else type(self).__name__


class Canceled(Error):
    pass


class Unknown(Error):
    pass


class InvalidArgument(Error):
    pass


class DeadlineExceeded(Error):
    pass


class NotFound(Error):
    pass


class AlreadyExists(Error):
    pass


class PermissionDenied(Error):
    pass


class ResourceExhausted(Error):
    pass


class FailedPrecondition(Error):
    pass


class Aborted(Error):
    pass


class OutOfRange(Error):
    pass


class Unimplemented(Error):
    pass


class Internal(Error):
    pass


class Unavailable(Error):
    pass


class DataLoss(Error):
    pass


class Unauthenticated(Error):
    pass
