"""Turns text into the TFRecord files of a BERT pre-training run.

    python tpu/prepare_bert_data.py --config_file configs/bert/tiny.yaml --output_dir data/bert_tiny \
        --train_text data/python_docs/train.txt --held_out_text data/python_docs/held_out.txt

A text has one paragraph a line and a blank line between two documents. The vocabulary is learned from the training
text. The folder gets vocab.txt, the files of both splits for each sequence length of the config's stages and, at
last, manifest.json. A second run with the same settings and texts does nothing. All examples of one length are held
in memory, about 3 KiB for each at 128 tokens.
"""

import argparse
import hashlib
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import bert_manifest
from atomic_file import atomic_path
from bert_config import DataConfig, PretrainConfig
from bert_examples import SPECIAL_TOKENS, Document, Example, document_examples, split_sentences
from bert_manifest import DataFile, Manifest, RecordFile, Settings, TokenFrequency
from config import ConfigError
from config import add_arguments as add_config_arguments
from config import load as load_config
from wordpiece import tokenize, train_vocabulary


def main(arguments: list[str] | None = None) -> int:
    """Prepares the data that the command line asks for.

    Returns:
        The exit code: 0, or 2 after one sentence on stderr about input that cannot be used.
    """
    args = parse_arguments(arguments)
    try:
        config = load_config(args.config_file, PretrainConfig, args.overrides)
        manifest = prepare(config, args.train_text, args.held_out_text, args.output_dir, args.shards, args.overwrite)
        for line in inspect_examples(manifest, args.output_dir, args.inspect):
            print(line)
    except ConfigError as error:
        print(f"prepare_bert_data: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"prepare_bert_data: {error.strerror}. Received: {error.filename}. "
            "Expected text files to read and a folder to write to.",
            file=sys.stderr,
        )
        return 2
    return 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="prepare_bert_data", description=__doc__.splitlines()[0])
    add_config_arguments(parser)
    parser.add_argument("--train_text", type=Path, required=True, help="the text to learn from")
    parser.add_argument("--held_out_text", type=Path, required=True, help="the text to evaluate on")
    parser.add_argument("--output_dir", type=Path, required=True, help="the folder of the prepared data")
    parser.add_argument("--shards", type=int, default=4, help="the training files of each sequence length")
    parser.add_argument("--overwrite", action="store_true", help="replace data made with other settings")
    parser.add_argument("--inspect", type=int, default=0, metavar="N", help="then print N training examples in words")
    return parser.parse_args(arguments)


def prepare(
    config: PretrainConfig, train_text: Path, held_out_text: Path, output_dir: Path, shards: int, overwrite: bool
) -> Manifest:
    """Writes the prepared data of a config, unless it is there already, and returns its manifest.

    Raises:
        ConfigError: A text, a length or the number of shards cannot be used, or the folder holds other data.
        OSError: A file cannot be read or written.
    """
    if shards < 1:
        raise ConfigError(f"There must be a training file. Received: --shards {shards}. Expected a number >= 1.")
    train_paragraphs, train_sha256 = read_text(train_text)
    held_out_paragraphs, held_out_sha256 = read_text(held_out_text)
    settings = Settings(
        format_version=bert_manifest.FORMAT_VERSION,
        data=config.data,
        lengths=distinct_lengths(config),
        shards=shards,
        train_text_sha256=train_sha256,
        held_out_text_sha256=held_out_sha256,
    )
    output_dir.mkdir(parents=True, exist_ok=True)
    if manifest := existing_data(output_dir, settings, overwrite):
        print(f"{output_dir} is up to date")
        return manifest

    # --- vocabulary, of the training text alone ---
    lines = [line for document in train_paragraphs for line in document]
    vocabulary = train_vocabulary(lines, config.data.vocab_size, SPECIAL_TOKENS)
    vocab_path = output_dir / "vocab.txt"
    with atomic_path(vocab_path) as unfinished:
        unfinished.write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8", newline="\n")

    # --- tokens ---
    train_documents = tokenize_documents(train_paragraphs, vocabulary, "train")
    held_out_documents = tokenize_documents(held_out_paragraphs, vocabulary, "held_out")

    # --- examples of each length ---
    record_files = []
    for length in settings.lengths:
        train = make_examples(train_documents, config.data.dupe_factor, config.data, len(vocabulary), length, "train")
        record_files += write_records(train, output_dir, "train", length, shards)
        held_out = make_examples(held_out_documents, 1, config.data, len(vocabulary), length, "held_out")
        record_files += write_records(held_out, output_dir, "held_out", length, 1)

    # --- manifest, last: where it is, all files are ---
    manifest = Manifest(
        settings=settings,
        vocab_size=len(vocabulary),
        vocab_file=DataFile(**describe_file(vocab_path)),
        most_frequent_token=most_frequent_token(train_documents, vocabulary),
        record_files=tuple(record_files),
    )
    with atomic_path(output_dir / bert_manifest.MANIFEST_NAME) as unfinished:
        unfinished.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8", newline="\n")
    print(f"{vocab_path.name}: {len(vocabulary):,} tokens")
    for file in record_files:
        print(f"{file.name}: {file.examples:,} examples")
    return manifest


