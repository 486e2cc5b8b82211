from google.protobuf import any_pb2, timestamp_pb2

from plugin_sdk.mounts import Mount
from plugin_sdk.oci import Descriptor
from plugin_sdk.runtime import Any
from plugin_sdk.wire import messages


def test_times_keep_their_nanoseconds() -> None:
    time = 1_700_000_000_123_456_789
    message = messages.timestamp(time)
    assert message is not None
    assert (message.seconds, message.nanos) == (1_700_000_000, 123_456_789)
    assert messages.nanoseconds(message) == time


def test_no_time_is_left_unset() -> None:
    assert messages.timestamp(0) is None
    assert messages.nanoseconds(timestamp_pb2.Timestamp()) == 0


def test_the_year_one_means_no_time() -> None:
    assert messages.nanoseconds(timestamp_pb2.Timestamp(seconds=-62135596800)) == 0


def test_the_epoch_itself_can_be_given() -> None:
    assert messages.epoch(0) == timestamp_pb2.Timestamp()
    assert messages.epoch(None) is None


def test_a_time_before_the_epoch_has_positive_nanos() -> None:
    assert messages.epoch(-1) == timestamp_pb2.Timestamp(seconds=-1, nanos=999_999_999)


def test_an_any_is_kept_byte_for_byte() -> None:
    value = Any("types.containerd.io/opencontainers/runtime-spec/1/Spec", b'{"a": 1}')
    message = messages.any_message(value)
    assert message == any_pb2.Any(type_url=value.type_url, value=value.value)
    assert messages.any_value(message) == value


def test_an_empty_any_is_left_unset() -> None:
    assert messages.any_message(Any()) is None
    assert messages.any_message(None) is None


def test_anys_by_key_are_kept_even_when_empty() -> None:
    values = {"a": Any("x", b"1"), "b": Any()}
    assert messages.any_values(messages.any_messages(values)) == values


def test_a_mount_survives() -> None:
    mount = Mount("overlay", "overlay", "/x", ("lowerdir=/a:/b", "ro"))
    assert messages.mount(messages.mount_message(mount)) == mount


def test_a_descriptor_survives() -> None:
    descriptor = Descriptor("application/x", "sha256:" + "0" * 64, 1 << 40, {"a": "b"})
    assert messages.descriptor(messages.descriptor_message(descriptor)) == descriptor


def test_field_paths_are_not_split() -> None:
    mask = messages.field_mask(["labels.containerd.io/gc.root"])
    assert mask is not None
    assert list(mask.paths) == ["labels.containerd.io/gc.root"]
    assert messages.field_mask([]) is None


def test_a_list_is_parted_by_number_and_by_size() -> None:
    def sizes(*lengths: int) -> list[int]:
        entries = (any_pb2.Any(value=bytes(length)) for length in lengths)
        return [len(batch) for batch in messages.batches(entries)]

    most = messages.BATCH_BYTES
    assert sizes() == []
    assert sizes(*[1] * 250) == [100, 100, 50]
    assert sizes(most // 2, most // 2, most // 2, 1) == [1, 1, 2]
    assert sizes(2 * most, 1) == [1, 1]
