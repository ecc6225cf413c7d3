"""What the optimizer did: statistics that the update itself writes, and what reads them.

The first half runs inside the update. The second is for people: `table` prints the last update, `TelemetryCallback`
and `Recorder` write a history and TensorBoard scalars, and `plot` draws the history.
"""

import itertools

import keras
from keras import ops

from tf_lamb import core
from tf_lamb.telemetry_history import PER_LAYER, History, Recorder, RecordingCallback, read_history
from tf_lamb.telemetry_plot import plot

__all__ = ["History", "Recorder", "TelemetryCallback", "plot", "read_history", "table"]


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


def record(statistics, trusts, gradients, gradient_norm, any_clipped, t, every_steps, applied, sum_of_squares):
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
        sum_of_squares: What computes that of one gradient.
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
        # The micro-steps of a cycle share one t, and only the last of them has the mean gradient.
        due = due if applied is None else ops.logical_and(due, applied)
        old = ops.convert_to_tensor(statistics["gradient_norm"])
        gradient_norm = ops.cond(
            due, lambda: ops.cast(core.global_norm(gradients, sum_of_squares), "float32"), lambda: old
        )
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


class TelemetryCallback(RecordingCallback, keras.callbacks.Callback):
    """Writes the statistics of the model's optimizer while `fit` runs: for Keras 3 models, on every backend.

    The optimizer has to be made with `telemetry=True`. There is a row after the first update, after every multiple of
    `every_steps`, and at the end of training. Steps are the optimizer's updates, not batches: skipped steps and the
    batches of an unfinished accumulation do not count. With several steps per execution a row is of the last of them.

    The device is waited for only when a row may be due. A job of several processes gives the callback to one of them.

    Args:
        history_csv: A local file, made with its folder if missing; see `tf_lamb.telemetry.Recorder`.
        log_dir: A folder for TensorBoard, of any file system that TensorFlow knows. It needs TensorFlow.
        every_steps: An integer >= 1, or None: the optimizer's own `telemetry_every_steps`, which is how often the
            global gradient norm is taken if clipping does not take it.

    Raises:
        ValueError: There is neither a file nor a folder, `every_steps` is not positive, or, when training begins, the
            optimizer keeps no statistics or the file holds the history of other layers.
        ImportError: TensorFlow is missing, for a `log_dir`.

    Example:

    >>> import os, tempfile, keras, numpy as np, tf_lamb
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")], name="net")
    >>> model.compile(optimizer=tf_lamb.LAMB(0.01, telemetry=True), loss="mse")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = os.path.join(folder, "history.csv")
    ...     callback = tf_lamb.telemetry.TelemetryCallback(file, every_steps=2)
    ...     _ = model.fit(np.ones((5, 4)), np.ones((5, 2)), batch_size=1, verbose=0, callbacks=[callback])
    ...     history = tf_lamb.telemetry.read_history(file)
    >>> history.layers, history.step.tolist(), history.trust_ratio.shape
    (['net/head/kernel', 'net/head/bias'], [1, 2, 4, 5], (4, 2))
    """


def table(optimizer):
    """The last update of each layer, as text.

    Args:
        optimizer: An optimizer of tf_lamb that was made with `telemetry=True` and is built.

    Returns:
        A string of several lines. The trust ratio of a layer that does not adapt is "-".

    Raises:
        ValueError: The optimizer keeps no statistics, or has not been built.

    Example:

    >>> import keras, tf_lamb
    >>> variable = keras.Variable([3.0, 4.0], name="kernel")
    >>> optimizer = tf_lamb.NormalizedSGD(0.1, telemetry=True, telemetry_every_steps=1)
    >>> optimizer.apply([keras.ops.convert_to_tensor([0.0, 8.0])], [variable])
    >>> print(tf_lamb.telemetry.table(optimizer))
    layer   trust ratio  weight norm  update norm
    ------  -----------  -----------  -----------
    kernel        0.625            5            8
    update 1: gradient norm 8, 0% of updates clipped, 0 bounds hit, 0 steps skipped
    """
    values = {name: ops.convert_to_numpy(value) for name, value in optimizer.statistics().items()}
    adapted = [rule.adapted for rule in optimizer.plan() if not rule.overwritten for _ in rule.layer_names]
    columns = [[f"{value:.4g}" for value in values[name]] for name in PER_LAYER]
    columns[0] = [cell if adapts else "-" for cell, adapts in zip(columns[0], adapted, strict=True)]
    rows = [("layer", *(name.replace("_", " ") for name in PER_LAYER))]
    rows += zip(optimizer.layer_names(), *columns, strict=True)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = [
        "  ".join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))])
        for name, *cells in rows
    ]
    lines.append(
        f"update {int(ops.convert_to_numpy(optimizer.iterations)):,}: "
        f"gradient norm {values['gradient_norm']:.4g}, {values['clip_rate']:.0%} of updates clipped, "
        f"{values['bound_hits']:,} bounds hit, {values['skipped_steps']:,} steps skipped"
    )
    return "\n".join(lines)
