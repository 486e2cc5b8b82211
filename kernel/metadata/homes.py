"""Homes: under which namespaces the content plugin has a blob's bytes.

A blob is shared by the namespaces of the daemon, but a plugin may tell namespaces apart, as containerd's own content
service does: then bytes that were committed in one are not to be found in another. A home is ``ours`` when the plugin
has the bytes there by our order; others may have written them too, and then they are not ours to remove.
"""

from __future__ import annotations

import sqlite3
from typing import Protocol

from kernel.metadata.database import Transaction


class _Cursor(Protocol):
    def execute(self, sql: str, parameters: tuple[object, ...], /) -> sqlite3.Cursor: ...


def add(tx: Transaction, digest: str, namespace: str, *, ours: bool) -> None:
    tx.execute(
        "INSERT INTO homes VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET ours = max(ours, excluded.ours)",
        (digest, namespace, ours),
    )


def find(cursor: _Cursor, digest: str, namespace: str) -> str:
    """The namespace under which to ask the plugin for a blob: this one, if it has it there."""
    sql = "SELECT namespace FROM homes WHERE digest = ? ORDER BY namespace <> ? LIMIT 1"
    row = cursor.execute(sql, (digest, namespace)).fetchone()
    return namespace if row is None else str(row[0])


def clear(tx: Transaction, digest: str) -> list[str]:
    """Nobody names the blob any more. Answers the homes that are ours."""
    rows = tx.execute("DELETE FROM homes WHERE digest = ? RETURNING namespace, ours", (digest,)).fetchall()
    return [namespace for namespace, ours in rows if ours]
