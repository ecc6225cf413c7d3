"""One file of examples, as a function of the settings and its number: it does not matter which process writes it."""

import hashlib
import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np

import data_files
import vocabulary as vocabularies
from atomic_file import atomic_path
from bert_config import DataConfig
from bert_examples import mask_pairs, pair_sentences
from bert_manifest import RecordFile, Settings
from bert_records import serialize
from config import ConfigError
from tfrecord import frame
from token_store import TokenStore, open_store
from work_folder import record_path

SPLITS = ("train", "held_out")
EXAMPLES_AT_ONCE = 2048
ORDER_NAME = "order.npy"


class ShardTask(NamedTuple):
    """A file to write: the examples of `documents[first:last]` of a store, in the order of its `order.npy`.

    Attributes:
        store_dir: The `Path` of the store.
        path: The `Path` of the file.
        record_path: The `Path` of the note that it is finished.
        vocab_path: The `Path` of the vocabulary.
        split: "train" or "held_out".
        number: Which of the files of this split and length it is, from 0.
        first: The place of its first document in the order.
        last: The place after its last.
        repetitions: How many times each document is used.
        seq_length: The tokens of an example.
        max_predictions: The most predictions of an example.
        data: The probabilities and the seed.
    """

    store_dir: Path
    path: Path
    record_path: Path
    vocab_path: Path
    split: str
    number: int
    first: int
    last: int
    repetitions: int
    seq_length: int
    max_predictions: int
    data: DataConfig


def plan(store: TokenStore, split: str, settings: Settings, output_dir: Path, work: Path) -> list[ShardTask]:
    """The files to write of a split, for every length.

    Args:
        store: The split's text, in `work` / `split`.
        split: "train" or "held_out".
        settings: What is to be made.
        output_dir: The folder of the files, with vocab.txt.
        work: The folder of the store, and of the records of finished files.

    Raises:
        ConfigError: There are fewer documents than files.
    """
    shards = settings.shards if split == "train" else 1
    order, edges = deal_documents(store, shards, settings.data.seed, split)
    with atomic_path(work / split / ORDER_NAME) as unfinished, unfinished.open("wb") as file:
        np.save(file, order)
    tasks = []
    for (seq_length, max_predictions), number in itertools.product(settings.lengths, range(shards)):
        name = f"{split}_{seq_length}-{number:05d}-of-{shards:05d}.tfrecord"
        tasks.append(
            ShardTask(
                store_dir=work / split,
                path=output_dir / name,
                record_path=record_path(work, name),
                vocab_path=output_dir / "vocab.txt",
                split=split,
                number=number,
                first=int(edges[number]),
                last=int(edges[number + 1]),
                repetitions=settings.data.dupe_factor if split == "train" else 1,
                seq_length=seq_length,
                max_predictions=max_predictions,
                data=settings.data,
            )
        )
    return tasks


def deal_documents(store: TokenStore, shards: int, seed: int, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Deals documents to files of about as many tokens each, at random.

    Returns:
        The order of the documents, int64 [documents], and where in it each file begins, with its end at last, int64
        [shards + 1].

    Raises:
        ConfigError: There are fewer documents than files.
    """
    count = len(store.document_starts) - 1
    if count < shards:
        raise ConfigError(
            f"Too few documents for the files of {split}. Received: --shards {shards}. Expected at most {count}."
        )
    order = np.random.default_rng([seed, SPLITS.index(split)]).permutation(count)
    tokens = np.diff(store.sentence_starts[store.document_starts])[order]
    numbers = np.arange(1, shards)
    edges = 1 + np.searchsorted(np.cumsum(tokens), tokens.sum() * numbers / shards)
    # A document may have the tokens of several files, and yet every file gets one.
    edges = np.maximum.accumulate(edges - numbers) + numbers
    edges = np.clip(edges, numbers, count - shards + numbers)
    return order, np.concatenate([[0], edges, [count]])


def write_shard(task: ShardTask) -> RecordFile:
    """Writes a file of examples in random order, unless it is there, and a note that it is finished.

    Raises:
        OSError: A file cannot be read or written.
    """
    if done := data_files.finished(task.record_path, task.path.parent, RecordFile):
        return done
    store = open_store(task.store_dir)
    documents = np.load(task.store_dir / ORDER_NAME, mmap_mode="r")[task.first : task.last].tolist()
    vocabulary = vocabularies.read(task.vocab_path)
    key = np.random.SeedSequence([task.data.seed, SPLITS.index(task.split), task.seq_length, task.number])
    pairing, order, masking = map(np.random.default_rng, key.spawn(3))

    pairs = pair_sentences(
        store, documents, task.repetitions, task.seq_length, task.data.short_sequence_probability, pairing
    )
    pairs = pairs.take(order.permutation(len(pairs.a_start)))
    count = len(pairs.a_start)
    size_bytes, digest = 0, hashlib.sha256()
    with atomic_path(task.path) as unfinished, unfinished.open("wb") as file:
        for start in range(0, count, EXAMPLES_AT_ONCE):
            examples = mask_pairs(
                store,
                pairs.take(slice(start, start + EXAMPLES_AT_ONCE)),
                vocabulary,
                masking,
                seq_length=task.seq_length,
                max_predictions=task.max_predictions,
                masked_lm_probability=task.data.masked_lm_probability,
                whole_word_masking=task.data.whole_word_masking,
            )
            content = frame(serialize(examples))
            file.write(content)
            digest.update(content)
            size_bytes += len(content)
    done = RecordFile(
        name=task.path.name,
        size_bytes=size_bytes,
        sha256=digest.hexdigest(),
        split=task.split,
        seq_length=task.seq_length,
        max_predictions=task.max_predictions,
        examples=count,
    )
    data_files.write_record(done, task.record_path)
    return done
