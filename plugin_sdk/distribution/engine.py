"""The engine: transfers made in this process, on whatever daemon it is given.

::

    with registry.Registries() as registries:
        engine = Engine(daemon, "default", registries=registries)
        engine.transfer(transfer.Registry(name), transfer.ImageStore(name, unpacks=[transfer.Unpack()]))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from plugin_sdk import daemon as offered
from plugin_sdk import errors, images, platforms, transfer
from plugin_sdk.distribution import exporting, importing, pulling, pushing_images, unpacking
from plugin_sdk.distribution.job import Job
from plugin_sdk.oci import Descriptor
from plugin_sdk.platforms import Platform

_CHUNK = 1 << 20


def _nobody_goes() -> None:
    """For those whose caller cannot go away."""


class Repository(pulling.Repository, pushing_images.Repository, Protocol):
    """What of ``registry.Repository`` is needed here."""

    def watched(self, check: Callable[[], None]) -> Repository: ...


class Registries(Protocol):
    """What of ``registry.Registries`` is needed here."""

    def repository(self, registry: transfer.Registry, check: Callable[[], None]) -> Repository: ...


class Engine(transfer.Transferrer):
    """``lease`` holds what is made; without one each transfer has its own. ``check`` raises when nobody waits any more.

    ``settings`` are those of unpacking; without them nothing is unpacked while it comes, which only a differ in this
    process can do. ``snapshotters`` has the default one by platform, where it is another than that of the settings.
    """

    def __init__(
        self,
        daemon: offered.Daemon,
        namespace: str,
        lease: str | None = None,
        registries: Registries | None = None,
        settings: unpacking.Settings | None = None,
        check: Callable[[], None] = _nobody_goes,
        snapshotters: Mapping[Platform, str] | None = None,
    ) -> None:
        self._daemon = daemon
        self._namespace = namespace
        self._lease = lease
        self._registries = registries
        self._settings = settings or unpacking.Settings(single_pass=False)
        self._check = check
        self._snapshotters = snapshotters or {}

    def _connect(self, registry: transfer.Registry) -> Callable[[Callable[[], None]], Repository]:
        registries = self._registries
        if registries is None:
            raise errors.Unimplemented(f"{registry.reference}: nothing here speaks to registries")
        return registries.repository(registry, self._check).watched  # all log in once

    def _defaulted(self, store: transfer.ImageStore) -> transfer.ImageStore:
        """With the snapshotters of those platforms that have one of their own."""
        unpacks = [
            replace(each, snapshotter=each.snapshotter or self._default(each.platform)) for each in store.unpacks
        ]
        return replace(store, unpacks=unpacks)

    def _default(self, wanted: Platform | None) -> str:
        own = wanted or platforms.host()
        fitting = (name for platform, name in self._snapshotters.items() if platforms.matches(own, platform))
        return next(fitting, "")

    def _import(self, job: Job, source: transfer.ImportStream, store: transfer.ImageStore) -> Sequence[str]:
        def unpack(view: offered.View, target: Descriptor, called: str) -> None:
            unpacking.unpack(job, view, target, store.unpacks, called, self._settings)

        return importing.import_stream(job, source, store, unpack if store.unpacks else None)

    def transfer(
        self, source: transfer.Source, destination: transfer.Destination, progress: transfer.Report | None = None
    ) -> Sequence[str]:
        job = Job(self._daemon, self._namespace, self._lease, progress, self._check)
        match source, destination:
            case transfer.Registry(), transfer.ImageStore():
                return pulling.pull(job, self._connect(source), self._defaulted(destination), self._settings)
            case transfer.ImageStore(), transfer.Registry():
                return pushing_images.push(job, source, self._connect(destination), self._settings)
            case transfer.ImportStream(), transfer.ImageStore():
                return self._import(job, source, self._defaulted(destination))
            case transfer.ImageStore(), transfer.ExportStream():
                return exporting.export_stream(job, source, destination)
            case transfer.ImageStore(), transfer.ImageStore():
                return _tag(job, source, destination)
            case transfer.ImportStream(), transfer.ExportStream():
                return _echo(job, source, destination)
        raise errors.Unimplemented(f"nothing is copied from {_shown(source)} to {_shown(destination)}")


def _tag(job: Job, source: transfer.ImageStore, destination: transfer.ImageStore) -> Sequence[str]:
    if not destination.name:
        raise errors.InvalidArgument(f"{source.name}: there is no name to tag it with")
    store = job.daemon.view(job.namespace, job.lease).images
    made = images.Image(destination.name, store.get(source.name).target, destination.labels)
    names = [destination.name, *(extra.name for extra in destination.extra if not extra.is_prefix)]
    for name in names:
        pulling.record(store, replace(made, name=name))
    return names


def _echo(job: Job, source: transfer.ImportStream, destination: transfer.ExportStream) -> Sequence[str]:
    while chunk := source.file.read(_CHUNK):
        job.check()
        left = memoryview(chunk)
        while left:
            left = left[destination.file.write(left) :]
    return ()


def _shown(end: object) -> str:
    words = {
        transfer.Registry: "a registry",
        transfer.ImageStore: "the image store",
        transfer.ImportStream: "an archive",
        transfer.ExportStream: "an archive",
    }
    return words.get(type(end), f"a {type(end).__name__}")
