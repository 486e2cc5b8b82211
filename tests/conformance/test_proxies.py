"""The suites through all that the daemon has before a proxy plugin: view, registry, Remote, answers, socket."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernel import plugins
from kernel.metadata.database import Database, forbid_transaction
from kernel.metadata.store import Metadata, View
from kernel.proxies.remote import Remote, Surroundings
from kernel.proxies.tables import ProxyPlugin, Spec
from plugin_sdk import content as content_contract
from plugin_sdk import plugin
from plugin_sdk import snapshots as snapshots_contract
from plugin_sdk.conformance import content, snapshots
from plugin_sdk.scope import Scope
from plugin_sdk.wire import content as wire_content
from plugin_sdk.wire import rpc
from plugin_sdk.wire import snapshots as wire_snapshots
from plugin_sdk.wire.http2.server import Server
from plugins_builtin.content import local
from plugins_builtin.snapshots import native
from tests.serving import running


@contextlib.contextmanager
def served(servicer: rpc.Servicer, address: str) -> Iterator[None]:
    with ThreadPoolExecutor(8) as threads:

        async def start() -> Server:
            server = Server(lambda name: threads)
            server.mount(servicer)
            server.listen(address)
            await server.start()
            return server

        with running(start, lambda server: server.stop()):  # type: ignore[attr-defined]
            yield


@contextlib.contextmanager
def daemon(kind: str, servicer: rpc.Servicer, folder: Path) -> Iterator[View]:
    """The view of one whose only plugin, of this kind, is at the far end of a socket."""
    with contextlib.ExitStack() as stack:
        address = f"unix://{folder}/far.sock"
        stack.enter_context(served(servicer, address))
        spec = Spec("far", kind, "plugins.toml:1", ProxyPlugin(type=kind, address=address))
        ready = threading.Event()
        surroundings = Surroundings(
            ("/var/lib/corten", "/run/corten"),
            "/var/lib/corten/far",
            folder / "peer.json",
            {},
            [],
            logging.getLogger(spec.id),
            lambda restarted: ready.set(),
            lambda: None,
            threading.Lock(),
        )
        remote = Remote(spec, surroundings)
        registry = plugins.Registry(context, forbid_transaction)
        stack.callback(registry.close)
        registry.put(plugin.Registration(kind, "far", lambda context: remote), spec.place, remote=True)
        remote.start()
        assert ready.wait(120), remote.status.text
        database = Database(folder / "meta.db")
        stack.callback(database.close)
        metadata = Metadata(database, registry)
        stack.callback(metadata.close)
        yield metadata.view(Scope("ns"))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """On tmpfs: for speed, and for a short name."""
    with tempfile.TemporaryDirectory(prefix="corten-", dir="/dev/shm") as name:
        yield Path(name)


def context(registration: plugin.Registration) -> plugin.PluginContext:
    root, nothing = Path("/none"), None
    return plugin.PluginContext(None, root, root, logging.getLogger(), nothing, nothing)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def far_snapshots(folder: Path) -> Iterator[View]:
    behind = native.Snapshotter(folder / "root")
    (folder / "s").mkdir()
    with daemon(plugin.SNAPSHOTTER, wire_snapshots.Servicer(lambda call, name: behind), folder / "s") as view:
        yield view
    behind.close()


@pytest.fixture(scope="module")
def far_content(folder: Path) -> Iterator[View]:
    behind = local.Store(folder / "content")
    (folder / "c").mkdir()
    with daemon(plugin.CONTENT, wire_content.Servicer(lambda call: behind), folder / "c") as view:
        yield view


@pytest.mark.root
class TestSnapshots(snapshots.SnapshotSuite):
    @pytest.fixture
    def snapshotter(self, far_snapshots: View) -> snapshots_contract.Snapshotter:
        return far_snapshots.snapshotter("far")

    @pytest.fixture
    def supports_sharing(self) -> bool:
        return False


class TestContent(content.ContentSuite):
    @pytest.fixture
    def store(self, far_content: View) -> content_contract.Store:
        return far_content.content

    @pytest.fixture
    def supports_truncate(self) -> bool:
        return False
