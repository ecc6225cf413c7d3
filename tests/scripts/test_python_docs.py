"""The corpus of Python's documentation: what is prose, and that nothing is in both files."""

import doctest
import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import atomic_file
import python_docs
from atomic_file import atomic_path

PROSE = "The quick brown fox is not able to jump over the lazy dog in this test."
OTHER = "A second paragraph of plain English words that is long enough to be kept."
THIRD = "Yet another paragraph, and it is as long as it has to be for the rule."


def key(paragraph):
    return " ".join(paragraph.casefold().split())


def read_documents(path):
    return [document.split("\n") for document in path.read_text(encoding="utf-8").rstrip("\n").split("\n\n")]


@pytest.fixture(scope="module")
def raw():
    return list(python_docs.documents())


@pytest.fixture(scope="module")
def corpus(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(python_docs, "documents", lambda: raw)  # reading the library again takes seconds
        assert python_docs.main(["--output_dir", str(folder)]) == 0
    return folder


# --- what is prose -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PROSE, [PROSE]),
        (f"  {PROSE[:30]}\n   {PROSE[30:]}", [" ".join(f"{PROSE[:30]} {PROSE[30:]}".split())]),
        (f"{PROSE}\n\n{OTHER}", [PROSE, OTHER]),
        (f"{PROSE}\n   \n{OTHER}", [PROSE, OTHER]),
        (f">>> print('{PROSE}')\n{PROSE}", []),
        (f"   >>> f()\n   {PROSE}", []),
        (f"{PROSE}\n=====================", []),
        ("=====  =====\nThis  is a\nrow   of the table that is long enough to be\n=====  =====", []),
        (
            "for key, value in sorted(table.items()):\n    if value is not None:\n        print(key, value, file=out)",
            [],
        ),
        (f"import os\n# {PROSE}", []),
        ('if_stmt ::= "if" assignment_expression ":" suite ("elif" assignment_expression ":" suite)* ["else" ":"]', []),
        ("activebackground, activeborderwidth, activeforeground, background, borderwidth, cursor, font, relief", []),
        ("The words are too few.", []),
        (f"open(file, mode='r') -> file object\n{PROSE}", [PROSE]),
        (f"* {PROSE}\n- {OTHER}", [f"{PROSE} {OTHER}"]),
        (
            "The ``open`` function of :mod:`io` is *not* the same as `os.open` in any of the **ways**.",
            ["The open function of io is not the same as os.open in any of the ways."],
        ),
        ("Neither the product a * b of two names nor the power a**b of them is ever taken for emphasis.", None),
        ("This one is `` spaced `` inside of the\n``two\nlines`` of the mark.", None),
    ],
)
def test_paragraphs(text, expected):
    if expected is None:
        expected = [" ".join(text.replace("`", "").split())]
    assert python_docs.paragraphs(text) == expected


def test_docstrings_come_in_order_of_appearance():
    source = (
        '"""Module."""\nif True:\n  class A:\n    """Class."""\n    def f(self):\n      """Method."""\n'
        '      def g():\n        """Inner."""\nasync def h():\n  """Last."""\nx = "no docstring"\n'
    )
    assert python_docs.docstrings(source) == ["Module.", "Class.", "Method.", "Inner.", "Last."]


@pytest.mark.parametrize("source", ["print 'two'", "x = '\0'", b"\xff\xfe bytes"])
def test_a_source_that_does_not_parse_has_no_docstrings(source):
    assert python_docs.docstrings(source) == []


def test_documents_skips_tests_and_installed_packages(tmp_path):
    kept = ["a.py", "b/__init__.py", "b/tester.py"]
    skipped = ["test/a.py", "b/tests/c.py", "idlelib/idle_test/d.py", "site-packages/e.py", "lib2to3/tests/data/f.py"]
    for name in kept + skipped:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('"""Documented."""')
    names = [name for name, _ in python_docs.documents(tmp_path) if name.startswith("module:")]
    assert names == ["module:a", "module:b.__init__", "module:b.tester"]


# --- no paragraph twice ------------------------------------------------------------------------------------------


def test_a_repeated_paragraph_stays_in_its_first_document_only():
    planted = PROSE.upper().replace(" ", "   ")
    cleaned = python_docs.clean([("first", f"{PROSE}\n\n{OTHER}\n\n{PROSE}"), ("second", f"{planted}\n\n{THIRD}\n\nX")])
    assert cleaned == {"first": [PROSE, OTHER]}  # "second" has one paragraph left, too few


