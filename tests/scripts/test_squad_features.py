"""Features: those of Model Garden, kept in a file that is made once, and read in an order of (seed, epoch) alone."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("official", reason="needs tf-models-official")

import squad_file  # noqa: E402
from official.nlp.data import question_answering_dataloader, squad_lib  # noqa: E402
from official.nlp.tools import tokenization  # noqa: E402

import squad_features  # noqa: E402
import squad_input  # noqa: E402
from config import ConfigError  # noqa: E402
from data_files import sha256  # noqa: E402
from squad_config import SquadDataConfig  # noqa: E402
from vocabulary import read as read_vocabulary  # noqa: E402

pytestmark = pytest.mark.model_garden

# Short windows, so that nearly every context has several.
DATA = SquadDataConfig(version_2_with_negative=True, seq_length=48, doc_stride=16, max_query_length=20)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a SQuAD 2.0 file and its features of both kinds."""
    folder = tmp_path_factory.mktemp("made")
    squad_file.write(folder, version_2=True, count=40)
    vocabulary = read_vocabulary(folder / "vocab.txt")
    result = types.SimpleNamespace(folder=folder, vocabulary=vocabulary)
    for split, name in (("train", "train.json"), ("predict", "dev.json")):
        setattr(result, split, squad_features.prepare(folder / name, split, vocabulary, DATA, folder / "features"))
    return result


def model_gardens(made, split):
    """The features by Model Garden alone, with its own tokenizer."""
    examples = squad_lib.read_squad_examples(
        str(made.folder / ("train.json" if split == "train" else "dev.json")), split == "train", True
    )
    features = []
    squad_lib.convert_examples_to_features(
        examples,
        tokenization.FullTokenizer(str(made.folder / "vocab.txt"), do_lower_case=True),
        DATA.seq_length,
        DATA.doc_stride,
        DATA.max_query_length,
        split == "train",
        lambda feature, is_padding=False: features.append(feature),
        batch_size=1,
    )
    return examples, features


def test_features_to_predict_are_model_gardens(made):
    examples, expected = model_gardens(made, "predict")
    path, manifest = made.predict
    features = squad_features.read_features(path, made.vocabulary)
    assert len(features) == len(expected) == manifest.features > 1.5 * len(examples)
    compared = "unique_id example_index tokens token_to_orig_map token_is_max_context input_ids input_mask segment_ids"
    for feature, other in zip(features, expected, strict=True):
        for name in compared.split():
            assert getattr(feature, name) == getattr(other, name), name
    assert manifest.questions == len(examples) == 40


def test_features_to_train_are_model_gardens_and_its_reader_reads_them(made):
    _, expected = model_gardens(made, "train")
    path, manifest = made.train
    params = question_answering_dataloader.QADataConfig(
        input_path=str(path), global_batch_size=1, is_training=True, seq_length=DATA.seq_length, shuffle_buffer_size=1
    )
    reader = question_answering_dataloader.QuestionAnsweringDataLoader(params).load().as_numpy_iterator()
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    ours = iter(squad_input.train_batches(strategy, path, manifest.features, 1, DATA.seq_length, seed=1, skip_steps=0))
    read, own = [], []
    for _ in range(manifest.features):
        inputs, labels = next(reader)
        read.append(row({**inputs, **labels}))
        own.append(row({name: value.numpy() for name, value in next(ours).items()}))
    made_rows = [
        row(
            {
                "input_word_ids": feature.input_ids,
                "input_mask": feature.input_mask,
                "input_type_ids": feature.segment_ids,
                "start_positions": feature.start_position,
                "end_positions": feature.end_position,
            }
        )
        for feature in expected
    ]
    assert len(made_rows) == manifest.features
    assert sorted(own) == sorted(read) == sorted(made_rows)
    assert own != made_rows, "The order is to be random."
    assert 10 < sum(feature.start_position > 0 for feature in expected) < manifest.features - 10


def row(values):
    names = ("input_word_ids", "input_mask", "input_type_ids", "start_positions", "end_positions")
    return json.dumps([np.asarray(values[name]).ravel().tolist() for name in names])


def test_an_answer_that_is_not_in_its_context_is_left_out_and_counted(made, tmp_path):
    content = squad_file.with_one_answer(squad_file.make(True, 8))
    squad_file.questions(content)[0][1]["answers"][0]["text"] = "these words are nowhere"
    (tmp_path / "train.json").write_text(json.dumps(content))
    _, manifest = squad_features.prepare(tmp_path / "train.json", "train", made.vocabulary, DATA, tmp_path / "f")
    assert (manifest.questions, manifest.unusable_questions) == (7, 1)


