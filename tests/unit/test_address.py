import os
import socket
from pathlib import Path

import pytest

from plugin_sdk import errors
from plugin_sdk.wire import address


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("/run/x.sock", ("/run/x.sock", True)),
        ("./x.sock", ("./x.sock", True)),
        ("unix:///run/x.sock", ("/run/x.sock", True)),
        ("tcp://127.0.0.1:80", ("127.0.0.1:80", False)),
        ("localhost:80", ("localhost:80", False)),
    ],
)
def test_an_address_is_a_path_or_a_host(given: str, wanted: tuple[str, bool]) -> None:
    assert address.split(given) == wanted


@pytest.mark.parametrize("given", ["http://x", "unix://", "unix:///" + "x" * 120])
def test_a_malformed_address_is_refused(given: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="address"):
        address.split(given)


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = f"{tmp_path}/x.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    address.remove_stale(path)
    assert not os.path.exists(path)
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(path)
        live.listen()
        with pytest.raises(errors.FailedPrecondition, match="another server"):
            address.remove_stale(path)


def test_a_file_at_the_address_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("mine")
    with pytest.raises(errors.FailedPrecondition, match="not a socket"):
        address.remove_stale(str(path))
