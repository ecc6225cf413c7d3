"""Tokenizes a text into a `TokenStore`, one part of the text after the other, in several processes."""

import array
import io
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

import data_files
import text_files
import vocabulary as vocabularies
from atomic_file import atomic_path
from bert_manifest import Settings
from sentences import split_sentences
from text_files import Text
from token_store import FILE_NAMES, TokenStore, join, open_store
from wordpiece import WordPiece
from worker_pool import WorkerPool


class UnitTask(NamedTuple):
    """A unit of text to tokenize into the file `path`."""

    unit: text_files.Unit
    path: Path
    vocab_path: Path
    vocab_sha256: str
    lower_case: bool
    document_per_file: bool
    sentence_per_line: bool


@lru_cache(maxsize=1)
def _word_piece(vocab_path: Path, vocab_sha256: str, lower_case: bool) -> WordPiece:
    """Kept for the next unit, with the words it remembers."""
    del vocab_sha256  # a part of the key: the file may have changed
    return WordPiece(vocabularies.read(vocab_path), lower_case)


def tokenize_unit(task: UnitTask) -> None:
    """Writes the tokens of a unit, unless they are there.

    Raises:
        ConfigError: A file is not UTF-8.
        OSError: A file cannot be read or written.
    """
    record_path = _record_path(task.path.parent, task.path.name)
    if data_files.finished(record_path, task.path.parent):
        return
    word_piece = _word_piece(task.vocab_path, task.vocab_sha256, task.lower_case)
    tokens, sentence_lengths, document_lengths = array.array("I"), array.array("q"), array.array("q")
    for document in text_files.documents(task.unit, task.document_per_file):
        sentences_before = len(sentence_lengths)
        for line in document:
            for sentence in [line] if task.sentence_per_line else split_sentences(line):
                if ids := word_piece.token_ids(sentence):
                    tokens.extend(ids)
                    sentence_lengths.append(len(ids))
        if len(sentence_lengths) > sentences_before:
            document_lengths.append(len(sentence_lengths) - sentences_before)
    vocab_size = len(word_piece.vocabulary)
    ids = np.array(tokens, np.uint32)
    # In memory first: on a full disk, NumPy's writer would say so at its end once more, with a traceback.
    content = io.BytesIO()
    np.savez(
        content,
        sizes=np.array([len(ids), len(sentence_lengths), len(document_lengths)]),
        tokens=ids.astype(np.uint16 if vocab_size <= 1 << 16 else np.uint32),
        sentence_lengths=np.array(sentence_lengths, np.int64),
        document_lengths=np.array(document_lengths, np.int64),
        token_counts=np.bincount(ids, minlength=vocab_size),
    )
    with atomic_path(task.path) as unfinished:
        unfinished.write_bytes(content.getbuffer())
    data_files.write_record(data_files.DataFile(**data_files.describe(task.path)), record_path)


def make(text: Text, settings: Settings, vocab_path: Path, work: Path, pool: WorkerPool) -> TokenStore:
    """Tokenizes a text, unless that is done, and maps its tokens into memory.

    Args:
        text: The text.
        settings: How to read it.
        vocab_path: The vocabulary.
        work: The folder for the store.
        pool: Who does it.

    Raises:
        ConfigError: A file is not UTF-8, or there are fewer than two documents with a word.
        OSError: A file cannot be read or written.
        WorkerDied: A process was killed.
    """
    folder = work / text.split
    folder.mkdir(exist_ok=True)
    if not all(data_files.finished(_record_path(folder, name), folder) for name in FILE_NAMES):
        vocab_sha256 = data_files.sha256(vocab_path)
        tasks = [
            UnitTask(
                unit=unit,
                path=folder / f"part-{number:05d}.npz",
                vocab_path=vocab_path,
                vocab_sha256=vocab_sha256,
                lower_case=settings.data.lower_case,
                document_per_file=settings.document_per_file,
                sentence_per_line=settings.sentence_per_line,
            )
            for number, unit in enumerate(text.units)
        ]
        pool.run(tokenize_unit, tasks, f"{text.split} tokens", "parts")
        join([task.path for task in tasks], folder)
        for name in FILE_NAMES:
            file = data_files.DataFile(**data_files.describe(folder / name))
            data_files.write_record(file, _record_path(folder, name))
        for task in tasks:
            task.path.unlink()
    store = open_store(folder)
    text.expect_documents(len(store.document_starts) - 1)
    return store


def _record_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"
