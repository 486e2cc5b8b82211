"""Several differs are one: the first that knows the media type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kernel.differs import Differ
from plugin_sdk import errors, oci
from plugin_sdk.scope import Scope

LAYER = oci.Descriptor("type/x", "sha256:" + "0" * 64, 1)
NOTHING: Any = None


class Fake:
    def __init__(self, known: str, error: errors.Error | None = None) -> None:
        self.known = known
        self.error = error

    def apply(self, descriptor: oci.Descriptor, *_: object, **__: object) -> oci.Descriptor:
        return self.compare(media_type=descriptor.media_type)

    def compare(self, *_: object, media_type: str = "", **__: object) -> oci.Descriptor:
        if self.error:
            raise self.error
        if media_type != self.known:
            raise errors.Unimplemented(f"{media_type}: not for {self.known}")
        return oci.Descriptor(self.known, "", 0)


class Fakes:
    def __init__(self, **fakes: Fake) -> None:
        self.fakes = fakes

    def ids(self, kind: str) -> list[str]:
        return list(self.fakes)

    @contextmanager
    def use(self, kind: str, id: str, scope: Scope) -> Iterator[Fake]:
        yield self.fakes[id]


def test_the_next_is_asked_when_one_does_not_know_the_type() -> None:
    differ = Differ(Fakes(a=Fake("type/y"), b=Fake("type/x")), Scope("n"))
    assert differ.apply(LAYER, [], NOTHING).media_type == "type/x"
    assert differ.compare([], [], NOTHING, media_type="type/y").media_type == "type/y"


def test_another_error_ends_it() -> None:
    differ = Differ(Fakes(a=Fake("", errors.DataLoss("broken")), b=Fake("type/x")), Scope("n"))
    with pytest.raises(errors.DataLoss):
        differ.apply(LAYER, [], NOTHING)


def test_a_named_one_is_asked_alone() -> None:
    differ = Differ(Fakes(a=Fake("type/y"), b=Fake("type/x")), Scope("n"), "a")
    with pytest.raises(errors.Unimplemented, match="not for type/y"):
        differ.apply(LAYER, [], NOTHING)


def test_without_any_the_type_is_named() -> None:
    with pytest.raises(errors.Unimplemented, match="type/x"):
        Differ(Fakes(), Scope("n")).apply(LAYER, [], NOTHING)