def test_features_are_made_once(made, monkeypatch):
    monkeypatch.setattr(squad_features, "_write", None)  # whoever calls it fails
    for split, name in (("train", "train.json"), ("predict", "dev.json")):
        again = squad_features.prepare(made.folder / name, split, made.vocabulary, DATA, made.folder / "features")
        assert again == getattr(made, split)
        assert sha256(again[0]) == again[1].sha256


def test_other_settings_have_files_of_their_own(made):
    other = DATA.model_copy(update={"doc_stride": 8})
    path, manifest = squad_features.prepare(
        made.folder / "dev.json", "predict", made.vocabulary, other, made.folder / "features"
    )
    assert path != made.predict[0] and made.predict[0].exists()
    assert manifest.features > made.predict[1].features


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "no manifest", "manifest of nothing"])
def test_damaged_features_are_made_again(made, tmp_path, damage):
    arguments = (made.folder / "dev.json", "predict", made.vocabulary, DATA, tmp_path)
    path, manifest = squad_features.prepare(*arguments)
    content, manifest_path = path.read_bytes(), path.with_suffix(".json")
    if damage == "cut":
        path.write_bytes(content[:-7])
    elif damage == "changed":
        path.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    elif damage == "missing":
        path.unlink()
    elif damage == "no manifest":
        manifest_path.unlink()
    else:
        manifest_path.write_text("{}")
    assert squad_features.prepare(*arguments) == (path, manifest)
    assert path.read_bytes() == content
    assert {file.name for file in tmp_path.iterdir()} == {path.name, manifest_path.name}


def test_an_interrupted_conversion_leaves_nothing(made, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(squad_features, "_serialize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        squad_features.prepare(made.folder / "dev.json", "predict", made.vocabulary, DATA, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_keeps_its_features(made, tmp_path):
    _, manifest = made.train
    squad_features.claim_folder(manifest, tmp_path)
    squad_features.claim_folder(manifest, tmp_path)
    settings = manifest.settings.model_copy(update={"squad_sha256": "0"})
    with pytest.raises(ConfigError, match="The run was begun with other data"):
        squad_features.claim_folder(manifest.model_copy(update={"settings": settings}), tmp_path)


def test_a_folder_that_cannot_be_written(made):
    with pytest.raises(ConfigError, match=r"The features cannot be written: .*Expected a writable folder"):
        squad_features.prepare(
            made.folder / "dev.json", "predict", made.vocabulary, DATA, made.folder / "vocab.txt" / "features"
        )


def order(strategy, train, skip_steps):
    path, manifest = train
    return squad_input.train_batches(strategy, path, manifest.features, 8, DATA.seq_length, 5, skip_steps)


@pytest.mark.parametrize("skip_steps", [1, 3, 50])
def test_skipped_batches_are_those_that_were_read_before(made, skip_steps):
    """50 batches of 8 are beyond the second epoch."""
    _, manifest = made.train
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")

    def rows(skip, take):
        batches = iter(order(strategy, made.train, skip))
        return [next(batches)["input_word_ids"].numpy() for _ in range(take)]

    assert 2 * manifest.features < 50 * 8
    everything = rows(0, skip_steps + 2)
    np.testing.assert_array_equal(rows(skip_steps, 2), everything[skip_steps:])


def test_epochs_have_different_orders_and_every_feature_once(made, two_replicas):
    _, manifest = made.train
    replicas = iter(order(two_replicas, made.train, 0))
    one = tf.distribute.OneDeviceStrategy("CPU:0")
    alone = iter(order(one, made.train, 0))
    epochs = []
    for _ in range(2 * manifest.features // 8 + 1):
        shares = two_replicas.experimental_local_results(next(replicas)["input_word_ids"])
        expected = next(alone)["input_word_ids"].numpy()
        np.testing.assert_array_equal(np.concatenate(shares), expected)
        epochs += [line.tobytes() for line in expected]
    first, second = epochs[: manifest.features], epochs[manifest.features : 2 * manifest.features]
    assert first != second and sorted(first) == sorted(second)


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_prediction_reads_every_feature_once(made, two_replicas, three_replicas, replicas):
    strategy = [tf.distribute.OneDeviceStrategy("CPU:0"), two_replicas, three_replicas][replicas - 1]
    path, manifest = made.predict
    batches, steps = squad_input.predict_batches(strategy, path, manifest.features, 6 * replicas, DATA.seq_length)
    assert manifest.features % (6 * replicas), "The last batch must have padding, or the test says nothing."
    ids, iterator = [], iter(batches)
    for _ in range(steps):
        batch = strategy.experimental_local_results(next(iterator)["unique_ids"])
        ids += np.concatenate(batch).tolist()
    padding = steps * 6 * replicas - manifest.features
    assert ids.count(squad_input.PADDING_ID) == padding
    features = squad_features.read_features(path, made.vocabulary)
    assert ids[: len(ids) - padding] == [feature.unique_id for feature in features]
