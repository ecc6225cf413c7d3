"""Optimizers that are built once and put back to their first state before every example of a property.

On backends with float64 the examples run in it, so that "exactly" can be tested to a few roundings.
"""

import contextlib
import functools

import keras
import numpy as np

import tf_lamb

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
DTYPE = "float32" if keras.backend.backend() == "jax" else "float64"


class Instance:
    """An optimizer of ours, uncompiled, with variables of given shapes that are called w0, w1 and so on."""

    def __init__(self, name, shapes, options, strategy=None):
        self.strategy = strategy
        with strategy.scope() if strategy else contextlib.nullcontext():
            self.optimizer = getattr(tf_lamb, name)(0.1, **({"jit_compile": False} if ON_TENSORFLOW else {}), **options)
            self.variables = [keras.Variable(np.zeros(s), dtype=DTYPE, name=f"w{i}") for i, s in enumerate(shapes)]
            self.optimizer.build(self.variables)
        self.first = [keras.ops.convert_to_numpy(v) for v in self.optimizer.variables]
        self.apply = self.optimizer.apply
        if ON_TENSORFLOW:
            import tensorflow as tf

            self.apply = tf.function(self.apply)
            self.reset = self.reset if strategy else tf.function(self.reset)

    def reset(self, weights, rate):
        """Takes a list of arrays, and the rate as an array."""
        for variable, value in zip(self.optimizer.variables, self.first, strict=True):
            variable.assign(value)
        for variable, value in zip(self.variables, weights, strict=True):
            variable.assign(value)
        self.optimizer.learning_rate = rate

    def step(self, gradients):
        self.apply([keras.ops.convert_to_tensor(g, dtype=DTYPE) for g in gradients])

    def step_of_replicas(self, replica_gradients):
        import tensorflow as tf

        def own(context):
            return [tf.constant(g, DTYPE) for g in replica_gradients[context.replica_id_in_sync_group]]

        self.strategy.run(self.apply, args=(self.strategy.experimental_distribute_values_from_function(own),))

    def values(self):
        return [np.float64(keras.ops.convert_to_numpy(v)) for v in self.variables]

    def state(self):
        """All variables of the optimizer but the counter of skipped steps."""
        return [keras.ops.convert_to_numpy(v) for v in self.optimizer.variables if "skipped" not in v.path]


class Axes(dict):
    """`layer_axes` that can be part of a key."""

    def __hash__(self):
        return hash(tuple(self.items()))


@functools.cache
def instance(name, shapes, options, strategy=None):
    return Instance(name, shapes, dict(options), strategy)


def follow(name, weights, steps, rate=0.125, **options):
    """The new weights after a list of steps, each a list of gradients, from the first state."""
    one = instance(name, tuple(w.shape for w in weights), tuple(options.items()))
    one.reset(weights, np.asarray(rate, "float32"))
    for gradients in steps:
        one.step(gradients)
    return one.values()


def follow_one(name, w, series, rate=0.125, **options):
    """The same for one variable, with a list of gradients."""
    return follow(name, [w], [[g] for g in series], rate, **options)[0]


def last_step(name, w, series, rate, **options):
    """The one variable before and after the last of a list of gradients."""
    before = follow_one(name, w, series[:-1], rate, **options)
    one = instance(name, (w.shape,), tuple(options.items()))
    one.step(series[-1:])
    return before, one.values()[0]
