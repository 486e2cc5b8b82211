"""What the transactions of an ingest's and a blob's life do; ``content.py`` and ``settling.py`` call the plugin.

``begin_…`` is T1 of consistency.md, section 1: it answers a row, or an error that is to be raised once the transaction
is durable. ``finish_…`` is T2.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from kernel.metadata import edges, fields, graves, homes
from kernel.metadata.database import Transaction
from kernel.metadata.namespaces import ensure
from plugin_sdk import content, errors
from plugin_sdk.api.events import content_pb2
from plugin_sdk.scope import Scope

OPEN = "open"
COMMITTING = "committing"

SHARED, ADOPTED = 1, 2

LIFETIME = 24 * 3600 * 10**9
"""Nanoseconds after which an ingest without a lease expires, counted from its last open."""


def info(row: sqlite3.Row) -> content.Info:
    return content.Info(row["digest"], row["size"], row["created_at"], row["updated_at"], fields.load(row["labels"]))


def find_blob(tx: Transaction, namespace: str, digest: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = tx.one("SELECT * FROM blobs WHERE namespace = ? AND digest = ?", (namespace, digest))
    return row


def find_ingest(tx: Transaction, namespace: str, ref: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = tx.one("SELECT * FROM ingests WHERE namespace = ? AND ref = ?", (namespace, ref))
    return row


# --- ingests


def begin_ingest(
    tx: Transaction, scope: Scope, store: str, ref: str, total: int, expected: str
) -> sqlite3.Row | errors.Error:
    """Makes or opens the row of an ingest."""
    namespace = scope.namespace
    ensure(tx, namespace)
    row = find_ingest(tx, namespace, ref)
    if row is not None and row["state"] == COMMITTING:
        return errors.Unavailable(f'ref "{ref}" is being committed: unavailable')
    if expected and find_blob(tx, namespace, expected) is not None:
        edges.lease(tx, scope, edges.node("content", expected))
        if row is not None:
            _bury_ingest(tx, store, row)
        return _exists(expected)
    shared = _shared_size(tx, expected)
    if row is None:
        row = _insert_ingest(tx, namespace, ref, total, expected, shared)
    elif row["shared"] and shared is None:
        become_real(tx, namespace, ref)
    return _reopened(tx, scope, row, total, expected)


def become_real(tx: Transaction, namespace: str, ref: str) -> None:
    """From now on the store has bytes of the ingest itself."""
    tx.execute("UPDATE ingests SET shared = 0 WHERE namespace = ? AND ref = ?", (namespace, ref))


def adopt(tx: Transaction, store: str, ingest: sqlite3.Row, size: int) -> sqlite3.Row | None:
    """The plugin has the bytes that are expected, and no blob need name them. None: they are about to be removed."""
    row = _same(tx, ingest)
    if graves.exist(tx, graves.CONTENT, store, row["expected"]):
        return None
    tx.execute("UPDATE ingests SET shared = ?, total = ? WHERE namespace = ? AND ref = ?", (ADOPTED, size, *_key(row)))
    return _same(tx, ingest)


def abort(tx: Transaction, store: str, namespace: str, ref: str) -> None:
    row = find_ingest(tx, namespace, ref)
    if row is None:
        raise no_ingest(ref)
    if row["state"] == COMMITTING:
        raise errors.Unavailable(f'ref "{ref}" is being committed: unavailable')
    _bury_ingest(tx, store, row)


# --- commit


def begin_commit(
    tx: Transaction,
    scope: Scope,
    store: str,
    ingest: sqlite3.Row,
    digest: str,
    size: int,
    labels: Mapping[str, str],
) -> sqlite3.Row | errors.Error:
    """The caller holds the digest's claim. Raises graves.Begun."""
    row = _same(tx, ingest)
    if row["state"] != OPEN:
        raise errors.Unavailable(f'ref "{row["ref"]}" is not settled yet')
    if find_blob(tx, scope.namespace, digest) is not None:
        edges.lease(tx, scope, edges.node("content", digest))
        _bury_ingest(tx, store, row)
        return _exists(digest)
    edges.require_lease(tx, scope)
    taken_back = _take_back(tx, store, digest)
    tx.execute(
        "UPDATE ingests SET state = ?, digest = ?, size = ?, labels = ?, lease = ?, taken_back = ? "
        "WHERE namespace = ? AND ref = ?",
        (COMMITTING, digest, size, fields.dump(labels), scope.lease or "", taken_back, *_key(row)),
    )
    return find_ingest(tx, *_key(row)) or no_ingest(row["ref"])


