"""Registries: what is asked of them, at the hosts that serve them.

::

    with registry.Registries(registry.Settings(config_path="/etc/containerd/certs.d")) as registries:
        repository = registries.repository(transfer.Registry("docker.io/library/busybox:latest"))
        target = repository.resolve()
        manifest = oci.parse_manifest(repository.read(target))
        for chunk in repository.fetch(manifest.layers[0]):
            ...

Everything blocks, and may be used by many threads. Source: OCI distribution specification 1.1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager

from plugin_sdk import errors, identifiers, oci, transfer
from plugin_sdk.distribution import references
from plugin_sdk.distribution.http import (
    auth,
    connections,
    credentials,
    exchanges,
    failover,
    fetching,
    hosts,
    pushing,
    referring,
    retries,
    statuses,
    waiting,
)
from plugin_sdk.distribution.http.connections import Failed
from plugin_sdk.distribution.settings import Settings
from plugin_sdk.oci import Descriptor

__all__ = ["ACCEPT", "Registries", "Repository", "Settings"]

ACCEPT = ", ".join((oci.INDEX, oci.MANIFEST, oci.DOCKER_INDEX, oci.DOCKER_MANIFEST, "*/*"))

_SCHEMA1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
_NO_HEAD = (400, 405, 501)
_DEFAULTS = Settings()


class Registries(AbstractContextManager["Registries"]):
    """One for a process: connections, tokens, host files and limits. Used by any number of threads."""

    def __init__(self, settings: Settings = _DEFAULTS) -> None:
        self.settings = settings
        self._folders = hosts.Folders()
        self._connections = connections.Connections(settings.timeout, settings.dial_timeout)
        self._authority = auth.Authority(self._connections)
        self._schemes = exchanges.Schemes()
        self._sources = credentials.Sources(settings.auth, settings.docker_config, settings.helper_timeout)
        self._health = failover.Health()
        self._patience = retries.Patience(settings.retries, settings.backoff, settings.longest_wait)
        self._downloads = waiting.Limit(settings.max_downloads)
        self._uploads = waiting.Limit(settings.max_uploads)
        self._buffers = waiting.Limit(settings.buffers)

    def repository(self, registry: transfer.Registry, check: Callable[[], None] = waiting.nobody) -> Repository:
        """Raises InvalidArgument for a malformed reference, FailedPrecondition for a wrong file of hosts.

        ``check`` is called while something is waited for; what it raises ends the wait.
        """
        reference = references.parse(registry.reference)
        folders = [registry.host_dir] if registry.host_dir else self.settings.config_path.split(":")
        try:
            found = self._folders.hosts(reference.host, [folder for folder in folders if folder], registry.scheme)
        except errors.FailedPrecondition as err:
            raise errors.FailedPrecondition(f"cannot find the hosts of image {reference}: {err.message}") from err
        line = [self._exchange(host, reference.host, registry, check) for host in found]
        return Repository(self, reference, failover.Hosts(str(reference), line, self._patience, self._health), check)

    def _exchange(
        self, host: hosts.Host, name: str, registry: transfer.Registry, check: Callable[[], None]
    ) -> exchanges.Exchange:
        def find(headers: Sequence[str]) -> transfer.Credentials | None:
            ask = registry.ask
            found = ask(transfer.Challenge(host.address, registry.reference, headers)) if ask else None
            if host.origin:
                found = found or auth.given(registry.headers)
            return found or self._own_credentials(host.address)

        login = auth.Login(self._authority, host, lambda: self._schemes.likely(host)[0] == "https", find)
        return exchanges.Exchange(host, name, registry.headers, self._connections, self._schemes, login, check)

    def _own_credentials(self, address: str) -> transfer.Credentials | None:
        try:
            return self._sources.find(address)
        except errors.FailedPrecondition as err:
            raise Failed(err.message, errors.FailedPrecondition, again=False) from err

    def close(self) -> None:
        """Closes the connections; what is still under way fails."""
        self._connections.close()

    def __exit__(self, *exc: object) -> None:
        self.close()


class Repository:
    """What one reference names, at its hosts. Errors name the image, the hosts with the reason of each, and the blob.

    Raises as ``plugin_sdk.transfer`` says: NotFound, Unauthenticated, PermissionDenied, ResourceExhausted, DataLoss,
    Unavailable; FailedPrecondition for TLS files, helpers and redirects that cannot be used.
    """

    def __init__(
        self, registries: Registries, reference: references.Reference, found: failover.Hosts, check: Callable[[], None]
    ) -> None:
        self.reference = reference
        self._registries = registries
        self._hosts = found
        self._check = check
        self._pull = (auth.scope(reference.path, "pull"),)

    def watched(self, check: Callable[[], None]) -> Repository:
        """The same, logged in as it is, for another who waits."""
        return Repository(self._registries, self.reference, self._hosts.watched(check), check)

    # -- manifests

    def resolve(self) -> Descriptor:
        """What the reference's digest, or else its tag, names now. Raises Unimplemented for Docker's schema 1."""
        capability = "pull" if self.reference.digest else "resolve"
        return self._hosts.ask(capability, "resolve", self._resolve, absent=1)  # whoever mistypes a host hears it soon

    def _resolve(self, host: exchanges.Exchange) -> Descriptor:
        path = f"/{self.reference.path}/manifests/{self.reference.object}"
        answer = host.send("HEAD", path, self._pull, headers={"Accept": ACCEPT})
        if answer.status not in (200, *_NO_HEAD):
            raise statuses.failed(answer)
        exchanges.discard(answer)
        return self._described(answer) or self._resolve_by_reading(host, path)

    def _described(self, answer: statuses.Answer) -> Descriptor | None:
        """What a HEAD tells, if that is enough."""
        digest = answer.headers.get("Docker-Content-Digest") or self.reference.digest
        media_type, size = _media_type(answer), answer.headers.get("Content-Length", "")
        if answer.status != 200 or not media_type or not digest or not (size.isascii() and size.isdigit()):
            return None
        return Descriptor(media_type, self._agreed(digest), int(size))

    def _agreed(self, digest: str) -> str:
        try:
            identifiers.validate_digest(digest)
        except errors.InvalidArgument as err:
            raise Failed("it answers a malformed digest", errors.DataLoss, again=False) from err
        if self.reference.digest not in ("", digest):
            raise Failed(f"it answers with the digest {digest}", errors.DataLoss, again=False)
        return digest

    def _resolve_by_reading(self, host: exchanges.Exchange, path: str) -> Descriptor:
        answer = host.send("GET", path, self._pull, headers={"Accept": ACCEPT})
        if answer.status != 200:
            raise statuses.failed(answer)
        data = self._whole(answer, self._registries.settings.manifest_limit)
        stated = answer.headers.get("Docker-Content-Digest") or self.reference.digest or oci.digest_of(data)
        if _digest(self._agreed(stated), data) != stated:
            raise Failed("what it sends has another digest", errors.DataLoss)
        return Descriptor(_media_type(answer) or _stated_type(data), stated, len(data))

    def _whole(self, answer: statuses.Answer, limit: int, kind: type[errors.Error] = errors.ResourceExhausted) -> bytes:
        with waiting.looking(self._check):
            return statuses.whole(answer, limit, kind)

    def read(self, of: Descriptor, limit: int = 0) -> bytes:
        """A manifest, an index or a config, whole; its digest and size are verified.

        Raises ResourceExhausted for one of more than ``limit`` bytes, 0 for that of the settings.
        """
        limit = limit or self._registries.settings.manifest_limit
        what = f"read {_named(of)} of"
        if of.size > limit:
            raise errors.ResourceExhausted(
                f"cannot {what} image {self.reference}: it has {of.size} bytes, and {limit} are allowed"
            )
        return self._hosts.ask("pull", what, lambda host: self._read(host, of))

    def _read(self, host: exchanges.Exchange, of: Descriptor) -> bytes:
        answer = host.send("GET", self._path(of), self._pull, headers={"Accept": _accept(of)})
        if answer.status != 200:
            raise statuses.failed(answer)
        length = answer.headers.get("Content-Length", str(of.size))
        data = self._whole(answer, of.size, errors.DataLoss) if length == str(of.size) else b""
        if len(data) != of.size:
            answer.close()
            raise Failed(f"it sends {length} bytes instead of {of.size}", errors.DataLoss)
        if _digest(of.digest, data) != of.digest:
            raise Failed("what it sends has another digest", errors.DataLoss)
        return data

    def has(self, of: Descriptor) -> bool:
        """Whether the registry has the blob or manifest."""
        try:
            self._hosts.ask("pull", f"look for {_named(of)} of", lambda host: self._head(host, of))
        except errors.NotFound:
            return False
        return True

    def _head(self, host: exchanges.Exchange, of: Descriptor) -> None:
        answer = host.send("HEAD", self._path(of), self._pull, headers={"Accept": _accept(of)})
        if answer.status != 200:
            raise statuses.failed(answer)
        exchanges.discard(answer)

    def _path(self, of: Descriptor) -> str:
        kind = "manifests" if oci.is_index(of.media_type) or oci.is_manifest(of.media_type) else "blobs"
        return f"/{self.reference.path}/{kind}/{of.digest}"

    # -- blobs

    def fetch(self, of: Descriptor, offset: int = 0) -> Generator[bytes, None, None]:
        """The bytes from ``offset`` on, in order, at most 1 MiB at a time; they are not verified, see ``reject``.

        Within it requests are repeated, and other hosts tried. Close the iterator if you stop before its end.
        """
        wanted = fetching.Wanted(of, self._path(of), f"fetch {_named(of)} of", self._pull)
        registries = self._registries
        limits = fetching.Limits(registries._downloads, registries._buffers)
        return fetching.Download(self._hosts, wanted, registries.settings, limits).chunks(offset)

    def reject(self, of: Descriptor) -> bool:
        """What the last ``fetch`` brought has another digest: the next one asks other hosts first.

        Answers whether there are any.
        """
        return self._hosts.reject(of.digest)

    def rejected(self, of: Descriptor) -> list[str]:
        """The hosts of which that is known."""
        return self._hosts.rejected(of.digest)

    # -- pushing

    def push_blob(
        self,
        of: Descriptor,
        open: Callable[[int], Iterator[bytes]],
        sources: Sequence[str] = (),
        sent: Callable[[int], None] = lambda size: None,
    ) -> str:
        """Brings a blob to the registry, and answers ``exists``, ``mounted`` or ``uploaded``.

        ``open(offset)`` gives the bytes from there on, again after a failure. ``sources`` are the paths of other
        repositories of this registry that may have the blob. ``sent`` is told how many bytes are there, which never
        falls.
        """
        upload = pushing.Upload(of, open, sources, sent, self.reference.path, self._registries.settings)
        return pushing.push_blob(self._hosts, f"push {_named(of)} of", upload, self._registries._uploads, self._check)

    def push_manifest(self, of: Descriptor, data: bytes, tag: str = "") -> None:
        """Under a tag, or with "" under its digest only. What it refers to has to be there before."""
        what = f"push {_named(of)} of"
        self._hosts.ask_first(
            "push", what, lambda host: pushing.push_manifest(host, self.reference.path, of, data, tag)
        )

    # -- referrers

    def referrers(self, digest: str, artifact_type: str = "") -> list[Descriptor]:
        """The manifests whose subject is ``digest``, of one artifact type or of all.

        A registry without that API has them in an index under a tag made of the digest.
        """
        what = f"list what refers to {digest} of"
        path = self.reference.path
        return self._hosts.ask(
            "referrers", what, lambda host: referring.referrers(host, path, digest, artifact_type, self._whole)
        )


def _named(of: Descriptor) -> str:
    """For messages."""
    kinds = {"index": oci.is_index, "manifest": oci.is_manifest, "config": oci.is_config, "layer": oci.is_layer}
    kind = next((name for name, fits in kinds.items() if fits(of.media_type)), "blob")
    return f"{kind} {of.digest}"


def _accept(of: Descriptor) -> str:
    return f"{of.media_type}, */*" if of.media_type else "*/*"


def _digest(like: str, data: bytes) -> str:
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def _media_type(answer: statuses.Answer) -> str:
    """Of a manifest or index; "" where the answer does not say. Raises Failed for one that is not supported."""
    found = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if found in _SCHEMA1:
        raise Failed("the image is of Docker's schema 1, which is not supported", errors.Unimplemented, again=False)
    return "" if found in ("", "application/json", "application/octet-stream", "text/plain") else found


def _stated_type(data: bytes) -> str:
    """As a manifest itself says, or by what it has."""
    try:
        found = json.loads(data)
        stated = found.get("mediaType")
    except (ValueError, AttributeError, RecursionError) as err:
        raise Failed("it does not send a manifest", errors.InvalidArgument, again=False) from err
    if found.get("schemaVersion") == 1:
        raise Failed("the image is of Docker's schema 1, which is not supported", errors.Unimplemented, again=False)
    return stated if isinstance(stated, str) and stated else oci.INDEX if "manifests" in found else oci.MANIFEST
