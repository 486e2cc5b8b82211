import os

import pytest

from plugin_sdk import errors
from plugin_sdk.api.cgroups.v1 import metrics_pb2 as v1
from plugin_sdk.api.cgroups.v2 import metrics_pb2 as v2
from plugins_builtin.runtime import cgroups, metrics

MAX = (1 << 64) - 1


def written(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return str(folder)


def version_1(tmp_path):
    return cgroups.Cgroup(
        {
            "pids": written(tmp_path / "pids", pids__current="3\n", pids__max="max\n", cgroup__procs="1\n2\n"),
            "memory": written(
                tmp_path / "memory",
                memory__stat="cache 5\nrss 7\npgfault 9\ntotal_pgfault 10\nhierarchical_memsw_limit 11\nswap 12\n",
                memory__usage_in_bytes="100\n",
                memory__limit_in_bytes="200\n",
                memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
            ),
            "cpuacct": written(tmp_path / "cpuacct", cpuacct__usage="50\n", cpuacct__usage_percpu="20 30 \n"),
            "cpu": written(tmp_path / "cpu", cpu__stat="nr_periods 1\nnr_throttled 2\nthrottled_time 3\n"),
            "blkio": written(
                tmp_path / "blkio", blkio__throttle__io_service_bytes_recursive="8:0 Read 512\nTotal 512\n"
            ),
        }
    )


def version_2(tmp_path):
    folder = written(
        tmp_path / "unified",
        pids__current="2\n",
        pids__max="10\n",
        cpu__stat="usage_usec 7\nuser_usec 3\nsystem_usec 4\n",
        memory__stat="anon 1\nfile 2\npgfault 3\n",
        memory__current="100\n",
        memory__max="max\n",
        memory__events="low 0\noom 1\noom_kill 2\n",
        io__stat="8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
        cgroup__procs="5\n",
    )
    return cgroups.Cgroup({"": folder})


def test_figures_of_version_1(tmp_path):
    figures = metrics.read(version_1(tmp_path))
    assert figures.type_url == "io.containerd.cgroups.v1.Metrics"
    read = v1.Metrics.FromString(figures.value)
    assert (read.pids.current, read.pids.limit) == (3, 0)
    assert (read.memory.cache, read.memory.rss, read.memory.pg_fault, read.memory.total_pg_fault) == (5, 7, 9, 10)
    assert (read.memory.usage.usage, read.memory.usage.limit, read.memory.hierarchical_swap_limit) == (100, 200, 11)
    assert (read.cpu.usage.total, list(read.cpu.usage.per_cpu), read.cpu.throttling.throttled_time) == (50, [20, 30], 3)
    (entry,) = read.blkio.io_service_bytes_recursive
    assert (entry.op, entry.major, entry.minor, entry.value) == ("Read", 8, 0, 512)
    assert read.memory_oom_control.oom_kill == 4


def test_figures_of_version_2(tmp_path):
    figures = metrics.read(version_2(tmp_path))
    assert figures.type_url == "io.containerd.cgroups.v2.Metrics"
    read = v2.Metrics.FromString(figures.value)
    assert (read.pids.current, read.pids.limit, read.cpu.usage_usec) == (2, 10, 7)
    assert (read.memory.anon, read.memory.usage, read.memory.usage_limit) == (1, 100, MAX)
    assert (read.memory_events.oom_kill, read.io.usage[0].wbytes, read.io.usage[0].wios) == (2, 2, 4)


def test_killed_for_want_of_memory_is_counted_in_both_versions(tmp_path):
    assert version_1(tmp_path).oom_kills() == 4
    assert version_2(tmp_path).oom_kills() == 2


def test_pids_are_those_of_cgroups_beneath_too(tmp_path):
    cgroup = version_1(tmp_path)
    written(tmp_path / "pids/inner", cgroup__procs="3\n")
    assert sorted(cgroup.pids()) == [1, 2, 3]
    assert cgroups.Cgroup({}).pids() == []


def test_files_that_do_not_exist_are_0(tmp_path):
    assert version_1(tmp_path).number("memory", "memory.memsw.usage_in_bytes") == 0
    assert cgroups.Cgroup({}).number("memory", "memory.usage_in_bytes") == 0


def test_the_root_cgroup_is_left_out():
    assert "" not in cgroups.of(os.getpid()).folders.values()
    assert cgroups._folder(("/sys/fs/cgroup/pids", "/"), "/") is None
    assert cgroups._folder(("/sys/fs/cgroup/pids", "/"), "/a/b") == "/sys/fs/cgroup/pids/a/b"
    assert cgroups._folder(("/sys/fs/cgroup/pids", "/box"), "/box/a") == "/sys/fs/cgroup/pids/a"


def test_a_process_that_is_gone_has_no_cgroup():
    assert cgroups.of(1 << 22).folders == {}


def test_a_cgroup_to_join_must_exist():
    with pytest.raises(errors.NotFound, match="/no/such"):
        cgroups.join("/no/such", os.getpid())
