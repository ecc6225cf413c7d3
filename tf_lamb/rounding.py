"""State in fewer bits than it is computed in: bfloat16 moments, and float32 masters of narrow variables.

A compiler may keep a value that was rounded to bfloat16 and widened again in its full precision. Where the rounding is
the point, it is done on the bits of the float32 value, which no compiler elides.
"""

import keras
from keras import ops


def to_bfloat16(x):
    """Float32 values rounded to the nearest that bfloat16 holds, ties to even; float32 of the same shape."""
    bits = _view(x, "int32")
    tie = ops.bitwise_and(ops.right_shift(bits, 16), 1)
    return _finite_or_same(x, bits + 0x7FFF + tie)


def to_bfloat16_stochastically(x, t, position):
    """Float32 values rounded to one of the two neighbours that bfloat16 holds, up or down such that the mean is `x`.

    A second moment that is rounded to the nearest stops decaying: with beta_2 = 0.999 a step is smaller than half the
    distance to the next bfloat16.

    Args:
        x: A float32 array.
        t: The count of updates, an integer scalar.
        position: The variable's position, a Python int. The draw depends on `t` and `position` alone, so it is the
            same on every replica.

    Returns:
        A float32 array of the same shape.
    """
    noise = keras.random.randint(x.shape, 0, 1 << 16, "int32", seed=StepSeed(t, position))
    return _finite_or_same(x, _view(x, "int32") + noise)


class StepSeed(keras.random.SeedGenerator):
    """A seed that is a pure function of the update count and the variable's position."""

    def __init__(self, t, position):
        # No state: Keras's own constructor would make a variable.
        self.t, self.position = t, position

    def next(self, ordered=True):
        """The seed, a pair of integers."""
        # The torch backend adds the two, so positions are spread far apart.
        return ops.stack([ops.cast(self.t, "uint32"), ops.convert_to_tensor(self.position * 1_000_003, "uint32")])


def reconcile(master, value):
    """The float32 master of a narrow variable, where the variable still is what the master rounds to.

    Elsewhere somebody else wrote the variable (weights were loaded, say), and the variable wins.

    Args:
        master: A float32 array.
        value: The variable's value, a bfloat16 or float16 array of the same shape.

    Returns:
        A float32 array.
    """
    dtype = keras.backend.standardize_dtype(value.dtype)
    same = _view(ops.cast(master, dtype), "int16") == _view(value, "int16")
    return ops.where(same, master, ops.cast(value, "float32"))


def _finite_or_same(x, bits):
    # The low bits go. NaN would become an infinity, or wrap around.
    cut = _view(ops.bitwise_and(bits, -0x10000), "float32")
    return ops.where(ops.isfinite(x), cut, x)


def _view(x, dtype):
    # Keras 3.12 cannot view a scalar on TensorFlow.
    return ops.view(x, dtype) if len(x.shape) else ops.view(ops.reshape(x, (1,)), dtype)[0]
