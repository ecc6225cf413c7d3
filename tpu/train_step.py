"""One update: the gradients of a global batch, taken in micro-batches, summed over replicas, applied once."""

import tensorflow as tf


def train_step(task, features, model, optimizer, metrics, step, micro_batches=1, dropout=None):
    """Runs on every replica, on its share of the global batch.

    The loss is a mean over the global batch, so its denominators are summed over micro-batches and replicas first.
    Nothing in the result depends on how the batch is divided, but rounding and the draws of dropout.

    Args:
        task: Has `loss_weights(features)`, a list of scalars, the replica's shares of the loss's denominators;
            `losses(features, outputs, totals, metrics)`, a scalar, the replica's share of the loss, given the sums of
            these; and `model_inputs(features)`.
        features: A dictionary of tensors of shape `[per_replica_batch * micro_batches, ...]`.
        model: The model.
        optimizer: The optimizer, which sums gradients over replicas.
        metrics: What `losses` updates.
        step: The variable that counts steps; it goes up by one.
        micro_batches: In how many parts to work through the features, a Python int.
        dropout: The model's `KeyedDropout`, if it has any.
    """
    context = tf.distribute.get_replica_context()
    totals = context.all_reduce(tf.distribute.ReduceOp.SUM, task.loss_weights(features))
    variables = model.trainable_variables
    on_read = tf.VariableSynchronization.ON_READ
    statistics = [v for v in model.non_trainable_variables if v.synchronization == on_read]
    # Copies, since a variable's own value has no device where a worker has one replica, which all_reduce refuses.
    before = [tf.identity(v) for v in statistics]

    def gradients_of(index, part):
        with dropout.at(step, index, context.replica_id_in_sync_group), tf.GradientTape() as tape:
            outputs = model(task.model_inputs(part), training=True)
            loss = task.losses(part, outputs, totals, metrics)
        return tape.gradient(loss, variables)

    if micro_batches == 1:
        gradients = gradients_of(0, features)
    else:
        parts = {name: tf.stack(tf.split(value, micro_batches)) for name, value in features.items()}
        sums = [tf.zeros(v.shape, accumulator_dtype(v)) for v in variables]

        def add_part(index, sums):
            part = {name: value[index] for name, value in parts.items()}
            gradients = gradients_of(index, part)
            added = [
                s if g is None else s + tf.cast(tf.convert_to_tensor(g), s.dtype)
                for s, g in zip(sums, gradients, strict=True)
            ]
            return index + 1, added

        _, gradients = tf.while_loop(
            lambda index, _: index < micro_batches, add_part, (0, sums), maximum_iterations=micro_batches
        )
    optimizer.apply_gradients(zip(gradients, variables, strict=True))
    share_statistics(context, statistics, before)
    step.assign_add(1)


def share_statistics(context, statistics, before):
    """Gives every replica the mean of the replicas' moving statistics, those of batch norm.

    A checkpoint holds that mean, so a resumed run has the statistics of one that went on. An example that is not finite
    changes none of them.

    Args:
        context: The replica context.
        statistics: The variables, of which every replica has its own.
        before: The values they had before the step.
    """
    if statistics:
        means = context.all_reduce(tf.distribute.ReduceOp.MEAN, [tf.identity(v) for v in statistics])
        is_finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(mean)) for mean in means])
        for variable, mean, old in zip(statistics, means, before, strict=True):
            variable.assign(tf.where(is_finite, mean, old))


def accumulator_dtype(variable):
    """The dtype of a sum of gradients: at least float32, where small ones are not lost beside large ones."""
    return tf.float64 if variable.dtype.base_dtype == tf.float64 else tf.float32
