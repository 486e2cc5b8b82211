"""TLS, proxies, hosts that are not there, and hosts of which nobody has said what they speak."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plugin_sdk import errors, oci, transfer
from plugin_sdk.distribution.http import connections, waiting
from plugin_sdk.distribution.registry import Registries, Repository, Settings
from plugin_sdk.transfer import Credentials
from tests import certificates, scripted_registry
from tests.scripted_registry import Registry

DATA = bytes(range(256)) * 8192


def server_context(files: certificates.Files, *, wants_client: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server, files.server_key)
    if wants_client:
        context.load_verify_locations(files.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> certificates.Files:
    return certificates.make(tmp_path_factory.mktemp("tls") / "now")


@pytest.fixture(scope="module")
def old_files(tmp_path_factory: pytest.TempPathFactory) -> certificates.Files:
    return certificates.make(tmp_path_factory.mktemp("tls") / "old", age=datetime.timedelta(days=2))


@pytest.fixture
def secured(files: certificates.Files) -> Iterator[Registry]:
    with scripted_registry.serve(server_context(files)) as registry:
        registry.add_manifest(b'{"schemaVersion":2}')
        yield registry


@pytest.fixture
def plain() -> Iterator[Registry]:
    with scripted_registry.serve() as registry:
        registry.add_manifest(b'{"schemaVersion":2}')
        yield registry


class Make:
    """``make(registry, 'keys of hosts.toml', **settings)``: the image ``a/b:1`` there."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self._stack = stack

    def __call__(
        self, address: str, keys: str = "", scheme: str = "", check: Callable[[], None] = waiting.nobody, **given: Any
    ) -> Repository:
        (self.folder / "_default").mkdir(exist_ok=True)
        if keys:
            (self.folder / "_default" / "hosts.toml").write_text(keys)
        settings = {"retries": 1, "backoff": 0.001, "docker_config": "/nonexistent", **given}
        registries = self._stack.enter_context(Registries(Settings(**settings)))
        folder = str(self.folder) if keys else ""
        return registries.repository(transfer.Registry(f"{address}/a/b:1", {}, folder, scheme), check)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with contextlib.ExitStack() as stack:
        yield Make(tmp_path, stack)


# -- TLS


def test_a_private_authority_is_trusted_when_it_is_named(
    secured: Registry, files: certificates.Files, make: Make
) -> None:
    of = secured.add_blob(DATA)
    repository = make(secured.address, f'ca = "{files.ca}"')
    repository.resolve()
    assert b"".join(repository.fetch(of)) == DATA
    assert (
        repository.push_blob(oci.Descriptor(oci.LAYER, oci.digest_of(b"new"), 3), lambda at: iter([b"new"]))
        == "uploaded"
    )


def test_certificates_in_docker_s_layout_are_used(secured: Registry, files: certificates.Files, make: Make) -> None:
    folder = make.folder / "certs.d" / secured.address
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes(files.ca.read_bytes())
    make(secured.address, config_path=f"/nonexistent:{make.folder / 'certs.d'}").resolve()


def test_an_unknown_authority_is_not_trusted(secured: Registry, make: Make) -> None:
    with pytest.raises(errors.Unavailable) as caught:
        make(secured.address, scheme="https").resolve()
    where = secured.address
    assert caught.value.message == (
        f"cannot resolve image {where}/a/b:1: {where}: its certificate is not signed by a known authority"
    )


def test_verification_may_be_left_out(secured: Registry, make: Make) -> None:
    make(secured.address, "skip_verify = true").resolve()


def test_an_expired_certificate_is_told_in_one_sentence(old_files: certificates.Files, make: Make) -> None:
    with scripted_registry.serve(server_context(old_files)) as registry:
        with pytest.raises(errors.Unavailable, match=r"its certificate has expired$") as caught:
            make(registry.address, f'ca = "{old_files.ca}"').resolve()
        assert "\n" not in caught.value.message


def test_a_certificate_for_another_name_is_told(secured: Registry, files: certificates.Files, make: Make) -> None:
    with (
        scripted_registry.serve(server_context(files), "127.0.0.3") as registry,
        pytest.raises(errors.Unavailable, match="its certificate is for another name"),
    ):
        make(registry.address, f'server = "https://{registry.address}"\nca = "{files.ca}"').resolve()


