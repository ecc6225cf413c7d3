"""A problem that tells optimizers apart, and how each face of ours, and the oracle, runs through it.

LAMB forgives much: an adapted variable hides a missing bias correction, equal replicas hide where the clipping is. So
there are unadapted variables, different lists for decay and adaptation, strong decay, gradients from 1e-3 to 1 whose
scale varies by step, unequal replicas, clipping that is active on some steps only, and zero norms.
"""

import keras
import numpy as np
import oracle
import tensorflow as tf

STEPS = 12
SHAPES = {
    "scalar": (),
    "dense_kernel": (7, 5),
    "dense_bias": (5,),
    "norm_gamma": (5,),
    "conv_kernel": (3, 3, 2, 4),
    "embedding": (11, 3),
    "plain_kernel": (6, 4),
    "zero_kernel": (4, 4),
    "zero_unused": (3,),
}
NAMES = list(SHAPES)
OPTIONS = {
    "beta_1": 0.9,
    "beta_2": 0.99,
    "epsilon": 1e-6,
    "weight_decay": 0.3,
    "exclude_from_weight_decay": ["bias", "gamma"],
    "exclude_from_layer_adaptation": ["bias", "plain"],
    "global_clipnorm": 2.5,
}
DECAYS = [name not in ("dense_bias", "norm_gamma") for name in NAMES]
ADAPTS = [name not in ("dense_bias", "plain_kernel") for name in NAMES]


def learning_rate(step):
    """The rate at an update from 0."""
    return 0.05 / (1 + step)


def initial_weights():
    random = np.random.default_rng(0)
    return [
        np.zeros(shape) if name.startswith("zero") else np.asarray(random.normal(size=shape))
        for name, shape in SHAPES.items()
    ]


def gradients(replicas):
    """For each step, for each replica, the list of gradients, in float32 precision."""
    random = np.random.default_rng(1)
    steps = []
    for _ in range(STEPS):
        scales = 10.0 ** random.uniform(-3, 0, size=len(NAMES))
        steps.append(
            [
                [
                    np.float32(
                        0.0 * random.normal(size=shape)
                        if name == "zero_unused"
                        else scale * random.normal(size=shape) * (1 + 2 * replica)
                    )
                    for (name, shape), scale in zip(SHAPES.items(), scales, strict=True)
                ]
                for replica in range(replicas)
            ]
        )
    return steps


def expected(replicas, options=OPTIONS):
    """The weights, first and second moments of the oracle after all steps."""
    names = ("beta_1", "beta_2", "epsilon", "weight_decay", "global_clipnorm")
    lamb = oracle.Lamb(initial_weights(), DECAYS, ADAPTS, **{name: options.get(name) for name in names})
    for step, replica_gradients in enumerate(gradients(replicas)):
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
