"""Proxy plugins that are wrong: one clear line each, with file, line and plugin, and everything else goes on."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plugin_sdk import content, errors, oci, plugin, snapshots
from tests import certificates, pace, programs, proxied
from tests.proxied import Host, calling, until

pytestmark = pytest.mark.root


HEAD = f'disabled_plugins = ["{plugin.CONTENT}.content", "{plugin.DIFFER}.walking"]\n'


@pytest.fixture(scope="module")
def host(scratch: Path) -> Iterator[Host]:
    """With a plugin ``steady``, which is as well at the end as it was at the beginning; content is in ``shelf``."""
    with proxied.hosting(scratch / "w", HEAD, start=False) as host:
        host.moody("steady")
        host.moody("shelf", kind="content")
        host.start()
        host.wait_for("steady")
        host.wait_for("shelf")
        pid = host.pid("steady")
        yield host
        host.snapshotter("steady").prepare("last")
        assert host.pid("steady") == pid


@pytest.fixture(autouse=True)
def tidy_tables(host: Host) -> Iterator[None]:
    yield
    host.keep_only({"steady", "shelf", "liar"})


def told(host: Host, name: str, state: str, reason: str) -> None:
    """The plugin comes into this state, and introspection, ``corten plugins`` and the log have the same line of it."""
    pattern = rf"{host.conf}/{name}.toml:1: proxy plugin '{name}': (\w+: )?{reason}"
    until(lambda: (info := host.info(name)) and info.state == state and re.search(reason, info.error), 10)
    info = host.info(name)
    assert info is not None
    assert re.match(pattern, info.error), info.error
    assert "\n" not in info.error
    assert re.search(rf"{name} .*   {state} since .*: {pattern}", host.plugins())
    assert [line for line in host.said() if re.search(pattern, line)]


# --- tables

BUILTIN = "io.containerd.snapshotter.v1.overlayfs"
TABLES: dict[str, tuple[dict[str, object], int, str]] = {
    "kind": ({"type": "snap", "address": "/x"}, 2, "unknown type 'snap'; did you mean 'snapshot'?"),
    "kindless": ({"address": "/x"}, 1, "unknown type ''"),
    "key": (
        {"type": "diff", "address": "/x", "commnd": ["x"]},
        4,
        "'commnd' in [proxy_plugins.key]; did you mean 'com",
    ),
    "boolean": ({"type": "diff", "address": "/x", "restart": 1}, 4, "must be true or false, not 1"),
    "duration": ({"type": "diff", "address": "/x", "grace": "soon"}, 4, "'soon' is not a duration such as 1m30s"),
    "platform": ({"type": "diff", "address": "/x", "platform": "lin ux"}, 4, "unknown platform"),
    "nowhere": ({"type": "diff"}, 1, "has no address"),
    "relative": ({"type": "diff", "address": "x.sock"}, 3, "neither an absolute path nor HOST:PORT"),
    "empty": ({"type": "diff", "address": "/x", "command": [""]}, 4, "has an empty command"),
    "tcp": ({"type": "diff", "address": "localhost:77"}, 3, "which needs TLS: set tls_ca"),
    "tls": ({"type": "diff", "address": "/x", "tls_name": "y"}, 4, "goes with HOST:PORT and not with a socket"),
    "root": ({"type": "diff", "address": "/x", "exports": '{ root = "srv" }'}, 4, "not an absolute path: 'srv'"),
    "overlayfs": ({"type": "snapshot", "address": "/x"}, 1, f"there is a plugin {BUILTIN} already"),
    "second": ({"type": "content", "address": "/x"}, 1, "there is a content store already"),
    "twin-a": ({"type": "diff", "address": "/twin", "command": ["sleep", "9"]}, 0, ""),
    "twin-b": ({"type": "diff", "address": "/twin", "command": ["sleep", "9"]}, 1, "has the address of 'twin-a'"),
}


def test_wrong_tables_are_told_and_the_daemon_starts_without_them(scratch: Path) -> None:
    with proxied.hosting(scratch / "s", start=False) as host:
        host.moody("right")
        for name, (keys, _, _) in TABLES.items():
            host.write(name, proxied.table(name, **keys))
        host.start()
        checked = subprocess.run([*host.daemon.command, "config", "check"], capture_output=True, text=True, timeout=180)
        assert checked.returncode == 1
        shown = host.plugins()
        infos = {(info.kind, info.id): info for info in host.connection.plugins()}
        for name, (_, line, reason) in TABLES.items():
            if reason:
                info = infos["proxy_plugins", name]
                assert info.state == "refused"
                assert re.match(rf"{host.conf}/{name}.toml:{line}: .*\b{name}\b", info.error), info.error
                assert reason in info.error
                assert f": {info.error}\n" in shown
                assert host.said(f"error proxies: {info.error}")
                assert name in ("overlayfs", "second") or f"error: {info.error}\n" in checked.stderr
        assert infos[plugin.SNAPSHOTTER, "overlayfs"].error == ""
        host.wait_for("right")
        host.snapshotter("right").prepare("key")
        host.snapshotter("overlayfs").prepare("key")


@pytest.mark.parametrize("name", ["kind", "key", "platform", "overlayfs"])
def test_a_wrong_table_that_is_added_changes_nothing_and_is_told(host: Host, name: str) -> None:
    keys, line, reason = TABLES[name]
    host.write(name, proxied.table(name, **keys))
    error = until(host.refused_edit, 3)
    assert re.search(rf": {host.conf}/{name}.toml:{line}: .*\b{name}\b", error)
    assert reason in error
    assert "\n" not in error
    assert host.said(f"the configuration stays as it is: {host.conf}/{name}.toml:{line}: ")
    assert f": {error}\n" in host.plugins()
    host.withdraw(name)
    until(lambda: not host.refused_edit(), 3)


def test_a_name_that_is_there_twice_is_told_with_its_line(host: Host) -> None:
    once = proxied.table("twice", type="snapshot", address=host.socket("twice"))
    host.write("twice", once + once)
    error = until(host.refused_edit, 3)
    assert error.endswith(f"{host.conf}/twice.toml:4: [proxy_plugins.twice] is there twice")
    checked = subprocess.run([*host.daemon.command, "config", "check"], capture_output=True, text=True, timeout=180)
    assert checked.stderr == f"Error: {host.conf}/twice.toml:4: [proxy_plugins.twice] is there twice\n"
    host.withdraw("twice")
    until(lambda: not host.refused_edit(), 3)


# --- programs and sockets


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["false"], "its program ended with exit code 1 after 0.. s; attempt"),
        (
            ["sh", "-c", "echo the disk is full; exit 3"],
            "its program ended with exit code 3 after 0.. s: the disk is full",
        ),
        (["sh", "-c", "kill -ABRT $$"], "its program ended with signal SIGABRT after 0.. s; attempt"),
        (["/none/there"], "its program cannot be run: /none/there: No such file or directory; attempt"),
        (["/etc"], "its program cannot be run: /etc: Permission denied; attempt"),
    ],
)
def test_a_program_that_ends_at_once_is_told_and_tried_again(host: Host, command: list[str], reason: str) -> None:
    host.declare("ends", command=command, grace="0.2s")
    told(host, "ends", "backoff", reason)
    with pytest.raises(errors.Unavailable, match=r'snapshotter "ends" is (backoff|starting)'):
        host.snapshotter("ends").prepare("key")
    until(lambda: re.search("attempt [2-9]", host.info("ends").error))  # type: ignore[union-attr]
    host.withdraw("ends")
    host.wait_for("ends", "")


def test_a_program_that_ends_again_and_again_is_warned_of_once(host: Host, tmp_path: Path) -> None:
    lives = f'echo >>"{tmp_path}/lives"; sleep 0.$(wc -l <"{tmp_path}/lives"); exit 1'  # each longer than the last
    host.declare("mortal", command=["sh", "-c", lives])
    until(lambda: (info := host.info("mortal")) and re.search("attempt [3-9]", info.error))
    assert len([line for line in host.said() if "proxy plugin 'mortal': backoff" in line]) == 1
    host.withdraw("mortal")
    host.wait_for("mortal", "")


def test_a_program_that_is_not_to_be_started_again_is_refused(host: Host) -> None:
    host.declare("once", command=["false"], restart=False)
    told(host, "once", "refused", "its program ended with exit code 1 after 0.. s, and its table says restart = false")
    host.withdraw("once")


def test_an_address_that_is_no_socket_is_refused_until_it_is_one(host: Host) -> None:
    Path(host.socket("file")).write_text("a file")
    host.declare("file")
    told(host, "file", "refused", f'its address "{host.socket("file")}" is no socket')
    os.unlink(host.socket("file"))
    with host.program("file"):
        host.wait_for("file")
        host.snapshotter("file").prepare("key")
    host.withdraw("file")


@contextlib.contextmanager
def answering(path: str, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    """Somebody at a socket who gives each connection this answer."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen()
        thread = threading.Thread(target=_serve, args=(listener, answer))
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listener: socket.socket, answer: Callable[[socket.socket], None]) -> None:
    kept = []
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        while True:
            kept.append(stack.enter_context(listener.accept()[0]))
            with contextlib.suppress(OSError):
                answer(kept[-1])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda peer: peer.sendall(b"220 mail.example ESMTP\r\n" * 9), '".*strange.sock" does not answer: '),
        (lambda peer: peer.shutdown(socket.SHUT_RDWR), '".*strange.sock" does not answer: '),
        (lambda peer: None, '".*strange.sock" does not answer: .*timed out'),
    ],
    ids=["mail", "closes", "silent"],
)
def test_a_socket_at_which_something_else_listens_is_told(host: Host, answer: Any, reason: str) -> None:
    with answering(host.socket("strange"), answer):
        host.declare("strange", grace="0s")
        told(host, "strange", "backoff", reason)
        host.withdraw("strange")
        host.wait_for("strange", "")
    os.unlink(host.socket("strange"))


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that everybody may pass through, unlike those of the other tests."""
    with tempfile.TemporaryDirectory(prefix="corten-", dir="/dev/shm") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_a_socket_that_others_may_write_to_is_refused_unless_that_is_allowed(host: Host, reachable: Path) -> None:
    address = f"{reachable}/open.sock"
    command = [*host.command("open"), "--address", address, "--mode", "666"]
    with programs.started(command, host.directory / "open.log") as program:
        program.wait_for(address)
        host.write("open", proxied.table("open", type="snapshot", address=address))
        told(host, "open", "refused", re.escape(f'others may write to its socket "{address}" (srw-rw-rw-)'))
        os.chmod(address, 0o600)
        host.wait_for("open", timeout=3)
        os.chmod(address, 0o666)
        host.write("open", proxied.table("open", type="snapshot", address=address, tls_name=""))
        host.write("open", proxied.table("open", type="snapshot", address=address, allow_others=True))
        until(lambda: len(host.said("open: is ok")) == 2)
        host.snapshotter("open").prepare("key")
        host.withdraw("open")
        host.wait_for("open", "")


# --- floods


def cpu(pid: int) -> float:
    """Seconds of processor time that it has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("flood", ["yes", "cat /dev/zero"], ids=["lines", "one-line"])
