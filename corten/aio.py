"""The client library for asyncio: ``corten`` with the same names, made of it by scripts/aio.py. Do not edit.

What would block is awaited; what is iterated is iterated with ``async for``; contexts are ``async with``. Streams of
processes are ``corten.awaiting.File``. Each object has the blocking one as ``blocking``.
"""

from __future__ import annotations

import builtins
import collections.abc
import contextlib
import datetime
import pathlib
import typing

import corten
from corten import awaiting
from corten.awaiting import File, Following, follow

if typing.TYPE_CHECKING:
    import corten.client
    import corten.containers
    import corten.content
    import corten.events
    import corten.images
    import corten.leases
    import corten.metrics
    import corten.snapshots
    import corten.specs
    import corten.streams
    import corten.tasks
    import corten.transfers
    import plugin_sdk.containers
    import plugin_sdk.content
    import plugin_sdk.daemon
    import plugin_sdk.events
    import plugin_sdk.images
    import plugin_sdk.leases
    import plugin_sdk.mounts
    import plugin_sdk.namespaces
    import plugin_sdk.oci
    import plugin_sdk.platforms
    import plugin_sdk.runtime
    import plugin_sdk.scope
    import plugin_sdk.snapshots
    import plugin_sdk.transfer
    from corten.client import Tls
__all__ = [
    "Client",
    "Container",
    "Containers",
    "Content",
    "Events",
    "File",
    "Following",
    "Images",
    "Leases",
    "Namespaces",
    "Process",
    "Reader",
    "Snapshotter",
    "Task",
    "Tasks",
    "Transfers",
    "Writer",
    "connect",
    "follow",
]


class Client(awaiting.Mirror["corten.client.Client"]):
    """As ``corten.client.Client``."""

    @property
    def scope(self) -> plugin_sdk.scope.Scope:
        return self.blocking.scope

    async def close(self) -> None:
        await awaiting.call(self.blocking.close)

    @property
    def containers(self) -> Containers:
        return Containers(self.blocking.containers)

    @property
    def content(self) -> Content:
        return Content(self.blocking.content)

    async def default(self, kind: str) -> str:
        return await awaiting.call(self.blocking.default, kind)

    @property
    def events(self) -> Events:
        return Events(self.blocking.events)

    async def health(self, name: str = "") -> bool:
        return await awaiting.call(self.blocking.health, name)

    @property
    def images(self) -> Images:
        return Images(self.blocking.images)

    def lease(
        self,
        id: str = "",
        labels: collections.abc.Mapping[str, str] | None = None,
        expires: datetime.timedelta = datetime.timedelta(days=1),
    ) -> contextlib.AbstractAsyncContextManager[Client]:
        return awaiting.entered(self.blocking.lease(id, labels, expires), Client)

    @property
    def leases(self) -> Leases:
        return Leases(self.blocking.leases)

    def namespace(self, name: str) -> Client:
        return Client(self.blocking.namespace(name))

    @property
    def namespaces(self) -> Namespaces:
        return Namespaces(self.blocking.namespaces)

    async def plugins(self, filters: collections.abc.Sequence[str] = ()) -> builtins.list[plugin_sdk.daemon.PluginInfo]:
        return await awaiting.call(self.blocking.plugins, filters)

    async def server(self) -> plugin_sdk.daemon.ServerInfo:
        return await awaiting.call(self.blocking.server)

    async def snapshotter(self, name: str = "") -> Snapshotter:
        return Snapshotter(await awaiting.call(self.blocking.snapshotter, name))

    @property
    def tasks(self) -> Tasks:
        return Tasks(self.blocking.tasks)

    @property
    def transfer(self) -> Transfers:
        return Transfers(self.blocking.transfer)

    async def version(self) -> corten.client.Version:
        return await awaiting.call(self.blocking.version)

    def view(self, namespace: str, lease: str | None = None) -> Client:
        return Client(self.blocking.view(namespace, lease))

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc: typing.Any) -> None:
        await awaiting.call(self.blocking.__exit__, *exc)


