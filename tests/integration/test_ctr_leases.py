"""``ctr leases``: create, ls, rm."""

from __future__ import annotations

import pytest

from tests.sides import Both

pytestmark = [pytest.mark.root, pytest.mark.peer]


def test_leases_are_created_listed_and_removed(both: Both, fresh: str) -> None:
    both.ctr("leases", "create", "--id", "mine", "color=blue", namespace=fresh)
    both.ctr("leases", "create", "--id", "lasting", "-x", "0", namespace=fresh)
    assert len(both.ctr("leases", "ls", namespace=fresh).lines) == 3
    assert both.ctr("leases", "ls", "-q", namespace=fresh).lines == ["lasting", "mine"]
    assert both.ctr("leases", "ls", "-q", "labels.color==blue", namespace=fresh).lines == ["mine"]
    assert both.ctr("leases", "ls", "-q", "id==lasting", namespace=fresh).lines == ["lasting"]
    both.ctr("leases", "rm", "mine", namespace=fresh)
    assert both.ctr("leases", "ls", "-q", namespace=fresh).lines == ["lasting"]


def test_a_lease_without_an_id_gets_one(both: Both, fresh: str) -> None:
    made = both.ctr("leases", "create", namespace=fresh, scrubs=[(r"^\S+\n$", "ID\n")])
    assert made.stdout == "ID\n"


def test_a_lease_cannot_be_created_twice(both: Both, fresh: str) -> None:
    both.ctr("leases", "create", "--id", "mine", namespace=fresh)
    assert "already exists" in both.ctr("leases", "create", "--id", "mine", namespace=fresh, code=1).stderr


def test_a_missing_lease_cannot_be_removed(both: Both, fresh: str) -> None:
    assert "not found" in both.ctr("leases", "rm", "missing", namespace=fresh, code=None).stderr
