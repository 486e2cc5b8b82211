"""Pushing blobs and manifests: what is there is not sent, and what was cut goes on where it ended.

Source: OCI distribution specification 1.1, "Pushing blobs" and "Pushing manifests"; Docker's registry API v2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from plugin_sdk import errors
from plugin_sdk.distribution.http import auth, exchanges, failover, referring, statuses, waiting
from plugin_sdk.distribution.http.connections import Failed
from plugin_sdk.distribution.settings import Settings
from plugin_sdk.oci import Descriptor

_AT_ONCE = 4 << 20  # bytes of a blob that is sent with the request that ends the upload
_MOUNTS = 3  # repositories from which a mount is tried
_STORING = 300.0  # seconds in which a registry may read what it got, and answer
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")
_BYTES: Mapping[str, str] = {"Content-Type": "application/octet-stream"}


@dataclass(slots=True)
class Upload:
    """A blob on its way. ``open`` gives its bytes from an offset on; ``location`` is where the registry takes them, ""
    before it has said so."""

    of: Descriptor
    open: Callable[[int], Iterator[bytes]]
    sources: Sequence[str]
    sent: Callable[[int], None]
    path: str
    settings: Settings
    location: str = ""
    place: int = field(default=0, init=False)
    furthest: int = field(default=0, init=False)

    @property
    def scopes(self) -> tuple[str, ...]:
        own = auth.scope(self.path, "pull", "push")
        return (own, *(auth.scope(source, "pull") for source in self.sources[:_MOUNTS]))

    def tell(self, place: int) -> None:
        if place > self.furthest:
            self.furthest = place
            self.sent(place)


def push_blob(
    hosts: failover.Hosts, what: str, upload: Upload, uploads: waiting.Limit, look: Callable[[], None]
) -> str:
    """``exists``, ``mounted`` or ``uploaded``. Raises the error of the host."""
    with uploads.held(look):
        return hosts.ask_first("push", what, lambda host: _attempt(host, upload), lambda: upload.place)


def _attempt(host: exchanges.Exchange, upload: Upload) -> str:
    if upload.location:
        _find_place(host, upload)
    if not upload.location:
        if _exists(host, upload):
            return "exists"
        if _begin(host, upload):
            return "mounted"
    _send(host, upload)
    upload.tell(upload.of.size)
    return "uploaded"


def _exists(host: exchanges.Exchange, upload: Upload) -> bool:
    answer = host.send("HEAD", f"/{upload.path}/blobs/{upload.of.digest}", upload.scopes)
    if answer.status not in (200, 404, 405):
        raise statuses.failed(answer)
    exchanges.discard(answer)
    return answer.status == 200


def _begin(host: exchanges.Exchange, upload: Upload) -> bool:
    """Begins an upload, or answers whether another repository's blob could be mounted."""
    path = f"/{upload.path}/blobs/uploads/"
    for source in upload.sources[:_MOUNTS]:
        answer = host.send("POST", path, upload.scopes, (("mount", upload.of.digest), ("from", source)))
        exchanges.discard(answer)
        if answer.status == 201:
            return True
        if answer.status == 202:
            _cancel(host, upload)
            _go_on_at(host, answer, upload)
    if not upload.location:
        answer = host.send("POST", path, upload.scopes)
        if answer.status != 202:
            raise statuses.failed(answer)
        exchanges.discard(answer)
        _go_on_at(host, answer, upload)
    upload.place = 0
    return False


def _cancel(host: exchanges.Exchange, upload: Upload) -> None:
    """An upload that a mount has begun and nobody needs."""
    if upload.location:
        exchanges.discard(host.send_to("DELETE", upload.location, upload.scopes, {}))
        upload.location = ""


def _go_on_at(host: exchanges.Exchange, answer: statuses.Answer, upload: Upload) -> None:
    location = answer.headers.get("Location", "")
    base = upload.location or host.url("/")
    target = exchanges.joined(base, location)
    scheme = urlsplit(target).scheme
    if not location or scheme not in ("https", urlsplit(base).scheme):
        raise Failed("it does not say where the upload goes on", errors.FailedPrecondition, again=False)
    upload.location = target


