import contextlib
import os
import signal
import socket
import time

import pytest

from plugin_sdk import errors, lines
from plugins_builtin.runtime import engine
from plugins_builtin.runtime.clients import Clients
from plugins_builtin.runtime.loop import Loop
from plugins_builtin.runtime.stdio import Stdio


@pytest.fixture
def loop():
    handler = signal.getsignal(signal.SIGCHLD)
    before = set(os.listdir("/proc/self/fd"))
    made = Loop()
    yield made
    writer = signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, handler)
    made.close(made._wakeup)
    os.close(writer)
    made._poll.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def run(loop, until, timeout=60):
    end = time.monotonic() + timeout
    while not until():
        assert time.monotonic() < end
        for fd, mask in loop._poll.poll(0.05):
            if fd in loop._ready:
                loop._ready[fd](mask)


def test_an_end_is_told_with_status_and_time(loop):
    seen = []
    pid = engine.spawn(["/bin/sh", "-c", "exit 4"], os.environ, {})
    loop.on_end(pid, lambda status, when: seen.append((status, when)))
    run(loop, lambda: seen)
    assert seen[0][0] == 4
    assert abs(seen[0][1] - time.time_ns()) < 5e9


def test_an_end_before_its_pid_is_known_is_kept_while_one_is_expected(loop):
    seen, other = [], []
    loop.expect()
    pid = engine.spawn(["/bin/sh", "-c", "kill -9 $$"], os.environ, {})
    marker = engine.spawn(["/bin/sleep", "0.1"], os.environ, {})
    loop.on_end(marker, lambda *_: other.append(1))
    run(loop, lambda: other)
    loop.on_end(pid, lambda status, _: seen.append(status))
    assert seen == [-9]
    loop.expected()
    assert loop._unclaimed == {}


def test_an_engine_that_is_gone_is_an_error_of_the_command(loop, tmp_path):
    said = []
    engine.Engine(loop, ["/no/such/engine"], str(tmp_path), "id").run(["create"], [], said.append)
    assert said == ["/no/such/engine: No such file or directory"]


def test_the_engines_own_words_are_told(loop, tmp_path):
    said = []
    program = tmp_path / "engine"
    line = '{"level":"error","msg":"it is so"}'
    program.write_text(f"#!/bin/sh\necho '{line}' > $2\nexit 3\n")
    program.chmod(0o755)
    engine.Engine(loop, [str(program)], str(tmp_path), "id").run(["create"], [], said.append)
    run(loop, lambda: said)
    assert said == ["it is so"]
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_clients_get_answers_and_events_after_hello(loop, tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    left = []

    def request(message, reply):
        if message["method"] == "hello":
            reply.connection.subscribed = True
            reply({"protocol": 1})
        else:
            reply.fail("NotFound", "nothing")

    clients = Clients(loop, listener.detach(), request, lambda: left.append(1))
    answers = []
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        client.sendall(b'{"id": 1, "method": "hel')
        client.sendall(b'lo"}\n{"id": 2, "method": "x"}\n')
        client.setblocking(False)

        def received(count):
            with contextlib.suppress(BlockingIOError):
                answers.append(client.recv(65536))
            return b"".join(answers).count(b"\n") == count

        run(loop, lambda: received(2))
        clients.tell({"event": "exit"})
        run(loop, lambda: received(3))
    told = [lines.decode(line) for line in b"".join(answers).splitlines()]
    assert told[0] == {"id": 1, "result": {"protocol": 1}}
    assert told[1] == {"id": 2, "error": {"code": "NotFound", "message": "nothing"}}
    assert told[2] == {"event": "exit"}
    run(loop, lambda: left)
    loop.forget(clients._listener.fileno())
    clients._listener.close()


def test_a_full_output_waits_and_nothing_is_lost(loop, tmp_path):
    """A relayed process writes much more than a FIFO holds, and the reader comes late."""
    path = str(tmp_path / "out")
    os.mkfifo(path)
    io = Stdio(loop, {"stdout": path}, True, None)
    pid = engine.spawn(["/bin/sh", "-c", "head -c 500000 /dev/zero"], os.environ, dict(enumerate(io.child)))
    io.started()
    ended = []
    loop.on_end(pid, lambda *_: ended.append(1))
    reader, seen = os.open(path, os.O_RDONLY | os.O_NONBLOCK), []
    begin = time.monotonic()

    def read():
        if time.monotonic() - begin < 0.3:
            return False
        try:
            part = os.read(reader, 65536)
        except BlockingIOError:
            return False
        seen.append(len(part))
        return not part

    run(loop, read)
    run(loop, lambda: ended)
    assert sum(seen) == 500_000
    os.close(reader)
    io.close()


def test_a_path_that_does_not_exist_leaves_nothing_open(loop, tmp_path):
    os.mkfifo(tmp_path / "in")
    with pytest.raises(errors.NotFound, match="missing"):
        Stdio(loop, {"stdin": str(tmp_path / "in"), "stdout": str(tmp_path / "missing")}, False, None)
    # The fixture counts what is open.


def test_a_gate_is_passed_also_when_its_process_has_ended_since(loop, tmp_path):
    path, opened = str(tmp_path / "exec.fifo"), []
    os.mkfifo(path)
    gate = engine.Gate(loop, path, opened.append)
    assert not gate.look()
    writer = os.open(path, os.O_WRONLY)
    assert not gate.look()
    os.write(writer, b"0")
    os.close(writer)
    assert gate.look()
    assert opened == [None]
    assert not os.path.exists(path)
    with pytest.raises(OSError):
        engine.Gate(loop, path, opened.append)
