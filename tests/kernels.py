"""A kernel in the test's own process, and namespaces of it to transfer into."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kernel import config, directories
from kernel.daemon import Daemon
from kernel.spawner import Spawner
from plugin_sdk import transfer
from plugin_sdk.distribution import pulling, unpacking
from plugin_sdk.distribution.job import Job
from tests import fake_registry

NAME = "registry.example/app:1"


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Daemon]:
    path = directory / "plugins.toml"
    path.write_text(f'root = "{directory}/root"\nstate = "{directory}/state"\n')
    directories.make(directory / "root", directory / "state")
    workers = Spawner(Path(__file__).parents[1])
    made = Daemon(config.load(path), workers)
    try:
        yield made
    finally:
        made.close()
        workers.close()


class Rig:
    """A namespace, a registry, and what is pulled from the one into the other."""

    def __init__(self, kernel: Daemon, namespace: str) -> None:
        self.kernel = kernel
        self.namespace = namespace
        self.view = kernel.view(namespace)
        self.registry = fake_registry.Registry()
        self.settings = unpacking.Settings()
        self.steps: list[transfer.Progress] = []

    def image(self, *, seed: object = 1, **more: Any) -> fake_registry.Image:
        """With bytes that no other test's has."""
        return fake_registry.Image(self.registry, seed=f"{self.namespace} {seed}", **more)

    def job(self, check: Any = fake_registry.never, namespace: str = "") -> Job:
        return Job(self.kernel, namespace or self.namespace, progress=self.steps.append, check=check)

    def pull(
        self,
        *,
        reference: str = NAME,
        check: Any = fake_registry.never,
        namespace: str = "",
        unpacks: Any = (),
        **more: Any,
    ) -> Any:
        store = transfer.ImageStore(reference, unpacks=unpacks, **more)
        return pulling.pull(self.job(check, namespace), self.registry.connect(reference), store, self.settings)

    def blobs(self, namespace: str = "") -> dict[str, Any]:
        return {info.digest: info for info in self.kernel.view(namespace or self.namespace).content.walk()}

    def snapshots(self, namespace: str = "", snapshotter: str = "overlayfs") -> dict[str, Any]:
        view = self.kernel.view(namespace or self.namespace)
        return {info.name: info for info in view.snapshotter(snapshotter).walk()}

    def ingests(self) -> dict[str, int]:
        return {status.ref: status.offset for status in self.view.content.list_statuses()}

    def sweep(self) -> None:
        """Collects what nothing refers to."""
        self.view.leases.create("sweep")
        self.view.leases.delete("sweep", sync=True)

    def has_only(self, *blobs: Any) -> bool:
        return set(self.blobs()) == {of.digest for of in blobs}
