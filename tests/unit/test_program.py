"""A plugin's program as its own tests use it."""

import sys

import pytest

from plugin_sdk import errors
from plugin_sdk.conformance import content
from plugin_sdk.conformance.program import Program

BLOBS = "plugin_sdk.conformance.blobs"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))


def command(folder):
    return [sys.executable, "-m", BLOBS, "--root", str(folder / "root")]


def test_it_is_called_ended_and_called_again(tmp_path):
    with Program(command(tmp_path), tmp_path) as program:
        digest = content.put(program.store, b"data")
        before = program.describe().instance
        assert content.get(program.crash().store, digest) == b"data"
        assert program.describe().instance != before
        assert program.stop() == 0
        with pytest.raises(errors.Unavailable, match="has been ended"):
            program.describe()


def test_one_that_does_not_serve_is_refused_with_what_it_said(tmp_path):
    program = Program([*command(tmp_path), "--wrong"], tmp_path)
    with pytest.raises(errors.Unavailable, match="unrecognized arguments: --wrong"), program:
        pytest.fail("it does not serve")
