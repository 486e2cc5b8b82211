"""The differs as one: asked in the order of loading until one knows the media type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from plugin_sdk import content, diff, errors, plugin
from plugin_sdk.mounts import Mount
from plugin_sdk.oci import Descriptor
from plugin_sdk.scope import Scope


class Registry(Protocol):
    def use(self, kind: str, id: str, scope: Scope) -> AbstractContextManager[Any]: ...

    def ids(self, kind: str) -> list[str]: ...


class Differ:
    """``plugin_sdk.diff.Differ`` for one caller: the differ ``name``, or all of them."""

    def __init__(self, registry: Registry, scope: Scope, name: str = "") -> None:
        self._registry = registry
        self._scope = scope
        self._name = name

    def apply(
        self,
        descriptor: Descriptor,
        mounts: Sequence[Mount],
        content: content.Store,
        *,
        payloads: Mapping[str, tuple[str, bytes]] | None = None,
        sync: bool = False,
    ) -> Descriptor:
        return self._first(
            lambda differ: differ.apply(descriptor, mounts, content, payloads=payloads, sync=sync),
            f'media type "{descriptor.media_type}": no differ unpacks it',
        )

    def compare(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        content: content.Store,
        *,
        media_type: str = "",
        ref: str = "",
        labels: Mapping[str, str] | None = None,
        source_date_epoch: int | None = None,
    ) -> Descriptor:
        return self._first(
            lambda differ: differ.compare(
                lower,
                upper,
                content,
                media_type=media_type,
                ref=ref,
                labels=labels,
                source_date_epoch=source_date_epoch,
            ),
            f'media type "{media_type}": no differ writes it',
        )

    def _first(self, work: Callable[[diff.Differ], Descriptor], refusal: str) -> Descriptor:
        refused: errors.Error | None = None
        for name in [self._name] if self._name else self._registry.ids(plugin.DIFFER):
            try:
                with self._registry.use(plugin.DIFFER, name, self._scope) as differ:
                    return work(differ)
            except errors.Unimplemented as err:
                refused = refused or err
            except errors.Unavailable as err:
                refused = err
        raise refused or errors.Unimplemented(refusal)
