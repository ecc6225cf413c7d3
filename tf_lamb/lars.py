"""LARS, for Keras 3; the base update serves the tf_keras class as well."""

import keras

from tf_lamb import core, options
from tf_lamb.layerwise import LayerwiseOptimizer


class LarsUpdate:
    """The options and the base update of LARS, the same for Keras 3 and tf_keras."""

    slot_names = ("momentum",)

    def __init__(
        self,
        learning_rate=0.001,
        momentum=0.9,
        weight_decay=0.0,
        trust_coefficient=0.001,
        epsilon=0.0,
        exclude_from_weight_decay=None,
        exclude_from_layer_adaptation=None,
        name="LARS",
        nesterov=False,
        dampening=0.0,
        ratio_position="before_momentum",
        denominator="sum_of_norms",
        **kwargs,
    ):
        momentum, dampening = options.check_beta("momentum", momentum), options.check_beta("dampening", dampening)
        trust_coefficient = options.check_non_negative("trust_coefficient", trust_coefficient)
        epsilon = options.check_non_negative("epsilon", epsilon)
        options.check_choice("nesterov", nesterov, (True, False))
        options.check_choice("ratio_position", ratio_position, ("before_momentum", "after_momentum"))
        options.check_choice("denominator", denominator, ("sum_of_norms", "norm_of_sum"))
        super().__init__(
            learning_rate,
            weight_decay=weight_decay,
            exclude_from_weight_decay=exclude_from_weight_decay,
            exclude_from_layer_adaptation=exclude_from_layer_adaptation,
            name=name,
            **kwargs,
        )
        self.momentum, self.dampening, self.nesterov = momentum, dampening, nesterov
        self.trust_coefficient, self.epsilon = trust_coefficient, epsilon
        self.ratio_position, self.denominator = ratio_position, denominator

    def step_scalars(self, t):
        """Nothing: no part of LARS depends on the count of updates."""

    def new_values(self, step, w, g, slots, learning_rate, scalars):
        """The new weight and momentum buffer of one variable, and its trust ratio."""
        weight_decay = self.weight_decay if step.rule.decayed else 0.0
        direction = g + weight_decay * w if weight_decay else g
        if self.ratio_position == "before_momentum":
            if self.denominator == "sum_of_norms":
                trust = self._trust(step, w, g, weight_decay)
            else:
                trust = self._trust(step, w, direction)
            change, buffer = self._with_momentum(step, slots[0], learning_rate * trust.ratio * direction)
            return w - change, buffer, trust
        update, buffer = self._with_momentum(step, slots[0], direction)
        trust = self._trust(step, w, update)
        return w - learning_rate * trust.ratio * update, buffer, trust

    def _trust(self, step, w, update, weight_decay=0.0):
        def denominator(weight_norm, update_norm):
            decay_norm = weight_decay * weight_norm if weight_decay else 0.0
            return update_norm + decay_norm + self.epsilon

        return step.trust(w, update, denominator, self.trust_coefficient)

    def _with_momentum(self, step, buffer, x):
        return core.momentum(
            buffer, x, momentum=self.momentum, dampening=self.dampening, nesterov=self.nesterov, stored=step.stored[0]
        )

    def get_config(self):
        """Returns all options, from which `from_config` makes an equal optimizer."""
        names = ("momentum", "trust_coefficient", "epsilon", "nesterov", "dampening", "ratio_position", "denominator")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="tf_lamb")
class LARS(LarsUpdate, LayerwiseOptimizer):
    """Layer-wise adaptive rate scaling (LARS), for Keras 3.

    By default the form of the LARS paper: every variable has a rate of its own, `learning_rate * trust_coefficient *
    ||w|| / (||g|| + weight_decay * ||w||)`, and momentum accumulates the steps (equations (8) to (10) of
    `tf_lamb.core`). With `ratio_position="after_momentum"` the ratio is taken of the momentum buffer; together with
    `trust_coefficient=1.0` and `dampening` equal to `momentum` that is algorithm 1 of the LAMB paper.

    References: You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", arXiv 1708.03888, algorithm 1;
    You et al., arXiv 1904.00962v5 (ICLR 2020), algorithm 1.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a callable without arguments.
        momentum: A float in [0, 1).
        weight_decay: A float >= 0, the weight of the variable beside its gradient.
        trust_coefficient: A float >= 0, eta in the paper. It does not apply where the trust ratio is 1: where a norm
            is 0, and to excluded variables.
        epsilon: A float >= 0, added to the denominator of the trust ratio.
        exclude_from_weight_decay: A list of regular expressions, layers or variables; see `tf_lamb.LAMB`.
        exclude_from_layer_adaptation: The same for the trust ratio. None means the list for decay, `()` means none.
        name: The name of the optimizer and the prefix of its variables.
        nesterov: Whether the momentum looks ahead.
        dampening: A float in [0, 1): what the momentum accumulates is multiplied by 1 - dampening.
        ratio_position: `"before_momentum"` or `"after_momentum"`.
        denominator: Before the momentum, `"sum_of_norms"` for ||g|| + weight_decay * ||w||, as the paper, or
            `"norm_of_sum"` for ||g + weight_decay * w||, as Model Garden and optax.
        **kwargs: The options of `tf_lamb.layerwise.LayerwiseOptimizer`.

    Raises:
        ValueError: An option is out of its range.
        TypeError: An exclusion list is not a list, or holds something else than strings, layers and variables.

    Example:

    >>> import keras
    >>> import tf_lamb
    >>> variable = keras.Variable([3.0, 4.0])
    >>> optimizer = tf_lamb.LARS(1.0, momentum=0.0, trust_coefficient=0.1)
    >>> optimizer.apply([keras.ops.convert_to_tensor([0.0, 7.0])], [variable])
    >>> [round(float(x), 6) for x in variable.numpy()]
    [3.0, 3.5]
    """
