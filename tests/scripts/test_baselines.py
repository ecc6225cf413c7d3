"""The optimizers that image configs name as baselines, against tf_keras's own and torch's."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch

import run_config

STEPS = 12
SHAPES = {"dense/kernel": (4, 3), "dense/bias": (3,)}


def trajectory(optimizer):
    """The variables after each of some updates with gradients that vary."""
    draw = np.random.default_rng(0)
    variables = [tf.Variable(draw.normal(size=shape), name=name, dtype=tf.float64) for name, shape in SHAPES.items()]
    optimizer.build(variables)
    values = []
    for _ in range(STEPS):
        gradients = [tf.constant(draw.normal(size=shape) * draw.choice([1e-2, 1.0])) for shape in SHAPES.values()]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        values.append([variable.numpy().copy() for variable in variables])
    return values


def torch_trajectory(make_optimizer):
    draw = np.random.default_rng(0)
    parameters = [torch.nn.Parameter(torch.tensor(draw.normal(size=shape))) for shape in SHAPES.values()]
    optimizer, values = make_optimizer(parameters), []
    for _ in range(STEPS):
        for parameter in parameters:
            parameter.grad = torch.tensor(draw.normal(size=tuple(parameter.shape)) * draw.choice([1e-2, 1.0]))
        optimizer.step()
        values.append([parameter.detach().numpy().copy() for parameter in parameters])
    return values


def ours(name, learning_rate, **options):
    schema = {"momentum": run_config.MomentumConfig, "adagrad": run_config.AdagradConfig}.get(
        name, run_config.LambConfig
    )
    config = schema(name=name, global_clipnorm=None, exclude_from_weight_decay=(), **options)
    return trajectory(run_config.make_optimizer(config, run_config.RunConfig())(learning_rate))


def assert_equal(values, expected):
    for step, (mine, theirs) in enumerate(zip(values, expected, strict=True)):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14, err_msg=f"step {step}")


def distance(values, expected):
    return max(
        np.abs(a - b).max()
        for mine, theirs in zip(values, expected, strict=True)
        for a, b in zip(mine, theirs, strict=True)
    )


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum(nesterov):
    values = ours("momentum", 0.125, momentum=0.9, nesterov=nesterov, weight_decay=0.05)
    expected = torch_trajectory(
        lambda parameters: torch.optim.SGD(parameters, 0.125, momentum=0.9, nesterov=nesterov, weight_decay=0.05)
    )
    assert_equal(values, expected)
    # A mutant: decay outside of the momentum.
    plain = torch_trajectory(lambda parameters: torch.optim.SGD(parameters, 0.125, momentum=0.9, nesterov=nesterov))
    assert distance(values, plain) > 1e-3
    if not nesterov:
        assert_equal(
            ours("momentum", 0.125, momentum=0.875, weight_decay=0.0), trajectory(tf_keras.optimizers.SGD(0.125, 0.875))
        )


def test_adagrad():
    values = ours("adagrad", 0.25, weight_decay=0.0)
    assert_equal(values, trajectory(tf_keras.optimizers.Adagrad(0.25, initial_accumulator_value=0.1, epsilon=0.0)))
    decayed = ours("adagrad", 0.25, weight_decay=0.05)
    expected = torch_trajectory(
        lambda parameters: torch.optim.Adagrad(
            parameters, 0.25, weight_decay=0.05, initial_accumulator_value=0.1, eps=0.0
        )
    )
    assert_equal(decayed, expected)
    assert distance(decayed, values) > 1e-3


def test_adam_is_adamw_without_decay():
    values = ours("adamw", 2**-7, weight_decay=0.0, epsilon=1e-8)
    assert_equal(values, torch_trajectory(lambda parameters: torch.optim.Adam(parameters, 2**-7, eps=1e-8)))
    decayed = ours("adamw", 2**-7, weight_decay=0.1, epsilon=1e-8)
    expected = torch_trajectory(lambda parameters: torch.optim.AdamW(parameters, 2**-7, eps=1e-8, weight_decay=0.1))
    assert_equal(decayed, expected)
