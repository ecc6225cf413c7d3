"""What a base update may know about the variable and the step at hand."""

import keras
from keras import ops

from tf_lamb import core, rounding, tpu_memory


class Step:
    """One variable in one step.

    Args:
        rule: The variable's `rules.Rule`.
        position: Its position in the plan.
        t: The count of updates from 1, an integer scalar.
        dtype: The dtype of the computation.
        layerwise_options: The `options.LayerwiseOptions`.
        slot_dtypes: The dtypes of the slots by their names.
        stochastic_slots: The names of those that are rounded stochastically.

    Attributes:
        rule, position, t, dtype: As given.
        stored: For each slot, a function that rounds it to what its storage holds.
    """

    def __init__(self, rule, position, t, dtype, layerwise_options, slot_dtypes, stochastic_slots):
        self.rule, self.position, self.t, self.dtype = rule, position, t, dtype
        self._options = layerwise_options
        self._slot_dtypes = list(slot_dtypes.values())
        self.stored = [
            self._rounding_to(stored_as, name in stochastic_slots) for name, stored_as in slot_dtypes.items()
        ]

    def trust(self, w, update, denominator=None, coefficient=1.0, norm=None):
        """The trust ratio of an update, 1 for an excluded variable.

        Args:
            w: The variable's value.
            update: What its norm is compared with: the update, or LARS's gradient.
            denominator: A function of the two norms that gives what phi(||w||) is divided by; by default ||update||.
            coefficient: A Python float, LARS's trust coefficient.
            norm: What takes a norm; by default that of the options.

        Returns:
            A `core.Trust`, without norms for an excluded variable when nobody asks for them.
        """
        if not self.rule.adapted and not self._options.telemetry:
            return core.Trust(1.0, None, None)
        norm = norm or self._norm
        weight_norm, update_norm = norm(w), norm(update)
        if not self.rule.adapted:
            return core.Trust(1.0, weight_norm, update_norm)
        return core.trust_ratio(
            weight_norm,
            update_norm,
            weight_norm_bounds=self._options.weight_norm_bounds,
            trust_ratio_bounds=self._options.trust_ratio_bounds,
            denominator=denominator and denominator(weight_norm, update_norm),
            coefficient=coefficient,
        )

    def read_back(self, slots, trust):
        """New slots as a TPU reads them from memory once the trust ratio is known; None where that saves nothing.

        An update whose norm is taken before it is applied is written to memory in between, in float32. To compute it
        again from slots in bfloat16, which are written anyway, moves less. On a CPU it takes longer.

        Args:
            slots: The new slots, rounded as `stored` does.
            trust: The `core.Trust` of the update.

        Returns:
            A list of the same arrays.
        """
        is_narrow = any(dtype != self.dtype for dtype in self._slot_dtypes)
        if trust.update_norm is None or not is_narrow or not tpu_memory.is_target():
            return None
        narrow = [ops.cast(slot, dtype) for slot, dtype in zip(slots, self._slot_dtypes, strict=True)]
        return [ops.cast(slot, self.dtype) for slot in tpu_memory.after(trust.update_norm, narrow)]

    def _norm(self, x):
        """The norm of `x` in the chosen kind, one value a slice where the variable stacks several layers."""
        return core.norm(x, self._options.norm, self.rule.layer_axis)

    def _rounding_to(self, dtype, stochastic):
        """A function that rounds a new slot to what its storage of a `dtype` holds."""
        if keras.backend.standardize_dtype(dtype) != "bfloat16":
            return lambda x: x
        if stochastic:
            return lambda x: rounding.to_bfloat16_stochastically(x, self.t, self.position)
        return rounding.to_bfloat16
