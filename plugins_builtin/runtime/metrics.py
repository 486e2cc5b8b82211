"""A cgroup's figures as containerd's messages. Files: linux kernel, Documentation/admin-guide/cgroup-v1 and -v2."""

from __future__ import annotations

from plugin_sdk import runtime
from plugin_sdk.api.cgroups.v1 import metrics_pb2 as v1
from plugin_sdk.api.cgroups.v2 import metrics_pb2 as v2
from plugins_builtin.runtime.cgroups import Cgroup

_RENAMED = {"pgpgin": "pg_pg_in", "pgpgout": "pg_pg_out", "pgfault": "pg_fault", "pgmajfault": "pg_maj_fault"}
_ENTRIES = ("usage", "swap", "kernel", "kernel_tcp")
_BLKIO = {
    "io_service_bytes_recursive": "blkio.throttle.io_service_bytes_recursive",
    "io_serviced_recursive": "blkio.throttle.io_serviced_recursive",
}
_IO_FIELDS = ("rbytes", "wbytes", "rios", "wios")


def read(cgroup: Cgroup) -> runtime.Any:
    message = _read_2(cgroup) if cgroup.unified else _read_1(cgroup)
    return runtime.Any(message.DESCRIPTOR.full_name, message.SerializeToString())


def _read_1(cgroup: Cgroup) -> v1.Metrics:
    metrics = v1.Metrics()
    metrics.pids.current = cgroup.number("pids", "pids.current")
    metrics.pids.limit = _limit(cgroup.number("pids", "pids.max"))
    _cpu_1(cgroup, metrics.cpu)
    _memory_1(cgroup, metrics.memory)
    control = cgroup.pairs("memory", "memory.oom_control")
    for field in ("oom_kill_disable", "under_oom", "oom_kill"):
        setattr(metrics.memory_oom_control, field, control.get(field, 0))
    for field, name in _BLKIO.items():
        getattr(metrics.blkio, field).extend(_blkio(cgroup.read("blkio", name)))
    return metrics


def _cpu_1(cgroup: Cgroup, cpu: v1.CPUStat) -> None:
    cpu.usage.total = cgroup.number("cpuacct", "cpuacct.usage")
    cpu.usage.user = cgroup.number("cpuacct", "cpuacct.usage_user")
    cpu.usage.kernel = cgroup.number("cpuacct", "cpuacct.usage_sys")
    cpu.usage.per_cpu.extend(int(part) for part in cgroup.read("cpuacct", "cpuacct.usage_percpu").split())
    throttled = cgroup.pairs("cpu", "cpu.stat")
    cpu.throttling.periods = throttled.get("nr_periods", 0)
    cpu.throttling.throttled_periods = throttled.get("nr_throttled", 0)
    cpu.throttling.throttled_time = throttled.get("throttled_time", 0)


def _memory_1(cgroup: Cgroup, memory: v1.MemoryStat) -> None:
    for key, value in cgroup.pairs("memory", "memory.stat").items():
        total = "total_" if key.startswith("total_") else ""
        field = total + _RENAMED.get(key.removeprefix("total_"), key.removeprefix("total_"))
        field = "hierarchical_swap_limit" if key == "hierarchical_memsw_limit" else field
        if field in memory.DESCRIPTOR.fields_by_name and field not in _ENTRIES:
            setattr(memory, field, value)
    entries = ((memory.usage, ""), (memory.swap, "memsw."), (memory.kernel, "kmem."), (memory.kernel_tcp, "kmem.tcp."))
    for entry, part in entries:
        entry.limit = cgroup.number("memory", f"memory.{part}limit_in_bytes")
        entry.usage = cgroup.number("memory", f"memory.{part}usage_in_bytes")
        entry.max = cgroup.number("memory", f"memory.{part}max_usage_in_bytes")
        entry.failcnt = cgroup.number("memory", f"memory.{part}failcnt")


def _blkio(text: str) -> list[v1.BlkIOEntry]:
    entries = []
    for line in text.splitlines():
        parts = line.split()
        if len(parts) == 3 and ":" in parts[0]:
            major, minor = parts[0].split(":")
            entries.append(v1.BlkIOEntry(op=parts[1], major=int(major), minor=int(minor), value=int(parts[2])))
    return entries


def _read_2(cgroup: Cgroup) -> v2.Metrics:
    metrics = v2.Metrics()
    metrics.pids.current = cgroup.number("", "pids.current")
    metrics.pids.limit = _limit(cgroup.number("", "pids.max"))
    for key, value in cgroup.pairs("", "cpu.stat").items():
        if key in metrics.cpu.DESCRIPTOR.fields_by_name:
            setattr(metrics.cpu, key, value)
    _memory_2(cgroup, metrics.memory)
    for key, value in cgroup.pairs("", "memory.events").items():
        if key in metrics.memory_events.DESCRIPTOR.fields_by_name:
            setattr(metrics.memory_events, key, value)
    for line in cgroup.read("", "io.stat").splitlines():
        metrics.io.usage.append(_io(line))
    return metrics


def _memory_2(cgroup: Cgroup, memory: v2.MemoryStat) -> None:
    for key, value in cgroup.pairs("", "memory.stat").items():
        if key in memory.DESCRIPTOR.fields_by_name:
            setattr(memory, key, value)
    memory.usage = cgroup.number("", "memory.current")
    memory.usage_limit = cgroup.number("", "memory.max")
    memory.max_usage = cgroup.number("", "memory.peak")
    memory.swap_usage = cgroup.number("", "memory.swap.current")
    memory.swap_limit = cgroup.number("", "memory.swap.max")


def _io(line: str) -> v2.IOEntry:
    device, *pairs = line.split()
    major, minor = device.split(":")
    entry = v2.IOEntry(major=int(major), minor=int(minor))
    for key, _, value in (pair.partition("=") for pair in pairs):
        if key in _IO_FIELDS:
            setattr(entry, key, int(value))
    return entry


def _limit(number: int) -> int:
    """0 stands for no limit."""
    return 0 if number == (1 << 64) - 1 else number