class Container(awaiting.Mirror["corten.containers.Container"]):
    """As ``corten.containers.Container``."""

    @property
    def id(self) -> str:
        return self.blocking.id

    @property
    def runtime(self) -> plugin_sdk.containers.Runtime:
        return self.blocking.runtime

    @property
    def spec(self) -> plugin_sdk.runtime.Any:
        return self.blocking.spec

    @property
    def image(self) -> str:
        return self.blocking.image

    @property
    def snapshotter(self) -> str:
        return self.blocking.snapshotter

    @property
    def snapshot_key(self) -> str:
        return self.blocking.snapshot_key

    @property
    def labels(self) -> collections.abc.Mapping[str, str]:
        return self.blocking.labels

    @property
    def extensions(self) -> collections.abc.Mapping[str, plugin_sdk.runtime.Any]:
        return self.blocking.extensions

    @property
    def sandbox(self) -> str:
        return self.blocking.sandbox

    @property
    def created_at(self) -> int:
        return self.blocking.created_at

    @property
    def updated_at(self) -> int:
        return self.blocking.updated_at

    async def delete(self, *, snapshot: bool = True) -> None:
        await awaiting.call(self.blocking.delete, snapshot=snapshot)

    async def load_image(self) -> plugin_sdk.images.Image:
        return await awaiting.call(self.blocking.load_image)

    async def load_spec(self) -> builtins.dict[str, typing.Any]:
        return await awaiting.call(self.blocking.load_spec)

    async def mounts(self) -> builtins.list[plugin_sdk.mounts.Mount]:
        return await awaiting.call(self.blocking.mounts)

    async def new_task(
        self,
        *,
        stdin: int | str | corten.streams.HasDescriptor | None = None,
        stdout: int | str | corten.streams.HasDescriptor | None = None,
        stderr: int | str | corten.streams.HasDescriptor | None = None,
        terminal: bool | None = None,
        folder: pathlib.Path | None = None,
        options: plugin_sdk.runtime.Any | None = None,
        checkpoint: plugin_sdk.oci.Descriptor | None = None,
    ) -> Task:
        return Task(
            await awaiting.call(
                self.blocking.new_task,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                terminal=terminal,
                folder=folder,
                options=options,
                checkpoint=checkpoint,
            )
        )

    async def refresh(self) -> Container:
        return Container(await awaiting.call(self.blocking.refresh))

    async def task(
        self,
        *,
        stdin: int | str | corten.streams.HasDescriptor | None = None,
        stdout: int | str | corten.streams.HasDescriptor | None = None,
        stderr: int | str | corten.streams.HasDescriptor | None = None,
    ) -> Task:
        return Task(await awaiting.call(self.blocking.task, stdin=stdin, stdout=stdout, stderr=stderr))

    async def update(
        self,
        *,
        labels: collections.abc.Mapping[str, str] | None = None,
        spec: builtins.dict[str, typing.Any] | None = None,
    ) -> Container:
        return Container(await awaiting.call(self.blocking.update, labels=labels, spec=spec))


class Containers(awaiting.Mirror["corten.containers.Containers"]):
    """As ``corten.containers.Containers``."""

    @typing.overload
    async def create(self, container: plugin_sdk.containers.Container, /) -> Container: ...

    @typing.overload
    async def create(
        self,
        id: str,
        /,
        *,
        image: str | plugin_sdk.images.Image | None = None,
        snapshotter: str = "",
        snapshot_key: str = "",
        new_snapshot: bool = True,
        read_only_view: bool = False,
        runtime: str = "",
        runtime_options: plugin_sdk.runtime.Any | None = None,
        labels: collections.abc.Mapping[str, str] | None = None,
        extensions: collections.abc.Mapping[str, plugin_sdk.runtime.Any] | None = None,
        spec: builtins.dict[str, typing.Any] | None = None,
        **options: typing.Unpack[corten.specs.SpecOptions],
    ) -> Container: ...

    async def create(self, container: plugin_sdk.containers.Container | str, /, **given: typing.Any) -> Container:
        return Container(await awaiting.call(typing.cast("typing.Any", self.blocking.create), container, **given))

    async def delete(self, id: str) -> None:
        await awaiting.call(self.blocking.delete, id)

    async def get(self, id: str) -> Container:
        return Container(await awaiting.call(self.blocking.get, id))

    async def list(self, filters: collections.abc.Sequence[str] = ()) -> collections.abc.Sequence[Container]:
        return [Container(each) for each in await awaiting.call(self.blocking.list, filters)]

    async def update(
        self, container: plugin_sdk.containers.Container, fieldpaths: collections.abc.Sequence[str] = ()
    ) -> Container:
        return Container(await awaiting.call(self.blocking.update, container, fieldpaths))


