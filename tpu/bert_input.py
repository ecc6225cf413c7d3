"""TFRecords of BERT examples as distributed batches, in an order that is a function of (seed, epoch) alone."""

import tensorflow as tf

import dynamic_masking
from stages import split

SHUFFLE_EXAMPLES = 100_000
READ_FILES = 16


def train_batches(strategy, files, example_count, stage, seed, skip_steps, masking=None):
    """The endless batches of one stage of training.

    Every epoch has an order of its own, and a run that begins at `skip_steps` sees what an uninterrupted one would.

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
    first_epoch, skip_examples = divmod(skip_steps * stage.global_batch_size, example_count)

    def epoch(index):
        def keyed_records(number, file):
            source = tf.data.Dataset.from_tensors((index, number)).repeat()
            return tf.data.Dataset.zip(tf.data.TFRecordDataset(file), source, tf.data.Dataset.counter())

        order = tf.data.Dataset.from_tensor_slices(sorted(files)).enumerate().shuffle(len(files), seed=seed + index)
        records = order.interleave(
            keyed_records, cycle_length=READ_FILES, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        return records.shuffle(SHUFFLE_EXAMPLES, seed=seed + index)

    def examples(records, source, places):
        features = _parse(records, stage)
        if masking is None:
            return features
        return dynamic_masking.mask(features, tf.stack([*source, places], axis=1), seed % 2**31, masking)

    def batches(context):
        epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
        records = epochs.flat_map(epoch).skip(skip_examples).batch(per_replica, drop_remainder=True)
        records = of_this_pipeline(records, context)
        return records.map(examples, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(batches)


def eval_batches(strategy, files, example_count, stage, global_batch_size):
    """Batches in which every example of `files` counts once; the last one is filled up with examples of weight zero.

    Returns:
        The distributed dataset, with the features of `train_batches`, and the number of its global batches.
    """
    per_replica, _ = split(global_batch_size, strategy.num_replicas_in_sync, None)
    steps = -(-example_count // global_batch_size)
    padding = steps * global_batch_size - example_count

    def batches(context):
        examples = tf.data.TFRecordDataset(sorted(files)).batch(1).map(lambda batch: _parse(batch, stage)).unbatch()
        empty = {name: tf.zeros(spec.shape, spec.dtype) for name, spec in examples.element_spec.items()}
        examples = examples.concatenate(tf.data.Dataset.from_tensors(empty).repeat(padding))
        batches = examples.batch(per_replica, drop_remainder=True)
        return of_this_pipeline(batches, context).prefetch(tf.data.AUTOTUNE)

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


def of_this_pipeline(batches, context):
    """The batches of one input pipeline: replicas take turns, so a global batch is the same on any number of hosts."""
    replicas_per_pipeline = context.num_replicas_in_sync // context.num_input_pipelines

    def belongs(index, _):
        return index % context.num_replicas_in_sync // replicas_per_pipeline == context.input_pipeline_id

    return batches.enumerate().filter(belongs).map(lambda _, batch: batch)
