"""docs/compat.md against the descriptors, against the tests, and against the daemon."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from plugin_sdk.api import catalog
from tests.calls import message
from tests.sides import Side

pytestmark = [pytest.mark.root]
ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs/compat.md"
RPCS = {rpc.path: rpc for rpc in catalog.rpcs()}


@dataclass(frozen=True, slots=True)
class Row:
    state: str
    test: str


def rows() -> Iterator[tuple[str, Row]]:
    """(path of the RPC, row) of every table but that of the known differences."""
    service = ""
    for line in PAGE.read_text().split("## Known differences")[0].splitlines():
        if line.startswith("## "):
            service = line[3:].strip()
        elif line.startswith("| ") and not line.startswith("| RPC"):
            name, state, test = (cell.strip().strip("`") for cell in line.strip("|").split("|"))
            yield f"/{service}/{name}", Row(state, test)


ROWS = dict(rows())
DONE = [path for path, row in ROWS.items() if row.state == "done"]


def test_the_page_has_a_row_for_every_rpc_and_no_other() -> None:
    assert sorted(path for path, _ in rows()) == sorted(RPCS)


def test_every_row_is_done_or_not_yet() -> None:
    assert {row.state for row in ROWS.values()} <= {"done", "not yet"}


@pytest.mark.parametrize("path", DONE)
def test_a_row_that_is_done_names_a_test(path: str) -> None:
    assert exists(ROWS[path].test), f"{path}: {ROWS[path].test!r} is no test"


def test_a_known_difference_names_a_test() -> None:
    table = PAGE.read_text().split("## Known differences")[1].split("## Features")[0]
    found = [line.strip("|").split("|")[-1].strip().strip("`") for line in table.splitlines() if line.startswith("| ")][
        1:
    ]
    assert found
    assert [test for test in found if not exists(test)] == []


def test_a_feature_that_is_done_names_a_test_and_another_is_not_yet() -> None:
    lines = [line for line in PAGE.read_text().split("## Features")[1].splitlines() if line.startswith("| ")][1:]
    found = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]
    assert {state for _, state, _ in found} == {"done", "not yet"}
    assert [feature for feature, state, test in found if (state == "done") != exists(test)] == []


def exists(test: str) -> bool:
    path, _, name = test.partition("::")
    return (
        bool(name)
        and (ROOT / path).is_file()
        and re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.M) is not None
    )


@pytest.mark.parametrize("path", [path for path in DONE if "ttrpc" not in path])
def test_an_rpc_that_is_done_is_served(corten: Side, path: str) -> None:
    assert called(corten.daemon.address, path) is not grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("path", [path for path, row in ROWS.items() if row.state != "done"])
def test_an_rpc_that_is_not_done_does_nothing(corten: Side, path: str) -> None:
    assert called(corten.daemon.address, path) is not grpc.StatusCode.OK


LAYER = {"media_type": "application/vnd.oci.image.layer.v1.tar", "digest": "sha256:" + "0" * 64, "size": 3}
# Where a request that names nothing known is Unimplemented too.
REQUESTS: dict[str, dict[str, Any]] = {
    "Diff/Apply": {"diff": LAYER},
    "Leases/AddResource": {"id": "none", "resource": {"id": "none", "type": "content"}},
    "Leases/DeleteResource": {"id": "none", "resource": {"id": "none", "type": "content"}},
}


def called(address: str, path: str) -> grpc.StatusCode:
    """The status that a request gets, an empty one for most, asked for half a second."""
    rpc = RPCS[path]
    shape = f"{'stream' if rpc.client_streaming else 'unary'}_{'stream' if rpc.server_streaming else 'unary'}"
    fields = next((fields for name, fields in REQUESTS.items() if path.endswith("." + name)), {})
    sent = message(rpc.request, **fields).SerializeToString()
    with grpc.insecure_channel(f"unix://{address}") as channel:
        method = getattr(channel, shape)(path, request_serializer=bytes, response_deserializer=bytes)
        metadata = [("containerd-namespace", "compat")]
        try:
            answer = method(iter([sent]) if rpc.client_streaming else sent, timeout=0.5, metadata=metadata)
            if rpc.server_streaming:
                list(answer)
        except grpc.RpcError as err:
            return err.code()
    return grpc.StatusCode.OK


def test_events_are_forwarded_by_ttrpc(corten: Side) -> None:
    path = "/containerd.services.events.ttrpc.v1.Events/Forward"
    assert ROWS[path].state == "done"
    assert asyncio.run(knocked(f"{corten.daemon.address}.ttrpc"))


async def knocked(address: str) -> bool:
    _, writer = await asyncio.open_unix_connection(address)
    writer.close()
    await writer.wait_closed()
    return True