class Content(awaiting.Mirror["corten.content.Content"]):
    """As ``corten.content.Content``."""

    async def abort(self, ref: str) -> None:
        await awaiting.call(self.blocking.abort, ref)

    async def delete(self, digest: str) -> None:
        await awaiting.call(self.blocking.delete, digest)

    async def info(self, digest: str) -> plugin_sdk.content.Info:
        return await awaiting.call(self.blocking.info, digest)

    async def list_statuses(
        self, filters: collections.abc.Sequence[str] = ()
    ) -> builtins.list[plugin_sdk.content.Status]:
        return await awaiting.call(self.blocking.list_statuses, filters)

    async def put(
        self, data: bytes | typing.BinaryIO, labels: collections.abc.Mapping[str, str] | None = None, expected: str = ""
    ) -> corten.content.Blob:
        return await awaiting.call(self.blocking.put, data, labels, expected)

    async def read(self, digest: str) -> bytes:
        return await awaiting.call(self.blocking.read, digest)

    async def reader(self, digest: str) -> Reader:
        return Reader(await awaiting.call(self.blocking.reader, digest))

    async def status(self, ref: str) -> plugin_sdk.content.Status:
        return await awaiting.call(self.blocking.status, ref)

    async def update(
        self, info: plugin_sdk.content.Info, fieldpaths: collections.abc.Sequence[str] = ()
    ) -> plugin_sdk.content.Info:
        return await awaiting.call(self.blocking.update, info, fieldpaths)

    def walk(self, filters: collections.abc.Sequence[str] = ()) -> awaiting.Iteration[plugin_sdk.content.Info]:
        return awaiting.Iteration(lambda: self.blocking.walk(filters))

    async def writer(self, ref: str, total: int = 0, expected: str = "") -> Writer:
        return Writer(await awaiting.call(self.blocking.writer, ref, total, expected))


class Events(awaiting.Mirror["corten.events.Events"]):
    """As ``corten.events.Events``."""

    async def forward(self, envelope: plugin_sdk.events.Envelope) -> None:
        await awaiting.call(self.blocking.forward, envelope)

    async def publish(self, topic: str, event: plugin_sdk.runtime.Any) -> None:
        await awaiting.call(self.blocking.publish, topic, event)

    def subscribe(self, filters: collections.abc.Sequence[str] = ()) -> awaiting.Iteration[plugin_sdk.events.Envelope]:
        return awaiting.Iteration(lambda: self.blocking.subscribe(filters))


