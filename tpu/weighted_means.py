"""Metrics that each replica adds up by itself; the replicas' sums meet when the result is read.

tf_keras's own metrics sum over replicas at every update on a TPU, so in every accumulated part of a batch.
"""

import tensorflow as tf


class WeightedSum:
    """The sum of all values since the last reset, over all replicas. To be made in the strategy's scope.

    Args:
        name: What is summed.
    """

    def __init__(self, name):
        self.name = name
        self._total = _sum_over_replicas(f"{name}/total")

    def update_state(self, values, weights=None):
        """Adds a replica's values.

        Args:
            values: A tensor of numbers or truth values.
            weights: A tensor of the same shape by which to multiply them; 1 by default.
        """
        values = tf.cast(values, tf.float32)
        self._total.assign_add(tf.reduce_sum(values if weights is None else values * tf.cast(weights, tf.float32)))

    def result(self):
        """The sum, a float32 scalar."""
        return tf.convert_to_tensor(self._total)

    def reset_states(self):
        """Begins anew."""
        self._total.assign(0.0)


class WeightedMean(WeightedSum):
    """The mean of all values since the last reset, by their weights, over all replicas; 0 where there is none.

    To be made in the strategy's scope.

    Args:
        name: Of what it is the mean.
    """

    def __init__(self, name):
        super().__init__(name)
        self._weight = _sum_over_replicas(f"{name}/weight")

    def update_state(self, values, weights=None):
        """Adds a replica's values; see `WeightedSum.update_state`."""
        super().update_state(values, weights)
        weights = tf.ones_like(values, tf.float32) if weights is None else tf.cast(weights, tf.float32)
        self._weight.assign_add(tf.reduce_sum(weights))

    def result(self):
        """The mean, a float32 scalar."""
        return tf.math.divide_no_nan(super().result(), tf.convert_to_tensor(self._weight))

    def reset_states(self):
        """Begins anew."""
        super().reset_states()
        self._weight.assign(0.0)


def _sum_over_replicas(name):
    return tf.Variable(
        0.0,
        name=name,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )
