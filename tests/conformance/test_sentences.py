"""Checks and contracts: each check holds a sentence of its contract, and each sentence has a check."""

import types

from plugin_sdk import content, diff, snapshots
from plugin_sdk.conformance import sentences


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
    for module in (snapshots, content, diff):
        found = sentences.contract(module)
        assert len(found) > 20
        assert all(sentence[-1] in ".:!?)" for sentence in found)
