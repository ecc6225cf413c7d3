"""The mathematics of LAMB, as pure functions over `keras.ops`.

For one variable `w` with gradient `g`, already summed over replicas and clipped, at update `t` = 1, 2, ...:

    (1)  m = beta_1 * m + (1 - beta_1) * g
    (2)  v = beta_2 * v + (1 - beta_2) * g^2
    (3)  m_hat = m / (1 - beta_1^t),   v_hat = v / (1 - beta_2^t)
    (4)  r = m_hat / (sqrt(v_hat) + epsilon)
    (5)  update = r + weight_decay * w
    (6)  trust_ratio = ||w|| / ||update||, and 1 where either norm is 0
    (7)  w = w - learning_rate * trust_ratio * update

Reference: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", arXiv 1904.00962v5
(ICLR 2020), algorithm 2.

Differs from
  - `keras.optimizers.Lamb`: there the decay acts outside the trust ratio, and before the norm is taken.
  - versions 1 to 3 of the paper and the code behind it: those have no bias correction (3).
  - DeepSpeed: there the bias correction is part of the step size, outside the norm of (6).
  - LAMBC and DeepSpeed: those bound the trust ratio.

Every function takes and returns arrays of `compute_dtype(w.dtype)`, so a bfloat16 variable is updated in float32.
Norms are written as plain sums of squares, which XLA fuses with what produces the squares.
"""

import math

from keras import backend, ops


def compute_dtype(dtype):
    """The dtype in which a variable of `dtype` is updated and its moments are kept.

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


def norm(x):
    """The L2 norm of all of `x`, a scalar of the dtype of `x`."""
    return ops.sqrt(ops.sum(ops.square(x)))


def trust_ratio(w, update):
    """The factor of equation (6) by which an adapted variable scales its update.

    Args:
        w: The variable's value, of any shape.
        update: The update of equation (5), of the same shape and dtype.

    Returns:
        A scalar: ||w|| / ||update||, and exactly 1 where either norm is 0.
    """
    weight_norm = norm(w)
    update_norm = norm(update)
    both = ops.logical_and(weight_norm > 0, update_norm > 0)
    return ops.where(both, weight_norm / ops.where(both, update_norm, 1.0), 1.0)


def lamb(w, g, m, v, corrections, *, learning_rate, beta_1, beta_2, epsilon, weight_decay, adapted):
    """One update of one variable, equations (1) to (7).

    Args:
        w: The variable's value, of any shape.
        g: Its gradient, summed over replicas and clipped.
        m: Its first moment.
        v: Its second moment.
        corrections: The pair 1 - beta_1^t and 1 - beta_2^t, from `bias_correction`: the same for all variables.
        learning_rate: A scalar.
        beta_1: A Python float, the decay of `m`.
        beta_2: A Python float, the decay of `v`.
        epsilon: A Python float, added outside the root.
        weight_decay: A Python float, 0 for a variable that is excluded from decay.
        adapted: Whether the update is scaled by the trust ratio.

    Returns:
        The new `w`, `m` and `v`.
    """
    # (1), (2): 1 - beta is taken in Python's double precision.
    m = beta_1 * m + (1.0 - beta_1) * g
    v = beta_2 * v + (1.0 - beta_2) * ops.square(g)

    # (3), (4)
    m_hat = m / corrections[0]
    v_hat = v / corrections[1]
    update = m_hat / (ops.sqrt(v_hat) + epsilon)

    # (5)
    if weight_decay:
        update = update + weight_decay * w

    # (6), (7)
    step_size = learning_rate * trust_ratio(w, update) if adapted else learning_rate
    return w - step_size * update, m, v


def clip_by_norm(gradient, limit):
    """Scales one gradient such that its own L2 norm is at most `limit`, a positive Python float."""
    return gradient * _clip_factor(norm(gradient), limit)


def clip_by_global_norm(gradients, limit):
    """Scales all gradients by one factor, such that their norm taken together is at most `limit`.

    Args:
        gradients: A non-empty list of arrays, already summed over replicas.
        limit: A positive Python float.

    Returns:
        The list of scaled gradients: unchanged where the norm is within the limit, NaN where it is not finite.
    """
    dtype = backend.result_type(*(g.dtype for g in gradients))
    global_norm = ops.sqrt(sum(ops.cast(ops.sum(ops.square(g)), dtype) for g in gradients))
    factor = _clip_factor(global_norm, limit)
    return [g * ops.cast(factor, g.dtype) for g in gradients]


def _clip_factor(gradient_norm, limit):
    # An infinite norm must not turn the finite gradients to 0: norm - norm makes the factor NaN, as in TensorFlow.
    return limit / ops.maximum(gradient_norm, limit) + (gradient_norm - gradient_norm)
