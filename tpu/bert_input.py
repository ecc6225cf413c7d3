"""TFRecords of BERT examples as distributed batches, in the order of `record_order`."""

import tensorflow as tf

import dynamic_masking
from record_order import eval_records, train_records
from stages import split

SHUFFLE_EXAMPLES = 100_000


def train_batches(strategy, files, example_count, stage, seed, skip_steps, masking=None):
    """The endless batches of one stage of training.

    Args:
        strategy: The `tf.distribute.Strategy` of the run.
        files: The paths of the stage's TFRecords.
        example_count: How many examples `files` hold.
        stage: The `StageConfig`.
        seed: An integer, the order's seed.
        skip_steps: How many batches of the stage to leave out at its beginning.
        masking: A `dynamic_masking.Masking` to mask every example anew in every epoch; None keeps the files' masks.

    Returns:
        A distributed dataset of feature dicts: int32 `[share, seq_length]` for `input_*`, `[share, max_predictions]`
        for `masked_lm_*` (weights float32), int32 `[share]` for `next_sentence_labels`, and float32 `[share]` for
        `example_weights`, where `share` is a replica's part of the global batch.
    """
    per_replica = stage.global_batch_size // strategy.num_replicas_in_sync

    def examples(records, keys):
        features = _parse(records, stage)
        return features if masking is None else dynamic_masking.mask(features, keys, seed % 2**31, masking)

    def batches(context):
        records = train_records(context, files, example_count, per_replica, seed, skip_steps, SHUFFLE_EXAMPLES)
        return records.map(examples, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(batches)


def eval_batches(strategy, files, example_count, stage, global_batch_size):
    """Batches in which every example of `files` counts once; the last one is filled up with examples of weight zero.

    Returns:
        The distributed dataset, with the features of `train_batches`, and the number of its global batches.
    """
    per_replica, _ = split(global_batch_size, strategy.num_replicas_in_sync, None)
    steps = -(-example_count // global_batch_size)

    def examples(records, _, is_real):
        features, weights = _parse(records, stage), tf.cast(is_real, tf.float32)
        features["masked_lm_weights"] *= weights[:, tf.newaxis]
        features["example_weights"] *= weights
        return features

    def batches(context):
        records = eval_records(context, files, example_count, per_replica, steps)
        return records.map(examples, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(batches), steps


def _parse(records, stage):
    def integers(length):
        return tf.io.FixedLenFeature([length], tf.int64)

    features = tf.io.parse_example(
        records,
        {
            "input_word_ids": integers(stage.seq_length),
            "input_mask": integers(stage.seq_length),
            "input_type_ids": integers(stage.seq_length),
            "masked_lm_positions": integers(stage.max_predictions),
            "masked_lm_ids": integers(stage.max_predictions),
            "masked_lm_weights": tf.io.FixedLenFeature([stage.max_predictions], tf.float32),
            "next_sentence_labels": integers(1),
        },
    )
    features = {
        name: tf.cast(value, tf.int32) if value.dtype == tf.int64 else value for name, value in features.items()
    }
    features["next_sentence_labels"] = tf.squeeze(features["next_sentence_labels"], axis=1)
    features["example_weights"] = tf.ones_like(features["next_sentence_labels"], tf.float32)
    return features
