"""Repositories on scripted registries, as the tests of the registry client use them."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plugin_sdk import errors, transfer
from plugin_sdk.distribution.http import waiting
from plugin_sdk.distribution.registry import Registries, Repository, Settings
from plugin_sdk.oci import Descriptor
from tests import scripted_registry
from tests.scripted_registry import Registry

QUICK = {"retries": 3, "backoff": 0.001, "docker_config": "/nonexistent"}
DATA = random.Random(7).randbytes(3 << 20)
OTHER = "sha256:" + "0" * 64


@pytest.fixture
def served() -> Iterator[Registry]:
    with scripted_registry.serve() as registry:
        yield registry


@pytest.fixture
def mirror() -> Iterator[Registry]:
    with scripted_registry.serve() as registry:
        yield registry


class Make:
    """``make(origin, *mirrors, **settings)``: ``example.com/a/b:1``, or that of a host without mirrors."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.registries: list[Registries] = []

    def __call__(
        self,
        origin: Registry,
        *mirrors: Registry,
        check: Callable[[], None] = waiting.nobody,
        name: str = "1",
        **given: Any,
    ) -> Repository:
        folder = self._folder / "example.com"
        folder.mkdir(exist_ok=True)
        tables = "".join(f'[host."{mirror.url}"]\n' for mirror in mirrors)
        (folder / "hosts.toml").write_text(f'server = "{origin.url}"\n{tables}')
        registries = Registries(Settings(config_path=str(self._folder), **{**QUICK, **given}))
        self.registries.append(self._stack.enter_context(registries))
        joint = "@" if ":" in name else ":"
        return registries.repository(transfer.Registry(f"example.com/a/b{joint}{name}"), check)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with contextlib.ExitStack() as stack:
        yield Make(tmp_path, stack)


def fetched(repository: Repository, of: Descriptor, offset: int = 0) -> bytes:
    return b"".join(repository.fetch(of, offset))


def gone_after(event: threading.Event) -> Callable[[], None]:
    def check() -> None:
        if event.is_set():
            raise errors.Canceled("the caller has gone")

    return check
