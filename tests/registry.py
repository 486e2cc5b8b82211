"""Debian's docker-registry on a Docker engine, of every kind that a test asks for. Starts in about two seconds.

    def test_something(registries: registry.Registries) -> None:
        plain = registries["plain"]                      # started at the first use, once for the session
        image = registry_images.two_platforms("something")
        registries.push(image, "team/something:1")       # all kinds share their storage: push once, pull from each
        mark = plain.mark()
        ...                                              # pull plain.reference("team/something:1")
        requests = plain.requests(mark)                  # the access log since then: method, path, status, size …
        assert plain.served(mark)[digest] == size        # bytes of bodies by digest; plain.asked(mark): GETs by digest

A kind is words joined by ``-``: ``plain``; ``tls`` (``registries.certificates.ca``), ``mutual`` (wants the client's
certificate too), ``expired`` (a certificate of yesterday); ``basic`` and ``token`` (the users in ``USERS``, of whom
``reader`` may only pull by token; ``registries.tokens`` is the token server); ``mirror`` fetches through from
``plain``. So ``tls-basic`` is one, too. Repositories should have names of their own in each test.
``registries.hosts(folder, host, *servers)`` writes a hosts.toml. ``registries.proxy(of)`` is a reverse proxy with
faults: see tests/registry_proxy.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import functools
import http.client
import json
import re
import ssl
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests import certificates, registry_engine, registry_images, registry_proxy, registry_tokens

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

USERS = {"reader": "s3cret-of-reader", "writer": "s3cret-of-writer"}
LINE = re.compile(r'^\S+ - (?P<user>.*) \[[^]]+\] "(\S+) (\S+) \S+" (\d+) (\d+) ".*?" "(.*)"$', re.MULTILINE)
LISTENS = r"listening on \S*?:(\d+)"
BLOB = re.compile(r"/v2/(?P<name>.+)/(?:blobs|manifests)/(?P<digest>sha\d+:[0-9a-f]+)(?:\?.*)?$")


@dataclass(frozen=True, slots=True)
class Request:
    """A line of the access log. ``size`` is in bytes, of the body that was sent; ``path`` has the query."""

    method: str
    path: str
    status: int
    size: int
    user: str
    agent: str

    @property
    def digest(self) -> str:
        """Of the blob or manifest that was asked for; "" for tags and the rest."""
        found = BLOB.search(self.path)
        return found["digest"] if found else ""


@dataclass(frozen=True, slots=True)
class Registry:
    """``host`` is ``127.0.0.1:PORT``."""

    kind: str
    host: str
    scheme: str
    context: ssl.SSLContext | None
    container: DockerContainer

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def reference(self, name: str) -> str:
        return f"{self.host}/{name}"

    def mark(self) -> int:
        """A point in the access log, after all requests that have been answered."""
        probe = f"/v2/?mark={uuid.uuid4()}"
        self.ask("GET", probe)
        deadline = time.monotonic() + 20
        while True:
            lines = self._log()
            if found := [number for number, line in enumerate(lines) if line.path == probe]:
                return found[0] + 1
            assert time.monotonic() < deadline, f"the access log does not show {probe}"
            time.sleep(0.01)

    def requests(self, mark: int = 0) -> list[Request]:
        """Those that have been answered since ``mark``, in the order of their ends."""
        end = self.mark()
        return [line for line in self._log()[mark:end] if not line.path.startswith("/v2/?mark=")]

    def asked(self, mark: int = 0, method: str = "GET") -> Counter[str]:
        """How often each digest was asked for."""
        return Counter(one.digest for one in self.requests(mark) if one.method == method and one.digest)

    def served(self, mark: int = 0) -> Counter[str]:
        """How many bytes of each digest were sent. The registry counts what it has given to its socket."""
        sizes: Counter[str] = Counter()
        for one in self.requests(mark):
            if one.method == "GET" and one.status < 300:
                sizes[one.digest] += one.size
        return sizes

    def _log(self) -> list[Request]:
        text = self.container.get_wrapped_container().logs(stdout=True, stderr=False).decode()
        return [Request(row[1], row[2], int(row[3]), int(row[4]), row[0], row[5]) for row in LINE.findall(text)]

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request without any credentials: status, headers, body."""
        if self.context:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(self.host, context=self.context)
        else:
            connection = http.client.HTTPConnection(self.host)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()


