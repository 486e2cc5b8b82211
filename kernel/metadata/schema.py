"""The tables of the metadata database.

::

    namespaces 1───* images      name → descriptor            graves   what a plugin still has to remove
               1───* containers  what to run                  seq      one row: the last number that may be given out
               1───* leases      what holds other objects     meta     name → value
               1───* blobs       digests visible here        homes    where the plugin has a digest
               1───* ingests     writes in progress
               1───* snapshots   of one snapshotter each
               1───* edges       owner: source → target
               1───* tasks 1───* exits

**Numbers.** Each write has a number, ``born`` in what it inserts; keys that plugins see contain one as well. All come
from ``seq``, only ever rise, and are raised to the wall clock in milliseconds when the database is opened.

**Nodes.** An object within its namespace is a text ``TYPE ID``: ``content sha256:…``, ``ingests REF``, ``images NAME``,
``snapshots/overlayfs KEY``, ``containers ID``, ``leases ID``. The types are those of lease resources.

**Edges.** Each reference is one, by name, so its target need not exist yet. ``owner`` is the node whose row caused it:
it goes when that row goes. ``source`` is mostly the owner; for a root it is empty, for a back reference the other
object. ``cause`` is ``record`` (a column of the owner's row), ``label``, or ``lease`` (a resource of the lease).
``flat`` edges hold their target but not what that refers to. ``expires`` (nanoseconds, 0 never) bounds roots.

**States.** snapshots: ``creating`` → ``ready``; a name being committed is ``committing``, and so is its key, which the
name's row has in ``source``. ``unpushed`` labels are not yet known to the plugin. ingests: ``open`` → ``committing``;
while ``shared`` (1), a blob of another namespace stands for the bytes; while adopted (2), one that the plugin has and
no row names. blobs have no state: a row is ready. ``homes.py`` explains where the plugin has their bytes.
A commit that has ``taken_back`` the digest's grave digs it again when it is refused.
tasks: ``creating`` → ``created`` → ``started``; each has an ``incarnation``, so that exits are recorded once.
``uncertain`` graves: the call that made the object may still take effect, so its absence does not end the grave.

Labels, annotations and extensions are JSON. Times are nanoseconds since the epoch.
"""

from __future__ import annotations

VERSION = 2

TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE seq (value INTEGER NOT NULL);
INSERT INTO seq VALUES (0);

