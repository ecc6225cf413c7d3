"""What a folder of prepared pre-training data holds."""

import re
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from bert_config import DataConfig
from config import ConfigError, Section
from data_files import DataFile
from data_manifest import DataManifest
from paths import as_path
from vocabulary import Vocabulary
from vocabulary import read as read_vocabulary

# Goes up when the same settings and text start to give other examples.
FORMAT_VERSION = 2


class Settings(Section):
    """All that the content of the files follows from."""

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


class Manifest(DataManifest):
    """The manifest of data for pre-training."""

    made_by: ClassVar[str] = "tpu/prepare_bert_data.py"
    record_file: ClassVar[re.Pattern] = re.compile(r"(train|held_out)_\d+-\d+-of-\d+\.tfrecord")
    settings: Settings
    vocab_size: int = Field(description="the tokens in the vocabulary, at most settings.data.vocab_size.")
    vocab_file: DataFile
    train_text: TextCounts
    held_out_text: TextCounts
    most_frequent_token: TokenFrequency
    record_files: tuple[RecordFile, ...]

    @property
    def files(self) -> tuple[DataFile, ...]:
        """Every file of the folder but manifest.json."""
        return (self.vocab_file, *self.record_files)

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