def read_text(path: Path) -> tuple[list[list[str]], str]:
    """The documents of a text as lists of paragraphs, and the SHA-256 of the file."""
    if not path.is_file():
        raise ConfigError(f"Text file not found. Received: {path}. Expected a text with one paragraph a line.")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not text. Received: {error.reason} at byte {error.start}. Expected UTF-8."
        ) from None
    documents = [[]]
    for line in text.split("\n"):
        if line.strip():
            documents[-1].append(line.strip())
        elif documents[-1]:
            documents.append([])
    documents = [document for document in documents if document]
    if len(documents) < 2:
        raise ConfigError(
            f"{path} has too little text. Received: {len(documents)} documents. "
            "Expected two or more, with a blank line between them."
        )
    return documents, hashlib.sha256(content).hexdigest()


def distinct_lengths(config: PretrainConfig) -> tuple[tuple[int, int], ...]:
    """Each (seq_length, max_predictions) of the stages once, in their order."""
    lengths = tuple(dict.fromkeys((stage.seq_length, stage.max_predictions) for stage in config.stages))
    if len(dict(lengths)) < len(lengths):
        raise ConfigError(
            "Stages of one seq_length read the same files. "
            f"Received: [seq_length, max_predictions] = {[list(length) for length in lengths]}. "
            "Expected one max_predictions for each seq_length."
        )
    return lengths


def existing_data(output_dir: Path, settings: Settings, overwrite: bool) -> Manifest | None:
    """The manifest of `output_dir` if its data is what `settings` ask for; None if the data is to be made.

    Raises:
        ConfigError: The folder holds data made with other settings, and `overwrite` is not set.
    """
    manifest_path = output_dir / bert_manifest.MANIFEST_NAME
    if not manifest_path.exists():
        return None
    manifest = obstacle = None
    try:
        manifest = bert_manifest.read(output_dir)
        if manifest.settings != settings:
            obstacle = f"{output_dir} holds other data. {describe_change(manifest.settings, settings)}."
    except ConfigError as error:
        obstacle = str(error)
    if obstacle and not overwrite:
        raise ConfigError(f"{obstacle} Choose another --output_dir or pass --overwrite.")
    if not obstacle and bert_manifest.is_complete(manifest, output_dir):
        return manifest
    # The manifest goes first: it must never stand beside files that it does not describe.
    manifest_path.unlink()
    for file in manifest.record_files if manifest else ():
        (output_dir / file.name).unlink(missing_ok=True)
    return None


def describe_change(made_with: Settings, wanted: Settings) -> str:
    """The first setting that differs, as the end of an error message."""
    old, new = made_with.model_dump(), wanted.model_dump()
    old |= {f"data.{name}": value for name, value in old.pop("data").items()}
    new |= {f"data.{name}": value for name, value in new.pop("data").items()}
    name = next(name for name in new if old[name] != new[name])
    return f"Received: {name}={new[name]}. Expected {old[name]}, with which that data was made"


def tokenize_documents(paragraphs: list[list[str]], vocabulary: list[str], split: str) -> list[Document]:
    """Documents as lists of sentences, a sentence as a list of token ids; nothing empty is kept."""
    sentences, owners = [], []
    for index, document in enumerate(paragraphs):
        for paragraph in document:
            split_paragraph = split_sentences(paragraph)
            sentences += split_paragraph
            owners += [index] * len(split_paragraph)
    documents = [[] for _ in paragraphs]
    for index, tokens in zip(owners, tokenize(sentences, vocabulary, f"{split} tokens"), strict=True):
        if tokens:
            documents[index].append(tokens)
    documents = [document for document in documents if document]
    if len(documents) < 2:
        raise ConfigError(
            f"The {split} text has too few documents with a word. Received: {len(documents)}. Expected two or more."
        )
    return documents


