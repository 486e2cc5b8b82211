"""``ctr version``, ``ctr plugins`` and ``ctr events``."""

from __future__ import annotations

import re
import select
import subprocess

import pytest

from tests.sides import Both, Side

pytestmark = [pytest.mark.root, pytest.mark.peer]
VERSIONS = [(r"(?m)^  (Version|Revision): .*", r"  \1: V"), (r"WARNING: (version|revision) mismatch\n", "")]


def test_version_answers_alike(both: Both) -> None:
    assert "UUID: UUID" in both.ctr("version", scrubs=VERSIONS).stdout


# The kernel's metadata is no plugin, so nothing can require it.
KINDS = [
    (r"Exports:\s+root\s+DIR/root/io.containerd.snapshotter.v1.native\n", ""),  # containerd does not tell this one
    (r"DIR/root/\S+", "ROOT"),
    (r"Requires:\s+io.containerd.metadata.v1\s+", ""),
]


@pytest.mark.parametrize(
    "kind", ["io.containerd.content.v1", "io.containerd.snapshotter.v1", "io.containerd.differ.v1"]
)
def test_plugins_of_a_kind_are_shown_alike(both: Both, kind: str) -> None:
    for options in ((), ("-q",), ("-d",)):
        shown = both.ctr("plugins", "ls", *options, f"type=={kind}", scrubs=KINDS)
        assert shown.lines


def test_every_plugin_of_corten_is_ok(corten: Side) -> None:
    rows = corten.output("plugins", "ls").splitlines()
    assert re.match(r"TYPE\s+ID\s+PLATFORMS\s+STATUS", rows[0])
    assert [row for row in rows[1:] if not row.rstrip().endswith(("ok", "skip"))] == []


def test_events_are_printed(both: Both, fresh: str) -> None:
    def printed(side: Side) -> str:
        line = side.argv("events")
        with subprocess.Popen(line, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            side.output("namespaces", "create", fresh, "color=blue")
            while not select.select([process.stdout], [], [], 1)[0]:  # it does not listen yet
                side.output("namespaces", "remove", fresh)
                side.output("namespaces", "create", fresh, "color=blue")
            row = next(line for line in process.stdout if b"/namespaces/create" in line).decode()
            process.kill()
        return side.normalise(row)

    row = both.same(printed)
    assert row.startswith("TIME default /namespaces/create")
