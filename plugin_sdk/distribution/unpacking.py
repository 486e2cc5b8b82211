"""Unpack: the layers of an image become snapshots, each named by its chain ID.

A layer that is in the content store is unpacked from there. One that has to be downloaded is unpacked while it comes,
if its download has not begun when its turn is (``tee``). Its snapshot is committed only when the blob has the promised
digest, and the tar the config's diff ID.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from plugin_sdk import content, daemon, errors, oci, platforms, snapshots, transfer
from plugin_sdk.distribution import graph, keeping, sentences, sharing, stored
from plugin_sdk.distribution.crew import Crew
from plugin_sdk.distribution.job import Job
from plugin_sdk.distribution.progress import Tracker
from plugin_sdk.distribution.tee import Tee, TeeStore, VerifiedStore, Voided
from plugin_sdk.layer_context import LayerContext
from plugin_sdk.mounts import Mount
from plugin_sdk.oci import Descriptor

SNAPSHOT_LABEL = "containerd.io/gc.ref.snapshot."
_LOOK = 0.1  # seconds between two looks at whether anybody still waits

NEEDED, EXTRACTING, MADE = "needed", "extracting", "made"
"""How far the unpacking of a layer is: its bytes are needed, they are in the store, its snapshot is there."""


class Shared:
    """What all transfers of a process have in common: work under way, and how many layers are unpacked at once."""

    def __init__(self, unpacks: int = 4) -> None:
        self.flights = sharing.Flights()
        self._slots = threading.BoundedSemaphore(unpacks)

    @contextlib.contextmanager
    def slot(self, check: Callable[[], None]) -> Iterator[None]:
        """One of those that may unpack now."""
        while not self._slots.acquire(timeout=_LOOK):
            check()
        try:
            yield
        finally:
            self._slots.release()


@dataclass(frozen=True, slots=True)
class Settings:
    """``snapshotter`` is the default one. ``single_pass`` unpacks while a layer comes, which needs a differ in this
    process. ``at_once`` bounds a transfer's downloads or uploads."""

    snapshotter: str = "overlayfs"
    single_pass: bool = True
    at_once: int = 4
    shared: Shared = field(default_factory=Shared)


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest with its config; ``digest`` is the manifest's."""

    digest: str
    manifest: oci.Manifest
    config: oci.ImageConfig


@dataclass(frozen=True, slots=True)
class Source:
    """Whose layers: ``reference`` is the image's name, ``digest`` that of the manifest."""

    reference: str
    digest: str
    manifest: oci.Manifest
    diff_ids: Sequence[str]

    @classmethod
    def of(cls, reference: str, image: Image) -> Source:
        """Raises InvalidArgument when config and layers do not fit."""
        source = cls(reference, image.digest, image.manifest, image.config.diff_ids)
        if len(source.diff_ids) != len(source.layers):
            others = [layer for layer in image.manifest.layers if layer not in source.layers][:1]
            raise errors.InvalidArgument(
                f"{reference}: the config {image.manifest.config.digest} lists {len(source.diff_ids)} layers "
                f"and the manifest {image.digest} {len(source.layers)}"
                + "".join(f"; {one.digest} has the media type {one.media_type}, which no layer has" for one in others)
            )
        return source

    @property
    def layers(self) -> list[Descriptor]:
        """What else is beside the layers is left out, unless the config counts it: a differ of its own may know it."""
        known = [layer for layer in self.manifest.layers if graph.is_layer(layer.media_type)]
        return list(self.manifest.layers) if len(self.manifest.layers) == len(self.diff_ids) else known

    @property
    def chain(self) -> str:
        return oci.chain_id(self.diff_ids)

    def context(self, number: int) -> LayerContext:
        chains = oci.chain_ids(self.diff_ids)
        layers = self.layers
        above = tuple(layer.digest for layer in layers[number:])
        parent = chains[number - 1] if number else ""
        return LayerContext(chains[number], parent, self.reference, self.digest, _labelled(layers[number]), above)


class Bytes(Protocol):
    """Where a layer's blob comes from when it is not in the store."""

    def obtain(self, view: daemon.View, of: Descriptor, check: Callable[[], None], tee: Tee | None) -> None:
        """Returns when the view has the blob. The bytes go through the tee, if there is one and it is not too late."""
        ...

    def is_fresh(self, of: Descriptor) -> bool:
        """Whether its digest was verified since this transfer began."""
        ...


class InStore:
    """For an image that is there."""

    def obtain(self, view: daemon.View, of: Descriptor, check: Callable[[], None], tee: Tee | None) -> None:
        if tee is not None:
            tee.take(False)
        if not keeping.hold(view, of, {}):
            raise errors.NotFound(f"{of.digest} is not in the content store")

    def is_fresh(self, of: Descriptor) -> bool:
        return False


