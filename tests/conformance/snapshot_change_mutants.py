"""Snapshotters with one broken sentence each, on keys, labels and changes: ``MUTANTS``, over ``SOUND``."""

from __future__ import annotations

import contextlib
import threading
import time
import unicodedata
from dataclasses import replace

from plugin_sdk import errors
from plugin_sdk.snapshots import TARGET_LABEL, Kind
from tests.conformance.snapshot_mutants import SOUND, Telling
from tests.mutation import Mutants

MUTANTS = Mutants()

_LATE = 0.05  # seconds in which threads meet, on a busy machine too


class Relabelling(SOUND):
    """``kept`` is what is kept of labels given."""

    def kept(self, labels):
        return labels

    def prepare(self, key, parent="", labels=None):
        return super().prepare(key, parent, self.kept(labels or {}))

    def view(self, key, parent="", labels=None):
        return super().view(key, parent, self.kept(labels or {}))

    def commit(self, name, key, labels=None):
        super().commit(name, key, self.kept(labels or {}))

    def update(self, info, fieldpaths=()):
        return super().update(replace(info, labels=self.kept(info.labels)), fieldpaths)


class Renaming(SOUND):
    """``kept`` is what is kept of a key."""

    def kept(self, key):
        return key

    def stat(self, key):
        return super().stat(self.kept(key))

    def usage(self, key):
        return super().usage(self.kept(key))

    def mounts(self, key):
        return super().mounts(self.kept(key))

    def prepare(self, key, parent="", labels=None):
        return super().prepare(self.kept(key), self.kept(parent), labels)

    def view(self, key, parent="", labels=None):
        return super().view(self.kept(key), self.kept(parent), labels)

    def commit(self, name, key, labels=None):
        super().commit(self.kept(name), self.kept(key), labels)

    def remove(self, key):
        super().remove(self.kept(key))


# Names

_KEYS = "Each is any text of 1 to 4096 bytes in UTF-8, kept as it is; two that differ anywhere are two snapshots."


@MUTANTS.breaks(_KEYS)
class ComposesKeys(Renaming):
    def kept(self, key):
        return unicodedata.normalize("NFC", key)


@MUTANTS.breaks(_KEYS)
class CutsKeys(Renaming):
    def kept(self, key):
        return key[:1000]


@MUTANTS.breaks("Keys and names are one space: what is taken by one is taken for the other.")
class TakesAViewsKeyForAName(SOUND):
    def commit(self, name, key, labels=None):
        try:
            if self.stat(name).kind is Kind.VIEW:
                self.remove(name)
        except errors.NotFound:
            pass
        super().commit(name, key, labels)


@MUTANTS.breaks("The message of an error names what is missing, taken or of the wrong kind.")
class DoesNotSayWhoIsMissing(SOUND):
    def usage(self, key):
        try:
            return super().usage(key)
        except errors.NotFound as err:
            raise errors.NotFound("no such snapshot") from err


# Labels


@MUTANTS.breaks(
    "They are kept as they are given, thousands of them too, for as long as a request fits into a message of 16 MiB."
)
class KeepsAThousandLabels(Relabelling):
    def kept(self, labels):
        return dict(list(labels.items())[:1000])


@MUTANTS.breaks(
    "A key and its value have at most 4096 bytes together; a longer label is refused with InvalidArgument or kept, "
    "never cut."
)
class CutsValues(Relabelling):
    def kept(self, labels):
        return {key: value.encode()[: 4096 - len(key)].decode(errors="ignore") for key, value in labels.items()}


@MUTANTS.breaks("A label whose value is empty is not kept.")
class KeepsEmptyLabels(SOUND):
    def prepare(self, key, parent="", labels=None):
        self.__dict__.setdefault("empty", {})[key] = {name: "" for name, value in (labels or {}).items() if not value}
        return super().prepare(key, parent, labels)

    def stat(self, key):
        info = super().stat(key)
        return replace(info, labels=dict(info.labels) | self.__dict__.get("empty", {}).get(key, {}))


@MUTANTS.breaks("Nobody inherits labels: neither a child from its parent, nor the name from the key.")
class InheritsLabels(SOUND):
    def view(self, key, parent="", labels=None):
        inherited = self.stat(parent).labels if parent else {}
        return super().view(key, parent, dict(inherited) | (labels or {}))


@MUTANTS.breaks(
    "Labels that begin with ``containerd.io/snapshot/`` are hints; one that a snapshotter does not know changes "
    "nothing."
)
class RefusesUnknownHints(Relabelling):
    def kept(self, labels):
        for key in labels:
            if key.startswith("containerd.io/snapshot/invented"):
                raise errors.InvalidArgument(f"label {key} is not known")
        return labels


