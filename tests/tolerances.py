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
# What a peer itself rounds, by the name of its function in `peer_optimizers`: it computes in float64 otherwise.
PEERS = {
    # Its hyper-parameters are float32 variables: 1.8e-8 was measured.
    "model_garden_lamb": 1e-7,
    # Keras takes 1 - beta^t of a beta rounded to float32, which is off by 1.3e-5 for 0.999 at the first update, and
    # half of that in the root. It shows where no trust ratio removes it, in a tensor of zeros: 6.7e-6 was measured.
    "keras_lamb": 1e-5,
    # It adds epsilon to the norm of the update and to the global norm: 4.2e-7 and 1.8e-6 were measured.
    "pytorch_optimizer_lamb": 5e-6,
}
# Of a property, relative to a tensor's largest element or to how far it moves. A step of 2^-6 of a tensor is known to
# 2^6 roundings of the tensor, a few times over: less than 2e-13 and 4e-5 was measured over all examples.
PROPERTIES = {("float64", "cpu"): 1e-12, ("float32", "cpu"): 1e-4}
# 1 replica against N: LAMB divides by the root of v, which turns rounding of a gradient near zero into sign noise.
REPLICAS = {("float32", "cpu"): 1e-4, ("float64", "cpu"): 1e-10}


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
