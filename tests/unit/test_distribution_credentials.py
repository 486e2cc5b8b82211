"""Credentials: the table of the settings, Docker's file, its helper programs, and that no secret is told."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from plugin_sdk import errors
from plugin_sdk.distribution import settings
from plugin_sdk.distribution.http import credentials
from plugin_sdk.transfer import Credentials

SECRET = "s3cr3t-word"
PAIR = base64.b64encode(f"me:{SECRET}".encode()).decode()


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that DOCKER_CONFIG names."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


def configure(folder: Path, found: Any) -> None:
    (folder / "config.json").write_text(json.dumps(found))


def find(address: str, auth: Mapping[str, Credentials] | None = None, file: str = "") -> Credentials | None:
    return credentials.Sources(auth or {}, file, 30).find(address)


def helper(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / f"docker-credential-{name}"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_there_may_be_none(docker: Path) -> None:
    assert find("example.com") is None


def test_the_settings_come_first(docker: Path) -> None:
    configure(docker, {"auths": {"example.com": {"auth": PAIR}}})
    assert find("example.com", {"example.com": Credentials("you", "x")}) == Credentials("you", "x")
    assert find("example.com") == Credentials("me", SECRET)


def test_docker_hub_has_several_names(docker: Path) -> None:
    configure(docker, {"auths": {"https://index.docker.io/v1/": {"auth": PAIR}}})
    assert find("registry-1.docker.io") == Credentials("me", SECRET)
    assert find("registry-1.docker.io", {"docker.io": Credentials("you", "x")}) == Credentials("you", "x")


@pytest.mark.parametrize("key", ["example.com:5000", "https://example.com:5000", "http://example.com:5000/v1/"])
def test_a_host_is_found_by_name_and_port(docker: Path, key: str) -> None:
    configure(docker, {"auths": {key: {"username": "me", "password": SECRET}}})
    assert find("example.com:5000") == Credentials("me", SECRET)
    assert find("example.com") is None


def test_an_identity_token_and_a_bearer_token_are_read(docker: Path) -> None:
    name = base64.b64encode(b"me:").decode()
    configure(docker, {"auths": {"a": {"auth": name, "identitytoken": "it"}, "b": {"registrytoken": "rt"}, "c": {}}})
    assert find("a") == Credentials("me", "", "it")
    assert find("b") == Credentials(header="Bearer rt")
    assert find("c") is None


def test_the_settings_may_name_the_file(docker: Path, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"auths": {"a": {"auth": PAIR}}}))
    assert find("a", file=str(tmp_path / "other.json")) == Credentials("me", SECRET)


def test_without_the_variable_the_file_is_in_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert credentials.docker_config() == tmp_path / ".docker" / "config.json"


@pytest.mark.parametrize("found", [[], {"auths": []}, {"auths": {"a": 1}}, {"credHelpers": 1}])
def test_a_file_of_another_shape_has_none(docker: Path, found: Any) -> None:
    configure(docker, found)
    assert find("a") is None


def test_a_file_that_cannot_be_read_is_named(docker: Path) -> None:
    (docker / "config.json").write_text("{" + SECRET)
    with pytest.raises(errors.FailedPrecondition, match=r"config\.json cannot be read as Docker's") as caught:
        find("a")
    assert SECRET not in caught.value.message
    configure(docker, {"auths": {"a": {"auth": SECRET + "!"}}})
    with pytest.raises(errors.FailedPrecondition, match=r"config\.json has an entry in auths that is not") as caught:
        find("a")
    assert SECRET not in caught.value.message


def test_a_helper_is_asked_for_its_host(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(docker, {"credHelpers": {"a.io": "one"}, "credsStore": "all", "auths": {"a.io": {"auth": PAIR}}})
    answer = '{"ServerURL":"$host","Username":"$1-$host","Secret":"x"}'
    for name in ("one", "all"):
        helper(docker, name, f"read host; printf '{answer}' | sed \"s,.host,$host,g;s,.1-,{name}-,\"", monkeypatch)
    assert find("a.io") == Credentials("one-a.io", "x")
    assert find("b.io") == Credentials("all-b.io", "x")
    assert find("registry-1.docker.io") == Credentials("all-https://index.docker.io/v1/", "x")


def test_a_helper_may_answer_an_identity_token(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(docker, {"credsStore": "all"})
    helper(docker, "all", """echo '{"Username":"<token>","Secret":"it"}'""", monkeypatch)
    assert find("a") == Credentials(refresh="it")


def test_a_helper_may_have_none(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(docker, {"credsStore": "all"})
    helper(docker, "all", "echo credentials not found in native keychain; exit 1", monkeypatch)
    assert find("a") is None


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (f"echo {SECRET}", "has not answered credentials for a"),
        (f"echo {SECRET} broken; exit 3", "has failed for a with exit code 3"),
        (f'echo \'{{"Secret":"{SECRET}"}}\'', "has not answered credentials for a"),
    ],
)
def test_a_broken_helper_is_named_and_its_output_is_not(
    docker: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    configure(docker, {"credsStore": "all"})
    helper(docker, "all", script, monkeypatch)
    with pytest.raises(errors.FailedPrecondition, match=f"docker-credential-all {why}") as caught:
        find("a")
    assert SECRET not in repr(caught.value) + repr(caught.value.__cause__)


def test_a_helper_that_does_not_end_is_ended(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(docker, {"credsStore": "all"})
    helper(docker, "all", "exec sleep 60", monkeypatch)
    with pytest.raises(errors.FailedPrecondition, match=r"docker-credential-all has not answered for a in 0\.2 s"):
        credentials.Sources({}, "", 0.2).find("a")


@pytest.mark.parametrize("name", ["missing", "../evil"])
def test_a_helper_that_is_not_there_is_named(docker: Path, name: str) -> None:
    configure(docker, {"credsStore": name})
    with pytest.raises(errors.FailedPrecondition, match="docker-credential-"):
        find("a")


def test_no_value_shows_a_secret() -> None:
    one = Credentials("me", SECRET, SECRET, SECRET)
    assert SECRET not in repr(one)
    assert SECRET not in repr(settings.Settings(auth={"a": one}))
