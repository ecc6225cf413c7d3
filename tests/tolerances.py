"""The one table of tolerances, keyed by dtype and device, and the distance they bound."""

import numpy as np

# Largest relative L2 error of a tensor after TRAJECTORY_STEPS updates.
RELATIVE_L2 = {
    # Float32 has 6e-8 of rounding an operation; twelve updates of about ten operations each, and sums over tensors,
    # were measured at 2e-7 to 6e-7 on both faces.
    ("float32", "cpu"): 2e-6,
    # The same in float64, where rounding is 1e-16.
    ("float64", "cpu"): 1e-13,
    # The weights themselves are rounded to 8 bits at each update: 2^-9 each, twelve times.
    ("bfloat16", "cpu"): 3e-2,
}
# 1 replica against N: LAMB divides by the root of v, which turns rounding of a gradient near zero into sign noise.
REPLICAS = {("float32", "cpu"): 1e-4}


def distance(actual, expected, scales=None):
    """The largest relative L2 error over a list of tensors; infinite where one is not finite.

    Args:
        actual: The tensors in question.
        expected: The tensors to compare with.
        scales: What each error is relative to; by default `expected`.
    """
    worst = 0.0
    for a, e, scale in zip(actual, expected, scales or expected, strict=True):
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        if not np.all(np.isfinite(a)):
            return np.inf
        error, size = np.linalg.norm(a - e), np.linalg.norm(scale)
        worst = max(worst, error / size if size > 0 else (np.inf if error > 0 else 0.0))
    return worst


def state_distance(actual, expected):
    """The largest distance over (weights, m, v). A first moment may cross zero, so its scale is the root of v."""
    weights, m, v = expected
    roots = [np.sqrt(x) for x in v]
    return max(distance(actual[0], weights), distance(actual[1], m, roots), distance(actual[2], v))
