"""Credentials: by the caller, from config.json, by a helper program, from the daemon's table; none is logged."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from benchmarks import daemons
from corten import Client, connect
from plugin_sdk import errors, transfer
from tests import pulls, registry, registry_faults, registry_images, registry_tokens

pytestmark = [pytest.mark.root]
READER = transfer.Credentials("reader", registry.USERS["reader"])
WRITER = transfer.Credentials("writer", registry.USERS["writer"])
KINDS = ("tls-basic", "token")
HELPER = """#!/bin/sh
read server
case $server in *{host}*) ;; *) echo "credentials not found in native keychain"; exit 1 ;; esac
printf '{{"ServerURL": "%s", "Username": "writer", "Secret": "{secret}"}}' "$server"
"""


@pytest.fixture(scope="module")
def folder(scratch: Path) -> Path:
    made = scratch / "auth"
    made.mkdir()
    return made


@pytest.fixture(scope="module")
def own(folder: Path, scratch: Path, registries: registry.Registries) -> Iterator[daemons.Daemon]:
    """Its table has credentials for localhost only; the other names of the same registries are left to the tests."""
    for kind in KINDS:
        for host in (registries[kind].host, local(registries[kind])):
            ca = registries.certificates.ca if registries[kind].scheme == "https" else ""
            registries.hosts(folder / "hosts", host, server=f"{registries[kind].scheme}://{host}", ca=ca)
    tables = "".join(
        f'[plugins."io.containerd.transfer.v1.local".auth."{local(registries[kind])}"]\n'
        f'username = "writer"\npassword = "{WRITER.secret}"\n'
        for kind in KINDS
    )
    environment = {"DOCKER_CONFIG": str(folder), "PATH": f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin"}
    with pulls.daemon(scratch / "authd", f'config_path = "{folder}/hosts"\n{tables}', environment) as made:
        yield made


def local(of: registry.Registry) -> str:
    return of.host.replace("127.0.0.1", "localhost")


@pytest.fixture
def view(own: daemons.Daemon, folder: Path, fresh: str) -> Iterator[Client]:
    with connect(own.address, f"auth{fresh[1:]}") as made:
        yield made
    (folder / "config.json").unlink(missing_ok=True)


def write_config(folder: Path, value: Mapping[str, object]) -> None:
    (folder / "config.json").write_text(json.dumps(value))


def encoded(credentials: transfer.Credentials) -> str:
    return base64.b64encode(f"{credentials.username}:{credentials.secret}".encode()).decode()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["caller", "config", "helper", "store", "table"])
def test_pulls_and_pushes_with_credentials_of(
    view: Client, folder: Path, registries: registry.Registries, kind: str, source: str
) -> None:
    image = registry_images.simple(f"auth {kind} {source}")
    registries.push(image, f"auth/{kind}-{source}:1")
    host = local(registries[kind]) if source == "table" else registries[kind].host
    name = f"corten-{kind}"
    helper = folder / f"docker-credential-{name}"
    helper.write_text(HELPER.format(host=host, secret=WRITER.secret))
    helper.chmod(0o755)
    settings: dict[str, Mapping[str, object]] = {
        "config": {"auths": {host: {"auth": encoded(WRITER)}}},
        "helper": {"credHelpers": {host: name}},
        "store": {"credsStore": name},
    }
    write_config(folder, settings.get(source, {}))
    ask = (lambda challenge: WRITER) if source == "caller" else None
    reference = f"{host}/auth/{kind}-{source}:1"
    pulls.pull(view, reference, ask=ask)
    pulls.push(view, reference, f"{host}/auth/pushed-{kind}-{source}:1", ask=ask)
    registries.check(image, f"auth/pushed-{kind}-{source}:1")


def refused(view: Client, reference: str, ask: transfer.Ask | None) -> errors.Error:
    with pytest.raises(errors.Error) as caught:
        pulls.pull(view, reference, ask=ask)
    assert reference.partition("/")[0] in caught.value.message
    assert reference.partition("/")[2] in caught.value.message
    assert not pulls.remains(view)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", ["none", "wrong"])
def test_without_the_right_password_it_is_unauthenticated(
    view: Client, registries: registry.Registries, kind: str, given: str
) -> None:
    registries.push(registry_images.simple("refused"), f"auth/refused-{kind}:1")
    asked: list[transfer.Challenge] = []

    def ask(challenge: transfer.Challenge) -> transfer.Credentials | None:
        asked.append(challenge)
        return transfer.Credentials("reader", "a-wrong-s3cret") if given == "wrong" else None

    err = refused(view, registries[kind].reference(f"auth/refused-{kind}:1"), ask)
    assert isinstance(err, errors.Unauthenticated)
    assert "a-wrong-s3cret" not in err.message
    assert asked[0].host == registries[kind].host
    assert asked[0].headers


def test_who_may_only_pull_cannot_push(view: Client, registries: registry.Registries) -> None:
    registries.push(registry_images.simple("reading"), "auth/reading:1")
    reference = registries["token"].reference("auth/reading:1")
    pulls.pull(view, reference, ask=lambda challenge: READER)
    with pytest.raises((errors.PermissionDenied, errors.Unauthenticated)) as caught:
        pulls.push(view, reference, registries["token"].reference("auth/read-only:1"), ask=lambda challenge: READER)
    assert "auth/read-only:1" in caught.value.message


def test_a_forbidden_image_is_permission_denied(view: Client, registries: registry.Registries) -> None:
    registries.push(registry_images.simple("forbidden"), "auth/forbidden:1")
    with registries.proxy(registries["plain"]) as proxy:
        proxy.on("/manifests/", registry_faults.status(403), method="")
        err = refused(view, proxy.reference("auth/forbidden:1"), None)
    assert isinstance(err, errors.PermissionDenied)


@pytest.fixture
def tokens(registries: registry.Registries) -> Iterator[registry_tokens.Tokens]:
    """As it was, after the test."""
    server = registries.tokens
    server.asked.clear()
    yield server
    server.posts, server.anonymous = True, False


def test_one_token_does_for_a_pull(
    view: Client, registries: registry.Registries, tokens: registry_tokens.Tokens
) -> None:
    registries.push(registry_images.two_platforms("one token"), "auth/one-token:1")
    pulls.pull(
        view, registries["token"].reference("auth/one-token:1"), platforms=(), unpack=False, ask=lambda _: READER
    )
    assert [(asked.user, asked.scopes) for asked in tokens.asked] == [("reader", ("repository:auth/one-token:pull",))]


def test_a_blob_is_mounted_with_a_token_for_both_repositories(
    view: Client, registries: registry.Registries, tokens: registry_tokens.Tokens
) -> None:
    image = registry_images.simple("mounted by token")
    registries.push(image, "auth/mount-from:1")
    guarded = registries["token"]
    pulls.pull(view, guarded.reference("auth/mount-from:1"), unpack=False, ask=lambda _: WRITER)
    mark = guarded.mark()
    pulls.push(view, guarded.reference("auth/mount-from:1"), guarded.reference("auth/mount-to:1"), ask=lambda _: WRITER)
    mounts = [one.status for one in guarded.requests(mark) if "mount=" in one.path and one.status != 401]
    assert mounts == [201] * len(image.blobs)
    registries.check(image, "auth/mount-to:1")


def test_a_server_without_posts_is_asked_by_get(
    view: Client, registries: registry.Registries, tokens: registry_tokens.Tokens
) -> None:
    tokens.posts = False
    registries.push(registry_images.simple("no posts"), "auth/no-posts:1")
    pulls.pull(view, registries["token"].reference("auth/no-posts:1"), ask=lambda _: READER)
    assert tokens.asked[-1].by == "basic"


def test_everyone_gets_a_token_where_that_is_allowed(
    view: Client, registries: registry.Registries, tokens: registry_tokens.Tokens
) -> None:
    tokens.anonymous = True
    registries.push(registry_images.simple("anonymous"), "auth/anonymous:1")
    pulls.pull(view, registries["token"].reference("auth/anonymous:1"))
    assert [asked.by for asked in tokens.asked] == ["anonymous"]


@pytest.mark.parametrize("source", ["caller", "config"])
def test_an_identity_token_is_exchanged(
    view: Client, folder: Path, registries: registry.Registries, tokens: registry_tokens.Tokens, source: str
) -> None:
    registries.push(registry_images.simple(f"identity {source}"), "auth/identity:1")
    host, identity = registries["token"].host, tokens.identity("reader")
    write_config(folder, {"auths": {host: {"identitytoken": identity}}} if source == "config" else {})
    ask = (lambda _: transfer.Credentials(refresh=identity)) if source == "caller" else None
    pulls.pull(view, f"{host}/auth/identity:1", ask=ask)
    assert tokens.asked[0].by == "refresh_token"


def test_a_token_that_is_taken_no_more_is_asked_for_again(
    view: Client, registries: registry.Registries, tokens: registry_tokens.Tokens
) -> None:
    registries.push(registry_images.simple("ended"), "auth/ended:1")
    challenge = f'Bearer realm="{tokens.realm}",service="{registry_tokens.SERVICE}",error="invalid_token"'
    with registries.proxy(registries["token"]) as proxy:
        proxy.on("/blobs/", registry_faults.challenge(challenge), times=1)
        pulls.pull(view, proxy.reference("auth/ended:1"), ask=lambda _: READER)
    assert len(tokens.asked) == 2


def test_no_secret_is_in_the_log(own: daemons.Daemon, registries: registry.Registries) -> None:
    """After all of the above."""
    log = own.log.read_text()
    secrets = [*registry.USERS.values(), "a-wrong-s3cret", encoded(READER), encoded(WRITER), *registries.tokens.issued]
    assert not [secret for secret in secrets if secret in log]
