"""Which files a text has, how they are cut, and what its documents are."""

import hashlib
import random

import pytest

import text_files
from config import ConfigError
from text_files import cut, documents, find_files, open_text, sha256


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Three files in which blank lines of every kind divide documents of 1 to 9 lines; and the documents by file."""
    rng = random.Random(1)
    folder = tmp_path_factory.mktemp("texts")
    by_file = {}
    for name, count in (("a.txt", 300), ("b.txt", 0), ("c.txt", 700)):
        made = [
            [f"{name} {d} café {i} {'x' * rng.randrange(1, 90)}" for i in range(rng.randrange(1, 10))]
            for d in range(count)
        ]
        content = "".join(
            "\n".join(document) + rng.choice(["\n\n", "\n \n", "\r\n\r\n", "\n\n\n\t\n", "\n\xa0\n"])
            for document in made
        )
        (folder / name).write_bytes(b"\n\n" + content.encode() if count else b"")
        by_file[name] = made
    return folder, by_file


def read(units, document_per_file=False):
    return [document for unit in units for document in documents(unit, document_per_file)]


@pytest.mark.parametrize("unit_bytes", [1, 700, 5_000, 1 << 24])
def test_the_units_are_the_text(texts, unit_bytes, monkeypatch):
    folder, by_file = texts
    monkeypatch.setattr(text_files, "MIN_UNIT_BYTES", unit_bytes)
    monkeypatch.setattr(text_files, "MAX_UNIT_BYTES", unit_bytes)
    units = cut(find_files([folder]), document_per_file=False)
    assert read(units) == [document for name in sorted(by_file) for document in by_file[name]]
    sizes = [sum(stretch.end - stretch.start for stretch in unit) for unit in units]
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert sum(sizes) == total
    assert max(sizes) <= unit_bytes + 3_000
    assert len(units) == 1 if unit_bytes > total else len(units) >= total // (unit_bytes + 3_000)


def test_a_file_as_one_document(texts, monkeypatch):
    folder, by_file = texts
    monkeypatch.setattr(text_files, "MAX_UNIT_BYTES", 500)
    units = cut(find_files([folder]), document_per_file=True)
    assert read(units, True) == [sum(by_file[name], []) for name in ("a.txt", "c.txt")]
    assert [len(unit) for unit in units] == [1, 1]


def test_small_files_share_a_unit(tmp_path):
    for number in range(500):
        (tmp_path / f"{number:03}").write_text(f"Document {number}.\n\nGoes on.")
    units = cut(find_files([tmp_path]), document_per_file=True)
    assert len(units) == 1
    assert read(units, True) == [[f"Document {number}.", "Goes on."] for number in range(500)]


def test_a_document_ends_with_its_file(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"{name} 1\n\n{name} 2")
    assert read(cut(find_files([tmp_path]), False)) == [["a 1"], ["a 2"], ["b 1"], ["b 2"]]


def test_folders_are_walked_in_order(tmp_path):
    for name in ("b/2", "b/10", "a.txt", "a/1", "a/x/1", ".git/x", "b/.hidden", "c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    names = [file.removeprefix(f"{tmp_path}/") for file in find_files([tmp_path / "c", tmp_path])]
    assert names == ["c", "a/1", "a/x/1", "a.txt", "b/10", "b/2", "c"]


def test_sha256(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    one, two = (hashlib.sha256(name.encode()).hexdigest() for name in "ab")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert sha256([a]) == one
    assert sha256([a, b]) == hashlib.sha256(f"{one}\n{two}\n".encode()).hexdigest()
    assert sha256([b, a]) != sha256([a, b])


def write(folder, name, content):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("files", "document_per_file", "message"),
    [
        ({}, False, r"Text file not found\. Received: .*text\. Expected a text file, or a folder of them\."),
        ({"text/.x": b"a"}, False, r"The folder has no text\. Received: .*text\. Expected a file in it\."),
        (
            {"text": b" \n\n"},
            False,
            r"The train text has too few documents .* 0 in .*text\. Expected two or more, with",
        ),
        ({"text": b"a\n\n \n"}, False, r"1 in .*text\. Expected two or more, with a blank line between them\."),
        ({"text": b"a\n\nb"}, True, r"1 in .*text\. Expected two or more, each in a file of its own\."),
        ({"text/a": b"a", "text/b": b""}, True, r"Received: 1 in .*a and other files\. Expected two or more, each"),
        (
            {"text": b"a\n\nb \xff\n\nc"},
            False,
            r"text is not text\. Received: invalid start byte at byte 5\. Expected U",
        ),
    ],
)
def test_what_is_no_text(tmp_path, files, document_per_file, message):
    for name, content in files.items():
        write(tmp_path, name, content)
    with pytest.raises(ConfigError, match=message) as raised:
        open_text("train", tmp_path / "text", document_per_file)
    assert "\n" not in str(raised.value)


def test_the_place_of_a_wrong_byte_is_that_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MAX_UNIT_BYTES", 10)
    monkeypatch.setattr(text_files, "MIN_UNIT_BYTES", 10)
    content = b"one line\n\n" * 5
    (tmp_path / "text").write_bytes(content + b"\xff")
    units = open_text("train", tmp_path / "text", False).units
    assert len(units) > 2
    with pytest.raises(ConfigError, match=r"at byte 50\."):
        read(units)