def _find_place(host: exchanges.Exchange, upload: Upload) -> None:
    """Asks how much has arrived of an upload that was cut. One of which that cannot be said begins again."""
    answer = host.send_to("GET", upload.location, upload.scopes, {})
    exchanges.discard(answer)
    match = _RANGE.fullmatch(answer.headers.get("Range", "")) if answer.status == 204 else None
    place = int(match[1]) + 1 if match else 0
    if 1 < place <= upload.of.size:  # registries say 0-0 both for one byte and for none
        upload.place = place
        _go_on_at(host, answer, upload) if "Location" in answer.headers else None
    else:
        upload.location = ""


def _send(host: exchanges.Exchange, upload: Upload) -> None:
    size = upload.of.size
    if upload.place == 0 and size <= _AT_ONCE:
        _finish(host, upload, size)
        return
    step = upload.settings.chunk_size or size
    while upload.place < size:
        _send_chunk(host, upload, min(step, size - upload.place))
    _finish(host, upload, 0)


def _send_chunk(host: exchanges.Exchange, upload: Upload, count: int) -> None:
    start = upload.place
    headers = {**_BYTES, "Content-Length": str(count)}
    if start or count < upload.of.size:
        headers["Content-Range"] = f"{start}-{start + count - 1}"
    answer = host.send_to("PATCH", upload.location, upload.scopes, headers, _body(upload, start, count))
    if answer.status not in (202, 204):
        raise _refused(answer, upload)
    exchanges.discard(answer)
    _go_on_at(host, answer, upload)
    match = _RANGE.fullmatch(answer.headers.get("Range", ""))
    arrived = int(match[1]) + 1 if match else start + count
    if not start < arrived <= start + count:
        raise Failed("it does not keep what is sent")
    upload.place = arrived


def _finish(host: exchanges.Exchange, upload: Upload, count: int) -> None:
    joint = "&" if urlsplit(upload.location).query else "?"
    url = f"{upload.location}{joint}digest={quote(upload.of.digest, safe='')}"
    headers = {**_BYTES, "Content-Length": str(count)}
    answer = host.send_to("PUT", url, upload.scopes, headers, _body(upload, 0, count), timeout=_STORING)
    if answer.status not in (201, 204):
        raise _refused(answer, upload)
    exchanges.discard(answer)


def _refused(answer: statuses.Answer, upload: Upload) -> Failed:
    """An upload that the registry does not know, or of which it has got other bytes, begins again."""
    failed = statuses.failed(answer)
    if answer.status in (404, 416) or failed.code == "DIGEST_INVALID":
        upload.location = ""
        return Failed(failed.reason, errors.DataLoss if failed.code == "DIGEST_INVALID" else errors.Unavailable)
    return failed


def _body(upload: Upload, start: int, count: int) -> Callable[[], Iterator[bytes]]:
    """Exactly ``count`` bytes, again for each call."""

    def opened() -> Iterator[bytes]:
        place, end = start, start + count
        chunks = upload.open(start) if count else iter(())
        while place < end:
            part = next(chunks)[: end - place]
            yield part
            place += len(part)
            upload.tell(place)

    return opened


def push_manifest(host: exchanges.Exchange, path: str, of: Descriptor, data: bytes, tag: str) -> None:
    """Raises Failed."""
    scopes = (auth.scope(path, "pull", "push"),)
    headers = {"Content-Type": of.media_type}
    answer = host.send("PUT", f"/{path}/manifests/{tag or of.digest}", scopes, headers=headers, body=data)
    if answer.status not in (201, 202):
        raise statuses.failed(answer)
    exchanges.discard(answer)
    if answer.headers.get("Docker-Content-Digest", of.digest) != of.digest:
        raise Failed("it has stored the manifest with another digest", errors.DataLoss)
    if "OCI-Subject" not in answer.headers:
        referring.add(host, path, of, data, scopes)
