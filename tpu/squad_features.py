"""SQuAD questions as features: windows of token ids in a TFRecord file, which is made once and then read.

Model Garden's `squad_lib` makes the features; the tokens come from `wordpiece.WordPiece`, which gives the same ids
as Model Garden's tokenizer and is faster. A file holds all that is needed to turn logits into answers.
"""

import hashlib

import pydantic
import tensorflow as tf
from absl import logging
from official.nlp.data import squad_lib
from tqdm import tqdm

import squad_data
from atomic_file import atomic_path
from config import ConfigError, Section
from data_files import DataFile, describe, is_whole, sha256
from paths import as_path, make_folder, read_bytes
from squad_config import SquadDataConfig
from squad_data import Split
from wordpiece import WordPiece

# Goes up when the same settings and files start to give other features.
FORMAT_VERSION = 1
# A run's copy of the manifest of what it trains on.
RUN_MANIFEST_NAME = "train_features.json"


class FeatureSettings(Section):
    """All that the content of a file of features follows from."""

    format_version: int
    split: Split
    data: SquadDataConfig
    squad_sha256: str
    vocab_sha256: str


class FeatureManifest(DataFile):
    """The description of a file of features, beside it. It is written last: where it is, the file is complete."""

    settings: FeatureSettings
    questions: int
    features: int
    unusable_questions: int = pydantic.Field(description="of the training file, whose answer is not in the context.")


class Tokenizer:
    """What `squad_lib` asks of a tokenizer.

    Args:
        vocabulary: The `vocabulary.Vocabulary`, of lower-case tokens.
    """

    def __init__(self, vocabulary):
        self._vocabulary, self._word_piece = vocabulary, WordPiece(vocabulary)

    def tokenize(self, text):
        """The WordPiece tokens of a text."""
        return [self._vocabulary.tokens[token] for token in self._word_piece.token_ids(text)]

    def convert_tokens_to_ids(self, tokens):
        """The ids of tokens."""
        return [self._vocabulary.ids[token] for token in tokens]


def prepare(squad_file, split, vocabulary, data, folder):
    """Makes the features of a SQuAD file, unless they are there.

    Args:
        squad_file: The path of the JSON file.
        split: "train" or "predict".
        vocabulary: The `vocabulary.Vocabulary`, of lower-case tokens.
        data: The `SquadDataConfig`.
        folder: Where to keep them; it is made if missing. It may serve several runs.

    Returns:
        The path of the TFRecord file and its `FeatureManifest`.

    Raises:
        ConfigError: The file cannot be used, see `squad_data.read`, or the folder cannot be written.
    """
    folder = as_path(folder)
    content = squad_data.read(squad_file, split, data.version_2_with_negative)
    settings = FeatureSettings(
        format_version=FORMAT_VERSION,
        split=split,
        data=data,
        squad_sha256=sha256(squad_file),
        vocab_sha256=hashlib.sha256("\n".join(vocabulary.tokens).encode()).hexdigest(),
    )
    digest = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:12]
    path, manifest_path = folder / f"{split}-{digest}.tfrecord", folder / f"{split}-{digest}.json"
    manifest = _existing(path, manifest_path, settings)
    if manifest is not None:
        return path, manifest

    try:
        make_folder(folder)
        examples = read_examples(squad_file, split, data)
        with atomic_path(path) as unfinished:
            count = _write(examples, split, vocabulary, data, unfinished)
            manifest = FeatureManifest(
                settings=settings,
                **{**describe(unfinished), "name": path.name},
                questions=len(examples),
                features=count,
                unusable_questions=sum(1 for _ in content.questions()) - len(examples),
            )
        if not count:
            raise ConfigError(f"{squad_file} gives no features. Received: no words in it. Expected contexts of text.")
        with atomic_path(manifest_path) as unfinished:
            unfinished.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"The features cannot be written: {error.strerror}. Received: {folder}. Expected a writable folder."
        ) from None
    return path, manifest


def read_examples(squad_file, split, data):
    """Model Garden's `SquadExample`s of a SQuAD file, without those whose answer is not in the context."""
    logging.set_verbosity(logging.ERROR)  # one warning for each answer that is not in its context
    return squad_lib.read_squad_examples(
        input_file=str(squad_file), is_training=split == "train", version_2_with_negative=data.version_2_with_negative
    )


