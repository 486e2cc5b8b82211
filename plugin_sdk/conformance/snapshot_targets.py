"""The part of the suite for snapshotters on layers that they have before the caller unpacks them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from plugin_sdk import errors
from plugin_sdk.conformance.sentences import holds
from plugin_sdk.conformance.snapshot_rig import Rig, Subject
from plugin_sdk.conformance.snapshot_trees import commit, names, shown, texts
from plugin_sdk.snapshots import TARGET_LABEL, Kind

HAS = (
    "A snapshotter that has that layer already may make it a committed snapshot with this label, on this parent, and "
    "raise AlreadyExists; there is no ``key`` then."
)
HAS_NOT = "One that has not prepares."

Target = Callable[[], Mapping[str, str]]


class Targets(Rig):
    @holds(HAS_NOT)
    @pytest.mark.parametrize("parent", ["", "layer"], ids=["no parent", "a parent"])
    def test_a_layer_that_nobody_has_is_prepared(self, subject: Subject, parent: str) -> None:
        commit(subject, "layer", a="1")
        target = {TARGET_LABEL: subject.full("chain ID that nobody has")}
        assert texts(subject.prepare("key", parent, target)) == ({"a": "1"} if parent else {})
        assert subject.stat("key").labels == target
        subject.commit("chain", "key", target)
        assert subject.stat("chain").labels == target

    @holds(HAS)
    def test_a_layer_that_is_there_already_is_found_by_its_label(
        self, subject: Subject, supports_targets: bool, target: Target
    ) -> None:
        if not supports_targets:
            pytest.skip("supports_targets is false: the snapshotter has no layers of its own")
        own, subject.prefix = subject.prefix, ""  # what the snapshotter makes has names of its choice
        commit(subject, f"{own}base", a="1")
        for parent in ("", f"{own}base"):
            labels = target()
            key, view = f"{own}key on {parent}", f"{own}view on {parent}"
            with pytest.raises(errors.AlreadyExists):
                subject.prepare(key, parent, labels)
            wanted = f'kind==committed,labels."{TARGET_LABEL}"=="{labels[TARGET_LABEL]}"'
            (found,) = [info for info in subject.walk([wanted]) if info.parent == parent]
            subject.note(found.name)
            assert (found.kind, found.labels[TARGET_LABEL]) == (Kind.COMMITTED, labels[TARGET_LABEL])
            assert key not in names(subject)
            with shown(subject.view(view, found.name)) as folder:
                assert folder.is_dir()
            subject.remove(view)
