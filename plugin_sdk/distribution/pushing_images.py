"""Push: an image goes from the store to a registry, blobs first, the root last."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from plugin_sdk import content, errors, transfer
from plugin_sdk.distribution import graph, keeping, sentences, stored, unpacking
from plugin_sdk.distribution.crew import Crew
from plugin_sdk.distribution.job import Job
from plugin_sdk.distribution.progress import UPLOADING, Tracker
from plugin_sdk.distribution.references import Reference
from plugin_sdk.oci import Descriptor

_CHUNK = 1 << 20  # bytes


class Repository(Protocol):
    """What of ``registry.Repository`` a push needs."""

    @property
    def reference(self) -> Reference: ...

    def has(self, of: Descriptor) -> bool: ...

    def push_blob(
        self,
        of: Descriptor,
        open: Callable[[int], Iterator[bytes]],
        sources: Sequence[str] = (),
        sent: Callable[[int], None] = ...,
    ) -> str: ...

    def push_manifest(self, of: Descriptor, data: bytes, tag: str = "") -> None: ...


Connect = Callable[[Callable[[], None]], Repository]


def push(
    job: Job, image: transfer.ImageStore, connect: Connect, settings: unpacking.Settings | None = None
) -> Sequence[str]:
    """Answers the name of the image. Raises as ``transfer.Transferrer`` says; NotFound when content is missing that
    the registry does not have either."""
    view = job.daemon.view(job.namespace, job.lease)
    target = view.images.get(image.name).target
    with Tracker(job, image.name, UPLOADING) as tracker:
        repository = connect(tracker.check)
        if repository.reference.digest not in ("", target.digest):
            raise errors.InvalidArgument(f"{repository.reference}: the digest of {image.name} is {target.digest}")
        place = f"OCI Registry ({repository.reference})"
        tracker.say(f"Pushing to {place}")
        tracker.say("pushing content", image.name, target)
        pushing = _Push(view.content, repository, tracker, image.name, (settings or unpacking.Settings()).at_once)
        with sentences.about(image.name):
            pushing.run(target, graph.Choice(image.platforms))
        tracker.say("pushed content", image.name, target)
        tracker.say(f"Completed push to {place}", of=target)
    return [image.name]


class _Push:
    def __init__(self, store: content.Store, repository: Repository, tracker: Tracker, name: str, at_once: int) -> None:
        self._store = store
        self._repository = repository
        self._tracker = tracker
        self._name = name
        self._at_once = at_once

    def run(self, target: Descriptor, choice: graph.Choice) -> None:
        found = graph.survey(target, self._read_all, choice, self._name)
        nodes = [node for node in found.nodes if not graph.is_foreign(node.descriptor.media_type)]
        for node in reversed(nodes):
            self._tracker.add(node.descriptor, node.parents)
        self._each(self._blob, [node for node in nodes if not graph.has_children(node.descriptor.media_type)])
        manifests = [node for node in nodes if graph.has_children(node.descriptor.media_type)]
        for depth in sorted({node.depth for node in manifests}, reverse=True):
            self._each(self._manifest, [node for node in manifests if node.depth == depth])

    def _each(self, work: Callable[[graph.Node], None], nodes: Sequence[graph.Node]) -> None:
        with Crew(self._tracker.check, self._at_once) as crew:
            for node in nodes:
                crew.queue(functools.partial(work, node))

    def _read_all(self, wanted: Sequence[Descriptor]) -> list[bytes | None]:
        return [stored.find(self._store, of) for of in wanted]

    def _blob(self, node: graph.Node) -> None:
        of = node.descriptor
        if not stored.exists(self._store, of.digest):
            self._missing(of)
            return
        stored.require(self._store, of)
        sent = functools.partial(self._tracker.moved, of)
        outcome = self._repository.push_blob(of, functools.partial(self._bytes, of), self._sources(node), sent)
        self._tracker.complete(of) if outcome == "uploaded" else self._tracker.exists(of)

    def _bytes(self, of: Descriptor, offset: int) -> Iterator[bytes]:
        with self._store.reader(of.digest) as reader:
            while chunk := reader.read_at(offset, _CHUNK):
                yield chunk
                offset += len(chunk)

    def _sources(self, node: graph.Node) -> list[str]:
        """Repositories of the host that have the blob, or a manifest that refers to it; those with the longest common
        path first."""
        reference = self._repository.reference
        ((key, _),) = keeping.source_label(reference.host, reference.path).items()
        found: set[str] = set()
        for of in (node.descriptor, *node.parents):
            if stored.exists(self._store, of.digest):
                found |= set(self._store.info(of.digest).labels.get(key, "").split(","))
        return sorted(found - {"", reference.path}, key=lambda path: (-_common(path, reference.path), path))

    def _manifest(self, node: graph.Node) -> None:
        of = node.descriptor
        if not node.data:
            self._missing(of)
            return
        tag = self._repository.reference.tag if node.depth == 0 else ""
        self._repository.push_manifest(of, node.data, tag)
        self._tracker.complete(of)

    def _missing(self, of: Descriptor) -> None:
        if not self._repository.has(of):
            raise errors.NotFound(f"{self._name}: {of.digest} is neither in the content store nor in the registry")
        self._tracker.exists(of)


def _common(one: str, other: str) -> int:
    """How many components both paths begin with."""
    pairs = list(zip(one.split("/"), other.split("/"), strict=False))
    return next((at for at, (left, right) in enumerate(pairs) if left != right), len(pairs))
