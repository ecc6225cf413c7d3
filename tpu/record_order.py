"""Which records come in which batch: a function of the files, the seed and the step alone."""

import tensorflow as tf

READ_FILES = 16


def train_records(context, files, count, per_replica_batch_size, seed, skip_steps, shuffle_records):
    """The endless batches of records of one input pipeline, for training.

    Every epoch has an order of its own, and a run that begins at `skip_steps` sees what an uninterrupted one would.

    Args:
        context: The `tf.distribute.InputContext` of the pipeline.
        files: The paths of the TFRecord files.
        count: How many records they hold.
        per_replica_batch_size: The records of a replica's share of a global batch.
        seed: An integer, the order's seed.
        skip_steps: How many global batches to leave out at the beginning.
        shuffle_records: From how many records the next one is drawn.

    Returns:
        A dataset of batches: the records, string `[per_replica_batch_size]`, and their keys, int64
        `[per_replica_batch_size, 3]`: the epoch, the number of the file among the sorted ones, the place in the file.
    """
    first_epoch, skip_records = divmod(skip_steps * per_replica_batch_size * context.num_replicas_in_sync, count)

    def epoch(index):
        order = tf.data.Dataset.from_tensor_slices(sorted(files)).enumerate().shuffle(len(files), seed=seed + index)
        records = order.interleave(
            lambda number, file: _keyed_records(index, number, file),
            cycle_length=READ_FILES,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return records.shuffle(shuffle_records, seed=seed + index)

    epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
    records = epochs.flat_map(epoch).skip(skip_records).batch(per_replica_batch_size, drop_remainder=True)
    return _of_this_pipeline(records, context)


def eval_records(context, files, count, per_replica_batch_size, steps):
    """The batches of records of one input pipeline that hold every record once; the last are filled up.

    Args:
        context: The `tf.distribute.InputContext` of the pipeline.
        files: The paths of the TFRecord files.
        count: How many records they hold.
        per_replica_batch_size: The records of a replica's share of a global batch.
        steps: How many global batches to make of them.

    Returns:
        A dataset of batches: the records, string `[per_replica_batch_size]`, their keys as in `train_records`, of epoch
        0, and whether each is one of the files, bool; those that fill up are not.
    """
    records = tf.data.Dataset.from_tensor_slices(sorted(files)).enumerate()
    records = records.flat_map(lambda number, file: _keyed_records(tf.zeros_like(number), number, file))
    padding = steps * per_replica_batch_size * context.num_replicas_in_sync - count
    real = records.map(lambda record, key: (record, key, True))
    filling = records.take(1).repeat(padding).map(lambda record, key: (record, key, False))
    batches = real.concatenate(filling).batch(per_replica_batch_size, drop_remainder=True)
    return _of_this_pipeline(batches, context)


def _keyed_records(epoch, number, file):
    keys = tf.data.Dataset.counter().map(lambda place: tf.stack([epoch, number, place]))
    return tf.data.Dataset.zip(tf.data.TFRecordDataset(file), keys)


def _of_this_pipeline(batches, context):
    # Replicas take turns, so a global batch is the same on any number of hosts.
    replicas_per_pipeline = context.num_replicas_in_sync // context.num_input_pipelines

    def belongs(index, _):
        return index % context.num_replicas_in_sync // replicas_per_pipeline == context.input_pipeline_id

    return batches.enumerate().filter(belongs).map(lambda _, batch: batch)
