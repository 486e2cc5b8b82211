import json
from pathlib import Path

import pytest

from plugin_sdk import errors, runtime
from plugin_sdk.api.types.runc.options import oci_pb2
from plugins_builtin.runtime import settings
from plugins_builtin.runtime.plugin import Config


@pytest.fixture
def programs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(settings, "_PATH", str(tmp_path))

    def install(*names):
        for name in names:
            (tmp_path / name).write_text("#!/bin/sh\n")
            (tmp_path / name).chmod(0o755)
        return tmp_path

    return install


def request(**options):
    packed = runtime.Any("containerd.runc.v1.Options", oci_pb2.Options(**options).SerializeToString())
    return runtime.Create("space", "id", Path("/bundle"), b"{}", options=packed)


def test_runc_comes_before_crun(programs):
    folder = programs("runc", "crun")
    made = settings.settings(request(), Config(), Path("/state"))
    assert list(made.command) == [str(folder / "runc"), "--root", "/state/space"]


def test_crun_is_taken_where_only_that_is_installed(programs):
    folder = programs("crun")
    assert settings.find("") == str(folder / "crun")


def test_the_configuration_names_an_engine_and_the_options_another(programs):
    folder = programs("runc", "crun", "other")
    assert settings.settings(request(), Config(engine="crun"), Path("/s")).command[0] == str(folder / "crun")
    chosen = settings.settings(request(binary_name="other"), Config(engine="crun"), Path("/s"))
    assert chosen.command[0] == str(folder / "other")


def test_a_missing_engine_is_named(programs):
    programs()
    with pytest.raises(errors.NotFound, match="runc"):
        settings.find("")
    with pytest.raises(errors.NotFound, match="/no/such"):
        settings.find("/no/such")


def test_options_become_flags(programs):
    programs("runc")
    made = settings.settings(
        request(no_pivot_root=True, no_new_keyring=True, systemd_cgroup=True, root="/r", io_uid=7, shim_cgroup="/c"),
        Config(),
        Path("/state"),
    )
    assert list(made.flags) == ["--no-pivot", "--no-new-keyring"]
    assert list(made.command[1:]) == ["--root", "/r/space", "--systemd-cgroup"]
    assert (made.owner, made.shim_cgroup) == ((7, 0), "/c")


def test_options_that_cannot_be_read_are_refused():
    with pytest.raises(errors.InvalidArgument, match="cannot be read"):
        settings.decode(runtime.Any("containerd.runc.v1.Options", b"\xff"))
    with pytest.raises(errors.InvalidArgument, match="other"):
        settings.decode(runtime.Any("other.Kind", b"\x08\x01"))


@pytest.mark.parametrize(
    ("listed", "shared"),
    [([{"type": "pid"}], False), ([{"type": "pid", "path": "/proc/1/ns/pid"}], True), ([{"type": "mount"}], True)],
)
def test_pids_are_shared_without_a_pid_namespace_of_its_own(listed, shared):
    assert settings.shares_pids(json.dumps({"linux": {"namespaces": listed}}).encode()) is shared


@pytest.mark.parametrize("spec", [b"", b"nonsense", b"[]", b'{"linux": 3}'])
def test_a_spec_that_cannot_be_read_is_refused(spec):
    with pytest.raises(errors.InvalidArgument, match="spec"):
        settings.shares_pids(spec)