@MUTANTS.breaks("Changes the labels of the snapshot ``info.name``, of any kind, and answers its new info.")
class LabelsNothingCommitted(SOUND):
    def update(self, info, fieldpaths=()):
        if self.stat(info.name).kind is Kind.COMMITTED:
            raise errors.FailedPrecondition(f"snapshot {info.name} is committed")
        return super().update(info, fieldpaths)


@MUTANTS.breaks("Kind, parent and times of ``info`` are not looked at, and stay.")
class ComparesTheParent(SOUND):
    def update(self, info, fieldpaths=()):
        if info.parent and info.parent != self.stat(info.name).parent:
            raise errors.InvalidArgument(f"snapshot {info.name} has another parent")
        return super().update(info, fieldpaths)


@MUTANTS.breaks("Without ``fieldpaths`` the labels given replace all.")
class MergesLabels(SOUND):
    def update(self, info, fieldpaths=()):
        merged = info if fieldpaths else replace(info, labels=dict(self.stat(info.name).labels) | dict(info.labels))
        return super().update(merged, fieldpaths)


@MUTANTS.breaks(
    "With them, only those change that are named as ``labels.KEY``, where KEY is all that follows the first dot, or "
    "all by ``labels``; one that is named and not given is removed."
)
class EndsKeysAtADot(SOUND):
    def update(self, info, fieldpaths=()):
        return super().update(info, [".".join(path.split(".")[:2]) for path in fieldpaths])


@MUTANTS.breaks("Another path raises InvalidArgument.")
class SkipsOtherPaths(SOUND):
    def update(self, info, fieldpaths=()):
        return super().update(info, [path for path in fieldpaths if path.startswith("labels")])


@MUTANTS.breaks("Without the snapshot, ``update`` raises NotFound.")
class RefusesToLabelNobody(SOUND):
    def update(self, info, fieldpaths=()):
        try:
            return super().update(info, fieldpaths)
        except errors.NotFound as err:
            raise errors.InvalidArgument(err.message) from err


# Prepare


@MUTANTS.breaks("Raises AlreadyExists when the key exists.")
class PreparesAgain(SOUND):
    def prepare(self, key, parent="", labels=None):
        try:
            return super().prepare(key, parent, labels)
        except errors.AlreadyExists:
            return self.mounts(key)


@MUTANTS.breaks("Raises NotFound when the parent does not exist.")
class BeginsWithoutAMissingParent(SOUND):
    def prepare(self, key, parent="", labels=None):
        try:
            return super().prepare(key, parent, labels)
        except errors.NotFound:
            return super().prepare(key, "", labels)


@MUTANTS.breaks("Raises InvalidArgument when the parent is not committed.")
class TellsAnotherError(SOUND):
    def view(self, key, parent="", labels=None):
        try:
            return super().view(key, parent, labels)
        except errors.InvalidArgument as err:
            raise errors.FailedPrecondition(err.message) from err


@MUTANTS.breaks("Raises InvalidArgument for an empty key.")
class FindsAKey(SOUND):
    def prepare(self, key, parent="", labels=None):
        return super().prepare(key or f"key-{time.time_ns()}", parent, labels)


@MUTANTS.breaks("One that has not prepares.")
class HasEveryTarget(SOUND):
    def prepare(self, key, parent="", labels=None):
        if TARGET_LABEL in (labels or {}):
            raise errors.AlreadyExists(f"{labels[TARGET_LABEL]} is here")
        return super().prepare(key, parent, labels)


# Commit


@MUTANTS.breaks(
    "Makes the active snapshot ``key`` the committed one ``name``, with the same parent and these labels only."
)
class CommitsOldLabels(SOUND):
    def commit(self, name, key, labels=None):
        super().commit(name, key, dict(self.stat(key).labels) | (labels or {}))


@MUTANTS.breaks("The key is free then.")
class NeverFreesKeys(SOUND):
    def commit(self, name, key, labels=None):
        super().commit(name, key, labels)
        self.__dict__.setdefault("used", set()).add(key)

    def prepare(self, key, parent="", labels=None):
        if key in self.__dict__.get("used", ()):
            raise errors.AlreadyExists(f"key {key} was used")
        return super().prepare(key, parent, labels)


@MUTANTS.breaks("Raises AlreadyExists when the name exists, also as ``key`` itself.")
class ReplacesTheName(SOUND):
    def commit(self, name, key, labels=None):
        if name != key and name in {info.name for info in self.walk()} and self.stat(name).kind is Kind.ACTIVE:
            self.remove(name)
        super().commit(name, key, labels)


