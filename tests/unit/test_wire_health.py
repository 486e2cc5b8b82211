import pytest

from plugin_sdk import errors
from plugin_sdk.api.health.v1 import health_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import health, rpc

NAMES = ["containerd.services.version.v1.Version"]
SERVING = health_pb2.HealthCheckResponse.SERVING
STRANGE = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture
def channel(serve):
    return serve(health.Servicer(NAMES))


def test_check_knows_the_server_and_its_services(channel):
    proxy = health.Proxy(channel, Scope(""))
    assert proxy.check()
    assert proxy.check(NAMES[0])
    with pytest.raises(errors.NotFound, match="moon"):
        proxy.check("moon")


@pytest.mark.parametrize(("name", "wanted"), [("", SERVING), ("moon", STRANGE)])
def test_watch_says_the_status_at_once(channel, name, wanted):
    stub = rpc.Stub(channel, health.SERVICE, Scope(""))
    request = health_pb2.HealthCheckRequest(service=name)
    with stub.stream("Watch", [request], health_pb2.HealthCheckResponse) as answers:
        assert next(answers).status == wanted


def test_list_names_all(channel):
    stub = rpc.Stub(channel, health.SERVICE, Scope(""))
    answer = stub.unary("List", health_pb2.HealthListRequest(), health_pb2.HealthListResponse)
    assert {name: each.status for name, each in answer.statuses.items()} == {"": SERVING, NAMES[0]: SERVING}
