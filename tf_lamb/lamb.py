"""LAMB for Keras 3."""

import keras

from tf_lamb import core, options
from tf_lamb.layerwise import LayerwiseOptimizer


class LambUpdate:
    """The options and the state of LAMB, the same for Keras 3 and tf_keras."""

    slot_names = ("m", "v")

    def _set_lamb_options(self, beta_1, beta_2, epsilon):
        self.beta_1 = options.check_beta("beta_1", beta_1)
        self.beta_2 = options.check_beta("beta_2", beta_2)
        self.epsilon = options.check_non_negative("epsilon", epsilon)

    def step_scalars(self, t):
        """The denominators of the bias correction."""
        return core.bias_correction(self.beta_1, t), core.bias_correction(self.beta_2, t)

    def new_values(self, rule, w, g, slots, learning_rate, scalars):
        """The new weight, first and second moment of one variable."""
        return core.lamb(
            w,
            g,
            *slots,
            scalars,
            learning_rate=learning_rate,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            weight_decay=self.weight_decay if rule.decayed else 0.0,
            adapted=rule.adapted,
        )

    def _lamb_config(self):
        return {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="tf_lamb")
class LAMB(LambUpdate, LayerwiseOptimizer):
    """Layer-wise adaptive moments for batch training (LAMB), for Keras 3.

    Every variable moves by `learning_rate * trust_ratio * update`, where `update` is the bias-corrected Adam step plus
    the decayed weight, and `trust_ratio` is the norm of the variable divided by the norm of `update`. So a variable
    with a norm other than 0 moves by exactly `learning_rate` times its own norm, whatever its gradient and decay.
    The equations stand in `tf_lamb.core`.

    Reference: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
    arXiv 1904.00962v5 (ICLR 2020), algorithm 2.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a callable without arguments.
        beta_1: A float in [0, 1), the decay of the first moment.
        beta_2: A float in [0, 1), the decay of the second moment.
        epsilon: A float >= 0, added to the root of the second moment.
        weight_decay: A float >= 0, the weight of the variable within its update.
        exclude_from_weight_decay: A list of regular expressions. A variable does not decay when one of them is found
            in its full path, for example `encoder/layer_0/attention_norm/gamma`.
        exclude_from_layer_adaptation: The same for the trust ratio, which is then 1. None means the same as the list
            for decay; `[]` means that every variable adapts.
        jit_compile: `"auto"` or True: on the TensorFlow backend the update of all variables is one XLA computation per
            replica, part of the training step where that is compiled itself. False: plain TensorFlow operations.
        name: The name of the optimizer and the prefix of its variables.
        plan: Only for `from_config`: the resolved lists of the optimizer that was saved.
        **kwargs: The other options of `keras.optimizers.Optimizer`. `clipnorm`, `global_clipnorm` and `clipvalue`
            clip the gradients after they are summed over replicas.

    Moments are kept and updates computed in float32 (float64 for float64 variables). Of the options only
    `learning_rate` may be set after the first step.

    Raises:
        ValueError: An option is out of its range.
        TypeError: An exclusion list is not a list of strings.

    Example:

    >>> import keras
    >>> import tf_lamb
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")], name="net")
    >>> optimizer = tf_lamb.LAMB(0.01, weight_decay=0.1, exclude_from_weight_decay=["bias"])
    >>> model.compile(optimizer=optimizer, loss="mse")
    >>> optimizer.build(model.trainable_variables)
    >>> print(optimizer.plan())
    variable         shape  decayed  adapted  excluded by
    ---------------  -----  -------  -------  -----------
    net/head/kernel  4x2    yes      yes
    net/head/bias    2      -        -        both: bias
    decayed: 1 of 2 tensors, 8 of 10 parameters
    adapted: 1 of 2 tensors, 8 of 10 parameters
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        weight_decay=0.0,
        exclude_from_weight_decay=None,
        exclude_from_layer_adaptation=None,
        name="LAMB",
        jit_compile="auto",
        plan=None,
        **kwargs,
    ):
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=options.check_non_negative("weight_decay", weight_decay),
            name=name,
            **kwargs,
        )
        self._set_lamb_options(beta_1, beta_2, epsilon)
        self._set_layerwise_options(exclude_from_weight_decay, exclude_from_layer_adaptation, jit_compile, plan)

    def get_config(self):
        """Returns all options, from which `from_config` makes an equal optimizer."""
        return {**super().get_config(), **self._lamb_config()}
