"""Credentials of a registry's hosts: those of the settings, of Docker's ``config.json``, and of its helper programs.

Docker's file names a host in ``credHelpers``, else ``credsStore`` is for all, else ``auths`` has them. A helper is the
program ``docker-credential-NAME``, which is given the host on its input and answers JSON.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plugin_sdk import errors
from plugin_sdk.distribution.http import hosts
from plugin_sdk.transfer import Credentials

_HUB_KEY = "https://index.docker.io/v1/"
_HUB_NAMES = ("docker.io", "index.docker.io")
_TOKEN_USER = "<token>"


class Sources:
    """``auth`` is by host; ``docker_config`` is the path of Docker's file, "" where Docker itself looks for it. A
    helper has ``timeout`` seconds."""

    def __init__(self, auth: Mapping[str, Credentials], docker_config: str, timeout: float) -> None:
        self._auth = auth
        self._docker_config = docker_config
        self._timeout = timeout

    def find(self, address: str) -> Credentials | None:
        """For a host, with its port if it has one. Raises FailedPrecondition for a file or helper that is broken."""
        names = (address, *_HUB_NAMES) if address == hosts.DOCKER_HUB else (address,)
        for name in names:
            if name in self._auth:
                return self._auth[name]
        return self._from_docker(names)

    def _from_docker(self, names: tuple[str, ...]) -> Credentials | None:
        file = Path(self._docker_config) if self._docker_config else docker_config()
        try:
            found = json.loads(file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as err:
            raise errors.FailedPrecondition(f"{file} cannot be read as Docker's configuration") from err
        config = found if isinstance(found, dict) else {}
        helpers = _table(config, "credHelpers")
        helper = next((helpers[name] for name in names if name in helpers), config.get("credsStore"))
        if helper:
            return _ask_helper(str(helper), _HUB_KEY if len(names) > 1 else names[0], self._timeout)
        entries = {_host_of(key): value for key, value in _table(config, "auths").items() if isinstance(value, dict)}
        entry = next((entries[name] for name in names if name in entries), None)
        return None if entry is None else _decoded(entry, file)


def docker_config() -> Path:
    """Where Docker's client has its configuration, by the environment."""
    folder = os.environ.get("DOCKER_CONFIG")
    return (Path(folder) if folder else Path(os.path.expanduser("~")) / ".docker") / "config.json"


def _table(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = config.get(key)
    return found if isinstance(found, dict) else {}


def _host_of(key: str) -> str:
    """Of a key such as ``https://index.docker.io/v1/``."""
    return key.rpartition("://")[2].partition("/")[0]


def _decoded(entry: Mapping[str, Any], file: Path) -> Credentials | None:
    username, secret = str(entry.get("username") or ""), str(entry.get("password") or "")
    if text := entry.get("auth"):
        try:
            username, _, secret = base64.b64decode(str(text), validate=True).decode().rstrip("\0").partition(":")
        except (binascii.Error, UnicodeDecodeError) as err:
            raise errors.FailedPrecondition(f"{file} has an entry in auths that is not base64") from err
    refresh, bearer = str(entry.get("identitytoken") or ""), str(entry.get("registrytoken") or "")
    if not (username or refresh or bearer):
        return None
    return Credentials(username, secret, refresh, f"Bearer {bearer}" if bearer else "")


def _ask_helper(name: str, server: str, timeout: float) -> Credentials | None:
    program = f"docker-credential-{name}"
    if "/" in name:
        raise errors.FailedPrecondition(f"{program} is not the name of a credential helper")
    try:
        done = subprocess.run([program, "get"], input=server.encode(), capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:  # its output may hold a secret, so the cause is not kept
        raise errors.FailedPrecondition(f"{program} has not answered for {server} in {timeout:g} s") from None
    except OSError as err:
        raise errors.FailedPrecondition(f"{program} cannot be run: {err.strerror}") from err
    if done.returncode:
        if b"not found" in done.stdout:
            return None
        raise errors.FailedPrecondition(f"{program} has failed for {server} with exit code {done.returncode}")
    try:
        answer = json.loads(done.stdout)
        username, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        raise errors.FailedPrecondition(f"{program} has not answered credentials for {server}") from None
    return Credentials(refresh=secret) if username == _TOKEN_USER else Credentials(username, secret)
