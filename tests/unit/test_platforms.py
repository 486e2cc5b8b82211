import pytest

from plugin_sdk import errors, platforms
from plugin_sdk.platforms import Platform


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("Linux/x86_64", "linux/amd64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/i386", "linux/386"),
        ("macos/arm64", "darwin/arm64"),
        ("linux/s390x", "linux/s390x"),
        ("linux/ppc64le", "linux/ppc64le"),
    ],
)
def test_a_platform_is_parsed_into_the_usual_names(text: str, expected: str) -> None:
    assert str(platforms.parse(text)) == expected


@pytest.mark.parametrize("text", ["", "/", "linux/", "linux/amd64/v1/x", "li nux/amd64", "nosuch", "linux/*"])
def test_a_malformed_platform_is_refused_by_name(text: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=f'platform "{text}"'.replace("*", r"\*")):
        platforms.parse(text)


def test_a_single_part_is_completed_by_the_machine() -> None:
    here = platforms.host()
    assert platforms.parse(here.os) == here
    assert platforms.parse("riscv64") == Platform(here.os, "riscv64")
    assert platforms.parse("aarch64") == Platform(here.os, "arm64")


def test_the_host_is_linux() -> None:
    assert platforms.host().os == "linux"
    assert platforms.host() == platforms.normalize(platforms.host())


def test_platforms_match_in_whatever_names() -> None:
    assert platforms.matches(Platform("linux", "aarch64"), Platform("Linux", "arm64", "v8"))
    assert not platforms.matches(Platform("linux", "arm", "v6"), Platform("linux", "arm", "v7"))


@pytest.mark.parametrize(
    ("wanted", "best_first"),
    [
        ("linux/amd64", ["linux/amd64", "linux/386"]),
        ("linux/amd64/v3", ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]),
        ("linux/arm/v7", ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm/v5", ["linux/arm/v5"]),
        ("linux/arm64", ["linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/riscv64", ["linux/riscv64"]),
    ],
)
def test_preferences_begin_with_the_best(wanted: str, best_first: list[str]) -> None:
    assert [str(platform) for platform in platforms.preferences(platforms.parse(wanted))] == best_first


def test_the_rank_of_what_cannot_run_is_none() -> None:
    wanted = platforms.parse("linux/arm/v7")
    assert platforms.rank(wanted, Platform("linux", "arm")) == 0
    assert platforms.rank(wanted, Platform("linux", "arm", "v6")) == 1
    assert platforms.rank(wanted, Platform("linux", "arm64")) is None
    assert platforms.rank(wanted, Platform("windows", "arm", "v7")) is None
