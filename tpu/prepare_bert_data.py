"""Turns text into the TFRecord files of a BERT pre-training run.

    python tpu/prepare_bert_data.py --config_file configs/bert/tiny.yaml --output_dir data/bert_tiny \
        --train_text data/python_docs/train.txt --held_out_text data/python_docs/held_out.txt

A text is one or several files, or folders, which stand for all files under them. A file has one paragraph a line and
a blank line between two documents; with --document_per_file each file is one document. Paragraphs are split into
sentences; with --sentence_per_line each line is one.

The vocabulary is learned from the training text, in one process, or given by --vocab_file. Everything else is done
by several processes, and the files do not depend on their number. No process holds the text or the examples: the
token ids are kept in a memory-mapped file, 2 bytes each, until the end.

The output folder gets vocab.txt, the files of both splits for each sequence length of the config's stages and, at
last, manifest.json. The same command continues a run that was interrupted or killed, and does nothing if the folder
is up to date.
"""

import argparse
import errno
import itertools
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import bert_manifest
import bert_shards
import data_files
import text_files
import tokenize_text
import vocabulary as vocabularies
import work_folder
from bert_config import PretrainConfig
from bert_manifest import Manifest, RecordFile, Settings, TextCounts, TokenFrequency
from bert_shards import SPLITS
from bert_words import examples_in_words
from config import ConfigError
from config import add_arguments as add_config_arguments
from config import load as load_config
from data_files import DataFile
from paths import local_path
from text_files import Text
from token_store import TokenStore
from wordpiece import train_vocabulary
from worker_pool import WorkerDied, WorkerPool

# Starting a process takes as long as preparing about so much text.
MIN_BYTES_PER_PROCESS = 4 << 20