class Images(awaiting.Mirror["corten.images.Images"]):
    """As ``corten.images.Images``."""

    async def chain_id(
        self, image: str | plugin_sdk.images.Image, platform: plugin_sdk.platforms.Platform | None = None
    ) -> str:
        return await awaiting.call(self.blocking.chain_id, image, platform)

    async def config(
        self, image: str | plugin_sdk.images.Image, platform: plugin_sdk.platforms.Platform | None = None
    ) -> plugin_sdk.oci.ImageConfig:
        return await awaiting.call(self.blocking.config, image, platform)

    async def create(
        self, image: plugin_sdk.images.Image, source_date_epoch: int | None = None
    ) -> plugin_sdk.images.Image:
        return await awaiting.call(self.blocking.create, image, source_date_epoch)

    async def delete(self, name: str, *, sync: bool = False, target: plugin_sdk.oci.Descriptor | None = None) -> None:
        await awaiting.call(self.blocking.delete, name, sync=sync, target=target)

    async def export(
        self,
        images: str | plugin_sdk.images.Image | collections.abc.Sequence[str | plugin_sdk.images.Image],
        archive: typing.BinaryIO | pathlib.Path | str,
        *,
        platforms: collections.abc.Sequence[plugin_sdk.platforms.Platform] = (),
        all_platforms: bool = False,
        docker: bool = True,
        foreign: bool = True,
        progress: collections.abc.Callable[[plugin_sdk.transfer.Progress], None] | None = None,
    ) -> None:
        await awaiting.call(
            self.blocking.export,
            images,
            archive,
            platforms=platforms,
            all_platforms=all_platforms,
            docker=docker,
            foreign=foreign,
            progress=progress,
        )

    async def get(self, name: str) -> plugin_sdk.images.Image:
        return await awaiting.call(self.blocking.get, name)

    async def import_(
        self,
        archive: typing.BinaryIO | pathlib.Path | str,
        *,
        name: str = "",
        names: collections.abc.Sequence[plugin_sdk.transfer.Name] = (),
        platforms: collections.abc.Sequence[plugin_sdk.platforms.Platform] = (),
        all_platforms: bool = False,
        unpack: bool = True,
        snapshotter: str = "",
        labels: collections.abc.Mapping[str, str] | None = None,
        compress: bool = False,
        progress: collections.abc.Callable[[plugin_sdk.transfer.Progress], None] | None = None,
    ) -> collections.abc.Sequence[plugin_sdk.images.Image]:
        return await awaiting.call(
            self.blocking.import_,
            archive,
            name=name,
            names=names,
            platforms=platforms,
            all_platforms=all_platforms,
            unpack=unpack,
            snapshotter=snapshotter,
            labels=labels,
            compress=compress,
            progress=progress,
        )

    async def is_unpacked(
        self,
        image: str | plugin_sdk.images.Image,
        snapshotter: str = "",
        platform: plugin_sdk.platforms.Platform | None = None,
    ) -> bool:
        return await awaiting.call(self.blocking.is_unpacked, image, snapshotter, platform)

    async def list(
        self, filters: collections.abc.Sequence[str] = ()
    ) -> collections.abc.Sequence[plugin_sdk.images.Image]:
        return await awaiting.call(self.blocking.list, filters)

    async def manifest(
        self, image: str | plugin_sdk.images.Image, platform: plugin_sdk.platforms.Platform | None = None
    ) -> plugin_sdk.oci.Manifest:
        return await awaiting.call(self.blocking.manifest, image, platform)

    async def platforms(self, image: str | plugin_sdk.images.Image) -> builtins.list[plugin_sdk.platforms.Platform]:
        return await awaiting.call(self.blocking.platforms, image)

    async def pull(
        self,
        reference: str | plugin_sdk.transfer.Registry,
        *,
        name: str = "",
        platforms: collections.abc.Sequence[plugin_sdk.platforms.Platform] = (),
        all_platforms: bool = False,
        unpack: bool = True,
        snapshotter: str = "",
        labels: collections.abc.Mapping[str, str] | None = None,
        progress: collections.abc.Callable[[plugin_sdk.transfer.Progress], None] | None = None,
        **options: typing.Unpack[corten.transfers.RegistryOptions],
    ) -> plugin_sdk.images.Image:
        return await awaiting.call(
            self.blocking.pull,
            reference,
            name=name,
            platforms=platforms,
            all_platforms=all_platforms,
            unpack=unpack,
            snapshotter=snapshotter,
            labels=labels,
            progress=progress,
            **options,
        )

    async def push(
        self,
        image: str | plugin_sdk.images.Image,
        reference: str | plugin_sdk.transfer.Registry = "",
        *,
        platforms: collections.abc.Sequence[plugin_sdk.platforms.Platform] = (),
        progress: collections.abc.Callable[[plugin_sdk.transfer.Progress], None] | None = None,
        **options: typing.Unpack[corten.transfers.RegistryOptions],
    ) -> None:
        await awaiting.call(self.blocking.push, image, reference, platforms=platforms, progress=progress, **options)

    async def tag(
        self, image: str | plugin_sdk.images.Image, name: str, *, force: bool = False
    ) -> plugin_sdk.images.Image:
        return await awaiting.call(self.blocking.tag, image, name, force=force)

    async def target(
        self, image: str | plugin_sdk.images.Image, platform: plugin_sdk.platforms.Platform | None = None
    ) -> plugin_sdk.oci.Descriptor:
        return await awaiting.call(self.blocking.target, image, platform)

    async def unpack(
        self,
        image: str | plugin_sdk.images.Image,
        snapshotter: str = "",
        platform: plugin_sdk.platforms.Platform | None = None,
        *,
        progress: collections.abc.Callable[[plugin_sdk.transfer.Progress], None] | None = None,
    ) -> str:
        return await awaiting.call(self.blocking.unpack, image, snapshotter, platform, progress=progress)

    async def update(
        self,
        image: plugin_sdk.images.Image,
        fieldpaths: collections.abc.Sequence[str] = (),
        source_date_epoch: int | None = None,
    ) -> plugin_sdk.images.Image:
        return await awaiting.call(self.blocking.update, image, fieldpaths, source_date_epoch)

    async def usage(self, image: str | plugin_sdk.images.Image, snapshotter: str = "") -> corten.images.Usage:
        return await awaiting.call(self.blocking.usage, image, snapshotter)