def test_a_client_shows_its_certificate(files: certificates.Files, make: Make) -> None:
    with scripted_registry.serve(server_context(files, wants_client=True)) as registry:
        registry.add_manifest(b"{}")
        keys = f'server = "https://{registry.address}"\nca = "{files.ca}"\n'
        with pytest.raises(errors.Unavailable, match=r"wants a client's certificate|was cut|has closed"):
            make(registry.address, keys).resolve()
        make(registry.address, f'{keys}client = [["{files.client}", "{files.client_key}"]]').resolve()
        both = make.folder / "both.pem"
        both.write_bytes(files.client.read_bytes() + files.client_key.read_bytes())
        make(registry.address, f'{keys}client = "{both}"').resolve()


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ('ca = "missing.pem"', r"missing\.pem cannot be read: No such file"),
        ('ca = "hosts.toml"', r"hosts\.toml is no certificate in PEM"),
        ('client = "hosts.toml"', r"hosts\.toml is no certificate in PEM with its key, unencrypted"),
    ],
)
def test_a_file_that_is_no_certificate_is_named(secured: Registry, make: Make, keys: str, why: str) -> None:
    with pytest.raises(errors.FailedPrecondition, match=f"cannot resolve image .*{why}"):
        make(secured.address, keys).resolve()


def test_a_certificate_that_was_exchanged_is_used_without_restart(
    secured: Registry, files: certificates.Files, old_files: certificates.Files, make: Make
) -> None:
    ca = make.folder / "ca.pem"
    ca.write_bytes(old_files.ca.read_bytes())
    repository = make(secured.address, f'ca = "{ca}"')
    with pytest.raises(errors.Unavailable, match=r"known authority|cannot be verified"):
        repository.resolve()
    ca.unlink()
    ca.write_bytes(files.ca.read_bytes())
    repository.resolve()


def test_a_blob_is_not_fetched_without_tls_after_a_redirect(
    secured: Registry, plain: Registry, files: certificates.Files, make: Make
) -> None:
    of = secured.add_blob(DATA)
    secured.faults.append(lambda handler: handler.answer(307, Location=f"{plain.url}/v2/a/b/blobs/{of.digest}"))
    with pytest.raises(errors.FailedPrecondition, match=r"it redirects to another scheme \(http\)"):
        b"".join(make(secured.address, f'ca = "{files.ca}"').fetch(of))
    assert plain.seen == []


def test_a_redirect_to_tls_is_followed(
    secured: Registry, plain: Registry, files: certificates.Files, make: Make
) -> None:
    of = secured.add_blob(DATA)
    plain.faults.append(lambda handler: handler.answer(307, Location=f"{secured.url}{handler.path}"))
    keys = f'server = "{plain.url}"\nca = "{files.ca}"'
    assert b"".join(make(plain.address, keys).fetch(of)) == DATA


def test_credentials_are_not_sent_to_a_token_server_without_tls(
    secured: Registry, files: certificates.Files, make: Make
) -> None:
    secured.faults.append(scripted_registry.Tokens(realm="http://tokens.example/token"))
    repository = make(secured.address, f'ca = "{files.ca}"', auth={secured.address: Credentials("me", "s3cr3t")})
    with pytest.raises(errors.FailedPrecondition, match="to a token server without TLS"):
        repository.resolve()


# -- what nobody has said


def test_a_local_registry_may_speak_http_or_tls(plain: Registry, secured: Registry, make: Make) -> None:
    make(plain.address).resolve()
    with pytest.raises(errors.Unavailable, match=r"known authority"):
        make(secured.address).resolve()
    assert [seen.method for seen in plain.seen] == ["HEAD"]


def test_plain_http_with_tls_files_falls_back(plain: Registry, make: Make) -> None:
    of = plain.add_blob(DATA)
    repository = make(plain.address, f'server = "{plain.url}"\nskip_verify = true')
    repository.resolve()
    assert b"".join(repository.fetch(of)) == DATA


def test_tls_at_a_host_without_it_is_told(plain: Registry, make: Make) -> None:
    with pytest.raises(errors.Unavailable, match=r"it does not speak TLS|closed the connection"):
        make(plain.address, scheme="https").resolve()


# -- hosts that are not there


def test_a_host_that_refuses_connections_is_told(make: Make) -> None:
    with scripted_registry.serve() as gone:
        pass
    with pytest.raises(errors.Unavailable, match=rf"{gone.address}: no connection can be made: Connection refused"):
        make(gone.address).resolve()


