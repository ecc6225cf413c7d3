"""Where sentences end."""

import doctest

import pytest

import sentences as sentences_module
from sentences import split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["One sentence."],
        ["It ends.", "It begins."],
        ["Is it?", "It is!", "Really?!", "Yes."],
        ["Use a tuple, e.g. (1, 2), or a list, i.e. [1, 2].", "Both work."],
        ["Pi is 3.14 here.", "In Python 3.11 it is not 3.", "No more."],
        ["The file __init__.py is run.", "Then a.b.c is imported from os.path."],
        ["open() returns a file.", "os.open() does not.", "_private is a name."],
        ["Lists, tuples, etc. and more of them.", "Lists, tuples, etc.", "That is all."],
        ['He says "no." And then "yes."', "(So it is.)", "Fine."],
        ["Fred L. Drake wrote it, cf. Fig. 3 and Sect. 5.", "It is used in the U.S. Government."],
        ["1. First do this.", "2. Then do that."],
        ["Wait ... or go.", "Wait...", "Go."],
        ["no full stop at all"],
    ],
)
def test_split_sentences(sentences):
    if sentences[0].startswith("He says"):
        sentences = ['He says "no."', 'And then "yes."', *sentences[1:]]
    assert split_sentences(" ".join(sentences)) == sentences


@pytest.mark.parametrize("text", ["", "   ", "...", "a", ". . ."])
def test_split_sentences_loses_nothing(text):
    assert " ".join(split_sentences(text)).split() == text.split()


def test_docstring_examples():
    result = doctest.testmod(sentences_module)
    assert result.attempted and not result.failed