def test_a_program_that_floods_its_log_harms_nobody(host: Host, flood: str) -> None:
    script = f'{flood} & exec "$@"'
    declared = time.monotonic()
    host.declare("floods", command=["sh", "-c", script, "sh", *host.command("floods")], grace="20s")
    host.wait_for("floods")
    with calling(host, "steady") as caller:
        size, busy, begun = host.daemon.log.stat().st_size, cpu(host.daemon.pid), time.monotonic()
        time.sleep(2)
        assert (cpu(host.daemon.pid) - busy) / (time.monotonic() - begun) < min(0.9, pace.scaled(0.7))
        assert host.daemon.log.stat().st_size - size < 100 << 10
        answers = caller.stop()
    assert [answer for answer in answers if "error" in answer] == []
    assert pace.within(sorted(answer["took"] for answer in answers)[len(answers) // 2], 0.2)
    assert len(host.said("floods: y")) <= 201 * (1 + (time.monotonic() - declared) / 10)
    host.snapshotter("floods").prepare(flood)
    assert pace.within(cpu(host.pid("floods")), 5)
    host.withdraw("floods")
    host.wait_for("floods", "")
    if flood == "yes":
        assert until(lambda: host.said("lines of its output were left out: it writes too much"), 10)


# --- answers


@pytest.fixture(scope="module")
def liar(host: Host) -> snapshots.Snapshotter:
    """Of a plugin whose answers the test orders; what it refuses is undone there."""
    host.moody("liar")
    host.wait_for("liar")
    made = host.snapshotter("liar")
    made.prepare("there")
    return made


def bind(source: str, *options: str, type: str = "bind") -> dict[str, object]:
    return {"answer": {"mounts": [{"type": type, "source": source, "options": list(options)}]}}


def overlay(*options: str) -> dict[str, object]:
    return bind("overlay", *options, type="overlay")


def filled(order: Any, **values: str) -> Any:
    if isinstance(order, dict):
        return {name: filled(inner, **values) for name, inner in order.items()}
    if isinstance(order, list):
        return [filled(inner, **values) for inner in order]
    return order.format(**values) if isinstance(order, str) else order


NAME = 'snapshotter "liar" '


@pytest.mark.parametrize(
    ("method", "order", "reason"),
    [
        ("Prepare", {"raw": "ffffffff"}, "gave an answer to Prepare that cannot be read"),
        ("Prepare", {"raw": "0a04120290ff"}, "gave an answer to Prepare that cannot be read"),  # no UTF-8
        ("Mounts", {"raw": "ff"}, "gave an answer to Mounts that cannot be read"),
        ("Mounts", {"size": 17 << 20}, "gave an answer to Mounts of more than 16777216 bytes"),
        ("Prepare", {"size": 17 << 20}, "gave an answer to Prepare of more than 16777216 bytes"),
        ("Prepare", bind("/etc"), "answered with a mount of '/etc', which is outside of its root"),
        ("Prepare", bind("{root}/../x"), "which is outside of its root"),
        ("Prepare", bind("etc"), "answered with a mount of the relative path 'etc'"),
        ("Prepare", bind("{root}", type=""), "answered with a mount without a type"),
        ("Prepare", overlay("lowerdir={root}/a:/etc"), "answered with a mount of '/etc'"),
        ("Prepare", overlay("lowerdir={root}/a", "upperdir=/etc"), "answered with a mount of '/etc'"),
        ("Mounts", bind("/etc"), "answered with a mount of '/etc', which is outside of its root"),
        ("Usage", {"answer": {"size": "-1"}}, "answered with a negative usage of 'there'"),
        ("Update", {"answer": {"info": {"name": "x", "kind": "ACTIVE"}}}, "answered with 'x', active, for 'there'"),
        ("Update", {"answer": {"info": {"name": "{key}"}}}, "answered with 'there', unknown, for 'there'"),
        ("Update", {"raw": "0a04200a1001"}, "answered with '', unknown, for 'there'"),
    ],
)
def test_an_answer_that_is_wrong_is_told_and_not_believed(
    host: Host, liar: snapshots.Snapshotter, method: str, order: dict[str, Any], reason: str
) -> None:
    label = snapshots.Info("there", snapshots.Kind.ACTIVE, labels={"containerd.io/snapshot/x": str(time.time())})
    calls: dict[str, Callable[[], object]] = {
        "Prepare": lambda: liar.prepare("new"),
        "Mounts": lambda: liar.mounts("there"),
        "Usage": lambda: liar.usage("there"),
        "Update": lambda: liar.update(label, ["labels"]),
    }
    with host.own("liar") as own:
        (key,) = [info.name for info in own.walk() if info.name.endswith("/there")]
    host.order("liar", **{method: filled(order, root=str(host.root("liar")), key=key)})
    with pytest.raises((errors.Internal, errors.ResourceExhausted), match=re.escape(reason)) as caught:
        calls[method]()
    assert caught.value.message.startswith(NAME)
    words = reason.partition("'there'")[0]  # the daemon's keys are others
    assert until(
        lambda: [line for line in host.said(f"{host.conf}/liar.toml:1: proxy plugin 'liar': it ") if words in line]
    )
    host.order("liar")
    assert host.state("liar") == "ok"
    calls[method]()
    if method == "Prepare":
        liar.remove("new")
    until(lambda: host.held("liar") == host.shown("liar") == {"there"})


DATA = b"some bytes"
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()
OTHER = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def store(host: Host) -> content.Store:
    """Of ``shelf``, with a blob."""
    made = host.connection.view("default").content
    with made.writer("ref", len(DATA), DIGEST) as writer:
        writer.write(DATA)
        writer.commit(len(DATA), DIGEST)
    return made


@pytest.mark.parametrize(
    ("method", "order", "reason"),
    [
        ("Info", {"raw": "ffff"}, "gave an answer to Info that cannot be read"),
        ("Info", {"answer": {"info": {"digest": OTHER}}}, f"answered with '{OTHER}' of 0 bytes for '{DIGEST}'"),
        ("Info", {"answer": {"info": {"digest": DIGEST, "size": "-1"}}}, "of -1 bytes"),
        ("Read", {"raw": "ffff"}, "gave an answer to Read that cannot be read"),
        ("Read", {"size": 17 << 20}, "gave an answer to Read of more than 16777216 bytes"),
        ("Read", {"answer": {"data": ""}}, "0 bytes from 0 on, 10 expected"),
        ("Write", {"raw": "ffff"}, "gave an answer to Write that cannot be read"),
        ("Write", {"size": 17 << 20}, "gave an answer to Write of more than 16777216 bytes"),
    ],
)
def test_an_answer_of_a_content_store_that_is_wrong_is_told_and_not_believed(
    host: Host, store: content.Store, method: str, order: dict[str, Any], reason: str
) -> None:
    def write() -> None:
        with store.writer(f"new {reason}") as writer:
            writer.write(DATA)

    host.order("shelf", **{method: order})
    with pytest.raises(errors.Error, match=re.escape(reason)) as caught, contextlib.ExitStack() as stack:
        stack.callback(host.order, "shelf")
        write() if method == "Write" else store.reader(DIGEST).read_at(0, len(DATA))
    assert type(caught.value) in (errors.Internal, errors.ResourceExhausted, errors.DataLoss)
    assert host.state("shelf") == "ok"
    assert store.reader(DIGEST).read_at(0, len(DATA)) == DATA


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ({"raw": "ffff"}, "gave an answer to Apply that cannot be read"),
        ({"answer": {"applied": {"digest": "sha256:none"}}}, "answered with a layer without a digest"),
    ],
)
def test_an_answer_of_a_differ_that_is_wrong_is_told_and_not_believed(
    host: Host, order: dict[str, Any], reason: str
) -> None:
    host.moody("differs", kind="diff")
    host.wait_for("differs")
    assert host.said(f"differs: content is at {host.daemon.address}")
    layer = oci.Descriptor("application/vnd.oci.image.layer.v1.tar", DIGEST, len(DATA))
    view = host.connection.view("default")
    assert view.differ().apply(layer, [], view.content).digest == DIGEST
    host.order("differs", Apply=order)
    with pytest.raises(errors.Internal, match=f'differ "differs" {reason}'):
        view.differ().apply(layer, [], view.content)
    assert host.said(f"{host.conf}/differs.toml:1: proxy plugin 'differs': it {reason}")
    host.order("differs")


