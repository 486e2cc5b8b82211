import errno
import inspect
import os

import pytest

from plugin_sdk import errors
from plugin_sdk.wire import status

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.Error) and kind is not errors.Error
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_survives_the_way_there_and_back(kind: type[errors.Error]) -> None:
    error = status.error(status.code(kind("image: no")), "image: no")
    assert type(error) is kind
    assert error.message == "image: no"


def test_the_numbers_are_those_of_grpc() -> None:
    grpc = pytest.importorskip("grpc")
    for kind, code in status.CODES.items():
        name = "CANCELLED" if kind is errors.Canceled else None
        found = next(each for each in grpc.StatusCode if each.value[0] == code)
        words = "".join(part.capitalize() for part in found.name.split("_"))
        assert (name or words) == (found.name if name else kind.__name__)


def test_a_subclass_has_the_code_of_its_base() -> None:
    class Gone(errors.NotFound):
        pass

    assert status.code(Gone("x")) == 5


def test_a_bare_error_is_unknown() -> None:
    assert status.code(errors.Error("x")) == 2


def test_an_unassigned_code_becomes_unknown() -> None:
    assert isinstance(status.error(99, "x"), errors.Unknown)


def test_a_full_disk_is_no_defect() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/run/x")
    found = status.scarcity(full)
    assert found is not None and found.message == "/run/x: No space left on device"
    assert status.scarcity(OSError(errno.EIO, "bad disk")) is None and status.scarcity(KeyError("x")) is None
