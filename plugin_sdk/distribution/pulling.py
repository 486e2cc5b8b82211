"""Pull: an image comes from a registry into the store, and becomes snapshots on its way.

Order. Manifests and configs are read first, and written last: a blob that is there has all it refers to. Layers are
downloaded when their unpacking needs them; those below the first that is needed are not, since their snapshots are
there. Without unpacking all are.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from plugin_sdk import daemon, errors, images, oci, transfer
from plugin_sdk.distribution import downloading, graph, keeping, sentences, sharing, stored, unpacking
from plugin_sdk.distribution.crew import Crew
from plugin_sdk.distribution.job import Job
from plugin_sdk.distribution.progress import DOWNLOADING, Tracker
from plugin_sdk.distribution.references import Reference
from plugin_sdk.distribution.tee import Tee
from plugin_sdk.oci import Descriptor

Check = Callable[[], None]


class Repository(downloading.Fetcher, Protocol):
    """What of ``registry.Repository`` a pull needs."""

    @property
    def reference(self) -> Reference: ...

    def resolve(self) -> Descriptor: ...

    def read(self, of: Descriptor, limit: int = 0) -> bytes: ...


_FOREIGN = {True: ["a foreign layer, which is looked for in the registry only"], False: []}

Connect = Callable[[Check], Repository]
"""The repository for one who waits; what the check raises ends its work."""


def pull(
    job: Job, connect: Connect, store: transfer.ImageStore, settings: unpacking.Settings | None = None
) -> Sequence[str]:
    """Answers the names of the image records. Raises as ``transfer.Transferrer`` says."""
    repository = connect(job.check)
    name = store.name or str(repository.reference)
    place = f"OCI Registry ({repository.reference})"
    with job.leased() as view, Tracker(job, name, DOWNLOADING) as tracker, contextlib.ExitStack() as stack:
        tracker.say(f"Resolving from {place}")
        target = repository.resolve()
        tracker.say(f"Pulling from {place}")
        tracker.say("fetching image content", name, target)
        pulling = _Pull(job, view, connect, settings or unpacking.Settings(), tracker, name, stack)
        with sentences.about(name):
            pulling.run(target, store)
            records = save(view.images, store, name, target)
        for record in records:
            tracker.say("saved", record.name, record.target)
        tracker.say(f"Completed pull from {place}")
    return [record.name for record in records]


class _Pull:
    """Implements ``unpacking.Bytes``, too. What is on ``stack`` is kept until the end."""

    def __init__(
        self,
        job: Job,
        view: daemon.View,
        connect: Connect,
        settings: unpacking.Settings,
        tracker: Tracker,
        name: str,
        stack: contextlib.ExitStack,
    ) -> None:
        self._job = job
        self._view = view
        self._connect = connect
        self._settings = settings
        self._tracker = tracker
        self._name = name
        self._stack = stack
        reference = connect(job.check).reference
        self._owner = f"{reference.host}/{reference.path}"
        self._fresh: set[str] = set()
        self._labels = keeping.source_label(reference.host, reference.path)

    def run(self, target: Descriptor, store: transfer.ImageStore) -> None:
        if not graph.has_children(target.media_type):
            raise errors.Unimplemented(f"{target.digest} has the media type {target.media_type}, which no image has")
        choice = graph.Choice(store.platforms, store.all_metadata, store.manifest_limit)
        found = graph.survey(target, self._read_all, choice, self._name)
        for node in reversed(found.nodes):
            self._tracker.add(node.descriptor, node.parents)
        configs = self._configs(found) if store.unpacks else {}
        images = unpacking.images(found, lambda config: configs.get(config.digest))
        chosen = unpacking.wanted(store.unpacks, images, self._settings.snapshotter)
        plans = [(unpacking.Source.of(self._name, image), snapshotter) for image, snapshotter in chosen]
        deferred = _deferred(found, [source for source, _ in plans])
        with Crew(self._tracker.check, self._settings.at_once) as crew:
            layers = _Layers(self._job, self._view, self._settings, self, self._tracker, crew)
            for source, snapshotter in plans:
                crew.start(functools.partial(layers.unpack, source, snapshotter))
            for node in found.nodes:
                of = node.descriptor
                if of.digest in configs:
                    crew.queue(functools.partial(self._keep, of, configs[of.digest], {}, crew.check))
                elif of.digest not in deferred and not graph.has_children(of.media_type):
                    crew.queue(functools.partial(self.obtain, self._view, of, crew.check, None))
        for source, snapshotter in plans:
            unpacking.label_config(self._view.content, source.manifest.config, snapshotter, source.chain)
        for node in found.nodes:
            if graph.has_children(node.descriptor.media_type):
                self._keep(node.descriptor, node.data, node.labels, self._tracker.check)

    # --- manifests and configs

    def _configs(self, found: graph.Survey) -> dict[str, bytes]:
        wanted = [node.descriptor for node in found.nodes if oci.is_config(node.descriptor.media_type)]
        return dict(zip((of.digest for of in wanted), self._read_all(wanted), strict=True))

    def _read_all(self, wanted: Sequence[Descriptor]) -> list[bytes]:
        read: dict[str, bytes] = {}

        def one(of: Descriptor) -> None:
            read[of.digest] = self._read(of, crew.check)

        with Crew(self._tracker.check, self._settings.at_once) as crew:
            for of in wanted:
                crew.queue(functools.partial(one, of))
        return [read[of.digest] for of in wanted]

    def _read(self, of: Descriptor, check: Check) -> bytes:
        with contextlib.suppress(errors.NotFound):
            return stored.read(self._view.content, of)
        key = ("read", id(self._job.daemon), of.digest)
        flights = self._settings.shared.flights
        joined = flights.joined(key, self._owner, lambda: _Reading(self._connect, of), check)
        data: bytes = self._stack.enter_context(joined).result  # kept, for pulls of the same that begin meanwhile
        self._tracker.moved(of, of.size)
        return data

    def _keep(self, of: Descriptor, data: bytes, labels: Mapping[str, str], check: Check) -> None:
        labels = {**labels, **self._labels}
        if stored.exists(self._view.content, of.digest) and keeping.hold(self._view, of, labels):
            self._tracker.exists(of)
            return
        keeping.put(self._view, of, data, labels, check)
        self._tracker.complete(of)

    # --- blobs

    def obtain(self, view: daemon.View, of: Descriptor, check: Check, tee: Tee | None) -> None:
        with sentences.about(self._name, *_FOREIGN[graph.is_foreign(of.media_type)]):
            if not self.take(view, of):
                self._download(view, of, check, tee)
            elif tee is not None:
                tee.take(False)

    def is_fresh(self, of: Descriptor) -> bool:
        return of.digest in self._fresh

    def take(self, view: daemon.View, of: Descriptor) -> bool:
        """Whether the blob was there."""
        there = stored.exists(view.content, of.digest) and keeping.hold(view, of, self._labels)
        if there:
            self._tracker.exists(of)
        return there

    def _download(self, view: daemon.View, of: Descriptor, check: Check, tee: Tee | None) -> None:
        def board(download: downloading.Download) -> None:
            nonlocal tee
            if tee is not None:
                download.attach(tee)
                tee = None

        def begin() -> downloading.Download:
            return downloading.Download(self._job, of, self._labels, self._connect)

        key = ("blob", id(self._job.daemon), of.digest)
        flights = self._settings.shared.flights
        while True:
            with flights.joined(key, self._owner, begin, check, functools.partial(self._tracker.moved, of), board):
                if keeping.hold(view, of, self._labels):
                    self._tracker.complete(of)
                    self._fresh.add(of.digest)
                    return
            check()


class _Reading:
    """Implements ``sharing.Work``: a manifest or a config."""

    def __init__(self, connect: Connect, of: Descriptor) -> None:
        self._connect = connect
        self._of = of

    def run(self, flight: sharing.Flight) -> bytes:
        return self._connect(flight.check).read(self._of)


class _Layers:
    """Those of the images that are unpacked: each is downloaded once it is needed, and then all above it."""

    def __init__(
        self,
        job: Job,
        view: daemon.View,
        settings: unpacking.Settings,
        blobs: _Pull,
        tracker: Tracker,
        crew: Crew,
    ) -> None:
        self._view = view
        self._blobs = blobs
        self._tracker = tracker
        self._crew = crew
        self._unpacker = unpacking.Unpacker(job, settings, blobs, tracker)
        self._begun: set[str] = set()
        self._lock = threading.Lock()

    def unpack(self, source: unpacking.Source, snapshotter: str) -> None:
        layers = source.layers
        first = len(layers)

        def needed(number: int) -> None:
            nonlocal first
            first = min(first, number)
            for layer in layers[number:]:
                if self._begin(layer.digest):
                    self._crew.queue(functools.partial(self._blobs.obtain, self._view, layer, self._crew.check, None))

        self._unpacker.unpack(self._view, source, snapshotter, self._crew.check, needed)
        for number, layer in enumerate(layers):
            if number < first:
                if not self._blobs.take(self._view, layer):
                    self._tracker.exists(layer)  # in its snapshot, and nobody needs its blob
            else:
                self._blobs.obtain(self._view, layer, self._crew.check, None)

    def _begin(self, digest: str) -> bool:
        with self._lock:
            new = digest not in self._begun
            self._begun.add(digest)
        return new


def _deferred(found: graph.Survey, sources: Sequence[unpacking.Source]) -> set[str]:
    """The layers that only unpacked images have."""
    unpacked = {source.digest for source in sources}
    layers = {layer.digest for source in sources for layer in source.layers}
    nodes = [node for node in found.nodes if node.descriptor.digest in layers]
    return {node.descriptor.digest for node in nodes if all(parent.digest in unpacked for parent in node.parents)}


def save(store: images.Store, wanted: transfer.ImageStore, name: str, target: Descriptor) -> list[images.Image]:
    """Makes the record ``name`` and those of ``wanted.extra``, or points them here."""
    target = Descriptor(target.media_type, target.digest, target.size)
    made = [record(store, images.Image(name, target, wanted.labels))]
    for extra in wanted.extra:
        if extra.is_prefix and not extra.add_digest:
            continue
        other = f"{extra.name}@{target.digest}" if extra.add_digest else extra.name
        made.append(record(store, images.Image(other, target, wanted.labels)))
    return made


def record(store: images.Store, image: images.Image) -> images.Image:
    """Made, or changed to this."""
    while True:
        try:
            return store.create(image)
        except errors.AlreadyExists:
            with contextlib.suppress(errors.NotFound):  # removed meanwhile
                return store.update(image)