@dataclass(slots=True)
class Registries:
    """All kinds of the session, on one engine. ``directory`` has the storage, at ``storage``."""

    directory: Path
    cgroup: str
    stack: contextlib.ExitStack
    made: dict[str, Registry] = field(default_factory=dict)
    _tokens: registry_tokens.Tokens | None = None
    _certificates: dict[str, certificates.Files] = field(default_factory=dict)
    _engine: registry_engine.Engine | None = None

    @property
    def storage(self) -> Path:
        return self.directory / "storage"

    @property
    def certificates(self) -> certificates.Files:
        return self.certificates_of("certificates")

    def certificates_of(self, name: str) -> certificates.Files:
        """Made at the first use; those of ``expired`` are."""
        if name not in self._certificates:
            age = datetime.timedelta(days=3 if name == "expired" else 0)
            self._certificates[name] = certificates.make(self.directory / name, age=age)
        return self._certificates[name]

    @property
    def tokens(self) -> registry_tokens.Tokens:
        if self._tokens is None:
            server = registry_tokens.Tokens(self.certificates_of("signing"), USERS, ("reader",))
            self._tokens = self.stack.enter_context(registry_tokens.serving(server))
        return self._tokens

    def __getitem__(self, kind: str) -> Registry:
        if kind not in self.made:
            self.made[kind] = self._start(kind, set(kind.split("-")))
        return self.made[kind]

    def _start(self, kind: str, words: set[str]) -> Registry:
        if self._engine is None:
            self._engine = self.stack.enter_context(registry_engine.started(self.directory / "e", self.cgroup))
        folder = self.directory / kind
        folder.mkdir()
        (folder / "config.yml").write_text(json.dumps(self._config(folder, words)))
        storage = folder if "mirror" in words else self.storage
        storage.mkdir(exist_ok=True)
        folders = {self.directory: str(self.directory), storage: "/storage"}
        container = self._engine.run(["serve", str(folder / "config.yml")], folders)
        port = registry_engine.wait_for(container, LISTENS)[1]
        secure = words & {"tls", "mutual", "expired"}
        context = self.context("expired" in words) if secure else None
        return Registry(kind, f"127.0.0.1:{port}", "https" if secure else "http", context, container)

    def _config(self, folder: Path, words: set[str]) -> dict[str, Any]:
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "info", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": "/storage"}, "delete": {"enabled": True}},
            "http": {"addr": "127.0.0.1:0", "secret": "shared"},
            "validation": {"manifests": {"urls": {"allow": ["^https?://"]}}},
        }
        if words & {"tls", "mutual", "expired"}:
            files = self.certificates_of("expired" if "expired" in words else "certificates")
            config["http"]["tls"] = {"certificate": str(files.server), "key": str(files.server_key)}
            if "mutual" in words:
                config["http"]["tls"]["clientcas"] = [str(files.ca)]
        if "basic" in words:
            (folder / "users").write_text("".join(f"{name}:{_bcrypt(USERS[name])}\n" for name in USERS))
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "users")}}
        if "token" in words:
            keys = {"service": registry_tokens.SERVICE, "issuer": registry_tokens.ISSUER}
            bundle = str(self.certificates_of("signing").ca)
            config["auth"] = {"token": {"realm": self.tokens.realm, "rootcertbundle": bundle, **keys}}
        if "mirror" in words:
            config["proxy"] = {"remoteurl": self["plain"].url}
        return config

    def context(self, expired: bool = False) -> ssl.SSLContext:
        """For clients of ours: it has the client's certificate, and knows the authority."""
        files = self.certificates_of("expired" if expired else "certificates")
        context = ssl.create_default_context(cafile=str(files.ca))
        if expired:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(files.client, files.client_key)
        return context

    def push(self, image: registry_images.Image, name: str) -> str:
        """Puts it into the shared storage; ``name`` is ``REPOSITORY[:TAG]``. Answers the root's digest."""
        plain = self["plain"]
        repository, _, tag = name.partition(":")
        for digest, data in image.blobs.items():
            _, headers, _ = plain.ask("POST", f"/v2/{repository}/blobs/uploads/")
            to = urlsplit(headers["Location"])
            _expect(201, plain.ask("PUT", f"{to.path}?{to.query}&digest={digest}", data))
        for digest, (media_type, data) in image.manifests.items():
            for name in (digest, tag) if tag and digest == image.digest else (digest,):
                answer = plain.ask("PUT", f"/v2/{repository}/manifests/{name}", data, {"Content-Type": media_type})
                _expect(201, answer)
        return image.digest

    def check(self, image: registry_images.Image, name: str) -> None:
        """The repository has this image, whole, under that tag."""
        plain = self["plain"]
        repository, _, tag = name.partition(":")
        accepted = {"Accept": ", ".join({media_type for media_type, _ in image.manifests.values()})}
        found = plain.ask("GET", f"/v2/{repository}/manifests/{tag}", headers=accepted)
        assert found[1].get("Docker-Content-Digest") == image.digest, f"{name} is {found}"
        for digest, data in image.blobs.items():
            assert plain.ask("GET", f"/v2/{repository}/blobs/{digest}")[2] == data, f"{name} lacks {digest}"
        for digest, (_, data) in image.manifests.items():
            answer = plain.ask("GET", f"/v2/{repository}/manifests/{digest}", headers=accepted)
            assert answer[2] == data, f"{name} lacks {digest}: {answer}"

    @contextlib.contextmanager
    def proxy(self, of: Registry, *, tls: str = "") -> Iterator[registry_proxy.Proxy]:
        """In front of ``of``. ``tls`` is "certificates" or "expired": whose certificate it shows."""
        files = self.certificates_of(tls) if tls else None
        with registry_proxy.serving(of.host, of.context, files) as proxy:
            yield proxy

    def hosts(self, folder: Path, host: str, *servers: Mapping[str, object], server: str = "", **more: object) -> Path:
        """Writes ``FOLDER/HOST_PORT_/hosts.toml``: tables of ``{"url": …, "capabilities": …, "ca": …}``, in order.

        ``more`` are keys that count for ``server``.
        """
        name, _, port = host.partition(":")
        target = folder / (f"{name}_{port}_" if port else name) / "hosts.toml"
        target.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{key} = {_toml(value)}" for key, value in {"server": server, **more}.items() if value]
        for one in servers:
            lines += ["", f'[host."{one["url"]}"]']
            lines += [f"  {key} = {_toml(value)}" for key, value in one.items() if key != "url"]
        target.write_text("\n".join(lines) + "\n")
        return target


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def _expect(status: int, answer: tuple[int, Mapping[str, str], bytes]) -> None:
    assert answer[0] == status, f"the registry answers {answer}"


@functools.cache
def _bcrypt(secret: str) -> str:
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    return str(crypt(secret.encode(), b"$2y$04$" + b"s" * 21 + b"u").decode())


@contextlib.contextmanager
def started(directory: Path, cgroup: str) -> Iterator[Registries]:
    """``directory`` is to have a short name; nothing of it, and no process, is left at the end."""
    directory.mkdir()
    with contextlib.ExitStack() as stack:
        yield Registries(directory, cgroup, stack)