def finish_commit(tx: Transaction, namespace: str, ref: str, backend: str, *, ours: bool = True) -> None:
    """``ours`` False: the plugin had the bytes before we asked it to keep them."""
    row = find_ingest(tx, namespace, ref)
    if row is None or row["backend"] != backend or row["state"] != COMMITTING:
        raise no_ingest(ref)
    homes.add(tx, row["digest"], namespace, ours=ours)
    _insert_blob(tx, namespace, row["digest"], row["size"], fields.load(row["labels"]), row["lease"])
    _forget_ingest(tx, row)


def reopen(tx: Transaction, store: str, namespace: str, ref: str, backend: str) -> None:
    """After a commit that was refused, or that was cut off before it took effect."""
    row = find_ingest(tx, namespace, ref)
    if row is None or row["backend"] != backend or row["state"] != COMMITTING:
        raise no_ingest(ref)
    tx.execute(
        "UPDATE ingests SET state = ?, digest = '', size = 0, labels = '{}', lease = '', taken_back = 0 "
        "WHERE namespace = ? AND ref = ?",
        (OPEN, namespace, ref),
    )
    if row["taken_back"]:
        _bury_unnamed(tx, store, row["digest"])


def commit_shared(
    tx: Transaction,
    scope: Scope,
    store: str,
    ingest: sqlite3.Row,
    labels: Mapping[str, str],
    *,
    there: bool = False,
    ours: bool = False,
) -> errors.Error | None:
    """Makes a blob of another namespace, or one that the plugin has, visible in this one. ``there``: the plugin has
    just said that it has it, ``ours``: by our order. The caller holds the digest's claim. Raises graves.Begun."""
    row = _same(tx, ingest)
    digest = row["expected"]
    _bury_ingest(tx, store, row)
    if find_blob(tx, scope.namespace, digest) is not None:
        edges.lease(tx, scope, edges.node("content", digest))
        return _exists(digest)
    taken_back = _take_back(tx, store, digest)
    if _shared_size(tx, digest) is None and not taken_back and not there:
        raise errors.FailedPrecondition(f"content {digest} has gone from the namespace that had it: write it again")
    edges.require_lease(tx, scope)
    if there:
        homes.add(tx, digest, scope.namespace, ours=ours)
    _insert_blob(tx, scope.namespace, digest, row["total"], labels, scope.lease or "")
    return None


# --- blobs


def update(tx: Transaction, namespace: str, given: content.Info, fieldpaths: list[str]) -> content.Info:
    row = find_blob(tx, namespace, given.digest)
    if row is None:
        raise no_blob(given.digest)
    what = f"content info {given.digest}"
    labels = fields.changed(what, fields.load(row["labels"]), given.labels, fieldpaths)
    tx.execute(
        "UPDATE blobs SET labels = ?, updated_at = ? WHERE namespace = ? AND digest = ?",
        (fields.dump(labels), tx.now, namespace, given.digest),
    )
    node = edges.node("content", given.digest)
    edges.replace(tx, namespace, node, edges.of_labels(node, labels))
    return content.Info(given.digest, row["size"], row["created_at"], tx.now, labels)


def delete(tx: Transaction, store: str, namespace: str, digest: str) -> None:
    if find_blob(tx, namespace, digest) is None:
        raise no_blob(digest)
    tx.execute("DELETE FROM blobs WHERE namespace = ? AND digest = ?", (namespace, digest))
    node = edges.node("content", digest)
    edges.end(tx, namespace, node)
    _bury_unnamed(tx, store, digest)
    tx.announce(namespace, "/content/delete", content_pb2.ContentDelete(digest=digest))


def no_blob(digest: str) -> errors.NotFound:
    return errors.NotFound(f"content digest {digest}: not found")


def no_ingest(ref: str) -> errors.NotFound:
    return errors.NotFound(f'ingest "{ref}": not found')


# --- parts


