"""``ctr namespaces``: create, ls, label, rm."""

from __future__ import annotations

import pytest

from tests.sides import Both, Side

pytestmark = [pytest.mark.root, pytest.mark.peer]
# containerd names the field and answers UNKNOWN as well.
CODES = [("namespace.Labels: ", ""), (": invalid argument: unknown", ": invalid argument")]


def rows(both: Both, name: str, *options: str) -> list[str]:
    """What ``ls`` shows of one namespace; other tests may have made others on one side only."""

    def found(side: Side) -> list[str]:
        lines = side.normalise(side.output("namespaces", "ls", *options)).splitlines()
        return [line for line in lines if line.split()[:1] == [name] or line.startswith("NAME")]

    listed: list[str] = both.same(found)
    return listed


def test_namespaces_are_created_labelled_listed_and_removed(both: Both) -> None:
    mark = both.mark()
    both.ctr("namespaces", "create", "@first", "color=blue")
    both.ctr("namespaces", "label", "@first", "size=big")
    both.ctr("namespaces", "label", "@first", "color=")
    assert rows(both, "@first") == ["NAME LABELS", "@first size=big"]
    assert rows(both, "@first", "-q") == ["@first"]
    both.ctr("namespaces", "rm", "@first")
    assert rows(both, "@first", "-q") == []
    topics = both.same_events(mark)
    assert topics == ["/namespaces/create", "/namespaces/update", "/namespaces/update", "/namespaces/delete"]


def test_a_namespace_cannot_be_created_twice(both: Both, fresh: str) -> None:
    both.ctr("namespaces", "create", fresh)
    assert "already exists" in both.ctr("namespaces", "create", fresh, code=1).stderr


@pytest.mark.parametrize("name", ["-x", "a b", "a/b", "a" * 77, "ä"])
def test_an_invalid_name_is_refused(both: Both, name: str) -> None:
    both.ctr("namespaces", "create", "--", name, code=1)


def test_an_invalid_label_is_refused(both: Both, fresh: str) -> None:
    both.ctr("namespaces", "create", fresh)
    refused = both.ctr("namespaces", "label", fresh, "key=" + "v" * 4096, code=1, scrubs=CODES)
    assert "greater than maximum size (4096 bytes), key: key" in refused.stderr


def test_removing_a_missing_namespace_is_no_error_for_ctr(both: Both) -> None:
    both.ctr("namespaces", "rm", "@missing")


def test_a_namespace_that_holds_something_cannot_be_removed(both: Both, fresh: str) -> None:
    both.ctr("content", "ingest", "ref", namespace=fresh, stdin=b"held")
    both.ctr("namespaces", "rm", fresh, code=None)
    assert rows(both, fresh, "-q") == [fresh]


def test_the_first_write_creates_the_namespace(both: Both, fresh: str) -> None:
    both.ctr("leases", "create", "--id", "first", namespace=fresh)
    assert rows(both, fresh, "-q") == [fresh]
