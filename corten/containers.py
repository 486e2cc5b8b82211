"""Containers of a namespace: records as objects that make tasks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from corten import specs as options_
from corten import streams
from corten.images import Image
from corten.specs import SpecOptions
from corten.streams import Stream
from corten.tasks import Task
from plugin_sdk import containers, errors, mounts, oci, runtime, specs
from plugin_sdk.containers import Runtime
from plugin_sdk.wire.containers import Proxy

if TYPE_CHECKING:
    from corten.client import Client

__all__ = ["Container", "Containers", "Runtime"]

_LABEL_LIMIT = 4096  # bytes of key and value together


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Container(containers.Container):
    """A record with what can be done with it. Equal to a plain record of the same fields."""

    client: Client = field(kw_only=True)

    def __repr__(self) -> str:
        return f"<corten.Container {self.id} image={self.image!r}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, containers.Container) and record(self) == record(other)

    __hash__ = None  # type: ignore[assignment]

    def load_spec(self) -> specs.Spec:
        """The runtime spec as an object. Raises Unimplemented for one of another kind than JSON."""
        try:
            spec: specs.Spec = json.loads(self.spec.value)
        except ValueError as err:
            raise errors.Unimplemented(f'spec of container "{self.id}" is no JSON: {self.spec.type_url}') from err
        return spec

    def load_image(self) -> Image:
        """Raises NotFound for a container without image, or whose image has gone."""
        if not self.image:
            raise errors.NotFound(f'container "{self.id}" has no image')
        return self.client.images.get(self.image)

    def refresh(self) -> Container:
        """The record as it is now."""
        return self.client.containers.get(self.id)

    def update(self, *, labels: Mapping[str, str] | None = None, spec: specs.Spec | None = None) -> Container:
        """Replaces the labels or the spec, and answers the record as it is then."""
        changed = dict(record(self))
        paths = []
        if labels is not None:
            changed["labels"], paths = labels, ["labels"]
        if spec is not None:
            changed["spec"] = runtime.Any(self.spec.type_url, json.dumps(spec).encode())
            paths = [*paths, "spec"]
        return self.client.containers.update(containers.Container(**changed), paths)

    def mounts(self) -> list[mounts.Mount]:
        """Its root file system; none for a container without snapshot."""
        return self.client.snapshotter(self.snapshotter).mounts(self.snapshot_key) if self.snapshot_key else []

    def new_task(
        self,
        *,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        terminal: bool | None = None,
        folder: Path | None = None,
        options: runtime.Any | None = None,
        checkpoint: oci.Descriptor | None = None,
    ) -> Task:
        """Makes the task, which ``start`` starts. Streams are as in ``corten.streams``; ``terminal`` None is as the
        spec says. Raises AlreadyExists when there is one."""
        has_terminal = self._wants_terminal() if terminal is None else terminal
        rootfs = self.mounts()
        made = streams.make(stdin, stdout, stderr, has_terminal, folder)
        with contextlib.ExitStack() as undo:
            undo.callback(made.close)
            pid = self.client.tasks.create(self.id, rootfs, made.stdio, options, checkpoint=checkpoint)
            task = Task(self.client, self.id, "", made, pid)
            undo.enter_context(task)
            made.begin(task.close_stdin)
            undo.pop_all()
        return task

    def task(self, *, stdin: Stream = None, stdout: Stream = None, stderr: Stream = None) -> Task:
        """The task that there is, attached to those of its streams that are given. Raises NotFound when there is none,
        FailedPrecondition for a stream that nobody can attach to."""
        found = self.client.tasks.get(self.id)
        attached = streams.attach(found.stdio, stdin, stdout, stderr)
        task = Task(self.client, self.id, "", attached, found.pid)
        attached.begin(task.close_stdin)
        return task

    def delete(self, *, snapshot: bool = True) -> None:
        """Removes the record, and its snapshot if there is one. Raises FailedPrecondition while there is a task."""
        with contextlib.suppress(errors.NotFound):
            state = self.client.tasks.get(self.id).status.name.lower()
            raise errors.FailedPrecondition(f'container "{self.id}" has a task, which is {state}: delete that first')
        self.client.containers.delete(self.id)
        if snapshot and self.snapshot_key:
            with contextlib.suppress(errors.NotFound):
                self.client.snapshotter(self.snapshotter).remove(self.snapshot_key)

    def _wants_terminal(self) -> bool:
        return bool(self.load_spec().get("process", {}).get("terminal"))


def record(container: containers.Container) -> dict[str, Any]:
    """The fields of the plain record."""
    return {each.name: getattr(container, each.name) for each in fields(containers.Container)}


class Containers(Proxy):
    """A ``plugin_sdk.containers.Store``."""

    def __init__(self, client: Client) -> None:
        super().__init__(client.channel, client.scope)
        self._client = client

    def get(self, id: str) -> Container:
        return self._bound(super().get(id))

    def list(self, filters: Sequence[str] = ()) -> Sequence[Container]:
        return [self._bound(each) for each in super().list(filters)]

    def update(self, container: containers.Container, fieldpaths: Sequence[str] = ()) -> Container:
        return self._bound(super().update(container, fieldpaths))

    def _bound(self, container: containers.Container) -> Container:
        return Container(**record(container), client=self._client)

    @overload
    def create(self, container: containers.Container, /) -> Container: ...

    @overload
    def create(
        self,
        id: str,
        /,
        *,
        image: str | Image | None = None,
        snapshotter: str = "",
        snapshot_key: str = "",
        new_snapshot: bool = True,
        read_only_view: bool = False,
        runtime: str = "",
        runtime_options: runtime.Any | None = None,
        labels: Mapping[str, str] | None = None,
        extensions: Mapping[str, runtime.Any] | None = None,
        spec: specs.Spec | None = None,
        **options: Unpack[SpecOptions],
    ) -> Container: ...

    def create(self, container: containers.Container | str, /, **given: Any) -> Container:
        """A record as it is; or by id, of an image, which is unpacked if it is not.

        The container gets a new snapshot ``snapshot_key`` (its id if not given) on top of the image's: a view that
        nobody can write to if ``read_only_view``. Without ``new_snapshot`` the key is that of one that exists. A
        container without image has none. The spec is made of the image's config and ``options`` (``SpecOptions``), or
        is ``spec`` as it is. Labels of the image become the container's, and so do ``labels``.

        Raises AlreadyExists, NotFound for the image, InvalidArgument for options that do not fit it.
        """
        if isinstance(container, containers.Container):
            return self._bound(super().create(container))
        with self._client.leased() as client:
            return self._bound(_Making(client, container, **given).record())


class _Making:
    """What ``create`` was given."""

    def __init__(
        self,
        client: Client,
        id: str,
        *,
        image: str | Image | None = None,
        snapshotter: str = "",
        snapshot_key: str = "",
        new_snapshot: bool = True,
        read_only_view: bool = False,
        runtime: str = "",
        runtime_options: runtime.Any | None = None,
        labels: Mapping[str, str] | None = None,
        extensions: Mapping[str, runtime.Any] | None = None,
        spec: specs.Spec | None = None,
        **options: Unpack[SpecOptions],
    ) -> None:
        self._client = client
        self._id = id
        self._image = client.images.get(image) if isinstance(image, str) else image
        self._has_snapshot = self._image is not None or bool(snapshot_key)
        self._snapshotter = (snapshotter or client.default("snapshotter")) if self._has_snapshot else ""
        self._key = snapshot_key or id
        self._is_new = new_snapshot and self._image is not None
        self._is_view = read_only_view
        self._runtime = containers.Runtime(runtime or client.default("runtime"), runtime_options or NOTHING)
        self._labels = labels or {}
        self._extensions = extensions or {}
        self._spec = spec
        self._options = options

    def record(self) -> containers.Container:
        config = None if self._image is None else self._client.images.config(self._image)
        with self._snapshot():
            spec = self._spec if self._spec is not None else self._made_spec(config)
            return Proxy(self._client.channel, self._client.scope).create(
                containers.Container(
                    self._id,
                    self._runtime,
                    runtime.Any(specs.TYPE_URL, json.dumps(spec).encode()),
                    "" if self._image is None else self._image.name,
                    self._snapshotter,
                    self._key if self._has_snapshot else "",
                    {**_fitting({} if config is None else config.labels), **self._labels},
                    self._extensions,
                )
            )

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """The new snapshot, if there is to be one; it goes again when the rest fails."""
        if not self._is_new:
            yield
            return
        assert self._image is not None
        chain = self._client.images.unpack(self._image, self._snapshotter)
        storage = self._client.snapshotter(self._snapshotter)
        (storage.view if self._is_view else storage.prepare)(self._key, chain)
        try:
            yield
        except BaseException:
            storage.remove(self._key)
            raise

    def _made_spec(self, config: oci.ImageConfig | None) -> specs.Spec:
        user = self._options.get("user") or (config.user if config is not None else "")
        namespace = self._client.scope.namespace
        if user in ("", "0", "0:0") or not self._has_snapshot:
            return options_.build(namespace, self._id, config, self._options, None)
        with self._client.snapshotter(self._snapshotter).mounted(self._key) as tree:  # its /etc/passwd has the names
            return options_.build(namespace, self._id, config, self._options, tree)


NOTHING = runtime.Any()


def _fitting(labels: Mapping[str, str]) -> dict[str, str]:
    """Without those that are too long for a record."""
    return {key: text for key, text in labels.items() if len((key + text).encode()) <= _LABEL_LIMIT}
