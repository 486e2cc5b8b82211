import json

import pytest

from plugin_sdk import lines

VALUES = [None, True, 0, -7, 2.5, "", 'quoted " and \n', "ü€😀", [], {}, {"a": [1, {"b": None}]}, [[["x"]]]]


@pytest.mark.parametrize("value", VALUES)
def test_what_is_encoded_is_json_and_is_decoded_again(value):
    encoded = lines.encode(value)
    assert b"\n" not in encoded
    assert json.loads(encoded) == value
    assert lines.decode(encoded) == value
    assert lines.decode(json.dumps(value).encode()) == value


@pytest.mark.parametrize("text", [b"", b"{", b"[1,", b"nonsense", b'{"a" 1}'])
def test_what_is_not_json_is_a_value_error(text):
    with pytest.raises(ValueError):
        lines.decode(text)


def test_other_values_are_refused():
    with pytest.raises(TypeError, match="set"):
        lines.encode({"a": {1}})
