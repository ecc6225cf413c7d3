"""LAMB, for Keras 3; the base update serves the tf_keras class as well."""

import keras

from tf_lamb import core, options, schedules
from tf_lamb.layerwise import LayerwiseOptimizer


class LambUpdate:
    """The options and the base update of LAMB, the same for Keras 3 and tf_keras."""

    slot_names = ("m", "v")
    stochastic_slots = ("v",)

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
        bias_correction=True,
        nesterov=False,
        decay_inside_ratio=True,
        **kwargs,
    ):
        beta_1, beta_2 = options.check_beta("beta_1", beta_1), options.check_beta("beta_2", beta_2)
        epsilon = options.check_non_negative("epsilon", epsilon)
        options.check_choice("bias_correction", bias_correction, (True, False, "step_size"))
        options.check_choice("nesterov", nesterov, (False, "m", "mv"))
        options.check_choice("decay_inside_ratio", decay_inside_ratio, (True, False))
        learning_rate, weight_decay = options.translate_addons_names(
            learning_rate, weight_decay, kwargs, schedules.InverseTime
        )
        super().__init__(
            learning_rate,
            weight_decay=weight_decay,
            exclude_from_weight_decay=exclude_from_weight_decay,
            exclude_from_layer_adaptation=exclude_from_layer_adaptation,
            name=name,
            **kwargs,
        )
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.bias_correction, self.nesterov = bias_correction, nesterov
        self.decay_inside_ratio = decay_inside_ratio

    @property
    def takes_adam_steps(self):
        """Whether the base update is Adam's step plus the decayed weight."""
        return not self.nesterov and self.decay_inside_ratio

    def step_scalars(self, t):
        """For each beta the denominators of the bias correction at t and t + 1, and a factor of the step."""
        betas = (self.beta_1, self.beta_2)
        exact = [(core.bias_correction(beta, t), core.bias_correction(beta, t + 1)) for beta in betas]
        off = [(1.0, 1.0)] * 2
        if self.bias_correction == "step_size":
            return off, keras.ops.sqrt(exact[1][0]) / exact[0][0]
        return (exact if self.bias_correction else off), None

    def new_values(self, step, w, g, slots, learning_rate, scalars):
        """The new weight, first and second moment of one variable, and its trust ratio."""
        corrections, step_factor = scalars
        weight_decay = self.weight_decay if step.rule.decayed else 0.0
        if not self.decay_inside_ratio:
            w, weight_decay = w - learning_rate * weight_decay * w, 0.0
        update, m, v = core.lamb(
            w,
            g,
            *slots,
            corrections,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            weight_decay=weight_decay,
            nesterov=self.nesterov,
            stored=step.stored,
        )
        trust = step.trust(w, update)
        stored = None if self.nesterov else step.read_back((m, v), trust)
        if stored:
            m_hat, v_hat = (moment / correction for moment, (correction, _) in zip(stored, corrections, strict=True))
            update = core.lamb_update(w, m_hat, v_hat, self.epsilon, weight_decay)
        step_size = learning_rate * trust.ratio
        if step_factor is not None:
            step_size = step_size * step_factor
        return w - step_size * update, m, v, trust

    def get_config(self):
        """Returns all options, from which `from_config` makes an equal optimizer."""
        names = ("beta_1", "beta_2", "epsilon", "bias_correction", "nesterov", "decay_inside_ratio")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


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
        exclude_from_weight_decay: A list of regular expressions, layers or variables. A variable does not decay when
            a regular expression is found in its full path, for example `encoder/layer_0/attention_norm/gamma`.
        exclude_from_layer_adaptation: The same for the trust ratio, which is then 1. None means the same as the list
            for decay; `()` means that every variable adapts.
        name: The name of the optimizer and the prefix of its variables.
        bias_correction: True for equation (3); False for the first three versions of the paper; `"step_size"` for
            DeepSpeed, which multiplies the step by sqrt(1 - beta_2^t) / (1 - beta_1^t) instead, outside the norm.
        nesterov: False; `"m"` for N-LAMB, with a look-ahead of the first moment; `"mv"` for NN-LAMB, of both.
        decay_inside_ratio: False decays by `learning_rate * weight_decay * w` before the norms are taken, as
            `keras.optimizers.Lamb` does.
        **kwargs: The options of `tf_lamb.layerwise.LayerwiseOptimizer`. The names of TensorFlow Addons
            (`weight_decay_rate`, `lr`, `decay`) are taken with a hint.

    Moments are kept and updates computed in float32 (float64 for float64 variables). Of the options only
    `learning_rate` may be set after the first step.

    Raises:
        ValueError: An option is out of its range.
        TypeError: An exclusion list is not a list, or holds something else than strings, layers and variables.

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
