"""Text files as documents: which files there are, how they are cut for many processes, and what a document is.

A document is a list of lines that are not blank. Where a file holds several documents, blank lines divide them, and
no document goes on from one file to the next.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import data_files
from config import ConfigError

MIN_UNIT_BYTES, MAX_UNIT_BYTES = 1 << 19, 1 << 24
UNITS = 64


class Stretch(NamedTuple):
    """Bytes of a file that begin and end at the edge of a document."""

    path: str
    start: int
    end: int


Unit = tuple[Stretch, ...]


class Text(NamedTuple):
    """The text of a split: its files, and the units into which they are cut."""

    split: str
    files: list[str]
    document_per_file: bool
    units: list[Unit]

    def documents(self) -> Iterator[list[str]]:
        """All documents, in order."""
        for unit in self.units:
            yield from documents(unit, self.document_per_file)

    def expect_documents(self, count: int) -> None:
        """Raises a `ConfigError` unless `count`, the number of documents with a word, is at least two."""
        if count < 2:
            between = "each in a file of its own" if self.document_per_file else "with a blank line between them"
            raise ConfigError(
                f"The {self.split} text has too few documents with a word. Received: {count} in {self.files[0]}"
                f"{' and other files' if len(self.files) > 1 else ''}. Expected two or more, {between}."
            )


def open_text(split: str, paths: Path | Sequence[Path], document_per_file: bool) -> Text:
    """The text at `paths`, see `find_files`.

    Raises:
        ConfigError: A path has no text, or the text begins with something that is not, or has fewer than two documents.
        OSError: A file cannot be read.
    """
    files = find_files([paths] if isinstance(paths, Path) else paths)
    text = Text(split, files, document_per_file, cut(files, document_per_file))
    text.expect_documents(len(list(islice(text.documents(), 2))))
    return text


def find_files(paths: Iterable[Path]) -> list[str]:
    """The text files that paths stand for, in their order; a folder stands for all files under it, sorted.

    Files and folders in it whose names begin with a dot are left out.

    Raises:
        ConfigError: There is nothing at a path, or no file in a folder.
        OSError: A folder cannot be read.
    """
    found = []
    for path in paths:
        if path.is_file():
            found.append(str(path))
            continue
        if not path.is_dir():
            raise ConfigError(f"Text file not found. Received: {path}. Expected a text file, or a folder of them.")
        in_folder = sorted(_visible_files(str(path)), key=lambda name: name.split(os.sep))
        if not in_folder:
            raise ConfigError(f"The folder has no text. Received: {path}. Expected a file in it.")
        found += in_folder
    return found


def _visible_files(folder: str) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(parent, name) for name in names if not name.startswith("."))


def sha256(files: Sequence[str]) -> str:
    """The SHA-256 of a file; of several files, that of their SHA-256s in hexadecimal digits, one a line."""
    digests = [data_files.sha256(file) for file in files]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def cut(files: Sequence[str], document_per_file: bool) -> list[Unit]:
    """Cuts files into units of work, between documents; which ones depends on the files alone.

    Args:
        files: The text files.
        document_per_file: Whether each is one document.

    Returns:
        The units, in the order of the text; together they are all of it.
    """
    sizes = [os.path.getsize(file) for file in files]
    unit_bytes = min(max(sum(sizes) // UNITS, MIN_UNIT_BYTES), MAX_UNIT_BYTES)
    units, unit, room = [], [], unit_bytes
    for file, size in zip(files, sizes, strict=True):
        start = 0
        while start < size:
            end = size if document_per_file or size - start <= room else _next_edge(file, start + room)
            unit.append(Stretch(file, start, end))
            room -= end - start
            start = end
            if room <= 0:
                units.append(tuple(unit))
                unit, room = [], unit_bytes
    return [*units, tuple(unit)] if unit else units


def _next_edge(path: str, position: int) -> int:
    """The first byte after a blank line that begins at `position` or later; the file's size if there is none."""
    with open(path, "rb") as file:
        # The line may have begun earlier: only a line after it is surely whole.
        file.seek(position)
        file.readline()
        while line := file.readline():
            if not line.strip():
                break
        return file.tell()


def documents(unit: Unit, document_per_file: bool) -> Iterator[list[str]]:
    """The documents of a unit, each a list of lines without white space at their ends.

    Raises:
        ConfigError: A file is not UTF-8.
        OSError: A file cannot be read.
    """
    for path, start, end in unit:
        with open(path, "rb") as file:
            file.seek(start)
            content = file.read(end - start)
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{path} is not text. Received: {error.reason} at byte {start + error.start}. Expected UTF-8."
            ) from None
        lines = [line.strip() for line in text.split("\n")]
        if document_per_file:
            lines = [line for line in lines if line]
        document = []
        for line in (*lines, ""):
            if line:
                document.append(line)
            elif document:
                yield document
                document = []