def test_a_name_that_nobody_knows_is_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(errors.Unavailable, match=r"registry\.invalid: its name cannot be resolved"):
        make("registry.invalid").resolve()


@pytest.fixture
def deaf() -> Iterator[str]:
    """The address of a host that accepts no connection: its queue is full."""
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(listening.getsockname())
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_host_that_accepts_nothing_is_given_up(deaf: str, make: Make) -> None:
    with pytest.raises(errors.Unavailable, match="no connection is made in time"):
        make(deaf, f'server = "http://{deaf}"\ndial_timeout = "200ms"').resolve()


def test_a_caller_that_has_gone_is_noticed_while_a_connection_is_made(deaf: str, make: Make) -> None:
    looked = [0]

    def check() -> None:
        looked[0] += 1
        if looked[0] > 2:
            raise errors.Canceled("the caller has gone")

    with pytest.raises(errors.Canceled):
        make(deaf, f'server = "http://{deaf}"', check=check).resolve()


def test_a_caller_that_has_gone_is_noticed_in_a_handshake(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        looked = [0]

        def check() -> None:
            looked[0] += 1
            if looked[0] > 3:
                raise errors.Canceled("the caller has gone")

        with pytest.raises(errors.Canceled):
            make(f"127.0.0.1:{silent.getsockname()[1]}", scheme="https", check=check).resolve()


# -- proxies


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as made:
        yield made


class Proxy:
    """Takes CONNECT, and requests for plain HTTP; both go to ``target``, whatever host is meant."""

    def __init__(self) -> None:
        self.target = ("", 0)
        self.heads: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://me:word@127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Proxy:
        self._threads[0].start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(60)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(client,)))
                self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.target) as server:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            self.heads.append(head.decode())
            if head.startswith(b"CONNECT"):
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                server.sendall(head)
            back = threading.Thread(target=pour, args=(server, client))
            back.start()
            pour(client, server)
            back.join(60)


def pour(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def place(registry: Registry) -> tuple[str, int]:
    name, _, port = registry.address.partition(":")
    return name, int(port)


def test_a_proxy_of_the_environment_is_used_for_tls(
    secured: Registry, files: certificates.Files, proxy: Proxy, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    proxy.target = place(secured)
    repository = make("far.example", 'server = "https://far.example"\nskip_verify = true')
    repository.resolve()
    repository._registries.close()
    assert proxy.heads[0].startswith("CONNECT far.example:443 HTTP/1")
    assert "Basic bWU6d29yZA==" in proxy.heads[0]


def test_a_proxy_of_the_environment_is_used_for_plain_http(
    plain: Registry, proxy: Proxy, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    proxy.target = place(plain)
    repository = make("far.example:5000", 'server = "http://far.example:5000"')
    with contextlib.suppress(errors.NotFound):  # the path that the registry sees is the whole URL
        repository.resolve()
    repository._registries.close()
    assert proxy.heads[0].startswith("HEAD http://far.example:5000/v2/a/b/manifests/1 HTTP/1.1")


def test_a_proxy_that_is_not_there_is_told_without_its_password(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_registry.serve() as gone:
        pass
    monkeypatch.setenv("https_proxy", f"http://me:hidden@{gone.address}")
    with pytest.raises(errors.Unavailable, match="the proxy cannot be used: no connection can be made") as caught:
        make("far.example").resolve()
    assert "hidden" not in repr(caught.value)


@pytest.mark.parametrize(
    ("url", "spared"),
    [
        ("https://a.example/x", True),
        ("https://b.a.example:5000/x", True),
        ("https://example/x", False),
        ("https://10.1.2.3/x", True),
        ("https://10.2.2.3/x", False),
        ("https://10.9.9.9:5000/x", True),
        ("https://localhost/x", True),
        ("http://127.0.0.1:5000/x", True),
        ("http://far.example/x", True),
    ],
)
def test_whom_no_proxy_is_for(monkeypatch: pytest.MonkeyPatch, url: str, spared: bool) -> None:
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    monkeypatch.setenv("no_proxy", "a.example,10.1.0.0/16,10.9.9.9")
    assert connections.Connections(1, 1)._proxy(url) == ("" if spared else "http://proxy.example:3128")
