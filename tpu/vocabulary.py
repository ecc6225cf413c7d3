"""A WordPiece vocabulary in BERT's layout, vocab.txt: one token a line, whose id is the number of the line from 0."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from atomic_file import atomic_path
from config import ConfigError
from paths import read_bytes

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
INNER_PREFIX = "##"


class Vocabulary:
    """The tokens of a vocabulary in the order of their ids.

    The special tokens may have any id: they are 0 to 4 in a vocabulary that is learned here, and 0 and 100 to 103 in
    the public ones.

    Example:
        >>> vocabulary = Vocabulary(["[PAD]", "[MASK]", "[UNK]", "[CLS]", "[SEP]", "play", "##ing"])
        >>> vocabulary.mask_id, vocabulary.is_inner_piece.tolist()[-2:], vocabulary.ordinary_ids.tolist()
        (1, [False, True], [5, 6])

    Args:
        tokens: Text without white space at its ends, each token once, the five special ones among them.

    Attributes:
        tokens: The tokens, as a tuple.
        ids: The id of each token.
        pad_id: The id of [PAD]; so do `unk_id`, `cls_id`, `sep_id` and `mask_id` for the other special tokens.

    Raises:
        ConfigError: A special token is missing, or a token is empty or there twice.
    """

    def __init__(self, tokens: Iterable[str]):
        self.tokens = tuple(tokens)
        self.ids = {token: index for index, token in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens) or "" in self.ids:
            index = next(i for i, token in enumerate(self.tokens) if not token or self.ids[token] != i)
            raise ConfigError(
                f"A vocabulary has each token once. Received: {self.tokens[index]!r} in line {index + 1}. "
                "Expected a token that no other line has."
            )
        missing = [token for token in SPECIAL_TOKENS if token not in self.ids]
        if missing:
            raise ConfigError(
                f"A vocabulary needs the special tokens. Received: no {', '.join(missing)} among {len(self.tokens):,} "
                f"tokens. Expected {', '.join(SPECIAL_TOKENS)}."
            )
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = map(self.ids.get, SPECIAL_TOKENS)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def is_inner_piece(self) -> np.ndarray:
        """Which tokens go on with a word ("##ing"): bool [size]."""
        return np.array([token.startswith(INNER_PREFIX) for token in self.tokens])

    @cached_property
    def is_special(self) -> np.ndarray:
        """Which tokens are the special ones: bool [size]."""
        return np.isin(np.arange(len(self)), [self.ids[token] for token in SPECIAL_TOKENS])

    @cached_property
    def ordinary_ids(self) -> np.ndarray:
        """The ids that are not special, ascending: int32 [size - 5]."""
        return np.flatnonzero(~self.is_special).astype(np.int32)


def read(path: str | Path) -> Vocabulary:
    """Reads a vocab.txt; white space around a token is no part of it.

    Raises:
        ConfigError: The file cannot be read, or is no vocabulary.
    """
    try:
        lines = read_bytes(path).decode("utf-8").split("\n")
    except OSError as error:
        raise ConfigError(
            f"The vocabulary cannot be read: {error.strerror}. Received: {path}. Expected a file with one token a line."
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not text. Received: {error.reason} at byte {error.start}. Expected UTF-8."
        ) from None
    if not lines[-1].strip():
        lines.pop()
    try:
        return Vocabulary(line.strip() for line in lines)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def write(vocabulary: Vocabulary, path: str | Path) -> None:
    """Writes a vocab.txt, whole or not at all."""
    with atomic_path(path) as unfinished:
        unfinished.write_text("".join(f"{token}\n" for token in vocabulary.tokens), encoding="utf-8", newline="\n")
