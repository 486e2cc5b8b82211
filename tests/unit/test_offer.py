from typing import Any

from kernel import offer
from kernel.events import Exchange
from plugin_sdk import daemon
from plugin_sdk.api import catalog
from plugin_sdk.wire import rpc


class Parts:
    """Enough of a daemon to make the servicers; nothing is called."""

    exchange = Exchange()
    tasks: Any = None

    def bind_namespaces(self, scope: object) -> Any:
        raise AssertionError

    def __init__(self) -> None:
        self.tasks = type("Tasks", (), {"bind": lambda self, scope: None})()

    def bind(self, scope: object) -> Any:
        raise AssertionError

    def differs(self) -> list[str]:
        return []

    def plugins(self, filters: object = ()) -> list[daemon.PluginInfo]:
        return []

    def server(self) -> daemon.ServerInfo:
        return daemon.ServerInfo("uuid", 1, 2)


LATER = {
    "containerd.services.mounts.v1.Mounts",
    "containerd.services.sandbox.v1.Controller",
    "containerd.services.sandbox.v1.Store",
    "containerd.services.streaming.v1.Streaming",
    "containerd.services.transfer.v1.Transfer",
}


def offered() -> list[rpc.Servicer]:
    parts: Any = Parts()
    return [*offer.servicers(parts), *offer.ttrpc_servicers(parts)]


def test_every_service_of_the_api_is_offered_but_those_of_later() -> None:
    assert {servicer.service for servicer in offered()} == {service.full_name for service in catalog.services()} - LATER


def test_no_service_is_offered_twice() -> None:
    names = [servicer.service for servicer in offered()]
    assert len(names) == len(set(names))


def test_what_is_offered_has_a_handler_for_each_method() -> None:
    for servicer in offered():
        assert servicer.methods
        assert all(method.handler is not None for method in servicer.methods.values()), servicer.service
