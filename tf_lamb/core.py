"""The mathematics of layer-wise adaptive optimizers, as pure functions over `keras.ops`.

A step is a *base update* times a *trust ratio*. For LAMB, one variable `w` with gradient `g`, already summed over
replicas and clipped, at update `t` = 1, 2, ...:

    (1)  m = beta_1 * m + (1 - beta_1) * g
    (2)  v = beta_2 * v + (1 - beta_2) * g^2
    (3)  m_hat = m / (1 - beta_1^t),   v_hat = v / (1 - beta_2^t)
    (4)  r = m_hat / (sqrt(v_hat) + epsilon)
    (5)  update = r + weight_decay * w
    (6)  trust_ratio = phi(||w||) / ||update||, and 1 where either norm is 0
    (7)  w = w - learning_rate * trust_ratio * update

phi bounds the weight norm and is the identity by default. N-LAMB replaces m_hat of (3) by the look-ahead

    (3n) m_hat = beta_1 * m / (1 - beta_1^(t+1)) + (1 - beta_1) * g / (1 - beta_1^t)

and NN-LAMB does the same to v_hat, with g^2 and beta_2. LARS takes the ratio before the momentum,

    (8)  local = trust_coefficient * phi(||w||) / (||g|| + weight_decay * ||w|| + epsilon), and 1 where either norm is 0
    (9)  b = momentum * b + learning_rate * local * (g + weight_decay * w)
    (10) w = w - b,   with Nesterov: w = w - (momentum * b + learning_rate * local * (g + weight_decay * w))

or after it, as algorithm 1 of the LAMB paper does. Normalised SGD is (6) and (7) with the update g + weight_decay * w.

References: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", arXiv 1904.00962v5
(ICLR 2020), algorithms 1 and 2 and section 3; You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks",
arXiv 1708.03888, equation 6 and algorithm 1.

Differs from
  1. `keras.optimizers.Lamb`: there the decay acts outside the trust ratio, and before the norm is taken.
  2. versions 1 to 3 of the paper and the code behind it: those have no bias correction (3).
  3. DeepSpeed: there the bias correction is part of the step size, outside the norm of (6), and the ratio is bounded.
  4. LAMBC: it bounds the trust ratio by 1.
  5. the paper's N-LAMB: as recalled, not verified, it prints one more factor beta_2 on v_hat. (3n) has none.
  6. LARS of Model Garden and optax: their denominator is ||g + weight_decay * w||.

Every function takes and returns arrays of `compute_dtype(w.dtype)`, so a bfloat16 variable is updated in float32.
Norms are written as plain sums, which XLA fuses with what produces their terms.
"""

import math
from typing import NamedTuple

from keras import backend, ops


def compute_dtype(dtype):
    """The dtype in which a variable of `dtype` is updated and its moments are computed.

    Args:
        dtype: The name of the variable's floating-point dtype.

    Returns:
        `"float64"` for float64 variables and `"float32"` for all others: in bfloat16, 0.999 rounds to 1.
    """
    return "float64" if dtype == "float64" else "float32"


def bias_correction(beta, t):
    """1 - beta^t, the denominators of equation (3).

    Written as -expm1(t * log(beta)), since 1 - beta^t loses five digits in float32 while beta^t is close to 1.

    Args:
        beta: A Python float in [0, 1).
        t: The count of updates from 1, a floating-point scalar.

    Returns:
        A scalar of the dtype of `t`.
    """
    if beta == 0.0:
        return ops.ones_like(t)
    return -ops.expm1(t * math.log(beta))


