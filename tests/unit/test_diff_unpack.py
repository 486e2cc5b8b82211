"""What a worker tells its daemon, and when nobody listens any more."""

import json
import os
import types

import pytest

from plugin_sdk import errors
from plugins_builtin.diff import unpack


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    os.close(writer)


def fail():
    raise errors.DataLoss("the layer is short")


@pytest.mark.parametrize(
    ("work", "status", "told"),
    [
        (lambda: {"entries": 3}, 0, {"entries": 3}),
        (fail, 1, {"error": "DataLoss", "message": "the layer is short"}),
    ],
)
def test_the_last_line_is_the_answer(pipe, work, status, told):
    reader, writer = pipe
    assert unpack.report(writer, work) == status
    assert json.loads(os.read(reader, 4096)) == told
    os.close(reader)


def test_a_worker_whose_daemon_has_gone_ends_quietly(pipe, monkeypatch):
    monkeypatch.setattr(unpack, "_PROGRESS", 0.001)
    reader, writer = pipe
    os.close(reader)
    progress = unpack._Progress(writer, types.SimpleNamespace(position=0))
    progress._thread.join(60)
    assert not progress._thread.is_alive()
    assert unpack.report(writer, dict) == 1