class Unpacker:
    """Of one transfer."""

    def __init__(self, job: Job, settings: Settings, source: Bytes, tracker: Tracker) -> None:
        self._job = job
        self._settings = settings
        self._bytes = source
        self._tracker = tracker

    def unpack(
        self,
        view: daemon.View,
        source: Source,
        snapshotter: str,
        check: Callable[[], None],
        needed: Callable[[int], None] = lambda number: None,
    ) -> str:
        """Makes what is missing, takes all into the view's lease and answers the chain ID of the whole.

        ``needed`` is told the number of each layer whose bytes are needed, when that is known. Raises DataLoss when a
        layer has another diff ID than the config says.
        """
        storage = view.snapshotter(snapshotter)
        for number in range(len(source.layers)):
            self._one(storage, source, number, snapshotter, check, needed)
        return source.chain

    def _one(
        self,
        storage: snapshots.Snapshotter,
        source: Source,
        number: int,
        snapshotter: str,
        check: Callable[[], None],
        needed: Callable[[int], None],
    ) -> None:
        context = source.context(number)
        layer = source.layers[number]

        def hear(step: str) -> None:
            needed(number)
            if step != NEEDED:
                self._tracker.extracted(layer) if step == MADE else self._tracker.extracting(layer)

        def work() -> Unpacking:
            diff_id = source.diff_ids[number]
            return Unpacking(self._job, self._settings, self._bytes, layer, context, diff_id, snapshotter)

        key = ("unpack", id(self._job.daemon), self._job.namespace, snapshotter, context.target)
        with sentences.about(source.reference, layer.digest):
            while not (exists(storage, context.target) and _hold(storage, context)):
                with self._settings.shared.flights.joined(key, source.reference, work, check, hear):
                    if _hold(storage, context):
                        return


class Unpacking:
    """Implements ``sharing.Work``: one layer becomes a snapshot. Tells ``NEEDED``, ``EXTRACTING`` and ``MADE``, and
    nothing of a layer whose snapshot is there. The differ gets the layer with all its annotations."""

    def __init__(
        self,
        job: Job,
        settings: Settings,
        source: Bytes,
        layer: Descriptor,
        context: LayerContext,
        diff_id: str,
        snapshotter: str,
    ) -> None:
        self._job = job
        self._settings = settings
        self._bytes = source
        self._context = context
        self._layer = layer
        self._diff_id = diff_id
        self._snapshotter = snapshotter

    def run(self, flight: sharing.Flight) -> None:
        view = flight.hold(self._job.own())
        storage = view.snapshotter(self._snapshotter)
        try:
            made = self._make(view, storage, flight)
        except Voided:
            made = self._make(view, storage, flight)  # from the store
        if made:
            keeping.label(view.content, self._layer.digest, {oci.UNCOMPRESSED_LABEL: self._diff_id})
            flight.tell(MADE)

    def _make(self, view: daemon.View, storage: snapshots.Snapshotter, flight: sharing.Flight) -> bool:
        """False when the snapshot was there, or a remote snapshotter had it."""
        chain = self._context.target
        key = _key(chain)
        try:
            mounts = storage.prepare(key, self._context.parent, self._context.labels())
        except errors.AlreadyExists:
            if exists(storage, chain):
                return False
            raise
        try:
            with self._settings.shared.slot(flight.check):
                made = self._apply(view, mounts, flight)
            if made.digest != self._diff_id:
                raise errors.DataLoss(f"it has the diff ID {made.digest}, the image's config says {self._diff_id}")
            flight.check()
            storage.commit(chain, key, self._labels())
        except errors.AlreadyExists:
            storage.remove(key)  # another program unpacked the same layer meanwhile
        except BaseException:
            _give_up(storage, key)
            raise
        return True

    def _labels(self) -> dict[str, str]:
        return {**_inherited(self._layer), snapshots.TARGET_LABEL: self._context.target}

    def _apply(self, view: daemon.View, mounts: Sequence[Mount], flight: sharing.Flight) -> Descriptor:
        if keeping.hold(view, self._layer, {}):
            return self._apply_stored(view, mounts, flight)
        if not self._settings.single_pass:
            flight.tell(NEEDED)
            self._bytes.obtain(view, self._layer, flight.check, None)
            return self._apply_stored(view, mounts, flight)
        made = self._apply_coming(view, mounts, flight)
        return made or self._apply_stored(view, mounts, flight)

    def _apply_stored(self, view: daemon.View, mounts: Sequence[Mount], flight: sharing.Flight) -> Descriptor:
        flight.tell(EXTRACTING)
        store = VerifiedStore(view.content) if self._bytes.is_fresh(self._layer) else view.content
        return view.differ().apply(self._layer, mounts, store)

    def _apply_coming(self, view: daemon.View, mounts: Sequence[Mount], flight: sharing.Flight) -> Descriptor | None:
        """Returns when the blob is there and its digest is right. None: it came without being unpacked.

        When a layer is wrong in itself, its download goes on, since it may have other bytes than those of its digest.
        """
        made, failure = None, None
        with Crew(flight.check) as crew:
            tee = Tee(self._layer, crew.check)
            crew.start(lambda: self._bytes.obtain(view, self._layer, crew.check, tee))
            taken = tee.is_taken()
            flight.tell(NEEDED)  # not before: who hears it joins the download, which must not begin without the tee
            try:
                if taken:
                    made = view.differ().apply(self._layer, mounts, TeeStore(view.content, tee))
            except errors.Error as err:
                failure = err if tee.opened and not tee.failed and not tee.voided else None
                if failure is not None and not isinstance(err, (errors.InvalidArgument, errors.DataLoss)):
                    raise
            finally:
                tee.leave()
        if tee.voided or (tee.opened and tee.failed):  # what lies in the mounts is not known to be the layer's
            raise Voided
        if failure is not None:
            raise failure
        return made


