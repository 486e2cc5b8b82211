"""Differs with one broken sentence each: ``MUTANTS``, over ``SOUND``; ``make(spawner, state)`` makes one."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import tarfile
import time
import zlib
from dataclasses import replace
from pathlib import Path

from plugin_sdk import content, errors, mounts, oci
from plugin_sdk.conformance.rig import keep
from plugin_sdk.conformance.shelf import digest_of, get
from plugins_builtin.diff.plugin import Config
from plugins_builtin.diff.walking import Differ
from tests.mutation import Mutants

MUTANTS = Mutants()


class SOUND(Differ):
    def __init__(self, spawner, state):
        super().__init__(spawner, state, Config())
        self.left = contextlib.ExitStack()  # what a mutant leaves open, to be closed after the check


class Store:
    """The store of the call, in which a mutant changes something."""

    def __init__(self, store):
        self.store = store

    def __getattr__(self, name):
        return getattr(self.store, name)


class Handle(Store):
    """A reader or a writer, likewise."""

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.close()


def unpacked(data):
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def members(data):
    with tarfile.open(fileobj=io.BytesIO(unpacked(data)), errors="surrogateescape") as archive:
        return [(info, archive.extractfile(info).read() if info.isreg() else b"") for info in archive]


def packed(found, media_type):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive:
        for info, data in found:
            archive.addfile(info, io.BytesIO(data))
    return gzip.compress(file.getvalue(), mtime=0) if media_type.endswith("gzip") else file.getvalue()


class Rewriting(SOUND):
    """Unpacks another layer than it is told to, and answers as if it had not."""

    def rewritten(self, found):
        raise NotImplementedError

    def apply(self, descriptor, mounts, content, **options):
        try:
            data = get(content, descriptor.digest)
            changed = packed(self.rewritten(members(data)), oci.LAYER)
        except (errors.Error, tarfile.TarError, EOFError, OSError, ValueError):
            return super().apply(descriptor, mounts, content, **options)
        layer = oci.Descriptor(oci.LAYER, keep(content, changed), len(changed))
        super().apply(layer, mounts, content, **options)
        data = unpacked(data)
        return oci.Descriptor(oci.LAYER, digest_of(data), len(data))


class Dressing(SOUND):
    """Does something to the files afterwards."""

    def dress(self, root):
        raise NotImplementedError

    def apply(self, descriptor, root, content, **options):
        answer = super().apply(descriptor, root, content, **options)
        with mounts.temporary(root, self._state) as path:
            self.dress(Path(path))
        return answer


class Repacking(SOUND):
    """Writes another blob in place of the one it has made."""

    def repacked(self, found, lower, upper):
        raise NotImplementedError

    def compare(self, lower, upper, content, **options):
        layer = super().compare(lower, upper, content, **options)
        if layer.media_type.endswith("zstd"):
            return layer
        found = self.repacked(members(get(content, layer.digest)), lower, upper)
        data = packed(found, layer.media_type)
        return replace(layer, digest=keep(content, data), size=len(data))


# Blobs


@MUTANTS.breaks("``apply`` reads the blob to its very end.")
class StopsAtTheEndOfTheArchive(SOUND):
    def apply(self, descriptor, mounts, content, **options):
        class Short(Store):
            def reader(self, digest):
                return ShortReader(self.store.reader(digest))

        class ShortReader(Handle):
            def read_at(self, offset, size):
                return self.store.read_at(offset, min(size, max(0, self.store.size - 1 - offset)))

        data = get(content, descriptor.digest)[:-1]
        layer = oci.Descriptor(descriptor.media_type, keep(content, data), len(data))
        with contextlib.suppress(errors.InvalidArgument):
            return super().apply(layer, mounts, content, **options)
        return super().apply(descriptor, mounts, content, **options)


@MUTANTS.breaks("What follows the archive is part of the diff ID.")
class LeavesOutWhatFollows(SOUND):
    def apply(self, descriptor, mounts, content, **options):
        answer = super().apply(descriptor, mounts, content, **options)
        data = unpacked(get(content, descriptor.digest))
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.getmembers()
            end = archive.offset
        return answer if len(data) < end else replace(answer, digest=digest_of(data[:end]))


@MUTANTS.breaks("gzip and zstd are inflated, also in several members or frames.")
class InflatesTheFirstMember(SOUND):
    def apply(self, descriptor, mounts, content, **options):
        data = get(content, descriptor.digest)
        if descriptor.media_type.endswith("gzip") and data[:2] == b"\x1f\x8b":
            data = zlib.decompressobj(31).decompress(data)
            descriptor = oci.Descriptor(oci.LAYER, keep(content, data), len(data))
        return super().apply(descriptor, mounts, content, **options)


@MUTANTS.breaks("Docker's plain types may hide either.")
class BelievesTheMediaType(SOUND):
    def apply(self, descriptor, mounts, content, **options):
        plain = {oci.DOCKER_LAYER, oci.DOCKER_FOREIGN_LAYER}
        descriptor = replace(descriptor, media_type=oci.LAYER) if descriptor.media_type in plain else descriptor
        return super().apply(descriptor, mounts, content, **options)


@MUTANTS.breaks("A tar may lack its final blocks.")
class WantsTheFinalBlocks(SOUND):
    def apply(self, descriptor, mounts, content, **options):
        if not get(content, descriptor.digest).endswith(bytes(1024)):
            raise errors.InvalidArgument(f"layer {descriptor.digest} is cut off")
        return super().apply(descriptor, mounts, content, **options)


@MUTANTS.breaks("Unpacks the layer and answers the descriptor of its uncompressed tar: media type, diff ID, size.")
class AnswersWhatItWasAsked(SOUND):
    def apply(self, descriptor, mounts, content, **options):
        super().apply(descriptor, mounts, content, **options)
        return descriptor


@MUTANTS.breaks("A blob of another size than the descriptor's raises InvalidArgument.")
class DoesNotLookAtTheSize(SOUND):
    def apply(self, descriptor, mounts, content, **options):
        return super().apply(replace(descriptor, size=0), mounts, content, **options)


@MUTANTS.breaks("A media type that it does not know raises Unimplemented.")
class TakesAnythingForATar(SOUND):
    def apply(self, descriptor, mounts, content, **options):
        try:
            return super().apply(descriptor, mounts, content, **options)
        except errors.Unimplemented:
            return super().apply(replace(descriptor, media_type=oci.LAYER), mounts, content, **options)


@MUTANTS.breaks("A blob that is missing raises NotFound.")
class SaysInvalidOfWhatIsMissing(SOUND):
    def apply(self, descriptor, mounts, content, **options):
        try:
            return super().apply(descriptor, mounts, content, **options)
        except errors.NotFound as err:
            raise errors.InvalidArgument(err.message) from err


@MUTANTS.breaks("A blob whose bytes are not those of its digest raises DataLoss.")
class VerifiesNothing(SOUND):
    def apply(self, descriptor, mounts, content, **options):
        data = get(content, descriptor.digest)
        sound = getattr(content, "_store", content)  # below what the check puts between
        layer = oci.Descriptor(descriptor.media_type, keep(sound, data), 0)
        return super().apply(layer, mounts, sound, **options)


# Entries


@MUTANTS.breaks("A file gets data, mode, owner, extended attributes and the time to the nanosecond.")
class KeepsWholeSeconds(Dressing):
    def dress(self, root):
        for path in root.rglob("*"):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns // 10**9 * 10**9))


@MUTANTS.breaks("So does a directory, also when entries follow that change it.")
class ChangesDirectoriesLast(Dressing):
    def dress(self, root):
        for path in root.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                (path / "passing").touch()
                (path / "passing").unlink()


@MUTANTS.breaks("Symbolic links, devices and fifos are made as they are.")
class GivesLinksToRoot(Dressing):
    def dress(self, root):
        for path in root.rglob("*"):
            if path.is_symlink():
                os.lchown(path, 0, 0)


@MUTANTS.breaks("Hard links share one file, also with a file of a lower layer.")
class CopiesHardLinks(Dressing):
    def dress(self, root):
        for path in sorted(root.rglob("*")):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                data = path.read_bytes()
                path.unlink()
                path.write_bytes(data)
                os.chown(path, status.st_uid, status.st_gid)
                path.chmod(stat.S_IMODE(status.st_mode))
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@MUTANTS.breaks("Missing parents are made with mode 0755, and those that exist stay as they are.")
class MakesPrivateParents(Rewriting):
    def rewritten(self, found):
        made = []
        for info, data in found:
            for parent in reversed(Path(info.name).parents):
                if str(parent) not in [".", *(each.name for each, _ in made)]:
                    folder = tarfile.TarInfo(str(parent))
                    folder.type, folder.mode = tarfile.DIRTYPE, 0o700
                    made.append((folder, b""))
            made.append((info, data))
        return made


@MUTANTS.breaks("Of several entries of one name the last wins.")
class KeepsTheFirst(Rewriting):
    def rewritten(self, found):
        return list({info.name: (info, data) for info, data in reversed(found)}.values())[::-1]


@MUTANTS.breaks("An entry replaces what is there, but a directory over a directory keeps what that holds.")
class ClearsDirectories(Rewriting):
    def rewritten(self, found):
        made = []
        for info, data in found:
            if info.isdir() and info.name != ".":
                parent, _, base = info.name.rpartition("/")
                made.append((tarfile.TarInfo(f"{parent}/.wh.{base}"), b""))
            made.append((info, data))
        return made


@MUTANTS.breaks("``.wh.NAME`` removes NAME of the layers below.")
class PassesOverWhiteouts(Rewriting):
    def rewritten(self, found):
        return [(info, data) for info, data in found if not os.path.basename(info.name).startswith(".wh.")]


@MUTANTS.breaks("``.wh..wh..opq`` removes all that the layers below have in its directory.")
class PassesOverOpaqueDirectories(Rewriting):
    def rewritten(self, found):
        return [(info, data) for info, data in found if not info.name.endswith(".wh..wh..opq")]


@MUTANTS.breaks("What the layer itself has made stays.")
class RemovesItsOwn(Dressing):
    def apply(self, descriptor, root, content, **options):
        self.hidden = [info.name for info, _ in members(get(content, descriptor.digest)) if "/.wh." in f"/{info.name}"]
        return super().apply(descriptor, root, content, **options)

    def dress(self, root):
        for name in self.hidden:
            path = root / name.replace(".wh.", "")
            if path.is_file():
                path.unlink()


@MUTANTS.breaks("A device 0:0 is a whiteout too, as overlayfs writes it.")
class DropsDevicesOfNoNumber(Rewriting):
    def rewritten(self, found):
        return [(info, data) for info, data in found if not info.ischr() or info.devmajor or info.devminor]


# Safety


@MUTANTS.breaks("Nothing outside of the mount's root is touched, whatever the tar says.")
class WritesBesideTheRoot(SOUND):
    """Only into the directory of the test, whatever climbs out."""

    def apply(self, descriptor, mounts, content, **options):
        with contextlib.suppress(tarfile.TarError, errors.Error, OSError):
            if any(info.name == "../evil" for info, _ in members(get(content, descriptor.digest))):
                (Path(mounts[0].source).parent / "evil").touch()
        return super().apply(descriptor, mounts, content, **options)


@MUTANTS.breaks("A layer that would leave the root raises InvalidArgument.")
class LeavesOutWhatClimbs(Rewriting):
    def rewritten(self, found):
        return [(info, data) for info, data in found if ".." not in info.name.split("/")]


@MUTANTS.breaks("A malformed layer raises InvalidArgument that names the entry, if it is one.")
class SaysUnknownOfTheMalformed(SOUND):
    def apply(self, descriptor, mounts, content, **options):
        try:
            return super().apply(descriptor, mounts, content, **options)
        except errors.InvalidArgument as err:
            raise errors.Unknown(err.message) from err


@MUTANTS.breaks("When a call has ended, nothing is mounted that was not before.")
class LeavesAMount(SOUND):
    """In the state directory; the fixture unmounts it."""

    def apply(self, descriptor, root, content, **options):
        left = self._state / f"left-{time.time_ns()}"
        left.mkdir(parents=True)
        mounts.mount(mounts.Mount("tmpfs", "tmpfs", "", ("size=64k",)), str(left))
        return super().apply(descriptor, root, content, **options)


# The store and the mounts


@MUTANTS.breaks("While ``apply`` works it reads nothing (``read_at(0, 0)``) from the blob's reader now and then.")
class NeverLooks(SOUND):
    def apply(self, descriptor, mounts, content, **options):
        class Blind(Store):
            def reader(self, digest):
                return BlindReader(self.store.reader(digest))

        class BlindReader(Handle):
            def read_at(self, offset, size):
                return self.store.read_at(offset, size) if size else b""

        return super().apply(descriptor, mounts, Blind(content), **options)


@MUTANTS.breaks("An error of the store is raised as it is.")
class CallsErrorsOfTheStoreInternal(SOUND):
    def apply(self, descriptor, mounts, content, **options):
        try:
            return super().apply(descriptor, mounts, content, **options)
        except errors.Unavailable as err:
            raise errors.Internal(err.message) from err


@MUTANTS.breaks("Readers and writers are closed when the call ends.")
class LeavesAReaderOpen(SOUND):
    def apply(self, descriptor, mounts, content, **options):
        self.left.callback(content.reader(descriptor.digest).close)
        return super().apply(descriptor, mounts, content, **options)


@MUTANTS.breaks("The blob's reader need not have a descriptor.")
class NeedsADescriptor(SOUND):
    def apply(self, descriptor, mounts, content, **options):
        with content.reader(descriptor.digest) as reader:
            reader.fileno()
        return super().apply(descriptor, mounts, content, **options)


@MUTANTS.breaks(
    "``payloads`` (type URL and bytes by id) are for stream processors, and change nothing where there is none."
)
class RefusesPayloads(SOUND):
    def apply(self, descriptor, mounts, content, *, payloads=None, **options):
        if payloads:
            raise errors.Unimplemented("payloads: nobody takes them")
        return super().apply(descriptor, mounts, content, **options)


@MUTANTS.breaks("``sync`` asks for syncfs(2) before the answer.")
class RefusesToSync(SOUND):
    def apply(self, descriptor, mounts, content, *, sync=False, **options):
        if sync:
            raise errors.Unimplemented("sync: not here")
        return super().apply(descriptor, mounts, content, **options)


@MUTANTS.breaks("Mounts that cannot be mounted or written raise FailedPrecondition.")
class SaysUnknownOfMounts(SOUND):
    def apply(self, descriptor, mounts, content, **options):
        try:
            return super().apply(descriptor, mounts, content, **options)
        except errors.FailedPrecondition as err:
            raise errors.Unknown(err.message) from err


@MUTANTS.breaks("A full disk raises ResourceExhausted.")
class SaysUnknownOfAFullDisk(SOUND):
    def apply(self, descriptor, mounts, content, **options):
        try:
            return super().apply(descriptor, mounts, content, **options)
        except errors.ResourceExhausted as err:
            raise errors.Unknown(err.message) from err


@MUTANTS.breaks("All methods block and may be called from several threads.")
class HasOneRefForAll(SOUND):
    def compare(self, lower, upper, content, *, ref="", **options):
        with content.writer("the-one-ref"):
            time.sleep(0.1)  # in which the others want it too
        return super().compare(lower, upper, content, ref="the-one-ref", **options)


# Comparing


@MUTANTS.breaks("``compare`` writes one blob, which makes ``upper`` of ``lower`` when it is applied there.")
class ForgetsEmptyFiles(Repacking):
    def repacked(self, found, lower, upper):
        return [(info, data) for info, data in found if data or not info.isreg()]


@MUTANTS.breaks("Writes the changes that make ``upper`` of ``lower`` and answers the descriptor of the blob.")
class AnswersAnotherSize(SOUND):
    def compare(self, lower, upper, content, **options):
        layer = super().compare(lower, upper, content, **options)
        return replace(layer, size=layer.size + 1)


@MUTANTS.breaks("Every kind of file is written but sockets.")
class ForgetsFifos(Repacking):
    def repacked(self, found, lower, upper):
        return [(info, data) for info, data in found if not info.isfifo()]


@MUTANTS.breaks("What only ``lower`` has becomes a whiteout.")
class WritesNoWhiteouts(Repacking):
    def repacked(self, found, lower, upper):
        return [(info, data) for info, data in found if ".wh." not in info.name]


@MUTANTS.breaks("A change of anything is seen: kind, mode, owner, size, time, attributes, the target of a link.")
class DoesNotSeeOwners(Repacking):
    def repacked(self, found, lower, upper):
        with mounts.temporary(lower, self._state) as old, mounts.temporary(upper, self._state) as new:
            return [(info, data) for info, data in found if not self.same(Path(old, info.name), Path(new, info.name))]

    @staticmethod
    def same(old, new):
        if not os.path.lexists(old) or not os.path.lexists(new):
            return False
        was, now = old.lstat(), new.lstat()
        return was.st_uid != now.st_uid and was.st_mtime_ns == now.st_mtime_ns


@MUTANTS.breaks("Where both times have no fraction, the content decides.")
class BelievesWholeSeconds(Repacking):
    def repacked(self, found, lower, upper):
        return [(info, data) for info, data in found if info.name != "whole"]


@MUTANTS.breaks("Of identical trees it makes a valid tar without entries.")
class AlwaysWritesTheRoot(Repacking):
    def repacked(self, found, lower, upper):
        root = tarfile.TarInfo(".")
        root.type = tarfile.DIRTYPE
        return found or [(root, b"")]


@MUTANTS.breaks("The same trees make the same blob.")
class TellsWhenItWasWritten(SOUND):
    def compare(self, lower, upper, content, **options):
        layer = super().compare(lower, upper, content, **options)
        data = get(content, layer.digest)
        data = gzip.compress(gzip.decompress(data), mtime=time.time_ns() % 2**32)
        return replace(layer, digest=keep(content, data), size=len(data))


@MUTANTS.breaks("Entries stand in the order of their names, and directories before what is in them.")
class TurnsTheOrder(Repacking):
    def repacked(self, found, lower, upper):
        return found[::-1]


@MUTANTS.breaks("Both trees stay as they are.")
class TouchesTheUpperTree(SOUND):
    def compare(self, lower, upper, content, **options):
        layer = super().compare(lower, upper, content, **options)
        with mounts.temporary(upper, self._state) as root:
            for path in Path(root).rglob("*"):
                with contextlib.suppress(OSError):
                    os.utime(path)
        return layer


@MUTANTS.breaks("When ``compare`` raises, its ingest stays and can be aborted.")
class AbortsItself(SOUND):
    def compare(self, lower, upper, content, *, ref="", **options):
        try:
            return super().compare(lower, upper, content, ref=ref, **options)
        except errors.InvalidArgument:
            content.abort(ref)
            raise


@MUTANTS.breaks("No mounts are an empty tree.")
class WantsMounts(SOUND):
    def compare(self, lower, upper, content, **options):
        if not lower or not upper:
            raise errors.InvalidArgument("there are no mounts")
        return super().compare(lower, upper, content, **options)


@MUTANTS.breaks("An empty media type means OCI tar+gzip.")
class WritesPlainTars(SOUND):
    def compare(self, lower, upper, content, *, media_type="", **options):
        return super().compare(lower, upper, content, media_type=media_type or oci.LAYER, **options)


@MUTANTS.breaks("A media type that it cannot write raises Unimplemented.")
class WritesAnyType(SOUND):
    def compare(self, lower, upper, content, *, media_type="", **options):
        try:
            return super().compare(lower, upper, content, media_type=media_type, **options)
        except errors.Unimplemented:
            return super().compare(lower, upper, content, **options)


@MUTANTS.breaks("An empty ref means one of the differ's choice, and a given ref begins again at 0.")
class ChoosesItsOwnRef(SOUND):
    def compare(self, lower, upper, content, *, ref="", **options):
        return super().compare(lower, upper, content, **options)


@MUTANTS.breaks("``source_date_epoch`` (nanoseconds) bounds every time in the tar.")
class BoundsNothing(SOUND):
    def compare(self, lower, upper, content, *, source_date_epoch=None, **options):
        return super().compare(lower, upper, content, **options)


@MUTANTS.breaks("The blob gets ``labels``, also when it existed already.")
class LabelsNewBlobsOnly(SOUND):
    def compare(self, lower, upper, content, **options):
        class Quiet(Store):
            def update(self, info, fieldpaths=()):
                return self.info(info.digest)

        return super().compare(lower, upper, Quiet(content), **options)


@MUTANTS.breaks("If it is compressed, it gets the label ``containerd.io/uncompressed`` with its diff ID, too.")
class KeepsTheDiffId(SOUND):
    def compare(self, lower, upper, store, *, labels=None, **options):
        layer = super().compare(lower, upper, store, labels=labels, **options)
        store.update(content.Info(layer.digest, 0), [f"labels.{oci.UNCOMPRESSED_LABEL}"])
        return layer
