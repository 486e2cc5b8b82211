"""Values of the contracts as messages of the API, and back: what several services share.

A time is nanoseconds since the epoch, and 0 means none: such a field is left unset. Peers written in Go send the year 1
for none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from google.protobuf import any_pb2, field_mask_pb2, timestamp_pb2
from google.protobuf.message import Message

from plugin_sdk.api.types import descriptor_pb2, mount_pb2
from plugin_sdk.mounts import Mount
from plugin_sdk.oci import Descriptor
from plugin_sdk.runtime import Any

M = TypeVar("M", bound=Message)

_SECOND = 1_000_000_000

BATCH, BATCH_BYTES = 100, 4 << 20
"""Entries, and their bytes, in one message of a list: far from what a message may have, whatever the labels."""


def timestamp(nanoseconds: int) -> timestamp_pb2.Timestamp | None:
    return epoch(nanoseconds or None)


def nanoseconds(timestamp: timestamp_pb2.Timestamp) -> int:
    return max(0, timestamp.seconds * _SECOND + timestamp.nanos)


def epoch(nanoseconds: int | None) -> timestamp_pb2.Timestamp | None:
    """A time that a caller gives, where 0 is the epoch itself and None is none."""
    if nanoseconds is None:
        return None
    seconds, nanos = divmod(nanoseconds, _SECOND)
    return timestamp_pb2.Timestamp(seconds=seconds, nanos=nanos)


def any_message(value: Any | None) -> any_pb2.Any | None:
    """Unset for None and for an Any without type URL and value. Never packed anew: the type URL stays as it is."""
    if value is None or not (value.type_url or value.value):
        return None
    return any_pb2.Any(type_url=value.type_url, value=value.value)


def any_value(message: any_pb2.Any) -> Any:
    return Any(message.type_url, message.value)


def any_values(messages: Mapping[str, any_pb2.Any]) -> dict[str, Any]:
    return {key: any_value(message) for key, message in messages.items()}


def any_messages(values: Mapping[str, Any]) -> dict[str, any_pb2.Any]:
    return {key: any_pb2.Any(type_url=value.type_url, value=value.value) for key, value in values.items()}


def mount_message(mount: Mount) -> mount_pb2.Mount:
    return mount_pb2.Mount(type=mount.type, source=mount.source, target=mount.target, options=mount.options)


def mount(message: mount_pb2.Mount) -> Mount:
    return Mount(message.type, message.source, message.target, tuple(message.options))


def mount_messages(mounts: Iterable[Mount]) -> list[mount_pb2.Mount]:
    return [mount_message(each) for each in mounts]


def mounts(messages: Iterable[mount_pb2.Mount]) -> list[Mount]:
    return [mount(each) for each in messages]


def descriptor_message(descriptor: Descriptor) -> descriptor_pb2.Descriptor:
    return descriptor_pb2.Descriptor(
        media_type=descriptor.media_type,
        digest=descriptor.digest,
        size=descriptor.size,
        annotations=descriptor.annotations,
    )


def descriptor(message: descriptor_pb2.Descriptor) -> Descriptor:
    return Descriptor(message.media_type, message.digest, message.size, dict(message.annotations))


def field_mask(paths: Sequence[str]) -> field_mask_pb2.FieldMask | None:
    """The paths as they are: a label's key may hold dots and slashes, which protobuf's own helpers would split."""
    return field_mask_pb2.FieldMask(paths=paths) if paths else None


def batches(entries: Iterable[M]) -> Iterator[list[M]]:
    """The entries of a list, parted into messages."""
    batch: list[M] = []
    size = 0
    for entry in entries:
        own = entry.ByteSize()
        if batch and (len(batch) == BATCH or size + own > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += own
    if batch:
        yield batch