def test_mounts_inside_of_the_daemons_own_directories_are_refused(host: Host) -> None:
    host.moody("own", "--plain")
    host.wait_for("own")
    made = host.snapshotter("own")
    for path in (host.daemon.root, host.daemon.state / "x", host.daemon.root / f"{plugin.SNAPSHOTTER}.native" / "y"):
        host.order("own", Prepare=bind(str(path)))
        with pytest.raises(errors.Internal, match=f"a mount of '{path}', which is in the daemon's own directory"):
            made.prepare("key")
    home = host.daemon.root / f"{plugin.SNAPSHOTTER}.own" / "z"
    host.order("own", Prepare=bind(str(home)))
    [mount] = made.prepare("key")
    assert mount.source == str(home)
    host.withdraw("own")


# --- TLS

DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def certificate(scratch: Path) -> dict[str, certificates.Files]:
    made = {"good": certificates.make(scratch / "good"), "old": certificates.make(scratch / "old", age=3 * DAY)}
    made["other"] = certificates.make(scratch / "other")
    return made


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tls(host: Host, served: certificates.Files, ours: certificates.Files, **keys: object) -> None:
    """Declares the plugin ``secure`` at a TCP address."""
    files = [str(file) for file in (served.server, served.server_key, served.ca)]
    given = {"tls_ca": str(ours.ca), "tls_cert": str(ours.client), "tls_key": str(ours.client_key), **keys}
    command = host.command("secure", "--tls", *files)
    address = f"127.0.0.1:{free_port()}"
    text = proxied.table("secure", type="snapshot", address=address, command=command, grace="0s", **given)
    host.write("secure", text)