def make_examples(
    documents: list[Document],
    repetitions: int,
    data: DataConfig,
    vocab_size: int,
    length: tuple[int, int],
    split: str,
) -> list[Example]:
    """All examples of a split in random order."""
    seq_length, max_predictions = length
    examples = []
    work = [(repetition, index) for repetition in range(repetitions) for index in range(len(documents))]
    for repetition, index in tqdm(work, desc=f"{split} {seq_length} examples", unit=" documents", disable=None):
        examples += document_examples(
            documents,
            index,
            repetition,
            data,
            vocab_size=vocab_size,
            seq_length=seq_length,
            max_predictions=max_predictions,
        )
    order = np.random.default_rng([data.seed, seq_length]).permutation(len(examples))
    return [examples[index] for index in order]


def write_records(
    examples: list[Example], output_dir: Path, split: str, length: tuple[int, int], shards: int
) -> list[RecordFile]:
    """Writes examples in turn to `shards` files of serialized `tf.train.Example`."""
    if len(examples) < shards:
        raise ConfigError(
            f"Too few examples for the files of {split}. Received: --shards {shards}. Expected at most {len(examples)}."
        )
    tf = import_tensorflow()
    seq_length, max_predictions = length
    files = []
    with tqdm(total=len(examples), desc=f"{split} {seq_length} files", unit=" examples", disable=None) as progress:
        for shard in range(shards):
            path = output_dir / f"{split}_{seq_length}-{shard:05d}-of-{shards:05d}.tfrecord"
            shard_examples = examples[shard::shards]
            with atomic_path(path) as unfinished, tf.io.TFRecordWriter(str(unfinished)) as writer:
                for example in shard_examples:
                    writer.write(serialize(example, tf))
                    progress.update()
            files.append(
                RecordFile(
                    **describe_file(path),
                    split=split,
                    seq_length=seq_length,
                    max_predictions=max_predictions,
                    examples=len(shard_examples),
                )
            )
    return files


def serialize(example: Example, tf: Any) -> bytes:
    """The example in the features that Model Garden's pre-training reader expects (version 2 names)."""
    integers = {
        "input_word_ids": example.input_word_ids,
        "input_mask": example.input_mask,
        "input_type_ids": example.input_type_ids,
        "masked_lm_positions": example.masked_lm_positions,
        "masked_lm_ids": example.masked_lm_ids,
        "next_sentence_labels": np.array([example.next_sentence_label]),
    }
    features = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=values.tolist()))
        for name, values in integers.items()
    }
    weights = tf.train.FloatList(value=example.masked_lm_weights.tolist())
    features["masked_lm_weights"] = tf.train.Feature(float_list=weights)
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def describe_file(path: Path) -> dict[str, Any]:
    """The fields of a `DataFile`."""
    return {"name": path.name, "size_bytes": path.stat().st_size, "sha256": bert_manifest.sha256(path)}


def most_frequent_token(documents: list[Document], vocabulary: list[str]) -> TokenFrequency:
    """The token that a model without context would always answer."""
    tokens = np.concatenate([np.concatenate(document) for document in documents])
    counts = np.bincount(tokens)
    best = int(counts.argmax())
    count = int(counts[best])
    return TokenFrequency(id=best, token=vocabulary[best], count=count, share=count / len(tokens))


def inspect_examples(manifest: Manifest, data_dir: Path, count: int) -> Iterator[str]:
    """The first training examples in words: [shown→answer] where the model is to predict."""
    if not count:
        return
    tf = import_tensorflow()
    vocabulary = (data_dir / manifest.vocab_file.name).read_text(encoding="utf-8").split("\n")
    for record in itertools.islice(read_records(data_dir / manifest.record_files[0].name), count):
        feature = tf.train.Example.FromString(record).features.feature
        words = [vocabulary[index] for index in feature["input_word_ids"].int64_list.value]
        words = words[: sum(feature["input_mask"].int64_list.value)]
        for position, answer, weight in zip(
            feature["masked_lm_positions"].int64_list.value,
            feature["masked_lm_ids"].int64_list.value,
            feature["masked_lm_weights"].float_list.value,
            strict=True,
        ):
            if weight:
                words[position] = f"[{words[position].strip('[]')}→{vocabulary[answer]}]"
        is_random_next = feature["next_sentence_labels"].int64_list.value[0]
        yield f"{'random' if is_random_next else 'actual'} next: {' '.join(words)}"


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file. Unlike `tf.data`, this occupies no accelerator."""
    with path.open("rb") as file:
        while header := file.read(12):  # the length in 8 bytes and its checksum in 4
            yield file.read(int.from_bytes(header[:8], "little"))
            file.read(4)  # the checksum of the record


def import_tensorflow() -> Any:
    """TensorFlow, only once there is something to write: a run that is up to date does not wait for it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow

    return tensorflow


if __name__ == "__main__":
    sys.exit(main())
