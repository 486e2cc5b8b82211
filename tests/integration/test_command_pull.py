"""``corten pull`` and ``push`` with a real registry."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest

import corten
from tests import registry, registry_images

pytestmark = pytest.mark.root

Run = Callable[..., subprocess.CompletedProcess[str]]
Invoke = Callable[..., click.testing.Result]


def test_a_pull_tells_each_change_once_and_prints_the_name(
    command: Run, registries: registry.Registries, client: corten.Client
) -> None:
    image = registry_images.simple("lines")
    registries.push(image, "command/lines:1")
    name = registries["plain"].reference("command/lines:1")
    done = command("pull", "--plain-http", name)
    assert (done.returncode, done.stdout) == (0, f"{name}\n"), done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(set(lines))
    assert lines[-1].startswith(f"{name}: {image.digest[7:19]}, ")
    for layer in image.layers:
        assert [line for line in lines if layer["digest"][7:19] in line]
    assert client.images.is_unpacked(name)
    again = command("pull", "--plain-http", "-q", name)
    assert (again.stdout, again.stderr) == (f"{name}\n", "")


def test_platforms_are_chosen(invoke: Invoke, registries: registry.Registries, client: corten.Client) -> None:
    image = registry_images.two_platforms("chosen")
    registries.push(image, "command/chosen:1")
    name = registries["plain"].reference("command/chosen:1")
    [shown] = json.loads(invoke("pull", "--plain-http", "--json", "--platform", "arm64", "--no-unpack", name).stdout)
    assert (shown["name"], shown["target"]["digest"]) == (name, image.digest)
    assert [str(platform) for platform in client.images.platforms(name)] == ["linux/arm64"]
    invoke("pull", "-q", "--plain-http", "--all-platforms", name)
    assert len(client.images.platforms(name)) == 2
    assert client.images.is_unpacked(name)


@pytest.mark.engine
def test_run_fetches_what_is_missing(
    command: Run, invoke: Invoke, registries: registry.Registries, imported: str, client: corten.Client
) -> None:
    host = registries["plain"].host
    pushed = invoke("push", "--plain-http", "--json", imported, f"{host}/command/busybox:1")
    assert json.loads(pushed.stdout)["reference"] == f"{host}/command/busybox:1"
    invoke("image", "rm", "--sync", imported)
    done = command("run", "--rm", f"{host}/command/busybox:1", "echo", "hi")  # localhost needs no --plain-http
    assert (done.returncode, done.stdout) == (0, "hi\n"), done.stderr


def test_a_push_goes_to_where_the_name_says(invoke: Invoke, registries: registry.Registries, imported: str) -> None:
    name = registries["plain"].reference("command/mine:1")
    invoke("tag", imported, name)
    done = invoke("push", "--plain-http", name)
    assert done.stdout.startswith(f"{name}@sha256:")
    assert " sent in " in done.stderr.splitlines()[-1]


def test_credentials_are_asked_for_by_name_and_told_to_nobody(invoke: Invoke, registries: registry.Registries) -> None:
    registries.push(registry_images.simple("users"), "command/users:1")
    name = registries["basic"].reference("command/users:1")
    refused = invoke("pull", "--plain-http", name, code=1)
    assert "--user NAME" in refused.stderr.splitlines()[-1]
    wrong = invoke("pull", "--plain-http", "--user", "reader:sesame", name, code=1)
    assert "sesame" not in wrong.output
    absent = invoke("pull", "--plain-http", "--user", "reader", name, code=1)
    assert "no terminal to ask" in absent.stderr
    secret = registry.USERS["reader"]
    done = invoke("pull", "--plain-http", "--no-unpack", "--user", f"reader:{secret}", name)
    assert secret not in done.output


def test_what_docker_login_has_kept_for_us_is_used(
    command: Run, registries: registry.Registries, tmp_path: Path
) -> None:
    registries.push(registry_images.simple("login"), "command/login:1")
    pair = base64.b64encode(f"reader:{registry.USERS['reader']}".encode()).decode()
    auths = {registries["basic"].host: {"auth": pair}}
    (tmp_path / "config.json").write_text(json.dumps({"auths": auths}))
    name = registries["basic"].reference("command/login:1")
    done = command("pull", "-q", "--plain-http", name, DOCKER_CONFIG=str(tmp_path))
    assert (done.stdout, done.stderr) == (f"{name}\n", "")


def test_hosts_of_a_folder_are_used(invoke: Invoke, registries: registry.Registries, tmp_path: Path) -> None:
    registries.push(registry_images.simple("hosts"), "command/hosts:1")
    registries.hosts(tmp_path, "example.test", {"url": registries["plain"].url})
    name = "example.test/command/hosts:1"
    assert invoke("pull", "-q", "--hosts-dir", str(tmp_path), name).stdout == f"{name}\n"


def test_what_is_not_there_is_told_by_name(invoke: Invoke, registries: registry.Registries) -> None:
    name = registries["plain"].reference("command/nothing:1")
    told = invoke("pull", "--plain-http", name, code=1).stderr.splitlines()
    assert [line for line in told if line.startswith("Error: ") and name in line]
    assert invoke("pull", "Not A Name", code=1).stderr.startswith("Error: ")