def test_duplicate_documents_vanish():
    text = f"{PROSE}\n\n{OTHER}"
    assert list(python_docs.clean([("a", text), ("b", text)])) == ["a"]


def test_paragraphs_that_differ_in_a_digit_are_different():
    first, second = "Changed in version 3.1: the name of this is not the same.", "Changed in version 3.2: the name of"
    second += " this is not the same."
    assert python_docs.clean([("a", f"{first}\n\n{second}")]) == {"a": [first, second]}


def test_no_planted_paragraph_is_shared_by_the_splits():
    """Every document holds the same paragraph; whichever split its first owner is in, the other must not have it."""
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    raw = [(f"document {i}", f"{PROSE}\n\n" + "\n\n".join(f"{OTHER} {i} {n}" for n in numbers)) for i in range(200)]
    cleaned = python_docs.clean(raw)
    held_out = {name for name in cleaned if python_docs.is_held_out(name, 0.3)}
    assert 0 < len(held_out) < len(cleaned) == 200
    owners = [name for name, document in cleaned.items() if PROSE in document]
    assert owners == ["document 0"]


def test_no_real_paragraph_is_shared_by_the_splits(corpus):
    train = [key(p) for document in read_documents(corpus / "train.txt") for p in document]
    held_out = [key(p) for document in read_documents(corpus / "held_out.txt") for p in document]
    assert not set(train) & set(held_out)
    assert len(set(train)) == len(train)
    assert len(set(held_out)) == len(held_out)


def test_real_documents_are_whole_and_in_the_split_of_their_name(corpus, raw):
    cleaned = python_docs.clean(raw)
    expected = {"train.txt": [], "held_out.txt": []}
    for name, document in cleaned.items():
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
        expected["held_out.txt" if number < 0.1 else "train.txt"].append(document)
    for file_name, documents in expected.items():
        assert read_documents(corpus / file_name) == documents


def test_held_out_share_is_that_asked_for():
    count = 20_000
    held_out = sum(python_docs.is_held_out(f"name {i}", 0.1) for i in range(count))
    assert abs(held_out - 0.1 * count) < 5 * math.sqrt(count * 0.1 * 0.9)


# --- files -------------------------------------------------------------------------------------------------------


def test_real_corpus_is_of_a_useful_size_and_form(corpus):
    for file_name, least_words in (("train.txt", 100_000), ("held_out.txt", 5_000)):
        text = (corpus / file_name).read_text(encoding="utf-8")
        assert len(text.split()) > least_words
        assert "\n\n\n" not in text
        assert text.endswith("\n") and not text.endswith("\n\n")
        for document in read_documents(corpus / file_name):
            assert len(document) >= python_docs.MIN_PARAGRAPHS
            assert all(line == " ".join(line.split()) and python_docs.is_prose(line) for line in document)


def test_another_process_writes_the_same_files(corpus, tmp_path):
    script = Path(python_docs.__file__)
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    result = subprocess.run(
        [sys.executable, script, "--output_dir", tmp_path], env=environment, capture_output=True, text=True, check=True
    )
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["train.txt", "held_out.txt"]
    for line in lines:
        name = line.split(":")[0]
        documents = read_documents(tmp_path / name)
        words = sum(len(paragraph.split()) for document in documents for paragraph in document)
        paragraphs = sum(map(len, documents))
        assert line == f"{name}: {len(documents):,} documents, {paragraphs:,} paragraphs, {words:,} words"
        assert (tmp_path / name).read_bytes() == (corpus / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held_out.txt", "train.txt"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as unfinished:
        unfinished.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_docstring_examples():
    result = doctest.testmod(atomic_file)
    assert result.attempted and not result.failed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--held_out_fraction", "0"], "python_docs: A file would be empty. Received: --held_out_fraction 0.0, "),
        (["--held_out_fraction", "1.5"], "python_docs: A file would be empty. Received: --held_out_fraction 1.5, "),
        (["--output_dir", "{file}"], "python_docs: File exists. Received: --output_dir {file}. Expected a folder"),
    ],
)
def test_errors(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(python_docs, "documents", lambda: [(f"d{i}", f"{PROSE} {i}\n\n{OTHER} {i}") for i in range(50)])
    file = tmp_path / "file"
    file.touch()
    arguments = [argument.format(file=file) for argument in arguments]
    assert python_docs.main(["--output_dir", str(tmp_path), *arguments]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(message.format(file=file))
    assert output.err.count("\n") == 1
    assert output.out == ""
