"""Dropout that is a function of (seed, step, micro-batch, replica, layer): a resumed run draws what it would have.

tf_keras's own dropout keeps its state in the process, where no checkpoint reaches it.
"""

import contextlib

import tensorflow as tf
from tf_keras.src.engine.base_layer import BaseRandomLayer


class KeyedDropout:
    """Gives the dropout layers of a model masks that follow from a key.

    Args:
        model: A built tf_keras model; its random layers are changed in place.
        seed: An integer, the run's seed.
    """

    def __init__(self, model, seed):
        self._seed = tf.constant([seed, 0], tf.int32)
        self._key = None
        layers = [module for module in model.submodules if isinstance(module, BaseRandomLayer)]
        for index, layer in enumerate(layers):
            layer._random_generator = _KeyedGenerator(self, index)

    @contextlib.contextmanager
    def at(self, *numbers):
        """A context in which the layers draw from the key of these integer scalars, in this order."""
        key = self._seed
        for number in numbers:
            key = tf.random.experimental.stateless_fold_in(key, tf.cast(number, tf.int32))
        self._key = key
        try:
            yield
        finally:
            self._key = None

    def seed_of(self, layer_index):
        """The seed of a layer's mask."""
        if self._key is None:
            raise RuntimeError("Dropout was asked for outside of `KeyedDropout.at`.")
        return tf.random.experimental.stateless_fold_in(self._key, layer_index)


class _KeyedGenerator(tf.__internal__.tracking.AutoTrackable):
    """In the place of tf_keras's `RandomGenerator`, of which dropout layers use one method."""

    _rng_type = "stateless"

    def __init__(self, owner, layer_index):
        super().__init__()
        self._draw, self._layer_index = owner.seed_of, layer_index

    def _maybe_init(self):
        """Nothing: there is no state."""

    def dropout(self, inputs, rate, noise_shape=None):
        """`inputs` with a share `rate` of zeros, the rest scaled to keep the mean."""
        seed = self._draw(self._layer_index)
        return tf.nn.experimental.stateless_dropout(inputs, rate=rate, seed=seed, noise_shape=noise_shape)