def norm(x, kind="l2", layer_axis=None):
    """The norm of `x`, or of each of its slices.

    Args:
        x: An array of any shape.
        kind: `"l2"`, `"l1"` or `"linf"`.
        layer_axis: An axis whose slices are layers of their own, or None: all of `x` is one layer.

    Returns:
        A scalar of the dtype of `x`; with a `layer_axis`, an array that broadcasts against `x`, one value a slice.
    """
    axes = None if layer_axis is None else tuple(axis for axis in range(len(x.shape)) if axis != layer_axis)
    keepdims = layer_axis is not None
    if kind == "l1":
        return ops.sum(ops.abs(x), axes, keepdims=keepdims)
    if kind == "linf":
        return ops.max(ops.abs(x), axes, keepdims=keepdims, initial=0.0)
    return ops.sqrt(ops.sum(ops.square(x), axes, keepdims=keepdims))


class Trust(NamedTuple):
    """What scales the update of one variable.

    Attributes:
        ratio: The trust ratio.
        weight_norm: ||w||, before any bound.
        update_norm: The norm of the update.
        bounded: Whether a bound changed the ratio; None where there are no bounds.
    """

    ratio: object
    weight_norm: object
    update_norm: object
    bounded: object = None


def trust_ratio(
    weight_norm, update_norm, *, weight_norm_bounds=None, trust_ratio_bounds=None, denominator=None, coefficient=1.0
):
    """The factor of equations (6) and (8) by which an adapted variable scales its update.

    Args:
        weight_norm: ||w||, a scalar or one value a slice.
        update_norm: The norm of the update, of the same shape. In (8), ||g||.
        weight_norm_bounds: The pair (lower, upper) of phi; either may be None.
        trust_ratio_bounds: The pair (lower, upper) that bounds the ratio itself.
        denominator: What phi(||w||) is divided by; by default `update_norm`.
        coefficient: A Python float, LARS's trust coefficient.

    Returns:
        A `Trust`, whose ratio is exactly 1 where either norm is 0: no bound and no coefficient applies there.
    """
    both = ops.logical_and(weight_norm > 0, update_norm > 0)
    phi = bounded(weight_norm, weight_norm_bounds)
    scaled = phi if coefficient == 1.0 else coefficient * phi
    ratio = scaled / ops.where(both, update_norm if denominator is None else denominator, 1.0)
    bounded_ratio = bounded(ratio, trust_ratio_bounds)
    hit = None
    if weight_norm_bounds or trust_ratio_bounds:
        hit = ops.logical_and(both, ops.logical_or(phi != weight_norm, bounded_ratio != ratio))
    return Trust(ops.where(both, bounded_ratio, 1.0), weight_norm, update_norm, hit)


def bounded(x, bounds):
    """`x` with each element moved into [lower, upper]; `bounds` is that pair, either side None, or None."""
    lower, upper = bounds or (None, None)
    # Keras's maximum, minimum and clip round float64 to float32 on torch.
    x = x if lower is None else ops.where(x < lower, ops.zeros_like(x) + lower, x)
    return x if upper is None else ops.where(x > upper, ops.zeros_like(x) + upper, x)


def look_ahead(moment, new, beta, corrections):
    """The Nesterov estimate (3n) of a moment.

    Args:
        moment: The moment after this update.
        new: What the moment averages: g, or g^2.
        beta: Its decay, a Python float.
        corrections: The pair 1 - beta^t and 1 - beta^(t+1), or 1 and 1 without bias correction.

    Returns:
        The estimate, of the shape of `moment`.
    """
    return beta * moment / corrections[1] + (1.0 - beta) * new / corrections[0]


