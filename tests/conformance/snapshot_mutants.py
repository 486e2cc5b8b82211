"""Snapshotters with one broken sentence each, on what is shown and what is known: ``MUTANTS``, over ``SOUND``."""

from __future__ import annotations

import os
import time
from dataclasses import replace

from plugin_sdk import errors, snapshots, trees
from plugin_sdk.mounts import Mount
from plugin_sdk.snapshots import Kind, Usage
from plugins_builtin.snapshots import overlayfs
from tests.mutation import Mutants

SOUND = overlayfs.Snapshotter

MUTANTS = Mutants()


class Telling(SOUND):
    """``told`` is what is answered for an info."""

    def told(self, info):
        return info

    def stat(self, key):
        return self.told(super().stat(key))

    def update(self, info, fieldpaths=()):
        return self.told(super().update(info, fieldpaths))

    def walk(self, filters=()):
        return map(self.told, super().walk(filters))


def entries(folder):
    return [os.path.join(place, name) for place, names, files in os.walk(folder) for name in (*names, *files)]


# Files


@MUTANTS.breaks(
    "An active snapshot shows its parent's tree with the changes made through its mounts, now and whenever they are "
    "mounted again."
)
class ShowsTheNearestParentOnly(SOUND):
    def _mounts(self, snapshot):
        if snapshot.info.kind is Kind.ACTIVE:
            snapshot = replace(snapshot, parents=snapshot.parents[:1])
        return super()._mounts(snapshot)


@MUTANTS.breaks("Without a parent it is an empty directory of mode 0755 at first.")
class LeavesTheModeToTheUmask(SOUND):
    def _make(self, folder, kind, parents):
        super()._make(folder, kind, parents)
        if not parents:
            (folder / "fs").rmdir()
            (folder / "fs").mkdir()


@MUTANTS.breaks(
    "A tree is kept in every respect: names, types, content, links, modes, owners, times and extended attributes."
)
class KeepsMicroseconds(SOUND):
    def _seal(self, snapshot):
        for path in entries(self._tree(self.store.path(snapshot.id))):
            status = os.lstat(path)
            times = status.st_atime_ns, status.st_mtime_ns // 1000 * 1000
            os.utime(path, ns=times, follow_symlinks=False)
        return super()._seal(snapshot)


@MUTANTS.breaks("Holes in files stay holes where the file system has them.")
class FillsHoles(SOUND):
    def _seal(self, snapshot):
        for path in entries(self._tree(self.store.path(snapshot.id))):
            if os.path.isfile(path):
                os.posix_fallocate(fd := os.open(path, os.O_RDWR), 0, max(1, os.fstat(fd).st_size))
                os.close(fd)
        return super()._seal(snapshot)


@MUTANTS.breaks("Nothing done to a snapshot changes what its parents and siblings show.")
class WritesIntoTheParent(SOUND):
    def _mounts(self, snapshot):
        if snapshot.info.kind is Kind.ACTIVE and snapshot.parents:
            return [Mount("bind", f"{self.store.path(snapshot.parents[0])}/fs", "", ("rw", "rbind"))]
        return super()._mounts(snapshot)


@MUTANTS.breaks("When ``commit`` returns, the files are on disk: a power cut afterwards loses nothing.")
class LeavesWritingToTheLinuxKernel(SOUND):
    on_disk = True

    def _seal(self, snapshot):
        return self._measure(snapshot)


@MUTANTS.breaks("As prepare, but nothing can be written through the mounts.")
class WritesThroughViews(SOUND):
    def _mounts(self, snapshot):
        return [
            replace(one, options=tuple("rw" if option == "ro" else option for option in one.options))
            for one in super()._mounts(snapshot)
        ]


@MUTANTS.breaks("A view shows its parent's tree, without a parent an empty directory.")
class ViewsTheNearestLayerOnly(SOUND):
    def _mounts(self, snapshot):
        if snapshot.info.kind is Kind.VIEW:
            snapshot = replace(snapshot, parents=snapshot.parents[:1])
        return super()._mounts(snapshot)


@MUTANTS.breaks("The same as prepare or view answered, for as long as the key is there.")
class AnswersOtherMountsLater(SOUND):
    def mounts(self, key):
        return [replace(one, options=tuple(sorted(one.options))) for one in super().mounts(key)]


@MUTANTS.breaks("A committed snapshot has none: FailedPrecondition.")
class MountsWhatIsCommitted(SOUND):
    def mounts(self, key):
        snapshot = self.store.get(key)
        return self._mounts(replace(snapshot, info=replace(snapshot.info, kind=Kind.VIEW)))


# What is told


