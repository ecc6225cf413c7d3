"""Masking in the input pipeline: the rules of the data tool, anew in every epoch, whoever reads from wherever on."""

import numpy as np
import pytest
import tensorflow as tf
from made_documents import FIRST_ID, distinct_tokens, is_likely, make_store, make_vocabulary

import bert_input
import dynamic_masking
from bert_config import BertStageConfig
from bert_examples import Examples, mask_pairs, pair_sentences
from bert_records import serialize
from dynamic_masking import Masking
from tfrecord import frame

SEQ_LENGTH, MAX_PREDICTIONS = 64, 10
STAGE = {
    "seq_length": SEQ_LENGTH,
    "max_predictions": MAX_PREDICTIONS,
    "steps": 9,
    "learning_rate": 1,
    "warmup_steps": 1,
}
DOCUMENTS = distinct_tokens(300)
VOCAB_SIZE = DOCUMENTS[-1][-1][-1] + 1
# Words of three tokens, which truncation may cut.
VOCABULARY = make_vocabulary(VOCAB_SIZE, inner_pieces={token for token in range(VOCAB_SIZE) if token % 3})


@tf.function(reduce_retracing=True)
def traced(features, keys, seed, whole_words):
    return dynamic_masking.mask(features, keys, seed, Masking(0.15, whole_words, VOCABULARY))


def mask(features, keys, seed, masking):
    """As in a pipeline, traced: one by one, the rows take long."""
    return traced(features, keys, seed, masking.whole_words)


@pytest.fixture(scope="module")
def unmasked():
    """[CLS] A [SEP] B [SEP] and padding, of some 2,000 pairs, and the pairs."""
    store = make_store(DOCUMENTS)
    pairs = pair_sentences(store, range(len(DOCUMENTS)), 1, SEQ_LENGTH, 0.2, np.random.default_rng(1))
    rows = np.full((len(pairs.a_start), SEQ_LENGTH), VOCABULARY.pad_id)
    for row, (a, a_length, b, b_length, _) in zip(rows, zip(*pairs, strict=True), strict=True):
        sequence = [2, *store.tokens[a : a + a_length], 3, *store.tokens[b : b + b_length], 3]
        row[: len(sequence)] = sequence
    return rows, pairs, store


@pytest.fixture(scope="module", params=[False, True], ids=["tokens", "whole words"])
def masking(request):
    return Masking(0.15, request.param, VOCABULARY)


@pytest.fixture(scope="module")
def features(unmasked):
    """The examples as the data tool masks them and the input pipeline parses them."""
    _, pairs, store = unmasked
    examples = mask_pairs(
        store,
        pairs,
        VOCABULARY,
        np.random.default_rng(2),
        seq_length=SEQ_LENGTH,
        max_predictions=MAX_PREDICTIONS,
        masked_lm_probability=0.15,
        whole_word_masking=False,
    )
    return {name: tf.constant(values) for name, values in examples._asdict().items()}


def keys(epoch, count, file=0):
    return tf.constant([[epoch, file, place] for place in range(count)], tf.int64)


@pytest.fixture(scope="module")
def masked(features, masking):
    result = mask(features, keys(3, len(features["input_mask"])), 7, masking)
    return {name: value.numpy() for name, value in result.items()}


def test_tokens_are_restored_and_masked_anew(unmasked, features, masked):
    restored = masked["input_word_ids"].copy()
    rows, columns = np.nonzero(masked["masked_lm_weights"])
    restored[rows, masked["masked_lm_positions"][rows, columns]] = masked["masked_lm_ids"][rows, columns]
    np.testing.assert_array_equal(restored, unmasked[0])
    same = (masked["masked_lm_positions"] == features["masked_lm_positions"].numpy()).all(axis=1)
    assert same.mean() < 0.1
    for name in ("input_mask", "input_type_ids", "next_sentence_labels"):
        np.testing.assert_array_equal(masked[name], features[name])


def test_types_and_static_shapes(features, masking):
    """As in the pipeline: a batch of static shape stays one."""
    spec = {name: tf.TensorSpec(value.shape, value.dtype) for name, value in features.items()}
    key_spec = tf.TensorSpec([len(features["input_mask"]), 3], tf.int64)
    function = tf.function(lambda f, k: dynamic_masking.mask(f, k, 7, masking))
    outputs = function.get_concrete_function(spec, key_spec).structured_outputs
    assert {name: (value.shape, value.dtype) for name, value in outputs.items()} == {
        name: (value.shape, value.dtype) for name, value in features.items()
    }
    assert {value.dtype for name, value in outputs.items() if "weights" not in name} == {tf.int32}