def lamb(w, g, m, v, corrections, *, beta_1, beta_2, epsilon, weight_decay, nesterov, stored):
    """The base update of LAMB, equations (1) to (5).

    Args:
        w: The variable's value, of any shape.
        g: Its gradient, summed over replicas and clipped.
        m: Its first moment.
        v: Its second moment.
        corrections: For each beta the pair 1 - beta^t and 1 - beta^(t+1), or 1 and 1: the same for all variables.
        beta_1: A Python float, the decay of `m`.
        beta_2: A Python float, the decay of `v`.
        epsilon: A Python float, added outside the root.
        weight_decay: A Python float, 0 for a variable that is excluded from decay.
        nesterov: False, `"m"` for (3n) on the first moment, or `"mv"` for both.
        stored: For each moment, a function that rounds it to what its storage holds; the update uses it so.

    Returns:
        The update, and the new `m` and `v`.
    """
    # (1), (2): 1 - beta is taken in Python's double precision.
    square = ops.square(g)
    m = beta_1 * m + (1.0 - beta_1) * g
    v = beta_2 * v + (1.0 - beta_2) * square
    m, v = stored[0](m), stored[1](v)

    # (3), (3n)
    m_hat = look_ahead(m, g, beta_1, corrections[0]) if nesterov else m / corrections[0][0]
    v_hat = look_ahead(v, square, beta_2, corrections[1]) if nesterov == "mv" else v / corrections[1][0]

    return lamb_update(w, m_hat, v_hat, epsilon, weight_decay), m, v


def lamb_update(w, m_hat, v_hat, epsilon, weight_decay):
    """The update of LAMB, equations (4) and (5), from the corrected moments; see `lamb`."""
    update = m_hat / (ops.sqrt(v_hat) + epsilon)
    return update + weight_decay * w if weight_decay else update


def momentum(buffer, x, *, momentum, dampening, nesterov, stored):
    """Heavy-ball or Nesterov momentum, equations (9) and (10).

    Args:
        buffer: The buffer b.
        x: What it accumulates, of the same shape.
        momentum: A Python float.
        dampening: A Python float: `x` enters times 1 - dampening.
        nesterov: Whether to look ahead.
        stored: A function that rounds the buffer to what its storage holds.

    Returns:
        What to step by, and the new buffer.
    """
    x = (1.0 - dampening) * x if dampening else x
    buffer = momentum * buffer + x
    buffer = stored(buffer)
    return (momentum * buffer + x if nesterov else buffer), buffer


def clip_by_norm(gradient, limit, gradient_norm=None):
    """Scales one gradient such that its own L2 norm is at most `limit`.

    Args:
        gradient: An array, already summed over replicas.
        limit: A positive Python float.
        gradient_norm: Its L2 norm, where it is known.

    Returns:
        The scaled gradient: unchanged where the norm is within the limit, NaN where it is not finite.
    """
    return gradient * _clip_factor(norm(gradient) if gradient_norm is None else gradient_norm, limit)


def sum_of_squares(x):
    """The square of the L2 norm of `x`, a scalar of its dtype."""
    return ops.sum(ops.square(x))


def global_norm(gradients, sum_of_squares=sum_of_squares):
    """The L2 norm of a non-empty list of arrays taken together, a scalar of their widest dtype.

    Args:
        gradients: The list.
        sum_of_squares: What computes that of one array.
    """
    dtypes = {compute_dtype(backend.standardize_dtype(g.dtype)) for g in gradients}
    dtype = "float64" if "float64" in dtypes else "float32"
    # Stacked: TensorFlow would regroup a chain of additions, differently from one graph to the next.
    return ops.sqrt(ops.sum(ops.stack([ops.cast(sum_of_squares(g), dtype) for g in gradients])))


def clip_by_global_norm(gradients, limit, gradient_norm=None):
    """Scales all gradients by one factor, such that their norm taken together is at most `limit`.

    Args:
        gradients: A non-empty list of arrays, already summed over replicas.
        limit: A positive Python float.
        gradient_norm: Their `global_norm`, where it is known.

    Returns:
        The list of scaled gradients: unchanged where the norm is within the limit, NaN where it is not finite.
    """
    factor = _clip_factor(global_norm(gradients) if gradient_norm is None else gradient_norm, limit)
    return [g * ops.cast(factor, g.dtype) for g in gradients]


def _clip_factor(gradient_norm, limit):
    # An infinite norm must not turn the finite gradients to 0: norm - norm makes the factor NaN, as in TensorFlow.
    return limit / bounded(gradient_norm, (limit, None)) + (gradient_norm - gradient_norm)
