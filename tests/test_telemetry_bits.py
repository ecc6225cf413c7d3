"""Keeping statistics changes no bit of the training, on any backend and in any way of calling the optimizer."""

import itertools

import numpy as np
import problem
import pytest
import runner
import tensorflow as tf
from keras import ops
from test_telemetry import BACKEND, CASES, IN_A_STEP

from tf_lamb import core

WAYS = {
    "alone": ("keras", {}, None),
    "alone, not compiled": pytest.param("keras", {"jit_compile": False}, None, marks=IN_A_STEP),
    "alone, compiled": pytest.param("keras", {"jit_compile": True}, None, marks=IN_A_STEP),
    "tf_keras": pytest.param("tf_keras", {}, None, marks=IN_A_STEP),
    "tf_keras, not compiled": pytest.param("tf_keras", {"jit_compile": False}, None, marks=IN_A_STEP),
    "in a compiled step": pytest.param("keras", {}, "compiled", marks=IN_A_STEP),
    "in a step": pytest.param("keras", {}, "step", marks=IN_A_STEP),
    "tf_keras, in a compiled step": pytest.param("tf_keras", {}, "compiled", marks=IN_A_STEP),
    "two replicas": pytest.param("keras", {}, "replicas", marks=IN_A_STEP),
    "two replicas, compiled": pytest.param("keras", {"jit_compile": True}, "replicas", marks=IN_A_STEP),
    "tf_keras, two replicas": pytest.param("tf_keras", {}, "replicas", marks=IN_A_STEP),
    "jax.jit": pytest.param("keras", {}, "jax", marks=pytest.mark.skipif(BACKEND != "jax", reason="JAX's")),
}
BIT_CASES = ("global_clipnorm", "no clipping", "slices", "decay outside the ratio")


def train(face, options, way, strategy):
    """The weights and all moments after the problem's twelve steps."""
    if way == "replicas":
        optimizer, variables = runner.run(face, "LAMB", options, problem.gradients(2), strategy)
    elif way in ("compiled", "step"):
        optimizer, variables = runner.make(face, "LAMB", options), runner.make_variables(face)
        optimizer.build(variables)

        # The gradients are products, which a compiler may fuse into the update.
        @tf.function(jit_compile=way == "compiled", autograph=False)
        def step(gradients, factor):
            runner.apply(face, optimizer, [factor * g + 0.1 * g for g in gradients], variables)

        for (own,) in problem.gradients(1):
            step([tf.constant(g) for g in own], tf.constant(1.3))
    elif way == "jax":
        optimizer, variables = train_in_jax(options)
    else:
        optimizer, variables = runner.run(face, "LAMB", options, problem.gradients(1))
    return [*runner.values(variables), *itertools.chain(*runner.slots(optimizer))]


def train_in_jax(options):
    import jax

    optimizer, variables = runner.make("keras", "LAMB", options), runner.make_variables("keras")
    optimizer.build(variables)
    step = jax.jit(optimizer.stateless_apply)
    state, weights = [v.value for v in optimizer.variables], [v.value for v in variables]
    for (own,) in problem.gradients(1):
        weights, state = step(state, [jax.numpy.asarray(g) for g in own], weights)
    for variable, value in zip([*optimizer.variables, *variables], [*state, *weights], strict=True):
        variable.assign(value)
    return optimizer, variables


def bits_that_change(face, options, way, strategy):
    """The tensors of weights and moments that are different with telemetry, with the largest difference of each."""
    without, with_telemetry = (
        train(face, {**options, "telemetry": telemetry_, "telemetry_every_steps": 3}, way, strategy)
        for telemetry_ in (False, True)
    )
    names = [f"{kind} of {name}" for kind in ("weights", "m", "v") for name in problem.NAMES]
    return {
        name: np.max(np.abs(a - b))
        for name, a, b in zip(names, without, with_telemetry, strict=True)
        if not np.array_equal(a, b)
    }


@pytest.mark.parametrize("case", BIT_CASES)
@pytest.mark.parametrize(("face", "more", "way"), WAYS.values(), ids=WAYS)
def test_no_bit_of_the_training_changes(face, more, way, case, request):
    strategy = request.getfixturevalue("two_replicas") if way == "replicas" else None
    assert bits_that_change(face, {**CASES[case][1], **more}, way, strategy) == {}


def test_a_norm_taken_otherwise_for_telemetry_would_change_bits(monkeypatch):
    """The mutant: with telemetry on, norms are scaled by the largest element first, to within rounding the same."""
    from tf_lamb.step import Step

    def scaled_norm(self, x):
        if not self._options.telemetry:
            return core.norm(x, "l2", self.rule.layer_axis)
        largest = ops.max(ops.abs(x)) + 1e-30
        return largest * core.norm(x / largest, "l2", self.rule.layer_axis)

    monkeypatch.setattr(Step, "_norm", scaled_norm)
    # In place, a norm is TensorFlow's own.
    options = {**problem.OPTIONS, **({"jit_compile": False} if BACKEND == "tensorflow" else {})}
    assert bits_that_change("keras", options, None, None)
