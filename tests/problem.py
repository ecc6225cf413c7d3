"""A problem that tells optimizers apart: shapes, options, rates, weights and gradients, in NumPy alone.

LAMB forgives much: an adapted variable hides a missing bias correction, equal replicas hide where the clipping is. So
there are unadapted variables, different lists for decay and adaptation, strong decay, gradients from 1e-3 to 1 whose
scale varies by step, unequal replicas, clipping that is active on some steps only, and zero norms.

It imports neither TensorFlow nor Keras, so that a peer in an environment of its own can be run through it.
"""

import numpy as np

STEPS = 12
SHAPES = {
    "scalar": (),
    "dense_kernel": (7, 5),
    "dense_bias": (5,),
    "norm_gamma": (5,),
    "conv_kernel": (3, 3, 2, 4),
    "embedding": (11, 3),
    "plain_kernel": (6, 4),
    "zero_kernel": (4, 4),
    "zero_unused": (3,),
}
NAMES = list(SHAPES)
OPTIONS = {
    "beta_1": 0.9,
    "beta_2": 0.99,
    "epsilon": 1e-6,
    "weight_decay": 0.3,
    "exclude_from_weight_decay": ["bias", "gamma"],
    "exclude_from_layer_adaptation": ["bias", "plain"],
    "global_clipnorm": 2.5,
}
DECAYS = [name not in ("dense_bias", "norm_gamma") for name in NAMES]
ADAPTS = [name not in ("dense_bias", "plain_kernel") for name in NAMES]


def learning_rate(step):
    """The rate at an update from 0."""
    return 0.05 / (1 + step)


def initial_weights():
    random = np.random.default_rng(0)
    return [
        np.zeros(shape) if name.startswith("zero") else np.asarray(random.normal(size=shape))
        for name, shape in SHAPES.items()
    ]


def gradients(replicas, steps=STEPS):
    """For each step, for each replica, the gradients, in float32 precision. A longer run begins as a shorter one."""
    random = np.random.default_rng(1)
    result = []
    for _ in range(steps):
        scales = 10.0 ** random.uniform(-3, 0, size=len(NAMES))
        result.append(
            [
                [
                    np.float32(
                        0.0 * random.normal(size=shape)
                        if name == "zero_unused"
                        else scale * random.normal(size=shape) * (1 + 2 * replica)
                    )
                    for (name, shape), scale in zip(SHAPES.items(), scales, strict=True)
                ]
                for replica in range(replicas)
            ]
        )
    return result


def embedding_slices(gradient, step):
    """A gradient of the embedding as the rows of some ids, every id twice: in parts of 1/4 and 3/4.

    Args:
        gradient: The dense gradient, an array.
        step: The update from 0, which decides the third of the ids that is missing.

    Returns:
        The rows, the ids, and the dense gradient that they amount to.
    """
    ids = np.array([i for i in range(len(gradient)) if (i + step) % 3])
    dense = np.zeros_like(gradient)
    dense[ids] = gradient[ids]
    rows = np.concatenate([gradient[ids] / 4, gradient[ids] - gradient[ids] / 4])
    return rows, np.concatenate([ids, ids]), dense
