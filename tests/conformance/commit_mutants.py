"""Content stores with one broken sentence each about commits and labels: ``MUTANTS``, over ``SOUND``."""

from __future__ import annotations

from dataclasses import replace

from plugin_sdk import errors
from tests import labelled
from tests.mutation import Mutants

SOUND = labelled.Store

MUTANTS = Mutants()


@MUTANTS.breaks("Makes the ingest a blob and returns its digest.")
class AnswersAnotherDigest(SOUND):
    class open_writer(labelled.Writer):
        def commit(self, *arguments, **options):
            return super().commit(*arguments, **options).upper()


@MUTANTS.breaks("The bytes are then on disk, the ingest is gone and the writer closed.")
class LeavesTheIngest(SOUND):
    class open_writer(labelled.Writer):
        def commit(self, *arguments, **options):
            digest = super().commit(*arguments, **options)
            self._store.local.writer(self._ref).close()
            return digest


@MUTANTS.breaks("Another size raises FailedPrecondition.")
class DoesNotCompareSizes(SOUND):
    class open_writer(labelled.Writer):
        def commit(self, size=0, expected="", labels=None):
            return super().commit(0, expected, labels)


@MUTANTS.breaks("Another digest raises FailedPrecondition.")
class SaysDataLossForAnotherDigest(SOUND):
    class open_writer(labelled.Writer):
        def commit(self, size=0, expected="", labels=None):
            digest = self.digest()
            if expected.startswith("sha256:") and len(expected) == len(digest) and digest != expected:
                raise errors.DataLoss(f"content {digest} is not {expected}")
            return super().commit(size, expected, labels)


@MUTANTS.breaks("After either the ingest is as it was, and the next writer of the ref can commit it.")
class DropsWhatFailed(SOUND):
    class open_writer(labelled.Writer):
        def commit(self, *arguments, **options):
            try:
                return super().commit(*arguments, **options)
            except errors.FailedPrecondition:
                self._writer.truncate(0)
                raise


@MUTANTS.breaks("An ``expected`` that is no digest raises InvalidArgument here, too.")
class ComparesOnly(SOUND):
    class open_writer(labelled.Writer):
        def commit(self, *arguments, **options):
            try:
                return super().commit(*arguments, **options)
            except errors.InvalidArgument as err:
                raise errors.FailedPrecondition(err.message) from err


@MUTANTS.breaks("When the blob exists already, AlreadyExists is raised and the ingest is gone.")
class LeavesTheIngestOfWhatExists(SOUND):
    class open_writer(labelled.Writer):
        def commit(self, *arguments, **options):
            try:
                return super().commit(*arguments, **options)
            except errors.AlreadyExists:
                self._store.local.writer(self._ref).close()
                raise


# Labels


@MUTANTS.breaks("The new blob has these labels, if the store keeps labels.")
class DropsTheLabelsOfACommit(SOUND):
    class open_writer(labelled.Writer):
        def commit(self, size=0, expected="", labels=None):
            return super().commit(size, expected)


@MUTANTS.breaks("Without ``fieldpaths`` the labels given replace all that it has.")
class AddsLabels(SOUND):
    def update(self, info, fieldpaths=()):
        return super().update(info, fieldpaths or [f"labels.{key}" for key in info.labels])


@MUTANTS.breaks("With them, those change that are named as ``labels.KEY``, or all by ``labels``.")
class ReplacesLabelsAlways(SOUND):
    def update(self, info, fieldpaths=()):
        super().update(info, fieldpaths)
        return super().update(info)


@MUTANTS.breaks("One that is named and not given is removed.")
class KeepsWhatIsNotGiven(SOUND):
    def update(self, info, fieldpaths=()):
        given = [path for path in fieldpaths if path.removeprefix("labels.") in info.labels or "." not in path]
        return super().update(info, given) if given or not fieldpaths else self.info(info.digest)


@MUTANTS.breaks("A label whose value is empty is removed.")
class KeepsEmptyLabels(SOUND):
    def update(self, info, fieldpaths=()):
        super().update(info, fieldpaths)
        if not fieldpaths:
            self.labels[info.digest] = dict(info.labels)
        return self.info(info.digest)


@MUTANTS.breaks("A label may have 4096 bytes, key and value together.")
class CutsLabels(SOUND):
    def info(self, digest):
        info = super().info(digest)
        return replace(info, labels={key: value[:1024] for key, value in info.labels.items()})


@MUTANTS.breaks("One that has more raises InvalidArgument.")
class CutsLabelsThatAreTooLong(SOUND):
    def update(self, info, fieldpaths=()):
        return super().update(
            replace(info, labels={key[:2000]: value[:2000] for key, value in info.labels.items()}), fieldpaths
        )


@MUTANTS.breaks("Raises InvalidArgument for a path to something else.")
class PassesOverOtherPaths(SOUND):
    def update(self, info, fieldpaths=()):
        known = [path for path in fieldpaths if path == "labels" or path.startswith("labels.")]
        return super().update(info, known) if known or not fieldpaths else self.info(info.digest)


@MUTANTS.breaks("Size and times of ``info`` are not looked at.")
class BelievesTheSizeGiven(SOUND):
    def update(self, info, fieldpaths=()):
        return replace(super().update(info, fieldpaths), size=info.size)


@MUTANTS.breaks("Without the blob, ``update`` raises NotFound.")
class LabelsWhatIsNotThere(SOUND):
    def update(self, info, fieldpaths=()):
        try:
            return super().update(info, fieldpaths)
        except errors.NotFound:
            self.labels[info.digest] = dict(info.labels)
            return info
