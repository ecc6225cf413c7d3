"""Whether a call of the optimizer ends in an update, and with which gradients.

Three features decide that, in this order: dynamic loss scaling, skipping of non-finite gradients, and accumulation.
All of them work on gradients that are already summed over replicas, so every replica decides the same, and all of them
mask by `where`: there is no conditional.
"""

from keras import ops

LARGEST_LOSS_SCALE = 2.0**127


def unscale(gradients, loss_scale):
    """Divides gradients by the dynamic loss scale, a power of two."""
    return [None if g is None else g / ops.cast(loss_scale, g.dtype) for g in gradients]


def all_finite(gradients):
    """Whether no element is infinite or NaN, nor so large that its square is; a boolean scalar.

    A second moment or a norm that became infinite would stop its variable, or all of them, for good.
    """
    return ops.all(ops.stack([ops.all(ops.isfinite(ops.square(g))) for g in gradients if g is not None]))


def masked(condition, new, old):
    """`new` where the boolean scalar `condition` holds, else `old`; always `new` if the condition is None."""
    return new if condition is None else ops.where(condition, new, ops.cast(old, new.dtype))


def accumulate(gradients, accumulators, last, steps):
    """Adds gradients to their accumulators, which start anew after the last micro-step of a cycle.

    Args:
        gradients: A list of arrays or None; a micro-step without a gradient adds nothing.
        accumulators: For each, a variable, or None where nothing is accumulated.
        last: Whether this is the last micro-step, a boolean scalar.
        steps: The number of micro-steps, a Python int.

    Returns:
        The list of mean gradients over the cycle, to be used only if `last`; and for each whether the cycle had a
        gradient, a boolean scalar, or None: this micro-step had one.
    """
    means, present = [], []
    for g, accumulator in zip(gradients, accumulators, strict=True):
        if accumulator is None:
            means.append(None)
            present.append(None)
            continue
        total = ops.cast(accumulator, accumulator.dtype if g is None else g.dtype) + (0.0 if g is None else g)
        accumulator.assign(ops.where(last, 0.0, total))
        means.append(total / steps)
        present.append(ops.any(total != 0.0) if g is None else None)
    return means, present


def overwrite(gradients, states, ends, applied):
    """Assigns the gradients of float8 scales; as in Keras, the largest of a cycle when accumulating.

    Args:
        gradients: A list of arrays, None for the variables that are not overwritten.
        states: Their `VariableState`s.
        ends: Whether the cycle ends, as `decide` says.
        applied: Whether an update is applied, as `decide` says.
    """
    for g, state in zip(gradients, states, strict=True):
        if g is None:
            continue
        if state.accumulator is not None:
            g = ops.maximum(ops.cast(state.accumulator, g.dtype), g)
            state.accumulator.assign(ops.where(ends, 0.0, g))
        value = ops.convert_to_tensor(state.value)
        state.value.assign(ops.cast(masked(applied, g, value), value.dtype))


def decide(shared, finite, accumulation_steps):
    """Counts this call, and decides whether it ends a cycle and whether the cycle ends in an update.

    Args:
        shared: The `SharedState`. Without accumulation every call is a cycle of its own.
        finite: Whether this call's gradients are finite, a boolean scalar, or None where that is not asked.
        accumulation_steps: The number of micro-steps in a cycle, a Python int, or None.

    Returns:
        The pair of boolean scalars (the cycle ends, an update is applied); None stands for "always".
    """
    ends, applied = None, finite
    if accumulation_steps:
        micro_step = shared.micro_step + 1
        ends = applied = ops.equal(micro_step, accumulation_steps)
        shared.micro_step.assign(ops.where(ends, 0, micro_step))
        if finite is not None:
            bad = shared.bad_micro_steps + ops.cast(ops.logical_not(finite), "int32")
            applied = ops.logical_and(ends, ops.equal(bad, 0))
            shared.bad_micro_steps.assign(ops.where(ends, 0, bad))
    if finite is not None:
        skipped = ops.logical_not(applied) if ends is None else ops.logical_and(ends, ops.logical_not(applied))
        shared.skipped_steps.assign(shared.skipped_steps + ops.cast(skipped, "int32"))
    return ends, applied


def adjust_loss_scale(shared, ends, applied, growth_steps):
    """Halves the loss scale after a skipped cycle, and doubles it after `growth_steps` updates without one.

    The rule is that of Keras's LossScaleOptimizer; the scale does not fall below 1, and never becomes infinite.
    """
    scale, good_steps = ops.convert_to_tensor(shared.loss_scale), shared.good_steps + 1
    grows = ops.equal(good_steps, growth_steps)
    finite_scale = ops.where(grows, ops.minimum(scale * 2.0, LARGEST_LOSS_SCALE), scale)
    scale_after = ops.where(applied, finite_scale, ops.maximum(scale * 0.5, 1.0))
    good_after = ops.where(ops.logical_and(applied, ops.logical_not(grows)), good_steps, 0)
    shared.loss_scale.assign(masked(ends, scale_after, scale))
    shared.good_steps.assign(masked(ends, good_after, shared.good_steps))
