"""LAMB as users of each package run it: functions that update their own copies of some weights by the same gradients.

Each maker takes lists of float32 arrays, weights and gradients, and returns a function without arguments that makes
one update and returns when it is done. A package that is not installed raises ModuleNotFoundError.
"""

import math

import numpy as np

# Of every LAMB; for Adam they are the same, without decay.
OPTIONS = {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-6, "weight_decay": 0.01}


def keras_apply(make, weights, dtype="float32"):
    """An optimizer of Keras 3, built on new variables: a function that applies a list of gradients to them.

    Args:
        make: The optimizer's class, or a function that takes `OPTIONS`.
        weights: The values of the variables.
        dtype: Of the variables.
    """
    import keras

    variables = [keras.Variable(w, dtype=dtype, name=f"v{i}") for i, w in enumerate(weights)]
    optimizer = make(**OPTIONS)
    optimizer.build(variables)
    return lambda gradients: optimizer.apply(gradients, variables)


def model_garden_apply(weights):
    """LAMB of tf-models-official on new variables: a function that applies a list of gradients to them."""
    import tensorflow as tf
    from official.modeling.optimization import lamb

    options = {"weight_decay_rate" if name == "weight_decay" else name: value for name, value in OPTIONS.items()}
    optimizer = lamb.LAMB(**options)
    variables = [tf.Variable(w, name=f"v{i}") for i, w in enumerate(weights)]

    def apply(gradients):
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    return apply


def adam_apply(weights):
    """`keras.optimizers.Adam`, which users leave for LAMB, as `keras_apply` gives it."""
    import keras

    return keras_apply(lambda weight_decay, **options: keras.optimizers.Adam(**options), weights)


def tensorflow_step(apply, gradients, compiled=None, dtype="float32"):
    """A step of a function that applies gradients.

    Args:
        apply: The function.
        gradients: The gradients.
        compiled: None for calls from Python; else the `jit_compile` of a `tf.function` around it.
        dtype: Of the gradients.
    """
    import tensorflow as tf

    gradients = [tf.constant(g, dtype) for g in gradients]
    # A step gets its gradients: constants would be folded into the graph.
    step = apply if compiled is None else tf.function(apply, jit_compile=compiled, autograph=False)

    def update():
        step(gradients)

    return update


def optax_lamb(weights, gradients):
    """`optax.lamb`, compiled with its state and the weights donated."""
    import jax
    import optax

    optimizer = optax.lamb(
        OPTIONS["learning_rate"],
        OPTIONS["beta_1"],
        OPTIONS["beta_2"],
        OPTIONS["epsilon"],
        weight_decay=OPTIONS["weight_decay"],
    )

    def update(weights, state, gradients):
        updates, state = optimizer.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state

    update = jax.jit(update, donate_argnums=(0, 1))
    now = [jax.numpy.array(w) for w in weights]
    gradients = [jax.numpy.array(g) for g in gradients]
    now = [now, optimizer.init(now)]

    def step():
        now[:] = update(*now, gradients)
        jax.block_until_ready(now)

    return step


def torch_optimizer_lamb(weights, gradients):
    """`torch_optimizer.Lamb`, without bias correction by its own default."""
    import torch
    import torch_optimizer

    weights = [torch.nn.Parameter(torch.tensor(w)) for w in weights]
    for w, g in zip(weights, gradients, strict=True):
        w.grad = torch.from_numpy(g)
    optimizer = torch_optimizer.Lamb(
        weights,
        OPTIONS["learning_rate"],
        (OPTIONS["beta_1"], OPTIONS["beta_2"]),
        OPTIONS["epsilon"],
        OPTIONS["weight_decay"],
    )
    return lambda: optimizer.step() and None


def arrays(shapes, seed=0):
    """Weights and gradients of these shapes, of the size that a model has in training."""
    draw = np.random.default_rng(seed)

    def normal(scale):
        # The same numbers again and again: to draw a billion takes longer than to time an update. What resize gives is
        # a part of a larger array.
        numbers = draw.standard_normal(1_000_003, np.float32) * np.float32(scale)
        return [np.resize(numbers[: math.prod(shape)], shape).copy() for shape in shapes]

    return normal(0.02), normal(1e-3)
