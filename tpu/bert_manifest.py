"""What a folder of prepared pre-training data holds, and whether it is all there."""

from pathlib import Path
from typing import Literal

import pydantic
from pydantic import Field

from atomic_file import atomic_path
from bert_config import DataConfig
from config import ConfigError, Section
from data_files import DataFile, check, is_whole
from paths import as_path, read_bytes
from vocabulary import Vocabulary
from vocabulary import read as read_vocabulary

MANIFEST_NAME = "manifest.json"
# Goes up when the same settings and text start to give other examples.
FORMAT_VERSION = 2


class Settings(Section):
    """All that the content of the files follows from. Equal settings mean equal files."""

    format_version: int
    data: DataConfig
    lengths: tuple[tuple[int, int], ...] = Field(description="each distinct [seq_length, max_predictions].")
    shards: int = Field(description="the training files of each length.")
    train_text_sha256: str = Field(description="of the file; of several files, see `text_files.sha256`.")
    held_out_text_sha256: str
    vocab_sha256: str | None = Field(description="of the vocabulary that was given; None if it was learned.")
    document_per_file: bool = Field(description="whether each file of text is one document.")
    sentence_per_line: bool = Field(description="whether each line of text is one sentence.")


class RecordFile(DataFile):
    """A file of serialized `tf.train.Example`."""

    split: Literal["train", "held_out"]
    seq_length: int
    max_predictions: int
    examples: int


class TokenFrequency(Section):
    """How often a token occurs in the training text."""

    id: int
    token: str
    count: int
    share: float = Field(description="of all tokens of the training text.")


class TextCounts(Section):
    """How much text there is."""

    documents: int
    sentences: int
    tokens: int


class Manifest(Section):
    """The content of manifest.json. It is written last: where it is, the other files are complete."""

    settings: Settings
    vocab_size: int = Field(description="the tokens in the vocabulary, at most settings.data.vocab_size.")
    vocab_file: DataFile
    train_text: TextCounts
    held_out_text: TextCounts
    most_frequent_token: TokenFrequency
    record_files: tuple[RecordFile, ...]

    def select(self, split: Literal["train", "held_out"], seq_length: int) -> list[RecordFile]:
        """The files of one split and length, in order of their names."""
        return [file for file in self.record_files if (file.split, file.seq_length) == (split, seq_length)]

    def records(
        self, data_dir: str | Path, split: Literal["train", "held_out"], seq_length: int
    ) -> tuple[list[str], int]:
        """The paths of the files of one split and length, and how many examples they hold together."""
        files = self.select(split, seq_length)
        return [str(as_path(data_dir) / file.name) for file in files], sum(file.examples for file in files)

    def vocabulary(self, data_dir: str | Path) -> Vocabulary:
        """The vocabulary: its special ids, and which ids are pieces inside a word."""
        return read_vocabulary(as_path(data_dir) / self.vocab_file.name)


def load(data_dir: str | Path) -> Manifest:
    """Reads the manifest of a folder and checks that every file is there and whole.

    Raises:
        ConfigError: The manifest is missing or unreadable, or a file is missing or has another content.
    """
    manifest = read(data_dir)
    check_files(manifest, data_dir)
    return manifest


def read(data_dir: str | Path) -> Manifest:
    """Reads the manifest of a folder without a look at the other files."""
    path = as_path(data_dir) / MANIFEST_NAME
    try:
        return Manifest.model_validate_json(read_bytes(path))
    except FileNotFoundError:
        raise ConfigError(
            f"No prepared data found. Received: {data_dir}. "
            f"Expected a folder with {MANIFEST_NAME}, as written by tpu/prepare_bert_data.py."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Expected a readable file.") from None
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        raise ConfigError(
            f"{path} is not a manifest of this version. Received: {where}: {problem['msg']}. "
            "Expected the file that tpu/prepare_bert_data.py writes."
        ) from None


def is_complete(manifest: Manifest, data_dir: str | Path) -> bool:
    """Whether every file of the manifest is there and whole."""
    return all(is_whole(file, data_dir) for file in (manifest.vocab_file, *manifest.record_files))


def check_files(manifest: Manifest, data_dir: str | Path) -> None:
    """Raises a `ConfigError` if a file of the manifest is missing or has another content."""
    for file in (manifest.vocab_file, *manifest.record_files):
        check(file, data_dir)


def claim_folder(manifest: Manifest, model_dir: str | Path) -> None:
    """Binds a run's folder to its data: the first call leaves a copy of the manifest there.

    Raises:
        ConfigError: The run was begun with other data.
    """
    path = as_path(model_dir) / MANIFEST_NAME
    if not path.exists():
        with atomic_path(path) as unfinished:
            unfinished.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    elif read(model_dir).settings != manifest.settings:
        raise ConfigError(
            f"The run was begun with other data. Received: data unlike that of {path}. "
            "Expected the same data, or another folder for the run."
        )


def check_covers(manifest: Manifest, stages) -> None:
    """Raises a `ConfigError` unless there are training and held-out examples for every stage of a run.

    Args:
        manifest: The manifest of the data.
        stages: The run's `bert_config.StageConfig`s.
    """
    for number, stage in enumerate(stages):
        wanted = (stage.seq_length, stage.max_predictions)
        for split in ("train", "held_out"):
            files = manifest.select(split, stage.seq_length)
            if not files or {(file.seq_length, file.max_predictions) for file in files} != {wanted}:
                raise ConfigError(
                    f"The data has no {split} examples for stages.{number}. "
                    f"Received: [seq_length, max_predictions] of {[list(pair) for pair in manifest.settings.lengths]}. "
                    f"Expected: {list(wanted)}; run tpu/prepare_bert_data.py with the same config."
                )
