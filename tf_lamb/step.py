"""What a base update may know about the variable and the step at hand."""

import keras

from tf_lamb import core, rounding


class Step:
    """One variable in one step.

    Attributes:
        rule: The variable's `rules.Rule`.
        position: Its position in the plan.
        t: The count of updates from 1, an integer scalar.
        dtype: The dtype of the computation.
        stored: For each slot, a function that rounds it to what its storage holds.
    """

    def __init__(self, rule, position, t, dtype, layerwise_options):
        self.rule, self.position, self.t, self.dtype = rule, position, t, dtype
        self._options = layerwise_options
        self.stored = None

    def norm(self, x):
        """The norm of `x` in the chosen kind, one value a slice where the variable stacks several layers."""
        return core.norm(x, self._options.norm, self.rule.layer_axis)

    def trust(self, w, update, update_norm=None, **kwargs):
        """The trust ratio of an update, 1 for an excluded variable.

        Args:
            w: The variable's value.
            update: The update.
            update_norm: Its norm, where that is something else than `norm(update)`.
            **kwargs: As in `core.trust_ratio`.

        Returns:
            A `core.Trust`, without norms for an excluded variable when nobody asks for them.
        """
        if not self.rule.adapted and not self._options.telemetry:
            return core.Trust(1.0, None, None)
        weight_norm = self.norm(w)
        update_norm = self.norm(update) if update_norm is None else update_norm
        if not self.rule.adapted:
            return core.Trust(1.0, weight_norm, update_norm)
        bounds = {name: getattr(self._options, name) for name in ("weight_norm_bounds", "trust_ratio_bounds")}
        return core.trust_ratio(weight_norm, update_norm, **bounds, **kwargs)

    def rounding_of(self, slot, stochastic):
        """A function that rounds a new slot to what its storage holds."""
        if keras.backend.standardize_dtype(slot.dtype) != "bfloat16":
            return lambda x: x
        if stochastic:
            return lambda x: rounding.to_bfloat16_stochastically(x, self.t, self.position)
        return rounding.to_bfloat16
