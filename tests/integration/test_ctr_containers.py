"""``ctr containers``: create, ls, info, label, rm."""

from __future__ import annotations

import pytest

from scripts import images
from tests.sides import Both

pytestmark = [pytest.mark.root, pytest.mark.peer]
BUSYBOX = images.BUSYBOX


def test_containers_are_created_labelled_listed_and_removed(both: Both) -> None:
    mark = both.mark()
    both.ctr("containers", "create", "--label", "color=blue", "--env", "A=b", BUSYBOX, "@one", "/bin/true")
    both.ctr("containers", "create", "--snapshotter", "native", BUSYBOX, "@two", code=None)
    both.ctr("containers", "ls")
    assert both.ctr("containers", "ls", "-q", "labels.color==blue").lines == ["@one"]
    both.ctr("containers", "label", "@one", "size=big", "color=")
    both.ctr("containers", "info", "@one")
    both.ctr("containers", "info", "--spec", "@one")
    both.ctr("snapshots", "info", "@one")
    both.ctr("containers", "rm", "@one")
    both.ctr("containers", "rm", "@two", code=None)
    both.ctr("containers", "ls", "-q")
    both.same_events(mark)


def test_a_container_can_leave_its_snapshot(both: Both) -> None:
    both.ctr("containers", "create", BUSYBOX, "@kept", "/bin/true")
    both.ctr("containers", "rm", "--keep-snapshot", "@kept")
    both.ctr("snapshots", "info", "@kept")
    both.ctr("snapshots", "rm", "@kept")


def test_a_container_cannot_be_created_twice(both: Both) -> None:
    both.ctr("containers", "create", BUSYBOX, "@twice", "/bin/true")
    assert "already exists" in both.ctr("containers", "create", BUSYBOX, "@twice", "/bin/true", code=1).stderr
    both.ctr("containers", "rm", "@twice")


def test_a_missing_image_is_named(both: Both) -> None:
    assert "not found" in both.ctr("containers", "create", "example.test/missing:1", "@x", code=1).stderr


@pytest.mark.parametrize("line", [("info", "@gone"), ("rm", "@gone"), ("label", "@gone", "a=b")])
def test_a_missing_container_is_not_found(both: Both, line: tuple[str, ...]) -> None:
    assert "not found" in both.ctr("containers", *line, code=None).stderr


def test_an_invalid_id_is_refused(both: Both) -> None:
    layers = [("create container failed validation: container.ID: ", "")]
    both.ctr("containers", "create", BUSYBOX, "@no/slash", "/bin/true", code=1, scrubs=layers)
    both.ctr("snapshots", "rm", "@no/slash", code=None)
