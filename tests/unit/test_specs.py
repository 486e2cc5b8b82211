import json
from pathlib import Path

import pytest

from plugin_sdk import errors, oci, specs
from plugin_sdk.platforms import Platform

CONFIG = oci.ImageConfig(Platform("linux", "amd64"), (), "", ("PATH=/bin", "A=1"), ("/bin/sh",), ("-c", "true"), "/srv")


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    etc = tmp_path / "root" / "etc"
    etc.mkdir(parents=True)
    (etc / "passwd").write_text("root:x:0:0:::\nwww:x:33:34::/srv:/bin/sh\nbroken\nodd:x:a:b::\n")
    (etc / "group").write_text("root:x:0:\nweb:x:34:\nlogs:x:40:www,root\nmore:x:41:www\n")
    return tmp_path / "root"


def run(**changes: object) -> specs.Spec:
    return specs.spec_from_image_config(specs.default_spec("ns", "id"), CONFIG, **changes)  # type: ignore[arg-type]


def test_the_default_spec_is_json_with_the_cgroup_of_the_container() -> None:
    spec = json.loads(json.dumps(specs.default_spec("ns", "id", hostname="host")))
    assert spec["linux"]["cgroupsPath"] == "/ns/id"
    assert spec["hostname"] == "host"
    assert [item["type"] for item in spec["linux"]["namespaces"]] == ["pid", "ipc", "uts", "mount", "network"]
    assert spec["process"]["capabilities"]["bounding"] == list(specs.DEFAULT_CAPABILITIES)
    assert {"/proc", "/dev", "/dev/pts", "/sys", "/run"} <= {mount["destination"] for mount in spec["mounts"]}


def test_the_image_gives_arguments_environment_and_directory() -> None:
    process = run()["process"]
    assert process["args"] == ["/bin/sh", "-c", "true"]
    assert process["env"] == ["PATH=/bin", "A=1"]
    assert process["cwd"] == "/srv"
    assert process["user"] == {"uid": 0, "gid": 0}
    assert "terminal" not in process


def test_arguments_override_what_the_image_says() -> None:
    process = run(args=["-v"], env=["A=2", "B=", "PATH"], cwd="/", user="1:2", terminal=True)["process"]
    assert process["args"] == ["/bin/sh", "-v"]
    assert process["env"] == ["TERM=xterm", "A=2", "B="]
    assert process["cwd"] == "/"
    assert process["user"] == {"uid": 1, "gid": 2}
    assert process["terminal"] is True


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match="no command"):
        specs.spec_from_image_config(specs.default_spec("ns", "id"), oci.parse_config(b"{}"))


def test_an_image_without_environment_gets_a_path() -> None:
    spec = specs.spec_from_image_config(specs.default_spec("ns", "id"), oci.parse_config(b"{}"), args=["x"])
    assert spec["process"]["env"] == [f"PATH={specs.DEFAULT_PATH}"]
    assert spec["process"]["cwd"] == "/"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("www", {"uid": 33, "gid": 34, "additionalGids": [40, 41]}),
        ("33", {"uid": 33, "gid": 34, "additionalGids": [40, 41]}),
        ("www:logs", {"uid": 33, "gid": 40}),
        ("www:7", {"uid": 33, "gid": 7}),
        ("99", {"uid": 99, "gid": 0}),
        ("99:web", {"uid": 99, "gid": 34}),
        ("99:", {"uid": 99, "gid": 0}),
        ("root", {"uid": 0, "gid": 0, "additionalGids": [40]}),
    ],
)
def test_a_user_is_looked_up_in_the_image(rootfs: Path, user: str, expected: dict[str, object]) -> None:
    assert specs.resolve_user(user, rootfs) == expected


@pytest.mark.parametrize("user", ["nobody", "www:nobody", "odd", "broken", "-1", "4294967295", ":0"])
def test_an_unknown_user_is_refused_by_name(rootfs: Path, user: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=r'(user|group) "'):
        specs.resolve_user(user, rootfs)


def test_a_name_cannot_be_resolved_without_a_tree() -> None:
    with pytest.raises(errors.InvalidArgument, match='user "www"'):
        specs.resolve_user("www", None)


def test_links_in_the_image_do_not_lead_out(rootfs: Path) -> None:
    (rootfs.parent / "secret").write_text("evil:x:666:666:::\n")
    (rootfs / "etc" / "passwd").unlink()
    (rootfs / "etc" / "passwd").symlink_to("../../../secret")
    with pytest.raises(errors.InvalidArgument):
        specs.resolve_user("evil", rootfs)
    (rootfs / "secret").write_text("good:x:5:6:::\n")
    assert specs.resolve_user("good", rootfs) == {"uid": 5, "gid": 6}
    (rootfs / "etc" / "passwd").unlink()
    (rootfs / "etc" / "passwd").symlink_to("/secret")
    assert specs.resolve_user("good", rootfs) == {"uid": 5, "gid": 6}


def test_links_in_a_circle_are_refused(rootfs: Path) -> None:
    (rootfs / "a").symlink_to("b")
    (rootfs / "b").symlink_to("a")
    with pytest.raises(errors.InvalidArgument, match="too many symbolic links"):
        specs.resolve_in(rootfs, "/a/x")


def test_all_capabilities_are_those_this_process_holds() -> None:
    held = specs.held_capabilities()
    assert set(held) <= set(specs.CAPABILITIES)
    spec = specs.with_all_capabilities(specs.default_spec("ns", "id"))
    assert spec["process"]["capabilities"]["effective"] == held


def test_every_change_leaves_the_original_alone() -> None:
    spec = specs.default_spec("ns", "id")
    before = json.dumps(spec)
    changed = specs.with_memory_limit(specs.read_only(specs.with_host_network(spec)), 1 << 20)
    assert json.dumps(spec) == before
    assert changed["root"]["readonly"] is True
    assert changed["linux"]["resources"]["memory"]["limit"] == 1 << 20
    assert "network" not in [item["type"] for item in changed["linux"]["namespaces"]]
    assert changed["mounts"][-1]["destination"] == "/etc/resolv.conf"
