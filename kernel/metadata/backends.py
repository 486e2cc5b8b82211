"""The plugins behind the views, and what they share: how they are reached, and what their errors mean."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from kernel.metadata.claims import Claims
from kernel.metadata.database import Database, forbid_transaction
from plugin_sdk import errors, plugin
from plugin_sdk.scope import Scope

log = logging.getLogger(__name__)

OUTCOME_UNKNOWN = (errors.Unavailable, errors.DeadlineExceeded, errors.Canceled)
"""No answer came: the call may have taken effect, or may still do so."""

UNCLEAR = (errors.Unknown, errors.Internal, OSError)
"""An answer came, but not one of the contract's: nothing comes later, and what happened can be looked up."""


class Registry(Protocol):
    def use(self, kind: str, id: str, scope: Scope) -> AbstractContextManager[Any]: ...

    def knows(self, kind: str, id: str) -> bool: ...

    def ids(self, kind: str) -> list[str]: ...

    def is_remote(self, kind: str, id: str) -> bool:
        """Whether the plugin is in a process of its own, so that others may use it too."""
        ...


class _Guarded:
    """A plugin's object whose methods refuse to be called while this thread has a transaction open."""

    __slots__ = ("_plugin", "_what")

    def __init__(self, made: object, what: str) -> None:
        self._plugin = made
        self._what = what

    def __getattr__(self, name: str) -> Any:
        forbid_transaction(f"{self._what}: {name} is called")
        return functools.partial(self._call, getattr(self._plugin, name))

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the contract does not know is a defect of the plugin; an answer it is nevertheless."""
        try:
            return method(*args, **kwargs)
        except (errors.Error, OSError):
            raise
        except Exception as err:
            log.exception("%s: %s has failed", self._what, method.__name__)
            raise errors.Unknown(f"{type(err).__name__}: {err}") from err


@dataclass(frozen=True, slots=True)
class Backends:
    """``kick(kind, id)`` wakes the reaper of a plugin."""

    database: Database
    registry: Registry
    claims: Claims
    kick: Callable[[str, str], None]

    @contextmanager
    def use(self, kind: str, id: str, scope: Scope) -> Iterator[Any]:
        with self.registry.use(kind, id, scope) as made:
            yield _Guarded(made, f"plugin {kind}.{id}")

    def content_id(self) -> str:
        ids = self.registry.ids(plugin.CONTENT)
        if not ids:
            raise errors.Unavailable("no content store is loaded")
        return ids[0]


def unbounded(scope: Scope) -> Scope:
    """For a change that has begun: it is finished though nobody waits."""
    return Scope(scope.namespace, scope.lease, begun=scope.begun)


def impatient(namespace: str) -> Scope:
    """For settling and removing, which come again: they do not wait for a plugin that is away."""
    return Scope(namespace, begun=-math.inf)


@contextmanager
def named(backend: str, key: str) -> Iterator[None]:
    """What a plugin says of its key is told of the caller's."""
    try:
        yield
    except errors.Error as err:
        if backend and backend in err.message:
            raise type(err)(err.message.replace(backend, key)) from err
        raise
