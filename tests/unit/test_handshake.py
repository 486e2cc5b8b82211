import pytest

from plugin_sdk import errors, handshake
from plugin_sdk.api import catalog
from plugin_sdk.scope import Scope
from plugin_sdk.wire import handshake as wire
from plugin_sdk.wire import version

FULL = handshake.Description(
    handshake.Range(1, 3),
    "1.2",
    ("io.containerd.snapshotter.v1", "io.containerd.content.v1"),
    ("remap-ids", "rebase"),
    ("linux/amd64", "linux/arm64/v8"),
    {"root": "/var/lib/stars", "empty": ""},
    "8d2c",
)


def test_what_a_program_says_arrives_unchanged(serve):
    assert wire.Proxy(serve(wire.Servicer(FULL)), Scope("")).describe("0.2", "stars") == FULL


def test_a_program_that_says_little_is_understood(serve):
    little = handshake.Description(instance="1")
    assert wire.Proxy(serve(wire.Servicer(little)), Scope("")).describe("", "") == little


def test_a_program_hears_who_asks(serve):
    heard = []
    wire.Proxy(serve(wire.Servicer(FULL, lambda *said: heard.append(said))), Scope("")).describe("0.2", "stars")
    assert heard == [("stars", "0.2", handshake.API)]


def test_a_program_without_a_handshake_says_unimplemented(serve):
    proxy = wire.Proxy(serve(version.Servicer("1", "")), Scope(""))
    with pytest.raises(errors.Unimplemented):
        proxy.describe("0.2", "stars")


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ((1, 1), (1, 1), True),
        ((1, 3), (3, 5), True),
        ((1, 5), (2, 3), True),
        ((1, 2), (3, 4), False),
        ((0, 0), (1, 1), False),
        ((3, 1), (1, 3), False),
    ],
)
def test_two_ranges_need_a_version_in_common(one, other, common):
    assert handshake.Range(*one).overlaps(handshake.Range(*other)) is common
    assert handshake.Range(*other).overlaps(handshake.Range(*one)) is common


def test_a_range_reads_as_people_say_it():
    assert str(handshake.Range(1, 1)) == "1"
    assert str(handshake.Range(1, 3)) == "1 to 3"


def test_the_handshake_is_no_service_of_the_daemon():
    assert wire.SERVICE.full_name not in {service.full_name for service in catalog.services()}
    assert wire.SERVICE.full_name in {service.full_name for service in catalog.services(catalog.PLUGIN)}
