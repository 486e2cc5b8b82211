"""Snapshots of one namespace and one snapshotter: SQLite tells what there is, the plugin does the work.

Each change is intent, call, outcome; the transactions are in ``snapshot_rows.py``. In between only a claim on the
snapshot is held. What is left half-done here is settled by ``settling.py``, woken by ``kick``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from kernel.metadata import fields, graves, settling, snapshot_rows
from kernel.metadata.backends import OUTCOME_UNKNOWN, UNCLEAR, Backends, named, unbounded
from kernel.metadata.database import Database, Transaction
from kernel.metadata.snapshot_rows import Call, Place
from plugin_sdk import errors, plugin, snapshots
from plugin_sdk.mounts import Mount
from plugin_sdk.scope import Scope
from plugin_sdk.snapshots import Info, Kind, Usage


class Snapshots:
    """Implements ``plugin_sdk.snapshots.Snapshotter``."""

    def __init__(self, backends: Backends, scope: Scope, name: str) -> None:
        self._backends = backends
        self._database = backends.database
        self._scope = scope
        self._place = Place(scope.namespace, name)

    # --- what is there

    def stat(self, key: str) -> Info:
        return snapshot_rows.info(self._row(key))

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        match = snapshots.matcher(filters)
        with self._database.read() as cursor:
            rows = cursor.execute(
                "SELECT * FROM snapshots WHERE namespace = ? AND snapshotter = ? ORDER BY name",
                (self._place.namespace, self._place.snapshotter),
            ).fetchall()
        return filter(match, map(snapshot_rows.info, filter(snapshot_rows.visible, rows)))

    def mounts(self, key: str) -> list[Mount]:
        row = self._row(key)
        if row["kind"] == Kind.COMMITTED:
            raise errors.FailedPrecondition(f"requested snapshot {key} not active or view")
        if row["state"] != snapshot_rows.READY:
            row = self._await_commit(key)
        with self._use(self._scope) as made, named(row["backend"], key):
            return list(made.mounts(row["backend"]))

    def usage(self, key: str) -> Usage:
        row = self._row(key)
        with self._use(self._scope) as made, named(row["backend"], key):
            usage: Usage = made.usage(row["backend"])
            return usage

    # --- changes

    def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        return self._make(Kind.ACTIVE, key, parent, fields.checked(labels))

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        return self._make(Kind.VIEW, key, parent, fields.checked(labels))

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        kept = fields.checked(labels)
        _require_key(name)
        with self._changing(name, key) as change:
            call = change.begin(lambda tx: snapshot_rows.begin_commit(tx, self._scope, self._place, name, key, kept))
            with named(call.other, key), named(call.backend, name):
                self._commit(change.plugin, call, name, kept)
            change.unsettled = False

    def remove(self, key: str) -> None:
        with self._claimed(key):
            self._database.write(lambda tx: snapshot_rows.remove(tx, self._place, key))
        self._kick()

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        key = info.name
        with self._changing(key) as change:
            before, push = self._database.write(lambda tx: self._set_labels(tx, info, fieldpaths))
            change.unsettled = push
            if push:
                with named(before["backend"], key):
                    self._push(change.plugin, before)
            change.unsettled = False
        return self.stat(key)

    def cleanup(self) -> None:
        self._kick()
        with self._use(self._scope) as made:
            made.cleanup()

    def close(self) -> None:
        """Nothing: the plugin belongs to the registry."""

    # --- prepare and view

    def _make(self, kind: Kind, key: str, parent: str, labels: Mapping[str, str]) -> list[Mount]:
        _require_key(key)
        with self._changing(key) as change:
            call = change.begin(
                lambda tx: snapshot_rows.begin_prepare(tx, self._scope, self._place, key, parent, kind, labels)
            )
            with named(call.backend, key):
                mounts = self._ask_to_make(change.plugin, kind, key, call, labels)
            self._finish(lambda tx: snapshot_rows.finish_prepare(tx, self._place, key, call.backend))
            change.unsettled = False
            return mounts

    def _ask_to_make(self, made: Any, kind: Kind, key: str, call: Call, labels: Mapping[str, str]) -> list[Mount]:
        make = made.prepare if kind is Kind.ACTIVE else made.view
        try:
            return list(make(call.backend, call.other, snapshot_rows.inherited(labels)))
        except errors.AlreadyExists as err:
            if snapshots.TARGET_LABEL not in labels:
                self._abandon(key, err)
            raise self._record_target(made, key, call, labels[snapshots.TARGET_LABEL]) from err
        except (errors.Error, OSError) as err:
            self._abandon(key, err)

    def _abandon(self, key: str, err: errors.Error | OSError) -> NoReturn:
        uncertain = isinstance(err, OUTCOME_UNKNOWN)
        self._database.write(lambda tx: snapshot_rows.abandon(tx, self._place, key, uncertain=uncertain))
        raise _told(err) from err

    def _record_target(self, made: Any, key: str, call: Call, target: str) -> errors.AlreadyExists:
        """The plugin has the layer already: its own key for it is recorded under the name asked for."""
        place = self._place
        try:
            found = _find_target(made, target, call.other)
            with self._backends.claims.hold(self._scope, graves.claim(graves.SNAPSHOTS, place.snapshotter, found.name)):
                made.stat(found.name)
                return self._database.write(lambda tx: snapshot_rows.record_target(tx, self._scope, place, key, found))
        except (errors.Error, OSError) as err:
            self._abandon(key, err)

    # --- commit

    def _commit(self, made: Any, call: Call, name: str, labels: Mapping[str, str]) -> None:
        try:
            made.commit(call.backend, call.other, snapshot_rows.inherited(labels))
        except OUTCOME_UNKNOWN as err:
            raise _told(err) from err
        except UNCLEAR:
            # the answer is in, so looking is enough: there → finish, else it is refused
            if not settling.has_snapshot(made, call.backend):
                self._database.write(lambda tx: snapshot_rows.refuse_commit(tx, self._place, name))
                raise
        except errors.Error:
            self._database.write(lambda tx: snapshot_rows.refuse_commit(tx, self._place, name))
            raise
        self._finish(lambda tx: snapshot_rows.finish_commit(tx, self._place, name))

    def _await_commit(self, key: str) -> sqlite3.Row:
        with self._claimed(key):
            row = self._row(key)
        if row["state"] != snapshot_rows.READY:
            raise errors.Unavailable(f'snapshot "{key}" is not settled yet')
        return row

    # --- labels

    def _set_labels(self, tx: Transaction, info: Info, fieldpaths: Sequence[str]) -> tuple[sqlite3.Row, bool]:
        row = snapshot_rows.get(tx, self._place, info.name)
        labels = fields.changed(f'snapshot "{info.name}"', fields.load(row["labels"]), info.labels, fieldpaths)
        return row, snapshot_rows.set_labels(tx, self._place, row, labels)

    def _push(self, made: Any, before: sqlite3.Row) -> None:
        name = before["name"]
        try:
            settling.push(made, self._row(name))
        except OUTCOME_UNKNOWN as err:
            raise _told(err) from err
        except (errors.Error, OSError):
            labels = fields.load(before["labels"])
            self._database.write(lambda tx: snapshot_rows.set_labels(tx, self._place, before, labels))
            raise
        self._finish(lambda tx: snapshot_rows.pushed(tx, self._place, name))

    # --- parts

    def _finish(self, change: Callable[[Transaction], None]) -> None:
        """The intent is durable and the plugin has answered: after a power cut settling comes to the same outcome."""
        self._database.write(change, synced=False)

    def _row(self, key: str) -> sqlite3.Row:
        with self._database.read() as cursor:
            return snapshot_rows.get(cursor, self._place, key)

    def _use(self, scope: Scope) -> Any:
        return self._backends.use(plugin.SNAPSHOTTER, self._place.snapshotter, scope)

    def _claimed(self, *names: str) -> Any:
        return self._backends.claims.hold(self._scope, *map(self._place.claim, names))

    def _kick(self) -> None:
        self._backends.kick(plugin.SNAPSHOTTER, self._place.snapshotter)

    @contextmanager
    def _changing(self, *names: str) -> Iterator[_Change]:
        """Claims, and the plugin at hand; what ends the change before its outcome is written is left to the reaper."""
        change = _Change(self._database)
        try:
            with self._claimed(*names), self._use(unbounded(self._scope)) as made:
                change.plugin = made
                yield change
        finally:
            if change.unsettled:
                self._kick()


class _Change:
    """``unsettled`` from the intent to the outcome."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.plugin: Any = None
        self.unsettled = False

    def begin(self, change: Callable[[Transaction], Call | errors.Error]) -> Call:
        call = self._database.write(change)
        if isinstance(call, errors.Error):
            raise call
        self.unsettled = True
        return call


def _require_key(key: str) -> None:
    if not key:
        raise errors.InvalidArgument("the key or name of a snapshot must not be empty")


def _find_target(made: Any, target: str, parent: str) -> Info:
    """The plugin's own snapshot that carries the label; compared here too, since plugins may ignore filters."""
    wanted = f'labels."{snapshots.TARGET_LABEL}"=={_quoted(target)}'
    if parent:
        wanted += f",parent=={_quoted(parent)}"
    for info in made.walk([wanted]):
        if info.kind is Kind.COMMITTED and info.labels.get(snapshots.TARGET_LABEL) == target and info.parent == parent:
            found: Info = info
            return found
    raise errors.NotFound(f'target snapshot "{target}": not found')


def _quoted(text: str) -> str:
    """As a value in a filter."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _told(err: errors.Error | OSError) -> errors.Error | OSError:
    """An unknown outcome is Unavailable to the caller: the same request may be repeated."""
    if isinstance(err, OUTCOME_UNKNOWN) and not isinstance(err, errors.Unavailable):
        return errors.Unavailable(f"the snapshotter has not answered: {err.message}")
    return err