class Leases(awaiting.Mirror["corten.leases.Leases"]):
    """As ``corten.leases.Leases``."""

    async def add_resource(self, id: str, resource: plugin_sdk.leases.Resource) -> None:
        await awaiting.call(self.blocking.add_resource, id, resource)

    async def create(self, id: str, labels: collections.abc.Mapping[str, str] | None = None) -> plugin_sdk.leases.Lease:
        return await awaiting.call(self.blocking.create, id, labels)

    async def delete(self, id: str, *, sync: bool = False) -> None:
        await awaiting.call(self.blocking.delete, id, sync=sync)

    async def delete_resource(self, id: str, resource: plugin_sdk.leases.Resource) -> None:
        await awaiting.call(self.blocking.delete_resource, id, resource)

    async def get(self, id: str) -> plugin_sdk.leases.Lease:
        return await awaiting.call(self.blocking.get, id)

    async def list(
        self, filters: collections.abc.Sequence[str] = ()
    ) -> collections.abc.Sequence[plugin_sdk.leases.Lease]:
        return await awaiting.call(self.blocking.list, filters)

    async def list_resources(self, id: str) -> collections.abc.Sequence[plugin_sdk.leases.Resource]:
        return await awaiting.call(self.blocking.list_resources, id)


class Namespaces(awaiting.Mirror["plugin_sdk.namespaces.Store"]):
    """As ``plugin_sdk.namespaces.Store``."""

    async def create(self, namespace: plugin_sdk.namespaces.Namespace) -> plugin_sdk.namespaces.Namespace:
        return await awaiting.call(self.blocking.create, namespace)

    async def delete(self, name: str) -> None:
        await awaiting.call(self.blocking.delete, name)

    async def get(self, name: str) -> plugin_sdk.namespaces.Namespace:
        return await awaiting.call(self.blocking.get, name)

    async def list(
        self, filters: collections.abc.Sequence[str] = ()
    ) -> collections.abc.Sequence[plugin_sdk.namespaces.Namespace]:
        return await awaiting.call(self.blocking.list, filters)

    async def update(
        self, namespace: plugin_sdk.namespaces.Namespace, fieldpaths: collections.abc.Sequence[str] = ()
    ) -> plugin_sdk.namespaces.Namespace:
        return await awaiting.call(self.blocking.update, namespace, fieldpaths)