def main(arguments: list[str] | None = None) -> int:
    """Prepares the data that the command line asks for.

    Returns:
        The exit code: 0; 2 after one sentence on stderr about input that cannot be used or files that cannot be
        written; 1 if a process was killed; 130 when interrupted.
    """
    args = parse_arguments(arguments)
    # Each process computes on one core, and NumPy's linear algebra would start threads for all of them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        config = load_config(args.config_file, PretrainConfig, args.overrides)
        manifest = prepare(
            config,
            args.train_text,
            args.held_out_text,
            args.output_dir,
            args.shards,
            args.overwrite,
            vocab_file=args.vocab_file,
            document_per_file=args.document_per_file,
            sentence_per_line=args.sentence_per_line,
            processes=args.processes,
        )
        for line in examples_in_words(manifest, args.output_dir, args.inspect):
            print(line)
    except (ConfigError, WorkerDied) as error:
        print(f"prepare_bert_data: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        expected = "room; the same command continues" if is_full else "text files to read and a folder to write to"
        received = args.output_dir if is_full else error.filename or args.output_dir
        print(f"prepare_bert_data: {error.strerror}. Received: {received}. Expected {expected}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nprepare_bert_data: interrupted; the same command continues.", file=sys.stderr)
        return 130
    return 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="prepare_bert_data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument("--train_text", type=local_path, required=True, nargs="+", help="the text to learn from")
    parser.add_argument("--held_out_text", type=local_path, required=True, nargs="+", help="the text to evaluate on")
    parser.add_argument("--document_per_file", action="store_true", help="each file of text is one document")
    parser.add_argument("--sentence_per_line", action="store_true", help="each line of text is one sentence")
    parser.add_argument("--vocab_file", type=local_path, help="a vocab.txt to use (default: one is learned)")
    parser.add_argument("--output_dir", type=local_path, required=True, help="the folder of the prepared data")
    parser.add_argument("--shards", type=int, default=4, help="the training files of each sequence length (default: 4)")
    parser.add_argument("--processes", type=int, help="how many to use (default: one a core; fewer for little text)")
    parser.add_argument("--overwrite", action="store_true", help="replace data made with other settings")
    parser.add_argument("--inspect", type=int, default=0, metavar="N", help="then print N training examples in words")
    return parser.parse_args(arguments)


def prepare(
    config: PretrainConfig,
    train_text: Path | Sequence[Path],
    held_out_text: Path | Sequence[Path],
    output_dir: Path,
    shards: int,
    overwrite: bool,
    *,
    vocab_file: Path | None = None,
    document_per_file: bool = False,
    sentence_per_line: bool = False,
    processes: int | None = None,
) -> Manifest:
    """Writes the prepared data of a config, unless it is there already, and returns its manifest.

    Args:
        config: What data the run needs.
        train_text: The text to learn from: files, or folders of them.
        held_out_text: The text to evaluate on.
        output_dir: The folder to write to.
        shards: The training files of each sequence length.
        overwrite: Whether to replace data made with other settings.
        vocab_file: A vocabulary; by default one is learned.
        document_per_file: Whether each file is one document; else blank lines divide documents.
        sentence_per_line: Whether each line is one sentence; else it is a paragraph.
        processes: How many to use; by default one for each core, or fewer for little text.

    Raises:
        ConfigError: A text, the vocabulary, a length or a number cannot be used, or the folder holds other data.
        OSError: A file cannot be read or written.
        WorkerDied: A process was killed.
    """
    for name, number in (("shards", shards), ("processes", processes)):
        if number is not None and number < 1:
            raise ConfigError(f"There must be one at least. Received: --{name} {number}. Expected a number >= 1.")
    texts = {
        split: text_files.open_text(split, paths, document_per_file)
        for split, paths in zip(SPLITS, (train_text, held_out_text), strict=True)
    }
    settings = Settings(
        format_version=bert_manifest.FORMAT_VERSION,
        data=config.data,
        lengths=distinct_lengths(config),
        shards=shards,
        train_text_sha256=text_files.sha256(texts["train"].files),
        held_out_text_sha256=text_files.sha256(texts["held_out"].files),
        vocab_sha256=check_vocabulary(vocab_file, config.data.vocab_size) if vocab_file else None,
        document_per_file=document_per_file,
        sentence_per_line=sentence_per_line,
    )
    processes = processes or default_processes(texts.values())
    output_dir.mkdir(parents=True, exist_ok=True)
    if manifest := work_folder.existing_data(output_dir, settings, Manifest, overwrite):
        print(f"{output_dir} is up to date")
        return manifest

    with work_folder.claim(output_dir, settings, Manifest) as work, WorkerPool(processes) as pool:
        vocab = make_vocabulary(texts["train"], settings, vocab_file, output_dir / "vocab.txt", work)
        stores = {
            split: tokenize_text.make(text, settings, output_dir / vocab.name, work, pool)
            for split, text in texts.items()
        }
        tasks = [
            task
            for split, store in stores.items()
            for task in bert_shards.plan(store, split, settings, output_dir, work)
        ]
        record_files = pool.run(bert_shards.write_shard, tasks, "examples", "files")

        # The manifest comes last: where it is, all files are.
        vocabulary = vocabularies.read(output_dir / vocab.name)
        manifest = Manifest(
            settings=settings,
            vocab_size=len(vocabulary),
            vocab_file=vocab,
            train_text=count_text(stores["train"]),
            held_out_text=count_text(stores["held_out"]),
            most_frequent_token=most_frequent_token(stores["train"], vocabulary),
            record_files=tuple(record_files),
        )
        manifest.write(output_dir)
    print(f"{vocab.name}: {manifest.vocab_size:,} tokens")
    for split, (seq_length, _) in itertools.product(SPLITS, settings.lengths):
        print(describe_files(manifest.select(split, seq_length)))
    return manifest


def default_processes(texts: Iterable[Text]) -> int:
    """One for each core that may be used, but none for so little text that it would be done before it starts."""
    size_bytes = sum(stretch.end - stretch.start for text in texts for unit in text.units for stretch in unit)
    return max(1, min(len(os.sched_getaffinity(0)), size_bytes // MIN_BYTES_PER_PROCESS))


def check_vocabulary(path: Path, vocab_size: int) -> str:
    """The SHA-256 of a vocabulary of `vocab_size` tokens.

    Raises:
        ConfigError: The file cannot be read, or holds something else.
    """
    size = len(vocabularies.read(path))
    if size != vocab_size:
        raise ConfigError(
            f"The vocabulary has another size. Received: {size} tokens in {path}. Expected data.vocab_size={vocab_size}"
            f"; --set data.vocab_size={size} changes it."
        )
    return data_files.sha256(path)


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


def make_vocabulary(text: Text, settings: Settings, vocab_file: Path | None, path: Path, work: Path) -> DataFile:
    """Writes vocab.txt, learned from the text unless a file is given, if it is not there."""
    record_path = work_folder.record_path(work, path.name)
    if done := data_files.finished(record_path, path.parent):
        return done
    if vocab_file:
        vocabulary = vocabularies.read(vocab_file)
    else:
        data = settings.data
        vocabulary = train_vocabulary(
            lambda: itertools.chain.from_iterable(text.documents()), data.vocab_size, data.lower_case
        )
    vocabularies.write(vocabulary, path)
    done = DataFile(**data_files.describe(path))
    data_files.write_record(done, record_path)
    return done


def count_text(store: TokenStore) -> TextCounts:
    """How much text a store holds."""
    documents, sentences = len(store.document_starts) - 1, len(store.sentence_starts) - 1
    return TextCounts(documents=documents, sentences=sentences, tokens=len(store.tokens))


def most_frequent_token(store: TokenStore, vocabulary: vocabularies.Vocabulary) -> TokenFrequency:
    """The token that a model without context would always answer."""
    best = int(store.token_counts.argmax())
    count = int(store.token_counts[best])
    return TokenFrequency(id=best, token=vocabulary.tokens[best], count=count, share=count / len(store.tokens))


def describe_files(files: Sequence[RecordFile]) -> str:
    """What the files of one split and length hold, in a line."""
    examples = sum(file.examples for file in files)
    return f"{files[0].name}: {examples:,} examples" + (f" in {len(files)} files" if len(files) > 1 else "")


if __name__ == "__main__":
    sys.exit(main())
