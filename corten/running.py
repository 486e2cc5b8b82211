"""Run: an image becomes a container, a task, and an exit code."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corten import importing, stdio, unpacking
from plugin_sdk import containers, content, daemon, errors, images, mounts, oci, platforms, runtime, specs

_LABEL_LIMIT = 4096  # bytes of key and value together


@dataclass(frozen=True, slots=True)
class Options:
    """As on the command line; ``mounts`` are texts such as ``type=bind,src=/a,dst=/b,options=rbind:ro``."""

    image: str
    id: str
    args: Sequence[str] = ()
    rm: bool = False
    detach: bool = False
    tty: bool = False
    env: Sequence[str] = ()
    mounts: Sequence[str] = ()
    user: str = ""
    cwd: str = ""
    read_only: bool = False
    net_host: bool = False
    memory_limit: int = 0
    snapshotter: str = "overlayfs"
    runtime: str = "io.containerd.runc.v2"


def run(connection: daemon.Daemon, namespace: str, options: Options) -> int:
    """Runs to the end and returns the exit code; with ``detach`` only starts, and returns 0."""
    view = connection.view(namespace)
    extra = [parse_mount(text) for text in options.mounts]
    with importing.leased(connection, namespace) as leased:
        _create(leased, namespace, options, extra)
    rootfs = view.snapshotter(options.snapshotter).mounts(options.id)
    if options.detach:
        with _undone(view, options):
            view.tasks.create(options.id, rootfs)
            view.tasks.start(options.id)
        return 0
    status = _run_in_foreground(view, rootfs, options)
    if options.rm:
        _remove(view, options)
    return status


def _create(view: daemon.View, namespace: str, options: Options, extra: Sequence[specs.Spec]) -> None:
    image = view.images.get(options.image)
    source = _source(view.content, image)
    config = oci.parse_config(_read(view.content, source.manifest.config))
    chain = unpacking.unpack(view, options.snapshotter, source, config.diff_ids)
    snapshotter = view.snapshotter(options.snapshotter)
    rootfs = snapshotter.prepare(options.id, chain)
    try:
        with _seen(rootfs, options.user or config.user) as tree:
            spec = _spec(namespace, options, config, tree)
        spec["mounts"] += extra
        view.containers.create(
            containers.Container(
                options.id,
                containers.Runtime(options.runtime),
                spec=runtime.Any(specs.TYPE_URL, json.dumps(spec).encode()),
                image=image.name,
                snapshotter=options.snapshotter,
                snapshot_key=options.id,
                labels={key: text for key, text in config.labels.items() if len((key + text).encode()) <= _LABEL_LIMIT},
            )
        )
    except BaseException:
        snapshotter.remove(options.id)
        raise


def _source(store: content.Store, image: images.Image) -> unpacking.Source:
    target = image.target
    while oci.is_index(target.media_type):
        target = oci.candidates(oci.parse_index(_read(store, target)), platforms.host())[0].descriptor
    return unpacking.Source(image.name, target.digest, oci.parse_manifest(_read(store, target)))


def _read(store: content.Store, blob: oci.Descriptor) -> bytes:
    with store.reader(blob.digest) as reader:
        return reader.read_at(0, reader.size)


@contextlib.contextmanager
def _seen(rootfs: Sequence[mounts.Mount], user: str) -> Iterator[Path | None]:
    """The tree in a temporary mount, if it has to be looked into: a user by name stands in its /etc/passwd."""
    if user in ("", "0", "0:0"):
        yield None
        return
    with mounts.temporary(rootfs) as path:
        yield Path(path)


def _spec(namespace: str, options: Options, config: oci.ImageConfig, tree: Path | None) -> specs.Spec:
    spec = specs.spec_from_image_config(
        specs.default_spec(namespace, options.id, hostname=options.id[:64]),
        config,
        args=options.args,
        env=options.env,
        user=options.user,
        cwd=options.cwd,
        terminal=options.tty,
        rootfs=tree,
    )
    if options.read_only:
        spec = specs.read_only(spec)
    if options.net_host:
        spec = specs.with_host_network(spec)
    if options.memory_limit:
        spec = specs.with_memory_limit(spec, options.memory_limit)
    return spec


def parse_mount(text: str) -> dict[str, Any]:
    """A mount of the spec. Raises InvalidArgument for an unknown key or a missing destination."""
    keys = {"type": "type", "src": "source", "source": "source", "dst": "destination", "destination": "destination"}
    mount: dict[str, Any] = {"type": "bind", "source": "", "destination": "", "options": []}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key == "options":
            mount["options"] = value.split(":")
        elif key in keys:
            mount[keys[key]] = value
        else:
            raise errors.InvalidArgument(
                f'mount "{text}" has the unknown key "{key}"; known are type, src, dst, options'
            )
    if not mount["destination"]:
        raise errors.InvalidArgument(f'mount "{text}" has no destination (dst=…)')
    if mount["type"] == "bind" and not {"bind", "rbind"} & set(mount["options"]):
        mount["options"].append("rbind")
    return mount


def _run_in_foreground(view: daemon.View, rootfs: Sequence[mounts.Mount], options: Options) -> int:
    with stdio.Relay(view.tasks, options.id, options.tty) as relay:
        with _undone(view, options):
            view.tasks.create(options.id, rootfs, relay.stdio)
            relay.begin()
            view.tasks.start(options.id)
        ended = view.tasks.wait(options.id)
        relay.finish()
    view.tasks.delete(options.id)
    return ended.status


@contextlib.contextmanager
def _undone(view: daemon.View, options: Options) -> Iterator[None]:
    """What does not start leaves nothing."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(errors.Error):
            _remove(view, options)
        raise


def _remove(view: daemon.View, options: Options) -> None:
    with contextlib.suppress(errors.NotFound, errors.FailedPrecondition):
        view.tasks.kill(options.id, 9)
        view.tasks.wait(options.id)
    with contextlib.suppress(errors.NotFound):
        view.tasks.delete(options.id)
    with contextlib.suppress(errors.NotFound):
        view.containers.delete(options.id)
    with contextlib.suppress(errors.NotFound):
        view.snapshotter(options.snapshotter).remove(options.id)
