"""What an optimizer keeps for each variable of the model and once for all of them, and the dtypes of that."""

from typing import NamedTuple

import keras

from tf_lamb import core


class VariableState(NamedTuple):
    """One variable of the model and what the optimizer keeps for it; None where it keeps none.

    Attributes:
        value: The variable.
        slots: A list of its slots, such as the moments.
        master: Its float32 master.
        accumulator: The sum of the gradients of this cycle.
        average: The moving average of its values.
    """

    value: object
    slots: list
    master: object = None
    accumulator: object = None
    average: object = None


class SharedState(NamedTuple):
    """The variables that an optimizer keeps once, not for each variable of the model; None where it needs none.

    Attributes:
        iterations: The count of updates made, an integer scalar.
        micro_step: With accumulation: how many gradients the accumulators hold, an int32 scalar.
        bad_micro_steps: With accumulation and skipping: how many of them were not finite, an int32 scalar.
        skipped_steps: With skipping: how many updates were skipped, an int32 scalar.
        loss_scale: With dynamic loss scaling: the scale of the next loss, a float32 scalar.
        good_steps: With dynamic loss scaling: finite updates since the scale last changed, an int32 scalar.
        statistics: With telemetry: a dictionary of what `tf_lamb.telemetry` keeps.
    """

    iterations: object
    micro_step: object = None
    bad_micro_steps: object = None
    skipped_steps: object = None
    loss_scale: object = None
    good_steps: object = None
    statistics: object = None


def variable_path(variable):
    """The full path of a Keras 3, tf_keras or TensorFlow variable, without TensorFlow's `:0`."""
    return getattr(variable, "path", None) or variable.name.split(":")[0]


def storage_dtype(variable):
    """The name of the dtype a variable is stored in, whatever dtype mixed precision shows."""
    dtype = getattr(variable, "true_dtype", None) or variable.dtype
    return keras.backend.standardize_dtype(dtype)


def compute_dtype(variable):
    """The name of the dtype a variable is updated in."""
    return core.compute_dtype(storage_dtype(variable))
