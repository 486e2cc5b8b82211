"""Referrers: manifests that name another one as their subject, such as signatures.

Source: OCI distribution specification 1.1, "Listing Referrers" and "Referrers Tag Schema".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from plugin_sdk import errors, oci
from plugin_sdk.distribution.http import auth, exchanges, statuses
from plugin_sdk.distribution.http.connections import Failed
from plugin_sdk.oci import Descriptor

_PAGES = 100
_LIMIT = 8 << 20  # bytes of a page

Whole = Callable[[statuses.Answer, int], bytes]


def referrers(host: exchanges.Exchange, path: str, digest: str, artifact_type: str, whole: Whole) -> list[Descriptor]:
    """Raises Failed."""
    query = [("artifactType", artifact_type)] if artifact_type else []
    found: list[Mapping[str, Any]] = []
    for _ in range(_PAGES):
        answer = host.send("GET", f"/{path}/referrers/{digest}", _pull(path), query, {"Accept": oci.INDEX})
        media_type = answer.headers.get("Content-Type", "").partition(";")[0]
        if answer.status in (404, 405) or (answer.status == 200 and media_type != oci.INDEX):
            exchanges.discard(answer)
            found = _tagged(host, path, digest, whole)
            break
        if answer.status != 200:
            raise statuses.failed(answer)
        found += _entries(whole(answer, _LIMIT))
        query = _next(host, answer)
        if not query:
            break
    return [_descriptor(entry) for entry in found if artifact_type in ("", entry.get("artifactType"))]


def _pull(path: str) -> tuple[str, ...]:
    return (auth.scope(path, "pull"),)


def _next(host: exchanges.Exchange, answer: statuses.Answer) -> list[tuple[str, str]]:
    """The query of the next page, from a ``Link`` header."""
    link = answer.headers.get("Link", "")
    if 'rel="next"' not in link and "rel=next" not in link:
        return []
    target = exchanges.joined(host.url("/"), link.partition("<")[2].partition(">")[0])
    return [pair for pair in parse_qsl(urlsplit(target).query) if pair[0] != "ns"]


def tag(digest: str) -> str:
    """Under which a registry without the API has the index of what refers to ``digest``."""
    algorithm, _, digits = digest.partition(":")
    return f"{algorithm}-{digits[:64]}"


def _tagged(host: exchanges.Exchange, path: str, digest: str, whole: Whole) -> list[Mapping[str, Any]]:
    answer = host.send("GET", f"/{path}/manifests/{tag(digest)}", _pull(path), headers={"Accept": oci.INDEX})
    if answer.status == 404:
        exchanges.discard(answer)
        return []
    if answer.status != 200:
        raise statuses.failed(answer)
    return _entries(whole(answer, _LIMIT))


def _entries(data: bytes) -> list[Mapping[str, Any]]:
    try:
        oci.parse_index(data)
    except errors.InvalidArgument as err:
        raise Failed(f"its list of referrers is malformed: {err.message}", errors.InvalidArgument, again=False) from err
    entries: list[Mapping[str, Any]] = json.loads(data)["manifests"] or []
    return entries


def _descriptor(entry: Mapping[str, Any]) -> Descriptor:
    return Descriptor(entry["mediaType"], entry["digest"], entry["size"], entry.get("annotations") or {})


def add(host: exchanges.Exchange, path: str, of: Descriptor, data: bytes, scopes: tuple[str, ...]) -> None:
    """Lists a manifest with a subject under the subject's tag, at a registry that does not do so by itself."""
    document = _document(data)
    subject = document.get("subject")
    if not isinstance(subject, dict) or not isinstance(subject.get("digest"), str):
        return
    name = tag(subject["digest"])
    known = _tagged(host, path, subject["digest"], statuses.whole)
    if any(entry["digest"] == of.digest for entry in known):
        return
    index = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [*known, _entry(of, document)]}
    body, headers = json.dumps(index).encode(), {"Content-Type": oci.INDEX}
    answer = host.send("PUT", f"/{path}/manifests/{name}", scopes, headers=headers, body=body)
    if answer.status not in (201, 202):
        raise statuses.failed(answer)
    exchanges.discard(answer)


def _document(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _entry(of: Descriptor, document: Mapping[str, Any]) -> dict[str, Any]:
    config = document.get("config")
    kind = document.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else None)
    entry: dict[str, Any] = {"mediaType": of.media_type, "digest": of.digest, "size": of.size}
    if kind:
        entry["artifactType"] = kind
    if document.get("annotations"):
        entry["annotations"] = document["annotations"]
    return entry
