"""TFRecords of SQuAD features as distributed batches, in an order that is a function of (seed, epoch) alone."""

import tensorflow as tf

from bert_input import of_this_pipeline
from stages import split

# More features than SQuAD 2.0 has, so that the shuffle is a whole one.
SHUFFLE_FEATURES = 200_000
# The id of a feature that only fills up the last batch.
PADDING_ID = -1


def train_batches(strategy, path, count, global_batch_size, seq_length, seed, skip_steps):
    """The endless batches of training.

    Every epoch has an order of its own, and a run that begins at `skip_steps` sees what an uninterrupted one would.

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
    first_epoch, skip_features = divmod(skip_steps * global_batch_size, count)

    def epoch(index):
        return tf.data.TFRecordDataset(str(path)).shuffle(SHUFFLE_FEATURES, seed=seed + index)

    def batches(context):
        epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
        records = epochs.flat_map(epoch).skip(skip_features).batch(per_replica, drop_remainder=True)
        records = of_this_pipeline(records, context)
        labels = ("start_positions", "end_positions")
        return records.map(lambda batch: _parse(batch, seq_length, labels), tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

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
    padding = steps * global_batch_size - count

    def batches(context):
        records = tf.data.TFRecordDataset(str(path)).batch(1)
        features = records.map(lambda batch: _parse(batch, seq_length, ("unique_ids",))).unbatch()
        # One token is seen: a softmax over none is not a number.
        empty = {name: tf.zeros(spec.shape, spec.dtype) for name, spec in features.element_spec.items()}
        empty |= {"input_mask": tf.one_hot(0, seq_length, dtype=tf.int32), "unique_ids": tf.constant(PADDING_ID)}
        features = features.concatenate(tf.data.Dataset.from_tensors(empty).repeat(padding))
        batches = features.batch(per_replica, drop_remainder=True)
        return of_this_pipeline(batches, context).prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(batches), steps


def _parse(records, seq_length, numbers):
    names = {"input_word_ids": "input_ids", "input_mask": "input_mask", "input_type_ids": "segment_ids"}
    description = {stored: tf.io.FixedLenFeature([seq_length], tf.int64) for stored in names.values()}
    description |= {number: tf.io.FixedLenFeature([], tf.int64) for number in numbers}
    features = tf.io.parse_example(records, description)
    return {name: tf.cast(features[names.get(name, name)], tf.int32) for name in (*names, *numbers)}
