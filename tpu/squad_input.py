"""TFRecords of SQuAD features as distributed batches, in the order of `record_order`."""

import tensorflow as tf

from record_order import eval_records, train_records
from stages import split

# More features than SQuAD 2.0 has, so that the shuffle is a whole one.
SHUFFLE_FEATURES = 200_000
# The id of a feature that only fills up the last batch.
PADDING_ID = -1


def train_batches(strategy, path, count, global_batch_size, seq_length, seed, skip_steps):
    """The endless batches of training.

    Args:
        strategy: The `tf.distribute.Strategy` of the run.
        path: The TFRecord file of `squad_features.prepare`.
        count: How many features it holds.
        global_batch_size: The features of a batch, over all replicas.
        seq_length: The tokens of a feature.
        seed: An integer, the order's seed.
        skip_steps: How many batches to leave out at the beginning.

    Returns:
        A distributed dataset of feature dicts: int32 `[per_replica_batch, seq_length]` for `input_*`, int32
        `[per_replica_batch]` for `start_positions` and `end_positions`.
    """
    per_replica = global_batch_size // strategy.num_replicas_in_sync

    def batches(context):
        records = train_records(context, [str(path)], count, per_replica, seed, skip_steps, SHUFFLE_FEATURES)
        labels = ("start_positions", "end_positions")
        features = records.map(lambda records, _: _parse(records, seq_length, labels), tf.data.AUTOTUNE)
        return features.prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(batches)


def predict_batches(strategy, path, count, global_batch_size, seq_length):
    """Batches in which every feature is once; the last one is filled up with features of id `PADDING_ID`.

    Args:
        strategy: The `tf.distribute.Strategy` of the run.
        path: The TFRecord file of `squad_features.prepare`.
        count: How many features it holds.
        global_batch_size: The features of a batch, over all replicas.
        seq_length: The tokens of a feature.

    Returns:
        The distributed dataset of feature dicts, int32 `[per_replica_batch, seq_length]` for `input_*` and
        `[per_replica_batch]` for `unique_ids`, and the number of its global batches.
    """
    per_replica, _ = split(global_batch_size, strategy.num_replicas_in_sync, None)
    steps = -(-count // global_batch_size)

    def features(records, _, is_real):
        parsed = _parse(records, seq_length, ("unique_ids",))
        return parsed | {"unique_ids": tf.where(is_real, parsed["unique_ids"], PADDING_ID)}

    def batches(context):
        records = eval_records(context, [str(path)], count, per_replica, steps)
        return records.map(features, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(batches), steps


def _parse(records, seq_length, numbers):
    names = {"input_word_ids": "input_ids", "input_mask": "input_mask", "input_type_ids": "segment_ids"}
    description = {stored: tf.io.FixedLenFeature([seq_length], tf.int64) for stored in names.values()}
    description |= {number: tf.io.FixedLenFeature([], tf.int64) for number in numbers}
    features = tf.io.parse_example(records, description)
    return {name: tf.cast(features[names.get(name, name)], tf.int32) for name in (*names, *numbers)}
