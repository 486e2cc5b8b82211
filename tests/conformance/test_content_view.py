"""The suite for content stores at the height of the namespaced view."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel.metadata.database import Database
from kernel.metadata.store import Metadata
from plugin_sdk import content as contract
from plugin_sdk.conformance import content, resuming
from plugin_sdk.scope import Scope
from plugins_builtin.content import local
from tests.registries import FixedRegistry


def close(opened: list[Metadata]) -> None:
    while opened:
        metadata = opened.pop()
        metadata.close()
        metadata.database.close()


class TestView(content.ContentSuite):
    @pytest.fixture
    def opened(self) -> Iterator[list[Metadata]]:
        opened: list[Metadata] = []
        yield opened
        close(opened)

    @pytest.fixture
    def open_store(self, memory: Path, opened: list[Metadata]) -> Callable[[], contract.Store]:
        def open_store() -> contract.Store:
            close(opened)
            database = Database(memory / "meta.db")
            opened.append(Metadata(database, FixedRegistry(local.Store(memory / "content"))))
            opened[-1].settle()
            return opened[-1].view(Scope("ns")).content

        return open_store

    @pytest.fixture
    def store(self, open_store: Callable[[], contract.Store]) -> contract.Store:
        return open_store()

    @pytest.fixture
    def reopen(self, open_store: Callable[[], contract.Store]) -> Callable[[], contract.Store]:
        return open_store

    @pytest.fixture
    def crash(self, open_store: Callable[[], contract.Store], opened: list[Metadata]) -> resuming.Crash:
        def crash(work: resuming.Work) -> contract.Store:
            close(opened)
            resuming.in_child(lambda end: work(open_store(), end))
            return open_store()

        return crash

    @pytest.fixture
    def supports_fileno(self) -> bool:
        return True
