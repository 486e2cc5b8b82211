"""Settling: what was cut off between an intent and its outcome is brought to an end.

Done for each plugin whenever it becomes ok, by the rules of consistency.md, section 1. Rows that are claimed are being
worked on and left alone.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kernel.metadata import content_rows, fields, graves, snapshot_rows
from kernel.metadata.backends import OUTCOME_UNKNOWN, UNCLEAR, Backends, impatient
from kernel.metadata.database import Transaction
from kernel.metadata.snapshot_rows import Place
from plugin_sdk import errors, plugin
from plugin_sdk.snapshots import Info, Kind

log = logging.getLogger(__name__)

_UNSETTLED = "SELECT * FROM snapshots WHERE snapshotter = ? AND (state <> 'ready' OR unpushed)"
_COMMITS = "SELECT 1 FROM ingests WHERE state = 'committing' AND namespace = ? AND ref = ? AND backend = ?"


def calls_ended(backends: Backends, kind: str, id: str) -> None:
    """The plugin has begun anew, so no call of before can take effect any more: what it does not have is not there."""

    def change(tx: Transaction) -> None:
        graves.settle_uncertain(tx, kind, id)
        tx.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"begun {kind}.{id}", str(tx.number)))

    backends.database.write(change)


def _begun(cursor: sqlite3.Cursor, kind: str, id: str) -> int:
    """The number of the change with which the plugin began anew."""
    row = cursor.execute("SELECT value FROM meta WHERE name = ?", (f"begun {kind}.{id}",)).fetchone()
    return 0 if row is None else int(row[0])


def settle(backends: Backends, kind: str, id: str) -> int:
    """One attempt at each row of the plugin that is not ready; answers how many are left."""
    if kind == plugin.SNAPSHOTTER:
        return sum(not _settle_snapshot(backends, row) for row in _unsettled(backends, id))
    return _settle_ingests(backends, id) if kind == plugin.CONTENT else 0


def _unsettled(backends: Backends, id: str) -> list[sqlite3.Row]:
    """Without the keys of commits that were cut off: they are settled with the names."""
    with backends.database.read() as cursor:
        rows = cursor.execute(_UNSETTLED, (id,)).fetchall()
    return [row for row in rows if row["state"] != snapshot_rows.COMMITTING or row["kind"] == Kind.COMMITTED]


def _settle_snapshot(backends: Backends, row: sqlite3.Row) -> bool:
    place = Place(row["namespace"], row["snapshotter"])
    names = {place.claim(name) for name in (row["name"], row["source"]) if name}
    if not backends.claims.take(*names):
        return False
    try:
        with backends.database.read() as cursor:
            now = snapshot_rows.find(cursor, place, row["name"])
        if now is None or now["backend"] != row["backend"]:
            return True
        with backends.use(plugin.SNAPSHOTTER, place.snapshotter, impatient(place.namespace)) as made:
            _settle_claimed(backends, made, place, now)
        return True
    except (errors.Error, OSError) as err:
        log.warning("snapshot %r of %s is not settled: %s", row["name"], place.snapshotter, err)
        return False
    finally:
        backends.claims.drop(*names)


def _settle_claimed(backends: Backends, made: Any, place: Place, row: sqlite3.Row) -> None:
    if row["state"] == snapshot_rows.CREATING:
        _look_for(backends, made, place, row)
    elif row["state"] == snapshot_rows.COMMITTING:
        _repeat_commit(backends, made, place, row)
    elif row["unpushed"]:
        push(made, row)
        backends.database.write(lambda tx: snapshot_rows.pushed(tx, place, row["name"]))


def _look_for(backends: Backends, made: Any, place: Place, row: sqlite3.Row) -> None:
    """A prepare or view: one that was answered before a power cut is there. One that is not was answered to nobody; it
    may still take effect, unless the plugin has begun anew since."""
    name, backend = row["name"], row["backend"]
    if has_snapshot(made, backend):
        backends.database.write(lambda tx: snapshot_rows.finish_prepare(tx, place, name, backend))
        return
    with backends.database.read() as cursor:
        late = row["born"] > _begun(cursor, plugin.SNAPSHOTTER, place.snapshotter)
    backends.database.write(lambda tx: snapshot_rows.abandon(tx, place, name, uncertain=late))


def _repeat_commit(backends: Backends, made: Any, place: Place, row: sqlite3.Row) -> None:
    """With the same keys: looking alone would miss an effect that is still to come. Raises what leaves it open."""
    name = row["name"]
    with backends.database.read() as cursor:
        key = snapshot_rows.find(cursor, place, row["source"])
    if key is None:
        raise errors.Internal(f'snapshot "{name}" is committed from "{row["source"]}", which has no row')
    change: Callable[..., None] = snapshot_rows.finish_commit
    try:
        made.commit(row["backend"], key["backend"], snapshot_rows.inherited(fields.load(row["labels"])))
    except OUTCOME_UNKNOWN:
        raise
    except (errors.NotFound, errors.AlreadyExists):
        if not has_snapshot(made, row["backend"]):
            log.error("snapshotter %s has lost %s and %s", place.snapshotter, key["backend"], row["backend"])
            change = snapshot_rows.lose_commit
    except UNCLEAR:
        if not has_snapshot(made, row["backend"]):
            change = snapshot_rows.refuse_commit
    except errors.Error:
        change = snapshot_rows.refuse_commit
    backends.database.write(lambda tx: change(tx, place, name))


def has_snapshot(made: Any, backend: str) -> bool:
    try:
        made.stat(backend)
    except errors.NotFound:
        return False
    return True


def push(made: Any, row: sqlite3.Row) -> None:
    """Tells the plugin the labels that are meant for it."""
    labels = snapshot_rows.inherited(fields.load(row["labels"]))
    made.update(Info(row["backend"], Kind(row["kind"]), labels=labels))


def _settle_ingests(backends: Backends, id: str) -> int:
    with backends.database.read() as cursor:
        rows = cursor.execute("SELECT * FROM ingests WHERE state = 'committing'").fetchall()
    return sum(not _settle_ingest(backends, id, row) for row in rows)


def _settle_ingest(backends: Backends, id: str, row: sqlite3.Row) -> bool:
    claim = graves.claim(graves.CONTENT, id, row["digest"])
    if not backends.claims.take(claim):
        return False
    try:
        if not _still_commits(backends, row):
            return True
        with backends.use(plugin.CONTENT, id, impatient(row["namespace"])) as made:
            settle_commit(backends, made, id, row, answered=False)
        return True
    except (errors.Error, OSError) as err:
        log.warning("ingest %r of content is not settled: %s", row["ref"], err)
        return False
    finally:
        backends.claims.drop(claim)


def _still_commits(backends: Backends, row: sqlite3.Row) -> bool:
    """Asked under the claim: whoever held it before may have brought the commit to its end."""
    with backends.database.read() as cursor:
        return cursor.execute(_COMMITS, (row["namespace"], row["ref"], row["backend"])).fetchone() is not None


def settle_commit(backends: Backends, made: Any, id: str, row: sqlite3.Row, *, answered: bool) -> bool:
    """True when the blob is there now, False when the ingest goes on. The caller holds the digest's claim.

    A commit that was not answered may still take effect, so it is repeated and not only looked for.
    """
    found = _has_blob(made, row["digest"])
    theirs = found and backends.registry.is_remote(plugin.CONTENT, id) and _goes_on(made, row)
    there = found or (not answered and _repeat_content_commit(made, row))
    key = (row["namespace"], row["ref"], row["backend"])
    if there:
        with suppress(errors.NotFound):
            made.abort(row["backend"])
        backends.database.write(lambda tx: content_rows.finish_commit(tx, *key, ours=not theirs))
    else:
        backends.database.write(lambda tx: content_rows.reopen(tx, id, *key))
    return there


def _repeat_content_commit(made: Any, row: sqlite3.Row) -> bool:
    with made.writer(row["backend"]) as writer:
        try:
            writer.commit(row["size"], row["digest"])
        except errors.AlreadyExists:
            return True
        except errors.FailedPrecondition:
            return _has_blob(made, row["digest"])
    return True


def _has_blob(made: Any, digest: str) -> bool:
    try:
        made.info(digest)
    except errors.NotFound:
        return False
    return True


def _goes_on(made: Any, row: sqlite3.Row) -> bool:
    """Whether the ingest is still there: then a blob of its digest has come from somebody else."""
    try:
        made.status(row["backend"])
    except errors.NotFound:
        return False
    return True