CREATE TABLE namespaces (
    name TEXT PRIMARY KEY, labels TEXT NOT NULL DEFAULT '{}', born INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE images (
    namespace TEXT NOT NULL, name TEXT NOT NULL,
    media_type TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, annotations TEXT NOT NULL,
    labels TEXT NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, born INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
) WITHOUT ROWID;

CREATE TABLE containers (
    namespace TEXT NOT NULL, id TEXT NOT NULL,
    runtime TEXT NOT NULL, options_url TEXT NOT NULL, options BLOB NOT NULL,
    spec_url TEXT NOT NULL, spec BLOB NOT NULL,
    image TEXT NOT NULL, snapshotter TEXT NOT NULL, snapshot_key TEXT NOT NULL, sandbox TEXT NOT NULL,
    labels TEXT NOT NULL, extensions TEXT NOT NULL,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, born INTEGER NOT NULL,
    PRIMARY KEY (namespace, id)
);

CREATE TABLE leases (
    namespace TEXT NOT NULL, id TEXT NOT NULL,
    labels TEXT NOT NULL, created_at INTEGER NOT NULL, born INTEGER NOT NULL,
    PRIMARY KEY (namespace, id)
) WITHOUT ROWID;

CREATE TABLE blobs (
    namespace TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL,
    labels TEXT NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, born INTEGER NOT NULL,
    PRIMARY KEY (namespace, digest)
) WITHOUT ROWID;
CREATE INDEX blobs_digest ON blobs (digest);

CREATE TABLE homes (
    digest TEXT NOT NULL, namespace TEXT NOT NULL, ours INTEGER NOT NULL, PRIMARY KEY (digest, namespace)
) WITHOUT ROWID;

CREATE TABLE ingests (
    namespace TEXT NOT NULL, ref TEXT NOT NULL, state TEXT NOT NULL, backend TEXT NOT NULL,
    total INTEGER NOT NULL, expected TEXT NOT NULL, shared INTEGER NOT NULL, lease TEXT NOT NULL DEFAULT '',
    digest TEXT NOT NULL DEFAULT '', size INTEGER NOT NULL DEFAULT 0, labels TEXT NOT NULL DEFAULT '{}',
    taken_back INTEGER NOT NULL DEFAULT 0,
    started_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, born INTEGER NOT NULL,
    PRIMARY KEY (namespace, ref)
) WITHOUT ROWID;
CREATE INDEX ingests_committing ON ingests (digest) WHERE state = 'committing';

CREATE TABLE snapshots (
    namespace TEXT NOT NULL, snapshotter TEXT NOT NULL, name TEXT NOT NULL,
    kind INTEGER NOT NULL, parent TEXT NOT NULL, state TEXT NOT NULL, backend TEXT NOT NULL,
    labels TEXT NOT NULL, unpushed INTEGER NOT NULL DEFAULT 0,
    source TEXT NOT NULL DEFAULT '', lease TEXT NOT NULL DEFAULT '',
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, born INTEGER NOT NULL,
    PRIMARY KEY (namespace, snapshotter, name)
) WITHOUT ROWID;
CREATE INDEX snapshots_parent ON snapshots (namespace, snapshotter, parent);
CREATE INDEX snapshots_backend ON snapshots (snapshotter, backend);
CREATE INDEX snapshots_unsettled ON snapshots (snapshotter) WHERE state <> 'ready' OR unpushed;

CREATE TABLE graves (
    id INTEGER PRIMARY KEY, type TEXT NOT NULL, plugin TEXT NOT NULL, namespace TEXT NOT NULL, backend TEXT NOT NULL,
    uncertain INTEGER NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '',
    born INTEGER NOT NULL,
    UNIQUE (type, plugin, backend, namespace)
);

CREATE TABLE edges (
    namespace TEXT NOT NULL, owner TEXT NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL,
    cause TEXT NOT NULL, flat INTEGER NOT NULL DEFAULT 0, expires INTEGER NOT NULL DEFAULT 0, born INTEGER NOT NULL,
    PRIMARY KEY (namespace, owner, source, target, cause)
) WITHOUT ROWID;
CREATE INDEX edges_source ON edges (namespace, source, target, flat, expires);
CREATE INDEX edges_target ON edges (namespace, target);
CREATE INDEX edges_born ON edges (born);

CREATE TABLE tasks (
    incarnation INTEGER PRIMARY KEY, namespace TEXT NOT NULL, id TEXT NOT NULL, runtime TEXT NOT NULL,
    state TEXT NOT NULL, pid INTEGER NOT NULL DEFAULT 0,
    UNIQUE (namespace, id)
);

CREATE TABLE exits (
    incarnation INTEGER NOT NULL, exec TEXT NOT NULL,
    pid INTEGER NOT NULL, status INTEGER NOT NULL, exited_at INTEGER NOT NULL,
    PRIMARY KEY (incarnation, exec)
) WITHOUT ROWID;
"""

UPGRADES = {
    1: """
CREATE TABLE homes (
    digest TEXT NOT NULL, namespace TEXT NOT NULL, ours INTEGER NOT NULL, PRIMARY KEY (digest, namespace)
) WITHOUT ROWID;
INSERT INTO homes SELECT digest, namespace, 1 FROM blobs;
ALTER TABLE graves RENAME TO old_graves;
CREATE TABLE graves (
    id INTEGER PRIMARY KEY, type TEXT NOT NULL, plugin TEXT NOT NULL, namespace TEXT NOT NULL, backend TEXT NOT NULL,
    uncertain INTEGER NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '',
    born INTEGER NOT NULL,
    UNIQUE (type, plugin, backend, namespace)
);
INSERT INTO graves SELECT * FROM old_graves;
DROP TABLE old_graves;
""",
}
"""What makes of a version the next one."""
