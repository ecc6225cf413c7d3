"""AdaGrad (Duchi et al. 2011), a baseline of the LAMB paper, beside the optimizers of tf_lamb: no layer is adapted."""

import tensorflow as tf

from tf_lamb.tf_keras import LayerwiseOptimizer

# As in TensorFlow's own AdaGrad. With it no epsilon is needed.
INITIAL_ACCUMULATOR = 0.1


class Adagrad(LayerwiseOptimizer):
    """Divides each gradient by the root of the sum of its squares; decay is added to the gradient.

    Args:
        learning_rate: A float or a schedule.
        weight_decay: A float >= 0.
        **kwargs: The options of `tf_lamb.tf_keras.LayerwiseOptimizer`.
    """

    slot_names = ("accumulator",)

    def __init__(self, learning_rate, weight_decay=0.0, name="Adagrad", **kwargs):
        super().__init__(learning_rate, weight_decay=weight_decay, name=name, **kwargs)

    def step_scalars(self, t):
        """Nothing: no part of the update depends on the count of updates."""

    def new_values(self, step, w, g, slots, learning_rate, scalars):
        """The new weight and sum of squares of one variable, and its trust ratio, which is one."""
        direction = g + self.weight_decay * w if step.rule.decayed and self.weight_decay else g
        squares = slots[0] + direction**2
        update = direction / tf.sqrt(squares + INITIAL_ACCUMULATOR)
        trust = step.trust(w, update)
        return w - learning_rate * trust.ratio * update, squares, trust
