"""What spec options become."""

from __future__ import annotations

from typing import Any

import pytest

from corten import specs
from corten.specs import SpecOptions
from plugin_sdk import errors, oci, platforms
from plugin_sdk import specs as specs_


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        (
            "type=bind,src=/a,dst=/b,options=rbind:ro",
            {"type": "bind", "source": "/a", "destination": "/b", "options": ["rbind", "ro"]},
        ),
        ("src=/a,dst=/b", {"type": "bind", "source": "/a", "destination": "/b", "options": ["rbind"]}),
        (
            "type=tmpfs,source=tmpfs,destination=/b,options=size=1m:mode=700",
            {"type": "tmpfs", "source": "tmpfs", "destination": "/b", "options": ["size=1m", "mode=700"]},
        ),
    ],
)
def test_mounts_are_read(text: str, mount: dict[str, object]) -> None:
    assert specs.parse_mount(text) == mount


@pytest.mark.parametrize(
    ("text", "reason"), [("size=1", 'unknown key "size"'), ("src=/a", "no destination"), ("", 'unknown key ""')]
)
def test_a_wrong_mount_is_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=reason):
        specs.parse_mount(text)


CONFIG = oci.ImageConfig(
    platforms.Platform("linux", "amd64"),
    (),
    env=("PATH=/bin", "LANG=C"),
    entrypoint=("/entry",),
    command=("serve",),
    working_dir="/srv",
)


def build(**options: Any) -> specs_.Spec:
    return specs.build("default", "web", CONFIG, SpecOptions(**options), None)  # type: ignore[typeddict-item]


def test_without_options_it_is_as_the_image_says() -> None:
    process = build()["process"]
    assert (process["args"], process["cwd"]) == (["/entry", "serve"], "/srv")
    assert process["env"] == ["PATH=/bin", "LANG=C"]
    assert build()["hostname"] == "web"


def test_arguments_replace_the_command_and_an_entrypoint_both() -> None:
    assert build(args=["-v"])["process"]["args"] == ["/entry", "-v"]
    assert build(entrypoint=["/other"], args=["-v"])["process"]["args"] == ["/other", "-v"]
    assert build(entrypoint=[], args=["-v"])["process"]["args"] == ["-v"]
    with pytest.raises(errors.InvalidArgument, match="no arguments"):
        build(entrypoint=[])


def test_an_environment_may_be_a_mapping() -> None:
    env = ["PATH=/bin", "LANG=de", "A=1"]
    assert build(env={"LANG": "de", "A": "1"})["process"]["env"] == env
    assert build(env=["LANG=de", "A=1"])["process"]["env"] == env
    assert build(env=["LANG"])["process"]["env"] == ["PATH=/bin"]


def test_limits_are_in_the_resources() -> None:
    resources = build(memory=1 << 26, cpus=1.5, pids=7)["linux"]["resources"]
    assert resources["memory"] == {"limit": 1 << 26}
    assert resources["cpu"] == {"period": 100000, "quota": 150000}
    assert resources["pids"] == {"limit": 7}
    with pytest.raises(errors.InvalidArgument, match=r"cpus -1"):
        build(cpus=-1)


def test_capabilities_are_set_added_and_dropped() -> None:
    def held(**options: Any) -> set[str]:
        found: list[str] = build(**options)["process"]["capabilities"]["bounding"]
        return set(found)

    usual = set(specs_.DEFAULT_CAPABILITIES)
    assert held(capabilities=["CAP_KILL"]) == {"CAP_KILL"}
    assert held(capabilities=[]) == set()
    assert held(add_capabilities=["CAP_SYS_TIME"]) == usual | {"CAP_SYS_TIME"}
    assert held(drop_capabilities=["CAP_KILL"]) == usual - {"CAP_KILL"}


def test_a_privileged_one_sees_the_machine() -> None:
    spec = build(privileged=True)
    assert spec["linux"]["maskedPaths"] == spec["linux"]["readonlyPaths"] == []
    assert spec["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "/dev/null" in [device["path"] for device in spec["linux"]["devices"]]
    assert not spec["process"]["noNewPrivileges"]


def test_a_device_is_one_of_the_machine() -> None:
    linux = build(devices=["/dev/null"])["linux"]
    assert [(each["path"], each["type"], each["major"], each["minor"]) for each in linux["devices"]] == [
        ("/dev/null", "c", 1, 3)
    ]
    assert linux["resources"]["devices"][1:] == [{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]
    with pytest.raises(errors.NotFound, match=r"/dev/absent"):
        build(devices=["/dev/absent"])
    with pytest.raises(errors.InvalidArgument, match=r"/etc"):
        build(devices=["/etc"])


def test_the_rest_is_in_the_spec_too() -> None:
    spec = build(
        mounts=["src=/a,dst=/b", {"type": "tmpfs", "destination": "/c"}],
        annotations={"a": "b"},
        read_only=True,
        host_network=True,
        terminal=True,
        hostname="other",
        change=lambda spec: {**spec, "domainname": "example"},
    )
    assert [mount["destination"] for mount in spec["mounts"]][-2:] == ["/b", "/c"]
    assert "network" not in [each["type"] for each in spec["linux"]["namespaces"]]
    assert spec["annotations"] == {"a": "b"}
    assert (spec["root"]["readonly"], spec["process"]["terminal"]) == (True, True)
    assert (spec["hostname"], spec["domainname"]) == ("other", "example")
