"""Content stores with one broken sentence each: ``MUTANTS``, over ``SOUND``."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace

from plugin_sdk import content, errors
from plugin_sdk import content_ingest as ingest
from plugin_sdk.conformance.shelf import digest_of
from tests import labelled
from tests.mutation import Mutants

SOUND = labelled.Store

MUTANTS = Mutants()


# Blobs


@MUTANTS.breaks("A blob appears whole or not at all.")
class ShowsWhatIsBeingWritten(SOUND):
    def info(self, digest):
        for status in self.list_statuses():
            if status.expected == digest and status.offset:
                return content.Info(digest, status.offset)
        return super().info(digest)


@MUTANTS.breaks("Its bytes never change.")
class WritesOnAfterCommit(SOUND):
    class open_writer(labelled.Writer):
        fd = -1

        def commit(self, *arguments, **options):
            fd = os.dup(self._writer._fd)
            digest = super().commit(*arguments, **options)
            self.fd = fd
            return digest

        def write(self, data):
            return self._writer.write(data) if self.fd < 0 else os.pwrite(self.fd, data, 0)

        def close(self):
            super().close()
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1


@MUTANTS.breaks("A digest is computed from the bytes, never believed.")
class BelievesWhatIsExpected(SOUND):
    class open_writer(labelled.Writer):
        def commit(self, size=0, expected="", labels=None):
            if expected:
                self._writer._verified = lambda expected: expected
            return super().commit(size, expected, labels)


@MUTANTS.breaks("A digest is ``sha256:`` and 64 lower-case hex digits, or the like of sha384 or sha512.")
class KnowsOnlySha256(SOUND):
    def writer(self, ref, total=0, expected=""):
        if expected and not expected.startswith("sha256:"):
            raise errors.InvalidArgument(f"digest {expected}: not known here")
        return super().writer(ref, total, expected)


@MUTANTS.breaks("Where a blob is asked for by a text that is no digest, that raises InvalidArgument or NotFound.")
class AnswersForAnyText(SOUND):
    def info(self, digest):
        return super().info(digest) if len(digest) > 70 else content.Info(digest, 0)


@MUTANTS.breaks("Blobs and ingests are found again after a restart.")
class ForgetsIngestsAtTheStart(SOUND):
    def __init__(self, root):
        super().__init__(root)
        for status in self.list_statuses():
            self.local.abort(status.ref)


@MUTANTS.breaks("``created_at`` is when the blob appeared, ``updated_at`` when its labels last changed.")
class KeepsTheTimeOfTheCommit(SOUND):
    def update(self, info, fieldpaths=()):
        super().update(info, fieldpaths)
        self._updated.clear()
        return self.info(info.digest)


@MUTANTS.breaks("Times are nanoseconds since the epoch (UTC).")
class CountsMicroseconds(SOUND):
    def info(self, digest):
        info = super().info(digest)
        return replace(info, created_at=info.created_at // 1000, updated_at=info.updated_at // 1000)


@MUTANTS.breaks("Every blob that one of the filters matches (``matcher``), all without; order is not defined.")
class LooksAtTheFirstFilterOnly(SOUND):
    def walk(self, filters=()):
        return super().walk(filters[:1])


@MUTANTS.breaks("The filterable fields of a blob are ``digest`` and ``labels.KEY``.")
class DoesNotFilterByLabel(SOUND):
    def walk(self, filters=()):
        return super().walk([each for each in filters if not each.startswith("labels")])


@MUTANTS.breaks("A malformed filter of blobs raises InvalidArgument.")
class PassesOverMalformedFilters(SOUND):
    def walk(self, filters=()):
        try:
            return super().walk(filters)
        except errors.InvalidArgument:
            return iter([])


@MUTANTS.breaks("Blobs that come or go while it walks may be among them or not.")
class StumblesOverWhatHasGone(SOUND):
    def walk(self, filters=()):
        found = list(super().walk(filters))
        end = time.monotonic() + 0.2
        while time.monotonic() < end and all(self.path(each.digest).exists() for each in found):
            time.sleep(0.001)
        return iter([self.info(each.digest) for each in found])


@MUTANTS.breaks("Removes the blob, whose bytes can then be written again.")
class RemembersWhatWasDeleted(SOUND):
    def __init__(self, root):
        super().__init__(root)
        self.deleted = set()

    def delete(self, digest):
        super().delete(digest)
        self.deleted.add(digest)

    class open_writer(labelled.Writer):
        def commit(self, *arguments, **options):
            if self.digest() in self._store.deleted:
                raise errors.AlreadyExists(f"content {self.digest()}: already exists")
            return super().commit(*arguments, **options)


@MUTANTS.breaks("Without the blob, ``delete`` raises NotFound.")
class DeletesNothingSilently(SOUND):
    def delete(self, digest):
        with contextlib.suppress(errors.NotFound):
            super().delete(digest)


@MUTANTS.breaks("The message of an error names the digest or the ref that it is about.")
class NamesNothing(SOUND):
    def status(self, ref):
        try:
            return self.local.status(ref)
        except errors.NotFound:
            raise errors.NotFound("no such ingest") from None


# Readers


class Reads:
    def __init__(self, reader):
        self._reader = reader

    def __getattr__(self, name):
        return getattr(self._reader, name)

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.close()


@MUTANTS.breaks("An open reader of it reads on or raises NotFound.")
class ReadsZeroesOfWhatHasGone(SOUND):
    def reader(self, digest):
        class Reader(Reads):
            def read_at(reader, offset, size):
                there = self.path(digest).exists()
                data = reader._reader.read_at(offset, size)
                return data if there else bytes(len(data))

        return Reader(self.local.reader(digest))


@MUTANTS.breaks("At most ``size`` bytes from ``offset``; fewer only at the end, empty at and past it.")
class ReadsInSmallPieces(SOUND):
    class Reader(Reads):
        def read_at(self, offset, size):
            return self._reader.read_at(offset, min(size, 128 << 10))

    def reader(self, digest):
        return self.Reader(self.local.reader(digest))


@MUTANTS.breaks("Raises OutOfRange for a negative offset.")
class CountsFromTheEnd(SOUND):
    class Reader(Reads):
        def read_at(self, offset, size):
            return self._reader.read_at(offset if offset >= 0 else self.size + offset, size)

    def reader(self, digest):
        return self.Reader(self.local.reader(digest))


@MUTANTS.breaks("Closing a reader twice does nothing.")
class ClosesItsDescriptorTwice(SOUND):
    class Reader(Reads):
        def close(self):
            self._reader._require_open()
            self._reader.close()

    def reader(self, digest):
        return self.Reader(self.local.reader(digest))


@MUTANTS.breaks("Any number may be open for a blob, in any number of threads.")
class HasOneReaderOfABlob(SOUND):
    def __init__(self, root):
        super().__init__(root)
        self.readers = {}

    def reader(self, digest):
        if digest not in self.readers or self.readers[digest]._closed:
            self.readers[digest] = self.local.reader(digest)
        return self.readers[digest]


# Ingests


@MUTANTS.breaks("A ref is any non-empty text, and refs that differ in one character name two ingests.")
class FoldsRefs(SOUND):
    def writer(self, ref, total=0, expected=""):
        return super().writer(ref.lower(), total, expected)

    def status(self, ref):
        return replace(self.local.status(ref.lower()), ref=ref)

    def abort(self, ref):
        self.local.abort(ref.lower())


@MUTANTS.breaks("An empty ref raises InvalidArgument.")
class InventsARef(SOUND):
    def writer(self, ref, total=0, expected=""):
        return super().writer(ref or f"invented-{time.time_ns()}", total, expected)


@MUTANTS.breaks("At most one writer is open for a ref at a time.")
class LocksNothing(SOUND):
    def writer(self, ref, total=0, expected=""):
        with self._lock:
            lock, ingest._lock = ingest._lock, lambda fd, ref: None
            try:
                return super().writer(ref, total, expected)
            finally:
                ingest._lock = lock


@MUTANTS.breaks("Raises Unavailable while another writer of this ref is open: repeat.")
class SaysBusyInAnotherWay(SOUND):
    def writer(self, ref, total=0, expected=""):
        try:
            return super().writer(ref, total, expected)
        except errors.Unavailable as err:
            raise errors.FailedPrecondition(err.message) from err


@MUTANTS.breaks("Writers of different refs do not disturb each other.")
class HasOneBufferForAll(SOUND):
    pending = b""

    class open_writer(labelled.Writer):
        def write(self, data):
            data, self._store.pending = bytes(data), bytes(data)
            time.sleep(0.05)
            self._writer.write(self._store.pending)
            return len(data)


@MUTANTS.breaks("Closing a writer without commit keeps the ingest.")
class DropsWhatIsNotCommitted(SOUND):
    class open_writer(labelled.Writer):
        def close(self):
            if self._writer._fd >= 0 and self.status().offset == 0:
                self._store.abort(self._ref)
            super().close()


@MUTANTS.breaks("Whoever opens the ref again goes on at its offset.")
class AlwaysBeginsAgain(SOUND):
    def writer(self, ref, total=0, expected=""):
        writer = super().writer(ref, total, expected)
        writer.truncate(0)
        return writer


@MUTANTS.breaks("A program that ends without closing a writer frees the ref.")
class LeavesALockFile(SOUND):
    def writer(self, ref, total=0, expected=""):
        writer = super().writer(ref, total, expected)
        lock = ingest.locate(self.local._ingests, ref) / "lock"
        try:
            lock.touch(exist_ok=False)
        except FileExistsError:
            writer._writer.close()
            raise errors.Unavailable(f'ref "{ref}" locked: unavailable') from None
        writer.lock = lock
        return writer

    class open_writer(labelled.Writer):
        def close(self):
            if self._writer._fd >= 0:
                self.lock.unlink(missing_ok=True)
            super().close()


@MUTANTS.breaks("The ingest then has the first of the bytes that were written, possibly all.")
class ReservesTheTotal(SOUND):
    """What was not written yet is there as zeroes; closing cuts them off."""

    class open_writer(labelled.Writer):
        def __init__(self, store, ref, total, expected):
            super().__init__(store, ref, total, expected)
            self.reserve(total)

        def reserve(self, total):
            self.total = total
            os.truncate(self._writer._folder / "data", max(self._writer._offset, total))

        def status(self):
            return replace(self._writer.status(), offset=self._writer._offset)

        def commit(self, *arguments, **options):
            os.ftruncate(self._writer._fd, self._writer._offset)
            return super().commit(*arguments, **options)

        def close(self):
            if self._writer._fd >= 0:
                os.ftruncate(self._writer._fd, self._writer._offset)
            super().close()


@MUTANTS.breaks("When a program ends within ``commit``, there is the ingest or the blob.")
class RemovesTheIngestFirst(SOUND):
    class open_writer(labelled.Writer):
        def commit(self, size=0, expected="", labels=None):
            self._writer._require_open()
            digest = self._writer._verified(expected)
            data = (self._writer._folder / "data").read_bytes()
            self._store.abort(self._ref)
            self._writer.close()
            time.sleep(1)
            self._store.path(digest).write_bytes(data)
            return digest


@MUTANTS.breaks(
    "Of several ingests with the same bytes one becomes the blob, the commits of the others raise AlreadyExists."
)
class LetsAllCommitsSucceed(SOUND):
    class open_writer(labelled.Writer):
        def commit(self, *arguments, **options):
            digest = self.digest()
            try:
                return super().commit(*arguments, **options)
            except errors.AlreadyExists:
                return digest


@MUTANTS.breaks("All methods block, and may be called from several threads.")
class UpdatesWithoutALock(SOUND):
    def update(self, info, fieldpaths=()):
        before = dict(self.labels.get(info.digest, {}))
        time.sleep(0.2)  # in which the others read the same
        with self._lock:
            self.labels[info.digest] = before
        return super().update(info, fieldpaths)


@MUTANTS.breaks("``total`` and ``expected`` are what ``writer`` was told, also after it was opened again without them.")
class ForgetsTheTotal(SOUND):
    def writer(self, ref, total=0, expected=""):
        writer = super().writer(ref, total, expected)
        (ingest.locate(self.local._ingests, ref) / "total").write_text(str(total))
        return writer


@MUTANTS.breaks("``started_at`` is when the ingest began, ``updated_at`` when it was last written.")
class BeginsWithTheLastWrite(SOUND):
    def status(self, ref):
        status = self.local.status(ref)
        return replace(status, started_at=status.updated_at)


@MUTANTS.breaks("Of an ingest, also while a writer of it is open.")
class TellsOfClosedIngestsOnly(SOUND):
    def __init__(self, root):
        super().__init__(root)
        self.busy = set()

    def writer(self, ref, total=0, expected=""):
        writer = super().writer(ref, total, expected)
        self.busy.add(ref)
        return writer

    def status(self, ref):
        if ref in self.busy:
            raise errors.NotFound(f'ingest "{ref}": not found')
        return self.local.status(ref)

    class open_writer(labelled.Writer):
        def close(self):
            self._store.busy.discard(self._ref)
            super().close()


@MUTANTS.breaks("Every ingest that one of the filters matches (``status_matcher``), all without.")
class DoesNotFilterIngests(SOUND):
    def list_statuses(self, filters=()):
        self.local.list_statuses(filters)
        return self.local.list_statuses()


@MUTANTS.breaks("Raises AlreadyExists when ``expected`` is a blob, and then leaves no ingest.")
class LeavesAnIngestOfWhatExists(SOUND):
    def writer(self, ref, total=0, expected=""):
        try:
            return super().writer(ref, total, expected)
        except errors.AlreadyExists:
            super().writer(ref).close()
            raise


# Writing


@MUTANTS.breaks("The digest of what is written so far, by the algorithm of the expected one, else sha256.")
class ComputesAtTheEnd(SOUND):
    class open_writer(labelled.Writer):
        def digest(self):
            return digest_of(b"")


@MUTANTS.breaks("Appends all of ``data`` and returns its length.")
class WritesAtMostOneMegabyte(SOUND):
    class open_writer(labelled.Writer):
        def write(self, data):
            self._writer.write(memoryview(data).cast("B")[: 1 << 20])
            return len(data)


@MUTANTS.breaks("A buffer may change when ``write`` has returned.")
class KeepsTheBuffer(SOUND):
    """The digest is computed later of what the caller still holds."""

    class open_writer(labelled.Writer):
        held = None

        def write(self, data):
            self.flush()
            self.held = data
            return len(data)

        def flush(self):
            data, self.held = self.held, None
            if data is not None:
                self._writer.write(data)

        def commit(self, *arguments, **options):
            self.flush()
            return super().commit(*arguments, **options)


@MUTANTS.breaks("``total`` is a hint and no limit.")
class EndsAtTheTotal(SOUND):
    class open_writer(labelled.Writer):
        def write(self, data):
            status = self.status()
            if status.total and status.offset + len(data) > status.total:
                raise errors.OutOfRange(f'ingest "{self._ref}" was to have {status.total} bytes')
            return self._writer.write(data)


@MUTANTS.breaks("Cuts the ingest back to ``size`` bytes, mostly 0 to begin again.")
class KeepsTheDigestOfWhatItCuts(SOUND):
    class open_writer(labelled.Writer):
        def truncate(self, size):
            before = self._writer._digest
            self._writer.truncate(size)
            self._writer._digest = before


@MUTANTS.breaks("Raises OutOfRange when it has fewer.")
class FillsUpWithZeroes(SOUND):
    class open_writer(labelled.Writer):
        def truncate(self, size):
            if (missing := size - self.status().offset) > 0:
                self._writer.write(bytes(missing))
            self._writer.truncate(size)


@MUTANTS.breaks("A closed writer cannot write.")
class OpensItselfAgain(SOUND):
    class open_writer(labelled.Writer):
        def write(self, data):
            if self._writer._fd < 0:
                self._writer = self._store.local.writer(self._ref)
            return self._writer.write(data)


@MUTANTS.breaks("Closing a writer twice, or after commit, does nothing.")
class ClosesForOthersToo(SOUND):
    def __init__(self, root):
        super().__init__(root)
        self.current = {}

    class open_writer(labelled.Writer):
        def __init__(self, store, ref, total, expected):
            super().__init__(store, ref, total, expected)
            store.current[ref] = self._writer

        def close(self):
            self._store.current.get(self._ref, self._writer).close()
            self._writer.close()


@MUTANTS.breaks("Removes the ingest, and the ref is free at once.")
class HoldsTheRefUntilTheWriterCloses(SOUND):
    def __init__(self, root):
        super().__init__(root)
        self.held = {}

    def writer(self, ref, total=0, expected=""):
        if ref in self.held and self.held[ref]._fd >= 0:
            raise errors.Unavailable(f'ref "{ref}" locked: unavailable')
        writer = super().writer(ref, total, expected)
        self.held[ref] = writer._writer
        return writer


@MUTANTS.breaks("An open writer of it fails from then on.")
class CommitsWhatWasAborted(SOUND):
    class open_writer(labelled.Writer):
        def commit(self, *arguments, **options):
            try:
                return super().commit(*arguments, **options)
            except errors.NotFound:
                digest = self.digest()
                data = os.pread(self._writer._fd, 1 << 20, 0)
                self.close()
                self._store.path(digest).write_bytes(data)
                return digest


@MUTANTS.breaks("What is done with that writer does not touch a new ingest of this ref.")
class WritesByName(SOUND):
    class open_writer(labelled.Writer):
        def truncate(self, size):
            os.truncate(self._writer._folder / "data", size)
            self._writer.truncate(size)