def _labelled(layer: Descriptor) -> Descriptor:
    """With those annotations only that become labels of snapshots."""
    return Descriptor(layer.media_type, layer.digest, layer.size, _inherited(layer))


def _inherited(layer: Descriptor) -> dict[str, str]:
    return {key: text for key, text in layer.annotations.items() if key.startswith(snapshots.INHERITED_PREFIX)}


def _hold(storage: snapshots.Snapshotter, context: LayerContext) -> bool:
    """Takes a snapshot that is there into the lease; False when it has gone."""
    key = _key(context.target)
    try:
        storage.prepare(key, context.parent, {snapshots.TARGET_LABEL: context.target})
    except errors.AlreadyExists:
        return exists(storage, context.target)
    storage.remove(key)
    return False


def exists(storage: snapshots.Snapshotter, name: str) -> bool:
    try:
        storage.stat(name)
    except errors.NotFound:
        return False
    return True


def _key(chain: str) -> str:
    return f"extract-{time.time_ns() % 10**9}-{secrets.token_urlsafe(3)} {chain}"


def _give_up(storage: snapshots.Snapshotter, key: str) -> None:
    with contextlib.suppress(errors.Error):  # else the lease ends, and with it the key
        storage.remove(key)


def label_config(store: content.Store, config: Descriptor, snapshotter: str, chain: str) -> None:
    """Keeps the snapshots as long as the image; an image without layers has none."""
    if chain:
        keeping.label(store, config.digest, {SNAPSHOT_LABEL + snapshotter: chain})


def wanted(unpacks: Sequence[transfer.Unpack], images: Sequence[Image], snapshotter: str) -> list[tuple[Image, str]]:
    """For each of ``unpacks`` the image that fits best, if one does, and the snapshotter's name; none twice."""
    found: dict[tuple[int, str], Image] = {}
    for unpack in unpacks:
        host = unpack.platform or platforms.host()
        ranks = [(_rank(host, image.config.platform), at) for at, image in enumerate(images)]
        fitting = [(rank, at) for rank, at in ranks if rank is not None]
        if fitting:
            best = min(fitting)[1]
            found[best, unpack.snapshotter or snapshotter] = images[best]
    return [(image, name) for (_, name), image in found.items()]


def _rank(host: platforms.Platform, own: platforms.Platform) -> int | None:
    """An image that does not say for what it is fits last."""
    return platforms.rank(host, own) if own.architecture else 1000


def unpack(
    job: Job,
    view: daemon.View,
    target: Descriptor,
    unpacks: Sequence[transfer.Unpack],
    reference: str,
    settings: Settings | None = None,
    tracker: Tracker | None = None,
) -> list[str]:
    """Unpacks an image that is in the store, and answers the chain ID for each of ``unpacks`` that it has an image for.

    ``view`` is that of a lease. Raises NotFound when a blob that is needed is not there, InvalidArgument when a
    manifest or config is malformed or does not fit the layers, and what a differ raises.
    """
    settings = settings or Settings()
    tracker = tracker or Tracker(job, reference, "")
    unpacker = Unpacker(job, settings, InStore(), tracker)
    chains = []
    for image, snapshotter in wanted(unpacks, stored_images(view.content, target, reference), settings.snapshotter):
        source = Source.of(reference, image)
        chains.append(unpacker.unpack(view, source, snapshotter, tracker.check))
        label_config(view.content, image.manifest.config, snapshotter, source.chain)
    return chains


def stored_images(store: content.Store, target: Descriptor, reference: str) -> list[Image]:
    """Those of an index whose manifests and configs are in the store; artifacts are left out."""
    find = functools.partial(stored.find, store)
    with sentences.about(reference):
        stored.require(store, target)
        found = graph.survey(target, lambda wanted: list(map(find, wanted)), graph.Choice(), reference)
        return images(found, find)


def images(found: graph.Survey, read: Callable[[Descriptor], bytes | None]) -> list[Image]:
    """Those whose config is one of an image and can be read."""
    made = []
    for node in found.manifests:
        if node.data:
            manifest = oci.parse_manifest(node.data)
            data = read(manifest.config) if oci.is_config(manifest.config.media_type) else None
            if data is not None:
                made.append(Image(node.descriptor.digest, manifest, oci.parse_config(data)))
    return made
