"""Figures of a task: what its cgroup says, of either version."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import Message

from plugin_sdk import errors, runtime
from plugin_sdk.api.cgroups.v1 import metrics_pb2 as v1
from plugin_sdk.api.cgroups.v2 import metrics_pb2 as v2

_NONE = 1 << 60  # bytes; what cgroups call no limit is near 2**63


@dataclass(frozen=True, slots=True)
class Metrics:
    """``cpu`` is the processors' time in nanoseconds since the begin, ``memory`` what is in use in bytes; a limit of 0
    is none. ``read`` and ``written`` are bytes from and to block devices. ``raw`` is the whole message
    (``io.containerd.cgroups.v1.Metrics`` or ``v2.Metrics``)."""

    id: str
    time: int
    cpu: int
    memory: int
    memory_limit: int
    cached: int
    pids: int
    pids_limit: int
    read: int
    written: int
    raw: Message


def parse(id: str, time: int, data: runtime.Any) -> Metrics:
    """Raises Unimplemented for figures of another kind."""
    kind = data.type_url.rpartition("/")[2]
    if kind == v2.Metrics.DESCRIPTOR.full_name:
        return _second(id, time, v2.Metrics.FromString(data.value))
    if kind == v1.Metrics.DESCRIPTOR.full_name:
        return _first(id, time, v1.Metrics.FromString(data.value))
    raise errors.Unimplemented(f'metrics of task "{id}" are of the unknown kind "{kind}"')


def _second(id: str, time: int, found: v2.Metrics) -> Metrics:
    memory = found.memory
    return Metrics(
        id,
        time,
        cpu=1000 * found.cpu.usage_usec,
        memory=memory.usage,
        memory_limit=_limit(memory.usage_limit),
        cached=memory.inactive_file,
        pids=found.pids.current,
        pids_limit=_limit(found.pids.limit),
        read=sum(each.rbytes for each in found.io.usage),
        written=sum(each.wbytes for each in found.io.usage),
        raw=found,
    )


def _first(id: str, time: int, found: v1.Metrics) -> Metrics:
    memory = found.memory
    moved = found.blkio.io_service_bytes_recursive
    return Metrics(
        id,
        time,
        cpu=found.cpu.usage.total,
        memory=memory.usage.usage,
        memory_limit=_limit(memory.usage.limit),
        cached=memory.total_inactive_file,
        pids=found.pids.current,
        pids_limit=_limit(found.pids.limit),
        read=sum(each.value for each in moved if each.op == "Read"),
        written=sum(each.value for each in moved if each.op == "Write"),
        raw=found,
    )


def _limit(value: int) -> int:
    return 0 if value >= _NONE else value