def _key(row: sqlite3.Row) -> tuple[str, str]:
    return (row["namespace"], row["ref"])


def _exists(digest: str) -> errors.AlreadyExists:
    return errors.AlreadyExists(f"content {digest}: already exists")


def _same(tx: Transaction, ingest: sqlite3.Row) -> sqlite3.Row:
    """The row as it is now. Raises NotFound when the ingest was aborted, also if its ref was begun anew."""
    row = find_ingest(tx, *_key(ingest))
    if row is None or row["backend"] != ingest["backend"]:
        raise no_ingest(ingest["ref"])
    return row


def _shared_size(tx: Transaction, digest: str) -> int | None:
    """Of a blob of any namespace."""
    row = tx.one("SELECT size FROM blobs WHERE digest = ? LIMIT 1", (digest,))
    return None if row is None else int(row[0])


def _take_back(tx: Transaction, store: str, digest: str) -> bool:
    """True when the bytes were in a grave. Raises graves.Begun."""
    taken = graves.take_back(tx, graves.CONTENT, store, digest)
    for namespace in taken:
        homes.add(tx, digest, namespace, ours=True)
    return bool(taken)


def _bury_unnamed(tx: Transaction, store: str, digest: str) -> None:
    """A grave for the bytes in each of their homes, unless a blob or a commit of any namespace names them."""
    committing = tx.one("SELECT 1 FROM ingests WHERE digest = ? AND state = 'committing'", (digest,))
    if _shared_size(tx, digest) is None and committing is None:
        for namespace in homes.clear(tx, digest):
            graves.dig(tx, graves.CONTENT, store, namespace, digest)


def _insert_ingest(
    tx: Transaction, namespace: str, ref: str, total: int, expected: str, shared: int | None
) -> sqlite3.Row:
    fits = shared is not None and total in (0, shared)
    tx.execute(
        "INSERT INTO ingests (namespace, ref, state, backend, total, expected, shared, started_at, expires_at, born) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?)",
        (
            *(namespace, ref, OPEN, f"{namespace}/{tx.next()}/{ref}"),
            *(shared if fits else total, expected, SHARED if fits else 0, tx.now, tx.number),
        ),
    )
    row = find_ingest(tx, namespace, ref)
    assert row is not None
    return row


def _reopened(tx: Transaction, scope: Scope, row: sqlite3.Row, total: int, expected: str) -> sqlite3.Row:
    """Holds the ingest by the lease, or for a day."""
    node = edges.node("ingests", row["ref"])
    expires = 0 if scope.lease else tx.now + LIFETIME
    if scope.lease:
        edges.lease(tx, scope, node)
    else:
        edges.replace(tx, scope.namespace, node, [edges.Edge(edges.ROOT, node, expires=expires)])
    tx.execute(
        "UPDATE ingests SET total = ?, expected = ?, expires_at = ? WHERE namespace = ? AND ref = ?",
        (total or row["total"], expected or row["expected"], expires, *_key(row)),
    )
    found = find_ingest(tx, *_key(row))
    assert found is not None
    return found


def _bury_ingest(tx: Transaction, store: str, row: sqlite3.Row) -> None:
    _forget_ingest(tx, row)
    if row["shared"] != SHARED:
        graves.dig(tx, graves.INGESTS, store, row["namespace"], row["backend"])


def _forget_ingest(tx: Transaction, row: sqlite3.Row) -> None:
    node = edges.node("ingests", row["ref"])
    tx.execute("DELETE FROM ingests WHERE namespace = ? AND ref = ?", _key(row))
    edges.end(tx, row["namespace"], node)


def _insert_blob(
    tx: Transaction, namespace: str, digest: str, size: int, labels: Mapping[str, str], lease: str
) -> None:
    node = edges.node("content", digest)
    if find_blob(tx, namespace, digest) is None:
        tx.execute(
            "INSERT INTO blobs VALUES (?, ?, ?, ?, ?, ?, ?)",
            (namespace, digest, size, fields.dump(labels), tx.now, tx.now, tx.number),
        )
        edges.replace(tx, namespace, node, edges.of_labels(node, labels))
        tx.announce(namespace, "/content/create", content_pb2.ContentCreate(digest=digest, size=size))
    edges.hold_if_there(tx, namespace, lease, node)
