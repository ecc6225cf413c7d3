"""Layer-wise normalised SGD, for Keras 3; the base update serves the tf_keras class as well."""

import keras

from tf_lamb.layerwise import LayerwiseOptimizer


class NormalizedSgdUpdate:
    """The base update of normalised SGD, the same for Keras 3 and tf_keras."""

    slot_names = ()

    def __init__(
        self,
        learning_rate=0.01,
        weight_decay=0.0,
        exclude_from_weight_decay=None,
        exclude_from_layer_adaptation=None,
        name="NormalizedSGD",
        **kwargs,
    ):
        super().__init__(
            learning_rate,
            weight_decay=weight_decay,
            exclude_from_weight_decay=exclude_from_weight_decay,
            exclude_from_layer_adaptation=exclude_from_layer_adaptation,
            name=name,
            **kwargs,
        )

    def step_scalars(self, t):
        """Nothing: no part of the update depends on the count of updates."""

    def new_values(self, step, w, g, slots, learning_rate, scalars):
        """The new weight of one variable, and its trust ratio."""
        update = g + self.weight_decay * w if step.rule.decayed and self.weight_decay else g
        trust = step.trust(w, update)
        return w - learning_rate * trust.ratio * update, trust


@keras.saving.register_keras_serializable(package="tf_lamb")
class NormalizedSGD(NormalizedSgdUpdate, LayerwiseOptimizer):
    """Layer-wise normalised stochastic gradient descent, for Keras 3: the plainest base update there is.

    Every variable moves by `learning_rate * ||w|| / ||update|| * update` with `update = g + weight_decay * w`, so by
    exactly `learning_rate` times its own norm. It has no state.

    Reference: You et al., arXiv 1904.00962v5 (ICLR 2020), section 3, the general strategy.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a callable without arguments.
        weight_decay: A float >= 0, the weight of the variable beside its gradient.
        exclude_from_weight_decay: A list of regular expressions, layers or variables; see `tf_lamb.LAMB`.
        exclude_from_layer_adaptation: The same for the trust ratio. None means the list for decay, `()` means none.
        name: The name of the optimizer.
        **kwargs: The options of `tf_lamb.layerwise.LayerwiseOptimizer`.

    Raises:
        ValueError: An option is out of its range.
        TypeError: An exclusion list is not a list, or holds something else than strings, layers and variables.

    Example:

    >>> import keras
    >>> import tf_lamb
    >>> variable = keras.Variable([3.0, 4.0])
    >>> optimizer = tf_lamb.NormalizedSGD(0.1)
    >>> optimizer.apply([keras.ops.convert_to_tensor([0.0, 7.0])], [variable])
    >>> [round(float(x), 6) for x in variable.numpy()]
    [3.0, 3.5]
    """