def test_numbers_and_order_of_predictions(masked, masking):
    lengths = masked["input_mask"].sum(axis=1)
    limits = np.clip(np.rint(lengths * 0.15), 1, MAX_PREDICTIONS)
    numbers = masked["masked_lm_weights"].sum(axis=1)
    if masking.whole_words:
        assert np.all(numbers <= limits) and 0.9 < numbers.sum() / limits.sum() < 1
    else:
        np.testing.assert_array_equal(numbers, limits)
    places = np.arange(MAX_PREDICTIONS)
    np.testing.assert_array_equal(masked["masked_lm_weights"], (places < numbers[:, None]).astype(np.float32))
    padding = places >= numbers[:, None]
    assert not masked["masked_lm_positions"][padding].any() and not masked["masked_lm_ids"][padding].any()
    ascending = np.diff(masked["masked_lm_positions"], axis=1)[~padding[:, 1:]]
    assert np.all(ascending > 0)
    assert not VOCABULARY.is_special[masked["masked_lm_ids"][~padding]].any()


def test_80_10_10(features, masking):
    as_mask = unchanged = total = 0
    shown_random = []
    for epoch in range(3):
        batch = mask(features, keys(epoch, len(features["input_mask"])), 7, masking)
        shown = tf.gather(batch["input_word_ids"], batch["masked_lm_positions"], batch_dims=1).numpy()
        is_prediction = batch["masked_lm_weights"].numpy() > 0
        shown, originals = shown[is_prediction], batch["masked_lm_ids"].numpy()[is_prediction]
        total += len(shown)
        as_mask += (shown == VOCABULARY.mask_id).sum()
        unchanged += (shown == originals).sum()
        shown_random += shown[(shown != VOCABULARY.mask_id) & (shown != originals)].tolist()
    assert total > 20_000
    assert is_likely(as_mask, total, 0.8)
    assert is_likely(unchanged, total, 0.1 + 0.1 / VOCAB_SIZE)
    assert min(shown_random) >= FIRST_ID
    assert is_likely(sum(token < VOCAB_SIZE / 2 for token in shown_random), len(shown_random), 0.5)


def test_every_position_is_as_likely():
    rows = 6000
    features = {
        "input_word_ids": tf.tile([[2, *range(5, 25), 3, 25, 3]], [rows, 1]),
        "input_mask": tf.ones([rows, 24], tf.int32),
        "masked_lm_positions": tf.zeros([rows, 4], tf.int32),
        "masked_lm_ids": tf.zeros([rows, 4], tf.int32),
        "masked_lm_weights": tf.zeros([rows, 4]),
    }
    positions = mask(features, keys(0, rows), 7, Masking(0.15, False, VOCABULARY))["masked_lm_positions"].numpy()
    counts = np.bincount(positions.ravel(), minlength=24)
    assert not counts[[0, 21, 23]].any()
    assert all(is_likely(count, rows, 4 / 21) for count in np.delete(counts, [0, 21, 23]))


def test_each_part_of_the_key_changes_the_mask(features, masking):
    first = {name: value[:50] for name, value in features.items()}

    def positions(epoch=0, file=0, seed=7):
        return mask(first, keys(epoch, 50, file), seed, masking)["masked_lm_positions"].numpy()

    base = positions()
    np.testing.assert_array_equal(positions(), base)
    for other in (positions(epoch=1), positions(file=1), positions(seed=8)):
        assert (other == base).all(axis=1).mean() < 0.2


def test_the_mask_does_not_depend_on_the_batch(features, masked, masking):
    rows = [41, 3, 1000]
    some = {name: tf.gather(value, rows) for name, value in features.items()}
    result = mask(some, tf.gather(keys(3, 1001), rows), 7, masking)
    for name, value in result.items():
        np.testing.assert_array_equal(value, masked[name][rows], err_msg=name)


def test_masking_twice_is_masking_once(features, masked, masking):
    """The file's own masks leave no trace."""
    again = mask(masked, keys(3, len(masked["input_mask"])), 7, masking)
    for name, value in again.items():
        np.testing.assert_array_equal(value, masked[name], err_msg=name)


def test_words_are_taken_in_order_as_far_as_they_fit():
    """Against the rule, word by word."""
    rng = np.random.default_rng(5)
    is_ordinary, is_inner = rng.random((500, 30)) < 0.9, rng.random((500, 30)) < 0.5
    counts, scores = rng.integers(1, 12, 500).astype(np.int32), rng.random((500, 30))
    chosen = dynamic_masking._choose_words(*map(tf.constant, (is_ordinary, is_inner, counts, scores))).numpy()
    for row in range(500):
        words = []
        for position in np.flatnonzero(is_ordinary[row]):
            if is_inner[row, position] and words and words[-1][-1] == position - 1:
                words[-1].append(position)
            else:
                words.append([position])
        expected, room = set(), counts[row]
        for number in np.argsort(scores[row, : len(words)]):
            if len(words[number]) <= room:
                expected.update(words[number])
                room -= len(words[number])
        assert set(np.flatnonzero(chosen[row])) == expected