class Process(awaiting.Mirror["corten.tasks.Process"]):
    """As ``corten.tasks.Process``."""

    @property
    def id(self) -> str:
        return self.blocking.id

    @property
    def exec_id(self) -> str:
        return self.blocking.exec_id

    @property
    def pid(self) -> int:
        return self.blocking.pid

    async def close(self) -> None:
        await awaiting.call(self.blocking.close)

    async def close_stdin(self) -> None:
        await awaiting.call(self.blocking.close_stdin)

    async def delete(self, *, kill: bool = False) -> plugin_sdk.runtime.Exit:
        return await awaiting.call(self.blocking.delete, kill=kill)

    async def kill(self, signal: int = 15, *, all: bool = False) -> None:
        await awaiting.call(self.blocking.kill, signal, all=all)

    async def resize(self, columns: int, rows: int) -> None:
        await awaiting.call(self.blocking.resize, columns, rows)

    async def start(self) -> int:
        return await awaiting.call(self.blocking.start)

    async def state(self) -> plugin_sdk.runtime.Process:
        return await awaiting.call(self.blocking.state)

    async def status(self) -> plugin_sdk.runtime.Status:
        return await awaiting.call(self.blocking.status)

    @property
    def stderr(self) -> File | None:
        return None if self.blocking.stderr is None else File(self.blocking.stderr)

    @property
    def stdin(self) -> File | None:
        return None if self.blocking.stdin is None else File(self.blocking.stdin)

    @property
    def stdio(self) -> plugin_sdk.runtime.Stdio:
        return self.blocking.stdio

    @property
    def stdout(self) -> File | None:
        return None if self.blocking.stdout is None else File(self.blocking.stdout)

    async def wait(self, timeout: float | None = None) -> plugin_sdk.runtime.Exit:
        return await awaiting.call(self.blocking.wait, timeout)

    async def __aenter__(self) -> Process:
        return self

    async def __aexit__(self, *exc: typing.Any) -> None:
        await awaiting.call(self.blocking.__exit__, *exc)


class Reader(awaiting.Mirror["plugin_sdk.content.Reader"]):
    """As ``plugin_sdk.content.Reader``."""

    async def close(self) -> None:
        await awaiting.call(self.blocking.close)

    async def read_at(self, offset: int, size: int) -> bytes:
        return await awaiting.call(self.blocking.read_at, offset, size)

    @property
    def size(self) -> int:
        return self.blocking.size

    async def __aenter__(self) -> Reader:
        return self

    async def __aexit__(self, *exc: typing.Any) -> None:
        await awaiting.call(self.blocking.__exit__, *exc)


class Snapshotter(awaiting.Mirror["corten.snapshots.Snapshotter"]):
    """As ``corten.snapshots.Snapshotter``."""

    async def cleanup(self) -> None:
        await awaiting.call(self.blocking.cleanup)

    async def close(self) -> None:
        await awaiting.call(self.blocking.close)

    async def commit(self, name: str, key: str, labels: collections.abc.Mapping[str, str] | None = None) -> None:
        await awaiting.call(self.blocking.commit, name, key, labels)

    async def exists(self, key: str) -> bool:
        return await awaiting.call(self.blocking.exists, key)

    def mounted(self, key: str) -> contextlib.AbstractAsyncContextManager[pathlib.Path]:
        return awaiting.entered(self.blocking.mounted(key), lambda value: value)

    async def mounts(self, key: str) -> builtins.list[plugin_sdk.mounts.Mount]:
        return await awaiting.call(self.blocking.mounts, key)

    async def prepare(
        self, key: str, parent: str = "", labels: collections.abc.Mapping[str, str] | None = None
    ) -> builtins.list[plugin_sdk.mounts.Mount]:
        return await awaiting.call(self.blocking.prepare, key, parent, labels)

    def read_only(self, name: str) -> contextlib.AbstractAsyncContextManager[pathlib.Path]:
        return awaiting.entered(self.blocking.read_only(name), lambda value: value)

    async def remove(self, key: str) -> None:
        await awaiting.call(self.blocking.remove, key)

    async def stat(self, key: str) -> plugin_sdk.snapshots.Info:
        return await awaiting.call(self.blocking.stat, key)

    async def update(
        self, info: plugin_sdk.snapshots.Info, fieldpaths: collections.abc.Sequence[str] = ()
    ) -> plugin_sdk.snapshots.Info:
        return await awaiting.call(self.blocking.update, info, fieldpaths)

    async def usage(self, key: str) -> plugin_sdk.snapshots.Usage:
        return await awaiting.call(self.blocking.usage, key)

    def view(
        self, key: str, parent: str = "", labels: collections.abc.Mapping[str, str] | None = None
    ) -> builtins.list[plugin_sdk.mounts.Mount]:
        return self.blocking.view(key, parent, labels)

    def walk(self, filters: collections.abc.Sequence[str] = ()) -> awaiting.Iteration[plugin_sdk.snapshots.Info]:
        return awaiting.Iteration(lambda: self.blocking.walk(filters))


