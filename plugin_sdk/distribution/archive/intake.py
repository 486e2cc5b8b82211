"""What an archive brings goes into the content store: each member is an ingest of its own, then a blob.

Ingests have names that no other import uses, so that nobody waits for the client of another. What fails is aborted.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import Iterable, Iterator, Mapping

from plugin_sdk import content, daemon, errors, oci, transfer
from plugin_sdk.distribution.archive import layout
from plugin_sdk.distribution.archive.archives import CHUNK, Member
from plugin_sdk.distribution.job import Job
from plugin_sdk.oci import Descriptor

_TOLD = 4 << 20  # bytes between two reports of a blob
_LEVEL = 3  # of isal's gzip
_WITH_GZIP_HEADER = 31


class Intake:
    """The content of one import, which goes into ``store``. Descriptors of members have no media type: nothing tells
    it."""

    def __init__(self, job: Job, view: daemon.View) -> None:
        self._job = job
        self.store = view.content
        self._refs = (f"import-{secrets.token_hex(8)}-{number}" for number in itertools.count())

    def take(self, member: Member, chunks: Iterable[bytes]) -> Descriptor:
        """Raises DataLoss when its bytes are not those of the digest that it is named by."""
        expected = layout.digest_of(member.name)
        try:
            with self._writer(member.size, expected) as writer:
                return Descriptor("", self._fill(writer, member, expected, chunks), member.size)
        except errors.AlreadyExists:
            self._tell("already exists", expected, member.size, member.size)
            return Descriptor("", expected, member.size)

    def put(self, data: bytes, media_type: str, labels: Mapping[str, str] | None = None) -> Descriptor:
        """A blob that is made here."""
        of = Descriptor(media_type, oci.digest_of(data), len(data))
        try:
            with self._writer(of.size, of.digest) as writer:
                if not writer.status().offset:  # or else it is there in another namespace
                    writer.write(data)
                writer.commit(of.size, of.digest, labels)
        except errors.AlreadyExists:
            self.label(of.digest, labels or {})
        return of

    def label(self, digest: str, labels: Mapping[str, str]) -> None:
        """Adds labels to a blob that is there."""
        if labels:
            self.store.update(content.Info(digest, 0, labels=labels), [f"labels.{key}" for key in labels])

    def head(self, digest: str) -> bytes:
        with self.store.reader(digest) as reader:
            return reader.read_at(0, 16)

    def compressed(self, diff_id: str) -> str:
        """The digest of a blob that is known to be this one inflated; "" if there is none."""
        known = sorted(info.digest for info in self.store.walk([f'labels."{oci.UNCOMPRESSED_LABEL}"=={diff_id}']))
        return known[-1] if known else ""

    def compress(self, layer: Descriptor) -> Descriptor:
        """A blob of the same bytes in gzip."""
        with self._writer(0, "") as writer:
            for chunk in self._gzip(layer):
                writer.write(chunk)
            digest, size = writer.digest(), writer.status().offset
            labels = {oci.UNCOMPRESSED_LABEL: layer.digest}
            try:
                writer.commit(size, digest, labels)
            except errors.AlreadyExists:
                self.label(digest, labels)
        return Descriptor(oci.DOCKER_LAYER_GZIP, digest, size)

    def size(self, digest: str) -> int:
        return self.store.info(digest).size

    def _gzip(self, layer: Descriptor) -> Iterator[bytes]:
        from isal import isal_zlib

        deflate = isal_zlib.compressobj(_LEVEL, wbits=_WITH_GZIP_HEADER)
        with self.store.reader(layer.digest) as reader:
            for offset in range(0, layer.size, CHUNK):
                self._job.check()
                yield deflate.compress(reader.read_at(offset, CHUNK))
        yield deflate.flush()

    @contextlib.contextmanager
    def _writer(self, total: int, expected: str) -> Iterator[content.Writer]:
        ref = next(self._refs)
        writer = self.store.writer(ref, total, expected)
        try:
            with writer:
                yield writer
        except BaseException:
            with contextlib.suppress(errors.Error):
                self.store.abort(ref)
            raise

    def _fill(self, writer: content.Writer, member: Member, expected: str, chunks: Iterable[bytes]) -> str:
        done = writer.status().offset
        if not expected or done != member.size:  # or else it is there in another namespace
            done = 0
            self._tell("importing", expected or member.name, 0, member.size)
            for chunk in chunks:
                done += writer.write(chunk)
                if done // _TOLD != (done - len(chunk)) // _TOLD and done != member.size:
                    self._tell("importing", expected or member.name, done, member.size)
        digest = writer.digest()
        if expected and digest != expected:
            raise errors.DataLoss(f"blob {expected} has other bytes in the archive: their digest is {digest}")
        with contextlib.suppress(errors.AlreadyExists):
            writer.commit(member.size, digest)
        self._tell("complete", expected or member.name, member.size, member.size)
        return digest

    def _tell(self, event: str, name: str, progress: int, total: int) -> None:
        self._job.tell(transfer.Progress(event, name, progress=progress, total=total))
