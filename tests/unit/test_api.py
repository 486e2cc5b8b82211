import importlib
import runpy
from pathlib import Path

import pytest
from google.protobuf import descriptor

from plugin_sdk.api import catalog
from plugin_sdk.api.events import image_pb2, task_pb2
from plugin_sdk.api.services.content.v1 import content_pb2
from plugin_sdk.api.services.ttrpc.events.v1 import events_pb2 as ttrpc_events_pb2
from plugin_sdk.api.types.runc.options import oci_pb2

ROOT = Path(__file__).resolve().parents[2]
STUBS = sorted(path.relative_to(ROOT) for path in (ROOT / "plugin_sdk" / "api").rglob("*_pb2.py"))


def test_stubs_are_up_to_date_with_the_proto_files() -> None:
    pytest.importorskip("grpc_tools")
    generator = runpy.run_path(str(ROOT / "scripts" / "generate_api.py"))
    assert generator["stale"]() == []


@pytest.mark.parametrize("stub", STUBS, ids=str)
def test_every_stub_can_be_imported(stub: Path) -> None:
    module = importlib.import_module(".".join(stub.with_suffix("").parts))
    assert isinstance(module.DESCRIPTOR, descriptor.FileDescriptor)


def test_type_urls_are_those_that_clients_expect() -> None:
    assert task_pb2.TaskExit.DESCRIPTOR.full_name == "containerd.events.TaskExit"
    assert image_pb2.ImageCreate.DESCRIPTOR.full_name == "containerd.services.images.v1.ImageCreate"
    assert oci_pb2.Options.DESCRIPTOR.full_name == "containerd.runc.v1.Options"
    assert ttrpc_events_pb2.DESCRIPTOR.package == "containerd.services.events.ttrpc.v1"


def test_a_message_has_the_bytes_that_peers_send() -> None:
    request = content_pb2.WriteContentRequest(action=content_pb2.COMMIT, ref="r", total=3, data=b"abc")
    assert request.SerializeToString() == b"\x08\x02\x12\x01r\x18\x03\x32\x03abc"


def test_the_catalog_lists_each_rpc_once() -> None:
    rpcs = list(catalog.rpcs())
    assert len({rpc.path for rpc in rpcs}) == len(rpcs)
    write = next(rpc for rpc in rpcs if rpc.path == "/containerd.services.content.v1.Content/Write")
    assert (write.client_streaming, write.server_streaming) == (True, True)


def test_the_catalog_covers_every_service_of_the_proto_files() -> None:
    files = [importlib.import_module(".".join(stub.with_suffix("").parts)).DESCRIPTOR for stub in STUBS]
    declared = {service.full_name for file in files for service in file.services_by_name.values()}
    listed = {service.full_name for service in catalog.services(catalog.DAEMON + catalog.SHIM + catalog.PLUGIN)}
    assert listed == declared