def read_features(path, vocabulary):
    """Model Garden's `InputFeatures` of a file for prediction, as `squad_lib.postprocess_output` takes them.

    Args:
        path: A TFRecord file of `prepare`.
        vocabulary: The `vocabulary.Vocabulary`, of lower-case tokens.
    """
    features = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        stored = tf.train.Example.FromString(record).features.feature
        values = {name: list(value.int64_list.value) for name, value in stored.items()}
        length = sum(values["input_mask"])
        places = range(values["first_context_token"][0], values["first_context_token"][0] + len(values["words"]))
        features.append(
            squad_lib.InputFeatures(
                unique_id=values["unique_ids"][0],
                example_index=values["example_index"][0],
                doc_span_index=None,
                tokens=[vocabulary.tokens[token] for token in values["input_ids"][:length]],
                token_to_orig_map=dict(zip(places, values["words"], strict=True)),
                token_is_max_context=dict(zip(places, map(bool, values["max_context"]), strict=True)),
                input_ids=values["input_ids"],
                input_mask=values["input_mask"],
                segment_ids=values["segment_ids"],
            )
        )
    return features


def claim_folder(manifest, model_dir):
    """Binds a run's folder to what it trains on: the first call leaves a copy of the manifest there.

    Raises:
        ConfigError: The run was begun with other features.
    """
    path = as_path(model_dir) / RUN_MANIFEST_NAME
    if not path.exists():
        with atomic_path(path) as unfinished:
            unfinished.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return
    try:
        kept = FeatureManifest.model_validate_json(read_bytes(path))
    except pydantic.ValidationError:
        kept = None
    if kept is None or kept.settings != manifest.settings:
        raise ConfigError(
            f"The run was begun with other data. Received: a training file, vocabulary or settings unlike those of "
            f"{path}. Expected the same, or another folder for the run."
        )


def _existing(path, manifest_path, settings):
    """The manifest of features that are there and whole; None if they are to be made."""
    try:
        manifest = FeatureManifest.model_validate_json(read_bytes(manifest_path))
    except (OSError, pydantic.ValidationError):
        return None
    if is_whole(manifest, path.parent) and manifest.settings == settings:
        return manifest
    # The manifest goes first: it must never stand beside a file that it does not describe.
    manifest_path.unlink()
    return None


def _write(examples, split, vocabulary, data, path):
    """Writes the features of examples, in their order, and returns how many."""
    count = 0
    with (
        tf.io.TFRecordWriter(str(path)) as writer,
        tqdm(total=len(examples), desc=f"{split} features", unit=" questions", disable=None) as progress,
    ):

        def write(feature, is_padding=False):
            nonlocal count
            assert not is_padding
            writer.write(_serialize(feature, split))
            progress.update(feature.example_index - progress.n)
            count += 1

        squad_lib.convert_examples_to_features(
            examples=examples,
            tokenizer=Tokenizer(vocabulary),
            max_seq_length=data.seq_length,
            doc_stride=data.doc_stride,
            max_query_length=data.max_query_length,
            is_training=split == "train",
            output_fn=write,
            batch_size=1,  # It pads to a multiple of this; what is read pads for itself.
        )
        progress.update(len(examples) - progress.n)
    return count


def _serialize(feature, split):
    """A feature under the names that Model Garden's question-answering reader expects, and a few more to predict."""
    values = {
        "unique_ids": [feature.unique_id],
        "input_ids": feature.input_ids,
        "input_mask": feature.input_mask,
        "segment_ids": feature.segment_ids,
    }
    if split == "train":
        values |= {
            "start_positions": [feature.start_position],
            "end_positions": [feature.end_position],
            "is_impossible": [int(feature.is_impossible)],
        }
    else:
        places = sorted(feature.token_to_orig_map)
        values |= {
            "example_index": [feature.example_index],
            "first_context_token": places[:1],
            "words": [feature.token_to_orig_map[place] for place in places],
            "max_context": [int(feature.token_is_max_context[place]) for place in places],
        }
    features = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=numbers)) for name, numbers in values.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)
