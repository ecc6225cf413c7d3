"""The bytes of examples and files are those that TensorFlow writes."""

import tempfile
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from bert_examples import Examples
from bert_records import serialize
from tfrecord import frame, masked_crc32c, read_records


def make_examples(count, seq_length, max_predictions, vocab_size, seed=0):
    rng = np.random.default_rng(seed)

    def integers(size, high):
        return rng.integers(0, high, (count, size), dtype=np.int32)

    return Examples(
        input_word_ids=integers(seq_length, vocab_size),
        input_mask=integers(seq_length, 2),
        input_type_ids=integers(seq_length, 2),
        masked_lm_positions=integers(max_predictions, seq_length),
        masked_lm_ids=integers(max_predictions, vocab_size),
        masked_lm_weights=rng.random((count, max_predictions), dtype=np.float32),
        next_sentence_labels=integers(1, 2),
    )


def by_tensorflow(examples):
    """Each example as TensorFlow's own message."""
    for row in range(len(examples.input_mask)):
        features = {}
        for name, values in examples._asdict().items():
            if values.dtype == np.float32:
                features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values[row].tolist()))
            else:
                features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values[row].tolist()))
        message = tf.train.Example(features=tf.train.Features(feature=features))
        yield message.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 2), (50, 128, 20, 30_522), (9, 512, 80, 119_547), (3, 2000, 300, 3_000_000)]
)
def test_messages_are_tensorflows(shape):
    examples = make_examples(*shape)
    assert serialize(examples) == list(by_tensorflow(examples))


@pytest.mark.parametrize("value", [0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_integers_at_the_edges_of_a_byte(value):
    examples = make_examples(2, 8, 2, 10)
    examples.input_word_ids[1, 3] = value
    assert serialize(examples) == list(by_tensorflow(examples))


@hypothesis.given(st.lists(st.binary(max_size=50), max_size=20))
@hypothesis.settings(max_examples=100)
def test_files_are_tensorflows(records):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)
        assert frame(records) == path.read_bytes()


def test_tensorflow_reads_the_records_and_checks_them(tmp_path):
    records = [bytes(range(number % 250)) for number in range(600)]
    content = bytearray(frame(records))
    path = tmp_path / "records"
    path.write_bytes(content)
    assert list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()) == records == list(read_records(path))
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(tf.errors.DataLossError):
        list(tf.data.TFRecordDataset(str(path)))


def test_crc32c_of_the_standard():
    """RFC 3720, appendix B.4, unmasked; and the mask's inverse."""
    expected = {bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, bytes(range(32)): 0x46DD794E, b"123456789": 0xE3069283}
    for content, masked in zip(expected, masked_crc32c(list(expected)).tolist(), strict=True):
        rotated = (masked - 0xA282EAD8) % 2**32
        assert (rotated >> 17 | rotated << 15) % 2**32 == expected[content]