@MUTANTS.breaks("Kind, parent, labels and times of a key or a name.")
class HidesTheParentOfViews(Telling):
    def told(self, info):
        return replace(info, parent="") if info.kind is Kind.VIEW else info


@MUTANTS.breaks("Numbers as on the wire.")
class TellsOtherNumbers(Telling):
    def told(self, info):
        other = {Kind.VIEW: Kind.ACTIVE, Kind.ACTIVE: Kind.VIEW}
        return replace(info, kind=other.get(info.kind, info.kind))


@MUTANTS.breaks("Times are nanoseconds since the epoch.")
class TellsMicroseconds(Telling):
    def told(self, info):
        return replace(info, created_at=info.created_at // 1000, updated_at=info.updated_at // 1000)


_TIMES = (
    "``created_at`` is when the snapshot became what it is, active, view or committed; ``updated_at`` when its labels "
    "last changed, if they have."
)


@MUTANTS.breaks(_TIMES)
class ForgetsWhenLabelsChanged(Telling):
    def told(self, info):
        return replace(info, updated_at=info.created_at)


@MUTANTS.breaks(_TIMES)
class TellsTheTimeOfAsking(Telling):
    def told(self, info):
        return replace(info, updated_at=time.time_ns())


@MUTANTS.breaks("Without the snapshot, ``stat`` raises NotFound.")
class TellsOfNobody(SOUND):
    def stat(self, key):
        try:
            return super().stat(key)
        except errors.NotFound:
            return snapshots.Info(key, Kind.UNKNOWN)


_WALK = (
    "Every snapshot that one of the filters matches (``matcher``), all without, each once with all that ``stat`` "
    "tells; order is not defined."
)


@MUTANTS.breaks(_WALK)
class TakesAllFilters(SOUND):
    def walk(self, filters=()):
        match = [snapshots.matcher([text]) for text in filters]
        return filter(lambda info: all(one(info) for one in match), super().walk())


@MUTANTS.breaks(_WALK)
class ShowsTheLastOfAPageTwice(SOUND):
    def walk(self, filters=()):
        for number, info in enumerate(super().walk(filters), 1):
            yield info
            if number % 100 == 0:
                yield info


@MUTANTS.breaks(
    "The filterable fields are ``kind`` (view, active, committed), ``name``, ``parent``, which is absent without one, "
    "and ``labels.KEY``."
)
class FiltersByAnEmptyParent(SOUND):
    def walk(self, filters=()):
        return super().walk([text for text in filters if text != "parent"])


@MUTANTS.breaks("A malformed filter raises InvalidArgument.")
class FindsNothingByMalformedFilters(SOUND):
    def walk(self, filters=()):
        try:
            return super().walk(filters)
        except errors.InvalidArgument:
            return iter(())


@MUTANTS.breaks("What comes or goes while it walks may be among them or not.")
class StopsAWalkWhenSomethingChanges(SOUND):
    def walk(self, filters=()):
        def name(info):
            return info.name

        for info in sorted(super().walk(filters), key=name):
            if not any(found.name == info.name for found in super().walk()):
                raise errors.Aborted(f"snapshot {info.name} has gone during the walk")
            yield info


# Usage


@MUTANTS.breaks("What a snapshot itself takes on disk, in bytes and inodes, its own directory among them.")
class MeasuresLengths(SOUND):
    def _measure(self, snapshot):
        tree = self._tree(self.store.path(snapshot.id))
        return Usage(sum(map(os.path.getsize, filter(os.path.isfile, entries(tree)))), len(entries(tree)))


@MUTANTS.breaks("A file of several links counts once.")
class CountsEveryLink(SOUND):
    def _measure(self, snapshot):
        return replace(super()._measure(snapshot), inodes=1 + len(entries(self._tree(self.store.path(snapshot.id)))))


@MUTANTS.breaks("What a snapshot shares with its parents is not counted.")
class CountsParents(SOUND):
    def _measure(self, snapshot):
        found = [trees.usage(self._tree(self.store.path(number))) for number in (snapshot.id, *snapshot.parents)]
        return Usage(sum(size for size, _ in found), sum(inodes for _, inodes in found))


@MUTANTS.breaks("Of an active snapshot, what is there now; of a committed one, what was there at its commit.")
class MeasuresOnce(SOUND):
    def usage(self, key):
        self.__dict__.setdefault("measured", {}).setdefault(key, super().usage(key))
        return self.measured[key]


@MUTANTS.breaks("Without the snapshot, ``usage`` raises NotFound.")
class MeasuresNobody(SOUND):
    def usage(self, key):
        try:
            return super().usage(key)
        except errors.NotFound:
            return Usage(0, 0)