@pytest.fixture
def secure(host: Host) -> Iterator[None]:
    yield
    host.withdraw("secure")
    host.wait_for("secure", "")


@pytest.mark.usefixtures("secure")
def test_a_plugin_at_a_tcp_address_works_with_certificates_on_both_sides(
    host: Host, certificate: dict[str, certificates.Files]
) -> None:
    tls(host, certificate["good"], certificate["good"])
    host.wait_for("secure")
    host.snapshotter("secure").prepare("key")
    host.snapshotter("secure").commit("layer", "key")
    assert host.shown("secure") == {"layer"}


@pytest.mark.usefixtures("secure")
@pytest.mark.parametrize(
    ("served", "ours", "keys", "state", "reason"),
    [
        ("old", "old-ca", {}, "refused", "the certificate of .* is refused: certificate has expired"),
        ("good", "old", {"tls_ca": "good"}, "refused", "the certificate in .*/old/client.pem expired on 20"),
        ("good", "other", {}, "refused", "the certificate of .* is refused: certificate signature failure"),
        ("good", "good", {"tls_name": "elsewhere"}, "refused", "the certificate of .* is refused: Hostname mismatch"),
        ("good", "other", {"tls_ca": "good"}, "refused", "TLS with .* fails"),
        ("good", "good", {"tls_cert": "", "tls_key": ""}, "refused", "TLS with .* fails"),
        ("good", "good", {"tls_ca": "/none"}, "refused", "/none cannot be read: No such file or directory"),
        ("good", "good", {"tls_ca": "key"}, "refused", ".*/client.key holds no certificate in PEM"),
    ],
)
def test_a_certificate_that_is_wrong_is_told(
    host: Host,
    certificate: dict[str, certificates.Files],
    served: str,
    ours: str,
    keys: dict[str, str],
    state: str,
    reason: str,
) -> None:
    files = {"good": str(certificate["good"].ca), "key": str(certificate["good"].client_key)}
    keys = {name: files.get(value, value) for name, value in keys.items()}
    if ours == "old-ca":
        ours, keys = "good", {"tls_ca": str(certificate["old"].ca)}
    tls(host, certificate[served], certificate[ours], **keys)
    told(host, "secure", state, reason)
    with pytest.raises(errors.Unavailable, match=f'snapshotter "secure" is {state}: {reason}'):
        host.snapshotter("secure").prepare("key")
