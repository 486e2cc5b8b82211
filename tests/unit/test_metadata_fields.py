from __future__ import annotations

import pytest

from kernel.metadata import fields
from plugin_sdk import errors


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([], {"b": "9", "n": "1"}),
        (["labels"], {"b": "9", "n": "1"}),
        (["labels.b"], {"a.x/y": "1", "b": "9"}),
        (["labels.a.x/y"], {"b": "2"}),
        (["labels.empty"], {"a.x/y": "1", "b": "2"}),
        (["labels.n", "labels.a.x/y"], {"b": "2", "n": "1"}),
    ],
)
def test_paths_name_what_changes(paths: list[str], expected: dict[str, str]) -> None:
    current, given = {"a.x/y": "1", "b": "2"}, {"b": "9", "n": "1", "empty": ""}
    assert fields.changed("it", current, given, paths) == expected
    assert current == {"a.x/y": "1", "b": "2"}


@pytest.mark.parametrize("path", ["size", "label", "labelsx", "", "Labels.a"])
def test_another_path_is_refused_by_name(path: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=f'"{path}" field on it'):
        fields.changed("it", {}, {}, [path])


def test_a_label_that_is_too_long_is_refused() -> None:
    assert fields.checked({"k": "v" * 4095}) == {"k": "v" * 4095}
    with pytest.raises(errors.InvalidArgument):
        fields.checked({"k": "v" * 4096})


def test_labels_are_kept_as_json() -> None:
    labels = {"a": 'quotes " and \n', "ü": "☃"}
    assert fields.load(fields.dump(labels)) == labels
    assert fields.load(fields.dump({})) == {}
