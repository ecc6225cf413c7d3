"""What the optimizer did: statistics that the update itself writes."""

import itertools

from keras import ops

from tf_lamb import core

PER_LAYER = ("trust_ratio", "weight_norm", "update_norm")


def layer_names(plan):
    """The entries of the statistics per layer: the layers of all variables that are updated."""
    return [name for rule in plan if not rule.overwritten for name in rule.layer_names]


def make_variables(plan, add_variable):
    """Makes the variables that hold the statistics.

    Args:
        plan: The optimizer's plan.
        add_variable: A function of (shape, dtype, name, initial_value).

    Returns:
        A dictionary of names to variables.
    """
    count = len(layer_names(plan))
    variables = {name: add_variable((count,), "float32", name, 0.0) for name in PER_LAYER}
    variables["gradient_norm"] = add_variable((), "float32", "gradient_norm", 0.0)
    variables["clipped_steps"] = add_variable((), "int32", "clipped_steps", 0)
    variables["bound_hits"] = add_variable((), "int32", "bound_hits", 0)
    return variables


def record(statistics, trusts, gradients, gradient_norm, any_clipped, t, every_steps, applied):
    """Writes the statistics of one update.

    Args:
        statistics: What `make_variables` made.
        trusts: For each updated variable its rule and its `core.Trust`, None where it had no gradient.
        gradients: The gradients before clipping.
        gradient_norm: Their global norm, where clipping took it; else it is taken every `every_steps` updates.
        any_clipped: Whether a gradient was clipped, a boolean scalar; None without clipping.
        t: The count of updates from 1.
        every_steps: A Python int.
        applied: Whether the update counts, a boolean scalar, or None: always.
    """

    def assign(name, value):
        variable = statistics[name]
        value = ops.cast(value, variable.dtype)
        old = ops.convert_to_tensor(variable)
        variable.assign(value if applied is None else ops.where(applied, value, old))

    ends = list(itertools.accumulate(len(rule.layer_names) for rule, _ in trusts))
    begins = [0, *ends[:-1]]
    for name, field in zip(PER_LAYER, ("ratio", "weight_norm", "update_norm"), strict=True):
        old = ops.convert_to_tensor(statistics[name])
        pieces = [
            old[begin:end] if trust is None else _flat(getattr(trust, field), end - begin)
            for (_, trust), begin, end in zip(trusts, begins, ends, strict=True)
        ]
        assign(name, ops.concatenate(pieces))

    hits = [trust.bounded for _, trust in trusts if trust is not None and trust.bounded is not None]
    if hits:
        assign("bound_hits", sum(ops.sum(ops.cast(hit, "int32")) for hit in hits))
    if any_clipped is not None:
        assign("clipped_steps", statistics["clipped_steps"] + ops.cast(any_clipped, "int32"))
    if gradient_norm is None:
        due = ops.logical_or(ops.equal(t, 1), ops.equal(t % every_steps, 0))
        old = ops.convert_to_tensor(statistics["gradient_norm"])
        gradient_norm = ops.cond(due, lambda: ops.cast(core.global_norm(gradients), "float32"), lambda: old)
    assign("gradient_norm", gradient_norm)


def read(statistics, iterations, skipped_steps):
    """The statistics as a dictionary of tensors; `LayerwiseUpdate.statistics` documents it."""
    values = {name: ops.convert_to_tensor(variable) for name, variable in statistics.items()}
    updates = ops.maximum(ops.cast(iterations, "float32"), 1.0)
    values["clip_rate"] = ops.cast(values.pop("clipped_steps"), "float32") / updates
    values["skipped_steps"] = ops.convert_to_tensor(0 if skipped_steps is None else skipped_steps, "int32")
    return values


def _flat(value, size):
    value = ops.cast(value, "float32")
    return ops.broadcast_to(ops.reshape(value, (-1,)), (size,))
