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

    The noise is a hash of the element's place: a compiler computes it where it rounds, while random numbers of a
    library would be written to memory first, on a TPU dozens of words for each element.

    Args:
        x: A float32 array of fewer than 2^31 elements.
        t: The count of updates, an integer scalar.
        position: The variable's position, a Python int. The draw depends on `t`, `position` and the place of the
            element alone, so it is the same on every replica and backend.

    Returns:
        A float32 array of the same shape.
    """
    seed = _hash(_hash(ops.cast(t, "int32")) + position)  # hashed again: neighbours would have each other's noise
    noise = ops.bitwise_and(_hash(ops.bitwise_xor(_places(x.shape), seed)), 0xFFFF)
    return _finite_or_same(x, _view(x, "int32") + noise)


def _places(shape):
    """For each element of an array its number in row-major order, int32."""
    places = ops.zeros((), "int32")
    for size in shape:
        places = ops.expand_dims(places, -1) * size + ops.arange(size, dtype="int32")
    return places


def _hash(x):
    """Int32 values whose every bit depends on all bits of `x`, and none of which is had twice.

    It is lowbias32 of Wellons, "Prospecting for Hash Functions" (2018), in integers that have a sign.
    """
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - (1 << 32)), (16, 1)):
        shifted = ops.bitwise_and(ops.right_shift(x, shift), (1 << (32 - shift)) - 1)
        x = ops.bitwise_xor(x, shifted) * factor
    return x


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