# --- in the pipeline ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(features, tmp_path_factory):
    """100 examples in three files of unequal sizes."""
    folder = tmp_path_factory.mktemp("files")
    arrays = {name: value.numpy() for name, value in features.items()}
    edges = [0, 20, 70, 100]
    paths = []
    for number, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
        examples = Examples(**{name: array[start:end] for name, array in arrays.items()})
        paths.append(folder / f"{number}.tfrecord")
        paths[-1].write_bytes(frame(serialize(examples)))
    return [str(path) for path in paths]


def read(files, strategy, masking, skip_steps, steps, global_batch_size=8):
    """The global batches as rows of (tokens shown, positions) in the order of the replicas."""
    stage = BertStageConfig(**STAGE, global_batch_size=global_batch_size)
    batches = iter(bert_input.train_batches(strategy, files, 100, stage, 5, skip_steps, masking))
    rows = []
    for _ in range(steps):
        batch = next(batches)
        parts = [
            tf.concat(strategy.experimental_local_results(batch[name]), axis=0).numpy()
            for name in ("input_word_ids", "masked_lm_positions", "masked_lm_ids")
        ]
        rows.append(np.concatenate(parts, axis=1))
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def one_device():
    return tf.distribute.OneDeviceStrategy("CPU:0")


@pytest.mark.parametrize("skip_steps", [1, 12, 13, 30])
def test_a_run_that_goes_on_sees_the_same(files, one_device, masking, skip_steps):
    """Epochs end within steps 13 and 26 of 8 examples."""
    whole = read(files, one_device, masking, 0, skip_steps + 3)
    np.testing.assert_array_equal(read(files, one_device, masking, skip_steps, 3), whole[skip_steps * 8 :])


def test_replicas_do_not_matter(files, one_device, two_replicas, masking):
    np.testing.assert_array_equal(read(files, two_replicas, masking, 0, 20), read(files, one_device, masking, 0, 20))


def test_pipelines_do_not_matter(files, one_device, masking):
    """Two hosts of two replicas each read what one host of four does."""

    class Pipelines:
        num_replicas_in_sync = 4

        def __init__(self, count):
            self._count = count

        def distribute_datasets_from_function(self, function):
            contexts = [tf.distribute.InputContext(self._count, number, 4) for number in range(self._count)]
            return [iter(function(context)) for context in contexts]

    stage = BertStageConfig(**STAGE, global_batch_size=8)

    def rows(count):
        pipelines = bert_input.train_batches(Pipelines(count), files, 100, stage, 5, 0, masking)
        steps = [[next(p)["input_word_ids"].numpy() for p in pipelines for _ in range(4 // count)] for _ in range(20)]
        return np.concatenate([batch for step in steps for batch in step])

    np.testing.assert_array_equal(rows(2), rows(1))
    np.testing.assert_array_equal(rows(1), read(files, one_device, masking, 0, 20)[:, :SEQ_LENGTH])


def test_epochs_mask_the_same_example_differently(files, one_device, masking):
    """Batches of 10 divide the epoch of 100."""

    def by_example(skip_steps):
        restored = {}
        for row in read(files, one_device, masking, skip_steps, 10, global_batch_size=10):
            tokens, positions, ids = np.split(row, [SEQ_LENGTH, SEQ_LENGTH + MAX_PREDICTIONS])
            tokens = tokens.copy()
            tokens[positions[ids > 0]] = ids[ids > 0]
            restored[tokens.tobytes()] = tuple(positions)
        return restored

    first, second = by_example(0), by_example(10)
    assert first.keys() == second.keys() and len(first) > 95
    assert sum(first[example] == second[example] for example in first) < 20


def test_without_masking_the_files_masks_are_kept(files, one_device, features):
    own = {tuple(row) for row in features["input_word_ids"].numpy()[:100].tolist()}
    rows = read(files, one_device, None, 0, 12)
    assert {tuple(row) for row in rows[:, :SEQ_LENGTH].tolist()} <= own


def test_masking_leaves_the_order_as_it_is(files, one_device, masking):
    plain, masked = (read(files, one_device, how, 0, 20) for how in (None, masking))
    unmasked = (plain[:, :SEQ_LENGTH] != 4) & (masked[:, :SEQ_LENGTH] != 4)
    agree = (plain[:, :SEQ_LENGTH] == masked[:, :SEQ_LENGTH])[unmasked]
    assert agree.mean() > 0.95
