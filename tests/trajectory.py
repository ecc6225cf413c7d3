"""How each face of ours, and the oracle, runs through the problem of `problem.py`, whose names are here too."""

import keras
import oracle
import tensorflow as tf
from problem import (  # noqa: F401
    ADAPTS,
    DECAYS,
    NAMES,
    OPTIONS,
    SHAPES,
    STEPS,
    gradients,
    initial_weights,
    learning_rate,
)


def expected(replicas, options=OPTIONS, steps=STEPS):
    """The weights, first and second moments of the oracle after all steps."""
    names = ("beta_1", "beta_2", "epsilon", "weight_decay", "global_clipnorm")
    lamb = oracle.Lamb(initial_weights(), DECAYS, ADAPTS, **{name: options.get(name) for name in names})
    for step, replica_gradients in enumerate(gradients(replicas, steps)):
        lamb.step(replica_gradients, learning_rate(step))
    return lamb.weights, lamb.m, lamb.v


@keras.saving.register_keras_serializable(package="tests")
class InverseTime(keras.optimizers.schedules.LearningRateSchedule):
    """`learning_rate` as a schedule."""

    def __call__(self, step):
        return 0.05 / (1.0 + keras.ops.cast(step, "float64"))

    def get_config(self):
        return {}


def keras_variables(dtype="float32"):
    return [keras.Variable(w, dtype=dtype, name=name) for name, w in zip(NAMES, initial_weights(), strict=True)]


def tf_variables(dtype="float32"):
    return [tf.Variable(w, dtype=dtype, name=name) for name, w in zip(NAMES, initial_weights(), strict=True)]


def run(face, strategy=None, dtype="float32", options=OPTIONS, change=lambda gradient, name: gradient):
    """Runs a face through the problem.

    Args:
        face: "keras" or "tf_keras".
        strategy: A tf.distribute strategy, whose replicas get the gradients of theirs; by default none.
        dtype: The dtype of the variables.
        options: The optimizer's options.
        change: A function of (gradient, variable name) that may wrap a gradient, for example as IndexedSlices.

    Returns:
        The weights, first and second moments on the first replica, and the optimizer.
    """
    optimizer_class, apply, make_variables = FACES[face]()
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        variables = make_variables(dtype)
        optimizer = optimizer_class(learning_rate=InverseTime(), **options)
        optimizer.build(variables)
    for replica_gradients in gradients(strategy.num_replicas_in_sync):

        def step(replica_gradients=replica_gradients):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            stacked = [tf.stack(column) for column in zip(*replica_gradients, strict=True)]
            own = [change(tf.cast(g[replica], dtype), name) for g, name in zip(stacked, NAMES, strict=True)]
            apply(optimizer, own, variables)

        strategy.run(step)
    moments = [[_first(slots[i]) for slots in optimizer._slots] for i in range(2)]
    return [_first(v) for v in variables], *moments, optimizer


def _keras():
    import tf_lamb

    return tf_lamb.LAMB, lambda optimizer, g, variables: optimizer.apply(g, variables), keras_variables


def _tf_keras():
    from tf_lamb.tf_keras import LAMB

    def apply(optimizer, g, variables):
        optimizer.apply_gradients(zip(g, variables, strict=True))

    return LAMB, apply, tf_variables


FACES = {"keras": _keras, "tf_keras": _tf_keras}


def _first(variable):
    value = variable.value if isinstance(variable, keras.Variable) else variable
    return tf.cast(tf.distribute.get_strategy().experimental_local_results(value)[0], tf.float64).numpy()