class Tasks(awaiting.Mirror["corten.tasks.Tasks"]):
    """As ``corten.tasks.Tasks``."""

    async def checkpoint(
        self, id: str, parent: str = "", options: plugin_sdk.runtime.Any | None = None
    ) -> collections.abc.Sequence[plugin_sdk.oci.Descriptor]:
        return await awaiting.call(self.blocking.checkpoint, id, parent, options)

    async def close_io(self, id: str, exec_id: str = "", *, stdin: bool = True) -> None:
        await awaiting.call(self.blocking.close_io, id, exec_id, stdin=stdin)

    async def create(
        self,
        id: str,
        rootfs: collections.abc.Sequence[plugin_sdk.mounts.Mount] = (),
        stdio: plugin_sdk.runtime.Stdio | None = None,
        options: plugin_sdk.runtime.Any | None = None,
        runtime_path: str = "",
        checkpoint: plugin_sdk.oci.Descriptor | None = None,
    ) -> int:
        return await awaiting.call(self.blocking.create, id, rootfs, stdio, options, runtime_path, checkpoint)

    async def delete(self, id: str, exec_id: str = "") -> plugin_sdk.runtime.Exit:
        return await awaiting.call(self.blocking.delete, id, exec_id)

    async def exec(self, id: str, exec_id: str, spec: plugin_sdk.runtime.Any, stdio: plugin_sdk.runtime.Stdio) -> None:
        await awaiting.call(self.blocking.exec, id, exec_id, spec, stdio)

    async def figures(self, filters: collections.abc.Sequence[str] = ()) -> builtins.list[corten.metrics.Metrics]:
        return await awaiting.call(self.blocking.figures, filters)

    async def get(self, id: str, exec_id: str = "") -> plugin_sdk.runtime.Process:
        return await awaiting.call(self.blocking.get, id, exec_id)

    async def kill(self, id: str, signal: int, exec_id: str = "", *, all: bool = False) -> None:
        await awaiting.call(self.blocking.kill, id, signal, exec_id, all=all)

    async def list(self, filter: str = "") -> collections.abc.Sequence[plugin_sdk.runtime.Process]:
        return await awaiting.call(self.blocking.list, filter)

    async def metrics(
        self, filters: collections.abc.Sequence[str] = ()
    ) -> collections.abc.Sequence[builtins.tuple[str, int, plugin_sdk.runtime.Any]]:
        return await awaiting.call(self.blocking.metrics, filters)

    async def pause(self, id: str) -> None:
        await awaiting.call(self.blocking.pause, id)

    async def pids(self, id: str) -> collections.abc.Sequence[plugin_sdk.runtime.ProcessInfo]:
        return await awaiting.call(self.blocking.pids, id)

    async def resize_pty(self, id: str, width: int, height: int, exec_id: str = "") -> None:
        await awaiting.call(self.blocking.resize_pty, id, width, height, exec_id)

    async def resume(self, id: str) -> None:
        await awaiting.call(self.blocking.resume, id)

    async def start(self, id: str, exec_id: str = "") -> int:
        return await awaiting.call(self.blocking.start, id, exec_id)

    async def update(
        self, id: str, resources: plugin_sdk.runtime.Any, annotations: collections.abc.Mapping[str, str] | None = None
    ) -> None:
        await awaiting.call(self.blocking.update, id, resources, annotations)

    async def wait(self, id: str, exec_id: str = "", timeout: float | None = None) -> plugin_sdk.runtime.Exit:
        return await awaiting.call(self.blocking.wait, id, exec_id, timeout)


