"""Checks and contracts: each check holds a sentence of its contract, and each sentence has a check."""

import types

import pytest

from plugin_sdk import content, diff, snapshots, transfer
from plugin_sdk.conformance import content as content_checks
from plugin_sdk.conformance import diff as diff_checks
from plugin_sdk.conformance import sentences
from plugin_sdk.conformance import snapshots as snapshot_checks
from plugin_sdk.conformance.transferring import TransferSuite

SUITES = {
    snapshots: snapshot_checks.SnapshotSuite,
    content: content_checks.ContentSuite,
    diff: diff_checks.DiffSuite,
    transfer: TransferSuite,
}

NOT_CHECKED = {
    snapshots: {
        "Snapshots: the file systems of containers, in layers.": "the title",
        "A **mount** says how to see a snapshot as a directory; the caller mounts it (``plugin_sdk.mounts``).": (
            "the word; a snapshotter may mount things of its own, so that it mounts nothing is no promise"
        ),
        "Given to prepare: the name under which the caller will commit.": "the word",
        "The caller has unmounted it before.": "the caller's duty",
    },
    content: {
        "Content: immutable blobs by digest, and the ingests that become blobs.": "the title",
        "A **ref** names one **ingest**, a write in progress.": "the word",
        "A **writer** is the open handle of an ingest.": "the word",
        "One use from start to end:": "the example, whose lines stand in the checks one by one",
        "A writer or reader is used by one thread at a time.": "the caller's duty",
        "A blob.": "the word",
        "An ingest.": "the word",
    },
    diff: {
        "Diff: a layer becomes files, and the difference of two trees becomes a layer.": "the title",
        "A **differ** is an **applier** and a **comparer**.": "the word",
        "A **diff ID** is the digest of the uncompressed tar.": "the word",
        "One use from start to end:": "the example, whose lines stand in the checks one by one",
        "After an error some of the files may be in the mount: the caller throws that snapshot away.": (
            "the caller's duty"
        ),
    },
    transfer: {
        "Transfer: copies that the daemon makes: pull, push, import, export, tag.": "the title",
        "A transfer goes from a **source** to a **destination**.": "the word",
        "A **registry** holds repositories of images, and a **reference** names an image there.": "the word",
        "An **image store** is a namespace's images with their content and snapshots.": "the word",
        (
            "A **byte stream** is an image archive on its way: an OCI image layout, or what ``docker save`` writes, "
            "as a tar."
        ): "the word",
        "One use from start to end:": "the example, which needs a registry",
        "Registry → image store pulls.": "needs a registry: test_ctr_transfer",
        "Image store → registry pushes.": "needs a registry: test_ctr_transfer",
        "When the caller has gone, the transfer stops.": "needs a process that is killed: test_ctr_transfer",
        "For one registry host.": "the word",
        (
            "``header`` is a whole Authorization header; ``refresh`` an identity token, which is exchanged for a "
            "bearer token; else ``username`` and ``secret``."
        ): "needs a registry: test_registry_auth",
        "Never shown in a message or a log.": "needs a registry: test_registry_auth",
        (
            "What a registry's host wants to be told: its ``WWW-Authenticate`` headers, and what is asked of it."
        ): "the word",
        "Answers credentials for a challenge; None when there are none.": "the word",
        "An image at its registry.": "the word",
        "``headers`` are sent with each request to the registry.": "needs a registry: test_distribution_auth",
        "``host_dir`` is a folder of hosts.toml files that is used instead of the daemon's own.": (
            "needs a registry: test_registry_mirrors"
        ),
        "``scheme`` (``http`` or ``https``) is for hosts that no file describes.": (
            "needs a registry: test_registry_mirrors"
        ),
        "``ask`` is called at a challenge, before the daemon's own sources of credentials.": (
            "needs a registry: test_registry_auth"
        ),
        "``platforms`` are those whose content is wanted, all if empty.": "needs a registry: test_registry_stored",
        "``all_metadata`` wants the manifests and configs of the other platforms too.": (
            "needs a registry: test_registry_stored"
        ),
        (
            "``manifest_limit`` bounds how many platforms of an index are taken, the best ones first; 0 means no bound."
        ): "of how images are chosen: test_distribution_graph",
        "Without ``platforms`` the daemon's own is written, or with ``all_platforms`` each.": (
            "of how images are chosen: test_distribution_exporting"
        ),
        "A step.": "the word",
        "``parents`` are the names of what refers to it.": "needs a registry: test_distribution_pulling",
    },
}

contracts = pytest.mark.parametrize("contract", SUITES, ids=lambda module: module.__name__.rpartition(".")[2])


@contracts
def test_each_check_holds_a_sentence(contract):
    loose = [name for name, check in sentences.checks(SUITES[contract]).items() if not sentences.of(check)]
    assert loose == []


@contracts
def test_each_sentence_held_stands_in_the_contract(contract):
    known = set(sentences.contract(contract))
    checks = sentences.checks(SUITES[contract])
    invented = {name: sorted(set(sentences.of(check)) - known) for name, check in checks.items()}
    assert {name: texts for name, texts in invented.items() if texts} == {}


@contracts
def test_each_sentence_of_the_contract_has_a_check(contract):
    held = {sentence for check in sentences.checks(SUITES[contract]).values() for sentence in sentences.of(check)}
    loose = [sentence for sentence in sentences.contract(contract) if sentence not in held and not heading(sentence)]
    assert loose == list(NOT_CHECKED[contract])


@contracts
def test_no_sentence_stands_twice(contract):
    found = sentences.contract(contract)
    assert sorted(found) == sorted(set(found))


def heading(sentence):
    """One word opens a paragraph."""
    return " " not in sentence


def module_of(source, tmp_path):
    (tmp_path / "invented.py").write_text(source)
    made = types.ModuleType("invented")
    made.__file__ = str(tmp_path / "invented.py")
    return made


INVENTED = '''
"""The first. The second is
longer (much.) Then::

    code. No sentence.

    More code.
After code. Two ``words.KEY`` stay.

- An item.
- Another item
  goes on.
"""

CONSTANT = 1
"""Of the constant."""


class Noun:
    """Of the class."""

    def method(self):
        """Of the method: ``a``.

        Its end! Really?
        """


def _private():
    """Not told."""
'''


def test_the_sentences_of_a_module_are_those_of_its_docstrings_without_code(tmp_path):
    assert sentences.contract(module_of(INVENTED, tmp_path)) == (
        "The first.",
        "The second is longer (much.)",
        "Then:",
        "After code.",
        "Two ``words.KEY`` stay.",
        "An item.",
        "Another item goes on.",
        "Of the constant.",
        "Of the class.",
        "Of the method: ``a``.",
        "Its end!",
        "Really?",
    )


def test_a_check_knows_its_sentences():
    @sentences.holds("One.", "Two\n   lines.")
    @sentences.holds("Zero.")
    def check():
        pass

    assert sentences.of(check) == ("Zero.", "One.", "Two lines.")
    assert sentences.of(print) == ()


def test_every_contract_has_sentences():
    for module in SUITES:
        found = sentences.contract(module)
        assert len(found) > 20
        assert all(sentence[-1] in ".:!?)" for sentence in found)
