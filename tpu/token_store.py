"""The token ids of a text in memory-mapped files, so that every process has all of it at hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from atomic_file import atomic_path


class TokenStore(NamedTuple):
    """A text as token ids. Document d has the sentences `document_starts[d]` to `document_starts[d + 1]` - 1.

    No sentence and no document is empty.

    Attributes:
        tokens: uint16 or uint32 [tokens]: the ids.
        sentence_starts: int64 [sentences + 1]: where in `tokens` each sentence begins; at last, their number.
        document_starts: int64 [documents + 1]: the first sentence of each document; at last, their number.
        token_counts: int64 [vocabulary size]: how often each id occurs.
    """

    tokens: np.ndarray
    sentence_starts: np.ndarray
    document_starts: np.ndarray
    token_counts: np.ndarray


FILE_NAMES = [f"{name}.npy" for name in TokenStore._fields]


def join(units: Sequence[Path], folder: Path) -> None:
    """Writes a store from the files of its units, in their order, holding one unit at a time."""
    sizes = sum(_member(unit, "sizes") for unit in units)
    _write_joined(folder / "tokens.npy", (_member(unit, "tokens") for unit in units), sizes[0])
    for name, size in (("sentence", sizes[1]), ("document", sizes[2])):
        lengths = (_member(unit, f"{name}_lengths") for unit in units)
        _write_joined(folder / f"{name}_starts.npy", _running_sums(lengths), size + 1)
    _write_joined(folder / "token_counts.npy", [sum(_member(unit, "token_counts") for unit in units)], None)


def open_store(folder: Path) -> TokenStore:
    """The store in a folder, mapped into memory."""
    # As plain arrays: a `np.memmap` takes several times as long to index.
    return TokenStore(*(np.asarray(np.load(folder / name, mmap_mode="r")) for name in FILE_NAMES))


def _member(unit: Path, name: str) -> np.ndarray:
    with np.load(unit) as arrays:
        return arrays[name]


def _running_sums(lengths):
    total = 0
    yield np.zeros(1, np.int64)
    for part in lengths:
        yield total + np.cumsum(part)
        total += int(part.sum())


def _write_joined(path: Path, parts, size: int | None) -> None:
    """Writes the parts of a one-dimensional array as one .npy file.

    Not through a memory map: on a full disk that ends the process instead of raising an error.
    """
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        for number, part in enumerate(parts):
            if number == 0:
                shape = (len(part) if size is None else int(size),)
                header = {"descr": part.dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(part.data)