class Transfers(awaiting.Mirror["corten.transfers.Transfers"]):
    """As ``corten.transfers.Transfers``."""

    async def transfer(
        self,
        source: plugin_sdk.transfer.Registry | plugin_sdk.transfer.ImageStore | plugin_sdk.transfer.ImportStream,
        destination: plugin_sdk.transfer.Registry | plugin_sdk.transfer.ImageStore | plugin_sdk.transfer.ExportStream,
        progress: collections.abc.Callable[[plugin_sdk.transfer.Progress], None] | None = None,
    ) -> collections.abc.Sequence[str]:
        return await awaiting.call(self.blocking.transfer, source, destination, progress)


class Writer(awaiting.Mirror["plugin_sdk.content.Writer"]):
    """As ``plugin_sdk.content.Writer``."""

    async def close(self) -> None:
        await awaiting.call(self.blocking.close)

    async def commit(
        self, size: int = 0, expected: str = "", labels: collections.abc.Mapping[str, str] | None = None
    ) -> str:
        return await awaiting.call(self.blocking.commit, size, expected, labels)

    async def digest(self) -> str:
        return await awaiting.call(self.blocking.digest)

    async def status(self) -> plugin_sdk.content.Status:
        return await awaiting.call(self.blocking.status)

    async def truncate(self, size: int) -> None:
        await awaiting.call(self.blocking.truncate, size)

    async def write(self, data: bytes | memoryview) -> int:
        return await awaiting.call(self.blocking.write, data)

    async def __aenter__(self) -> Writer:
        return self

    async def __aexit__(self, *exc: typing.Any) -> None:
        await awaiting.call(self.blocking.__exit__, *exc)


class Task(Process):
    """As ``corten.tasks.Task``."""

    blocking: corten.tasks.Task

    async def checkpoint(self) -> collections.abc.Sequence[plugin_sdk.oci.Descriptor]:
        return await awaiting.call(self.blocking.checkpoint)

    async def exec(
        self,
        args: collections.abc.Sequence[str],
        *,
        exec_id: str = "",
        env: collections.abc.Sequence[str] | collections.abc.Mapping[str, str] = (),
        user: str = "",
        cwd: str = "",
        terminal: bool = False,
        stdin: int | str | corten.streams.HasDescriptor | None = None,
        stdout: int | str | corten.streams.HasDescriptor | None = None,
        stderr: int | str | corten.streams.HasDescriptor | None = None,
        folder: pathlib.Path | None = None,
    ) -> Process:
        return Process(
            await awaiting.call(
                self.blocking.exec,
                args,
                exec_id=exec_id,
                env=env,
                user=user,
                cwd=cwd,
                terminal=terminal,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                folder=folder,
            )
        )

    async def metrics(self) -> corten.metrics.Metrics:
        return await awaiting.call(self.blocking.metrics)

    async def pause(self) -> None:
        await awaiting.call(self.blocking.pause)

    async def pids(self) -> collections.abc.Sequence[plugin_sdk.runtime.ProcessInfo]:
        return await awaiting.call(self.blocking.pids)

    async def resume(self) -> None:
        await awaiting.call(self.blocking.resume)

    async def update(self, resources: collections.abc.Mapping[str, object]) -> None:
        await awaiting.call(self.blocking.update, resources)

    async def __aenter__(self) -> Task:
        return self


def connect(address: str | None = None, namespace: str | None = None, *, tls: Tls | None = None) -> Client:
    """As ``corten.connect``."""
    return Client(corten.connect(address, namespace, tls=tls).over(awaiting.Linked, awaiting.current))
