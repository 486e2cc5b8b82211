"""What ``corten plugin check`` makes of outcomes and of failures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from corten.terminal import checking as report
from plugin_sdk import errors
from plugin_sdk.conformance import failures
from plugin_sdk.conformance.checking import Outcome, Results, State
from plugin_sdk.conformance.target import Target

TARGET = Target("/run/stars.sock", ("snapshot", "content"))
PASSED = Outcome("content", "test_all_is_well", ("All is well.",))
FAILED = Outcome(
    "snapshot",
    "test_what_is_removed_is_gone[view]",
    ("Removes a snapshot.", "A second sentence."),
    State.FAILED,
    'method("key") raises NotFound',
    "nothing was raised",
)


def told(*outcomes: Outcome, lacks: dict[tuple[str, str], str] | None = None, ended: str = "") -> str:
    return "\n".join(report.report(TARGET, Results(outcomes, lacks or {}, ended)))


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


# The report


def test_what_passed_is_only_counted() -> None:
    assert told(PASSED) == (
        "                passed      failed not checked\n"
        "snapshot             0           0           0\n"
        "content              1           0           0\n"
        "\n"
        '"/run/stars.sock" keeps the contract.'
    )


def test_a_failure_is_told_with_sentences_expectation_and_what_came() -> None:
    failure, counts = told(FAILED, PASSED).split("\n\n", 1)
    assert failure.splitlines() == [
        "\x1b[1msnapshot: what is removed is gone (view)\x1b[0m",
        "    contract  Removes a snapshot.",
        "              A second sentence.",
        '    expected  method("key") raises NotFound',
        "    came      nothing was raised",
    ]
    assert counts.endswith('1 of 2 checks failed at "/run/stars.sock".')


def test_failures_that_differ_in_their_parameters_stand_together() -> None:
    others = [
        Outcome(FAILED.type, f"test_what_is_removed_is_gone[{name}]", (), State.FAILED, FAILED.expected, came)
        for name, came in (("active", FAILED.came), ("x" * 50, "NotFound: another"))
    ]
    lines = told(FAILED, *others).splitlines()
    assert lines[0] == f"\x1b[1msnapshot: what is removed is gone (view; active; {'x' * 39}…)\x1b[0m"
    assert lines[4:6] == ["    came      nothing was raised", "              … and the like 2 times more"]
    assert [line for line in lines if "contract" in line] == ["    contract  Removes a snapshot."]


def test_what_is_not_checked_is_told_by_its_reason() -> None:
    skipped = [Outcome("content", f"test_{name}", (), State.UNCHECKED, came="no restart") for name in "ab"]
    other = Outcome("content", "test_one_more", (), State.UNCHECKED, came="no time")
    text = told(PASSED, *skipped, other, lacks={("content", "labels"): "Blobs have labels."})
    assert "Not so here, and the contract does not ask for it:\n    content   Blobs have labels.\n\n" in text
    assert "Not checked:\n    content   2 checks: no restart\n    content   one more: no time\n\n" in text
    assert "content              1           0           3\n" in text
    assert text.endswith("keeps the contract.")


def test_long_text_is_wrapped_below_itself() -> None:
    long = Outcome("snapshot", "test_a", ("word " * 40,), State.FAILED, "", "came " * 30)
    lines = told(long).splitlines()
    assert max(len(line) for line in lines[1:]) <= 100
    assert [line[:14] for line in lines[1:6]] == ["    contract  ", " " * 14, " " * 14, "    came      ", " " * 14]


def test_a_run_that_was_cut_off_says_so() -> None:
    text = told(FAILED, ended='"/run/stars.sock" answers no more')
    assert text.endswith('"/run/stars.sock" answers no more: the checks that follow were not made.')


def test_programs_get_every_field() -> None:
    found = report.summary(TARGET, Results((PASSED, FAILED), {("content", "labels"): "Blobs have labels."}))
    assert found["address"] == "/run/stars.sock"
    assert found["counts"] == {"passed": 1, "failed": 1, "unchecked": 0}
    assert found["lacks"] == [{"type": "content", "name": "labels", "says": "Blobs have labels."}]
    assert found["checks"][1] == {
        "type": "snapshot",
        "check": "test_what_is_removed_is_gone[view]",
        "title": "what is removed is gone (view)",
        "sentences": ["Removes a snapshot.", "A second sentence."],
        "state": "failed",
        "expected": 'method("key") raises NotFound',
        "came": "nothing was raised",
        "seconds": 0.0,
    }


# Failures


def explained(check: Callable[[], None]) -> tuple[str, str]:
    try:
        check()
    except BaseException as err:  # noqa: BLE001 - whatever it is
        return failures.explain(check, pytest.ExceptionInfo.from_exception(err))
    raise AssertionError("it does not fail")


def missing(name: str) -> None:
    raise errors.NotFound(f"nobody is {name}")


def test_an_assertion_is_told_with_its_values() -> None:
    def check() -> None:
        found = {"a": 1}
        assert found == {"b": 2}

    expected, came = explained(check)
    assert expected == 'found == {"b": 2}'
    assert came.splitlines()[0] == "{'a': 1} == {'b': 2}"
    assert "Full diff" not in came and "-vv" not in came


def test_what_was_not_raised_is_told() -> None:
    def check() -> None:
        with pytest.raises(errors.NotFound, match="nobody"):
            len("abc")

    assert explained(check) == ('len("abc") raises NotFound with "nobody" in its message', "nothing was raised")


def test_another_error_than_expected_is_told() -> None:
    def check() -> None:
        with pytest.raises((errors.AlreadyExists, errors.Aborted)):
            missing("here")

    assert explained(check) == ('missing("here") raises AlreadyExists or Aborted', "NotFound: nobody is here")


def test_a_message_that_says_something_else_is_told() -> None:
    def check() -> None:
        with pytest.raises(errors.NotFound, match="somebody"):
            missing("here")

    expected, came = explained(check)
    assert expected == 'missing("here") raises NotFound with "somebody" in its message'
    assert came.startswith("the message ") and "nobody is here" in came


def test_an_error_in_the_midst_is_told_with_the_step() -> None:
    def check() -> None:
        for name in ("x",):
            missing(
                name,
            )

    assert explained(check) == ("missing( name, ) succeeds", "NotFound: nobody is x")


def test_a_defect_is_told_by_its_type() -> None:
    def check() -> None:
        with open("/nowhere/at/all"):
            pass

    expected, came = explained(check)
    assert expected == 'open("/nowhere/at/all") succeeds'
    assert came.startswith("FileNotFoundError: ")


def test_what_came_is_short() -> None:
    def check() -> None:
        missing("x" * 1000)

    came = explained(check)[1]
    assert len(came) == 400 and came.endswith("…")