@MUTANTS.breaks("Raises FailedPrecondition when ``key`` is a view or committed.")
class DoesNotFindViews(SOUND):
    def commit(self, name, key, labels=None):
        try:
            super().commit(name, key, labels)
        except errors.FailedPrecondition as err:
            raise errors.NotFound(err.message) from err


@MUTANTS.breaks("Raises InvalidArgument for an empty name.")
class CommitsUnderTheKey(SOUND):
    def commit(self, name, key, labels=None):
        super().commit(name or f"{key} committed", key, labels)


@MUTANTS.breaks("Without the active snapshot, ``commit`` raises NotFound.")
class CommitsNobody(SOUND):
    def commit(self, name, key, labels=None):
        try:
            super().commit(name, key, labels)
        except errors.NotFound as err:
            raise errors.FailedPrecondition(err.message) from err


# Remove, cleanup, close


@MUTANTS.breaks("Removes a snapshot of any kind, and its key or name is free.")
class KeepsViews(SOUND):
    def remove(self, key):
        if self.stat(key).kind is Kind.VIEW:
            raise errors.FailedPrecondition(f"snapshot {key} is a view")
        super().remove(key)


@MUTANTS.breaks("While it has children, ``remove`` raises FailedPrecondition.")
class RemovesChildren(SOUND):
    def remove(self, key):
        for info in list(self.walk()):
            if info.parent == key:
                self.remove(info.name)
        super().remove(key)


@MUTANTS.breaks("Without the snapshot, ``remove`` raises NotFound.")
class RemovesNobody(SOUND):
    def remove(self, key):
        if key in {info.name for info in self.walk()}:
            super().remove(key)


@MUTANTS.breaks("Frees what removed snapshots have left, and nothing else.")
class CleansUpActiveSnapshots(SOUND):
    def cleanup(self):
        super().cleanup()
        for info in list(self.walk(["kind==active"])):
            self.remove(info.name)


@MUTANTS.breaks("Raises Unimplemented where removing leaves nothing.")
class CleansUpOnce(SOUND):
    def cleanup(self):
        if self.__dict__.setdefault("clean", False):
            raise errors.NotFound("nothing to clean up")
        self.clean = True
        super().cleanup()


@MUTANTS.breaks("Ends the use of the object; a second time does nothing.")
class ClosesOnce(SOUND):
    def close(self):
        if self.__dict__.setdefault("closed", False) and not self.__dict__.setdefault("complained", False):
            self.complained = True
            raise errors.FailedPrecondition("closed already")
        self.closed = True
        super().close()


# Failures and threads


@MUTANTS.breaks("Each method has its whole effect or none: one that raises has changed nothing.")
class UpdatesUntilItFails(SOUND):
    def update(self, info, fieldpaths=()):
        for path in fieldpaths:
            super().update(info, [path])
        return super().update(info, fieldpaths)


@MUTANTS.breaks(
    "All that was answered before a crash is true after it: snapshots and their fields, files, usage and mounts."
)
class LosesLabelsOfViews(Telling):
    def __init__(self, root):
        super().__init__(root)
        self.old = {info.name for info in super().walk(["kind==view"])}

    def told(self, info):
        return replace(info, labels={}) if info.name in self.__dict__.get("old", ()) else info


@MUTANTS.breaks("Repeating a call that was cut off is safe: it succeeds, or says AlreadyExists or NotFound.")
class ComplainsOfARepeatedRemove(SOUND):
    def remove(self, key):
        try:
            super().remove(key)
        except errors.NotFound as err:
            raise errors.FailedPrecondition(err.message) from err


@MUTANTS.breaks("All methods block and may be called from several threads.")
class IsBusy(SOUND):
    def __init__(self, root):
        self.free = threading.Lock()
        super().__init__(root)

    def prepare(self, key, parent="", labels=None):
        if not self.free.acquire(blocking=False):
            raise errors.Unavailable(f"snapshot {key} has to wait")
        try:
            time.sleep(_LATE)
            return super().prepare(key, parent, labels)
        finally:
            self.free.release()


_ORDER = (
    "Calls at the same time leave what they would leave one after the other: of several that want one key or name one "
    "gets it, and no child loses its parent."
)


@MUTANTS.breaks(_ORDER)
class RemovesTogether(SOUND):
    def remove(self, key):
        self.stat(key)
        time.sleep(_LATE)
        with contextlib.suppress(errors.NotFound):
            super().remove(key)


@MUTANTS.breaks(_ORDER)
class LosesAChangeOfLabels(SOUND):
    def update(self, info, fieldpaths=()):
        labels = dict(self.stat(info.name).labels)
        time.sleep(_LATE)
        labels |= {path.removeprefix("labels."): info.labels[path.removeprefix("labels.")] for path in fieldpaths}
        return super().update(replace(info, labels=labels))
