"""Graves: what plugins still have to remove.

A grave is dug in the transaction that takes the last row away, and closed when the plugin has removed the object. We
remove only what stands in one, never what a plugin shows and we do not know: another daemon may share the plugin.
"""

from __future__ import annotations

import sqlite3

from kernel.metadata.backends import Backends, impatient
from kernel.metadata.database import Transaction
from plugin_sdk import errors, plugin

CONTENT = "content"
INGESTS = "ingests"
SNAPSHOTS = "snapshots"

_KIND = {CONTENT: plugin.CONTENT, INGESTS: plugin.CONTENT, SNAPSHOTS: plugin.SNAPSHOTTER}
_CALL = {CONTENT: "delete", INGESTS: "abort", SNAPSHOTS: "remove"}


def claim(type: str, id: str, backend: str) -> str:
    """The name under which an object of a plugin is claimed while it is removed or taken back."""
    return f"plugin {type} {id} {backend}"


def dig(tx: Transaction, type: str, id: str, namespace: str, backend: str, *, uncertain: bool = False) -> None:
    tx.execute(
        "INSERT INTO graves (type, plugin, namespace, backend, uncertain, born) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET uncertain = max(uncertain, excluded.uncertain)",
        (type, id, namespace, backend, uncertain, tx.number),
    )


def exist(tx: Transaction, type: str, id: str, backend: str) -> bool:
    """Whether it is to be removed, or being removed."""
    return tx.one("SELECT 1 FROM graves WHERE type = ? AND plugin = ? AND backend = ?", (type, id, backend)) is not None


class Begun(Exception):
    """The removal has begun: it must end first."""


def take_back(tx: Transaction, type: str, id: str, backend: str) -> list[str]:
    """The namespaces that had a grave for it; none when there was none. The caller holds the claim. Raises Begun."""
    where, key = "WHERE type = ? AND plugin = ? AND backend = ?", (type, id, backend)
    rows = tx.execute(f"SELECT namespace, tries FROM graves {where}", key).fetchall()
    if any(tries for _, tries in rows):
        raise Begun(backend)
    tx.execute(f"DELETE FROM graves {where}", key)
    return [namespace for namespace, _ in rows]


def attempt_all(backends: Backends, kind: str, id: str) -> int:
    """Tries once to remove what is in each grave of a plugin, the oldest first, and answers how many are left."""
    with backends.database.read() as cursor:
        rows = cursor.execute("SELECT * FROM graves WHERE plugin = ? ORDER BY id", (id,)).fetchall()
    buried = dict.fromkeys((row["type"], row["backend"]) for row in rows if _KIND[row["type"]] == kind)
    return sum(not _attempt_claimed(backends, type, id, backend) for type, backend in buried)


def attempt(backends: Backends, type: str, id: str, backend: str) -> bool:
    """Tries once to remove what is in the graves of this; True when they are closed. The caller holds the claim."""
    with backends.database.read() as cursor:
        rows = cursor.execute(
            "SELECT * FROM graves WHERE type = ? AND plugin = ? AND backend = ?", (type, id, backend)
        ).fetchall()
    return sum(not _close(backends, row) for row in rows) == 0


def _close(backends: Backends, row: sqlite3.Row) -> bool:
    error = _remove(backends, row)
    backends.database.write(lambda tx: _record(tx, row["id"], error))
    return error is None


def settle_uncertain(tx: Transaction, kind: str, id: str) -> None:
    """After the plugin has restarted no call of before can take effect any more."""
    types = [type for type, other in _KIND.items() if other == kind]
    for type in types:
        tx.execute("UPDATE graves SET uncertain = 0 WHERE plugin = ? AND type = ? AND uncertain", (id, type))


def _attempt_claimed(backends: Backends, type: str, id: str, backend: str) -> bool:
    name = claim(type, id, backend)
    if not backends.claims.take(name):
        return False
    try:
        return attempt(backends, type, id, backend)
    finally:
        backends.claims.drop(name)


def _remove(backends: Backends, row: sqlite3.Row) -> str | None:
    """None, or why it is not known to be gone."""
    try:
        with backends.use(_KIND[row["type"]], row["plugin"], impatient(row["namespace"])) as made:
            getattr(made, _CALL[row["type"]])(row["backend"])
    except errors.NotFound:
        return "the call that made it may still take effect" if row["uncertain"] else None
    except (errors.Error, OSError) as err:
        return str(err)
    return None


def _record(tx: Transaction, id: int, error: str | None) -> None:
    if error is None:
        tx.execute("DELETE FROM graves WHERE id = ?", (id,))
    else:
        tx.execute("UPDATE graves SET tries = tries + 1, error = ? WHERE id = ?", (error, id))
