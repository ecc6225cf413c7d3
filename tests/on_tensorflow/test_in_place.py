"""LAMB in place, by TensorFlow's kernels for CPUs: it follows the oracle, and the plain path, in every option."""

import keras
import numpy as np
import pytest
import runner
import tensorflow as tf
import trajectory
from tolerances import RELATIVE_L2, distance, state_distance
from variants import VARIANTS

import tf_lamb
from tf_lamb import core, in_place, rules

FLOAT32 = RELATIVE_L2["float32", "cpu"]
# One minus a beta that float32 holds is off by this for 0.999, and v is a multiple of it.
ROUNDING_OF_BETA = 1.4e-5
PLAIN = {"jit_compile": False}
LEFT_TO_OTHERS = ("norm", "layer_axes", "moment_dtype", "use_ema", "nesterov")
IN_PLACE = [
    name
    for name, variant in VARIANTS.items()
    if variant.optimizer == "LAMB"
    and variant.options.get("decay_inside_ratio", True)
    and not any(variant.options.get(option) for option in LEFT_TO_OTHERS)
]


@pytest.fixture
def calls(monkeypatch):
    """A list that grows by each trace of the update in place."""
    made, original = [], in_place.InPlaceUpdate.__call__

    def counted(self, *arguments):
        made.append(arguments)
        return original(self, *arguments)

    monkeypatch.setattr(in_place.InPlaceUpdate, "__call__", counted)
    return made


def check(optimizer, variables, expected):
    """The weights, moments and counters are the oracle's."""
    slots = runner.slots(optimizer)
    assert state_distance((runner.values(variables), *slots), (expected.weights, expected.m, expected.v)) < FLOAT32
    assert runner.value(optimizer.iterations) == expected.t
    if expected.skip_nonfinite:
        assert runner.value(optimizer.skipped_steps) == expected.skipped_steps > 0


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("name", IN_PLACE)
def test_follows_the_oracle(face, name, replicas, two_replicas, calls):
    variant = VARIANTS[name]
    strategy = two_replicas if replicas == 2 else None
    optimizer, variables = runner.run(face, "LAMB", variant.options, variant.gradients(replicas), strategy)
    assert len(calls) == replicas
    check(optimizer, variables, variant.oracle(replicas))


def test_enough_variants_are_in_place():
    assert {"LAMB_base", "LAMB_accumulation", "LAMB_accumulation_skip", "LAMB_clipnorm"} <= set(IN_PLACE)


@pytest.mark.parametrize("bias_correction", [True, False, "step_size"])
def test_the_default_beta_costs_the_weights_nothing(face, bias_correction, calls):
    """Beside the oracle, and in lockstep with the plain path: only v shows that float32 has no 0.999."""
    options = {**trajectory.OPTIONS, "beta_2": 0.999, "bias_correction": bias_correction}
    weights, m, v, _ = trajectory.run(face, options=options)
    assert calls
    if bias_correction is True:
        assert distance(weights, trajectory.expected(1, options)[0]) < FLOAT32
    plain_weights, plain_m, plain_v, _ = trajectory.run(face, options={**options, **PLAIN})
    roots = [np.sqrt(x) for x in plain_v]
    assert distance(weights, plain_weights) < FLOAT32 and distance(m, plain_m, roots) < FLOAT32
    assert FLOAT32 < distance(v, plain_v) < ROUNDING_OF_BETA
    rounded = {**options, "beta_2": float(np.float32(0.999))}
    assert distance(v, trajectory.run(face, options={**rounded, **PLAIN})[2]) < FLOAT32


@pytest.mark.parametrize("clipping", [{}, {"global_clipnorm": None}])
def test_statistics_are_those_of_the_plain_path(face, clipping, calls):
    options = {**trajectory.OPTIONS, "telemetry": True, "telemetry_every_steps": 3, "trust_ratio_bounds": (0.5, 2.0)}
    options |= clipping
    optimizers = [trajectory.run(face, options={**options, **path})[-1] for path in ({}, PLAIN)]
    assert len(calls) == 1
    ours, plain = ({name: x.numpy() for name, x in each.statistics().items()} for each in optimizers)
    assert ours.keys() == plain.keys() and ours["bound_hits"] > 0
    for name, value in plain.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, err_msg=name)


def test_telemetry_changes_no_bit(face, calls):
    runs = [trajectory.run(face, options={**trajectory.OPTIONS, "telemetry": t})[:3] for t in (True, False, False)]
    assert len(calls) == 3
    for other in runs[1:]:
        assert state_distance(other, runs[0]) == 0.0


def test_missing_gradients_leave_a_variable_alone(face, calls):
    variant = VARIANTS["LAMB_accumulation"]
    gradients = variant.gradients()
    for position, steps in ((1, (0, 1, 2)), (5, (4, 8))):
        for step in steps:
            gradients[step][0][position] = None
    with pytest.warns(UserWarning, match="dense_kernel"):
        optimizer, variables = runner.run(face, "LAMB", variant.options, gradients)
    assert calls
    check(optimizer, variables, runner.expected("LAMB", variant.options, gradients))


LISTED = {
    "XLA asked for": {"jit_compile": True},
    "XLA refused": {"jit_compile": False},
    "another norm": {"norm": "l1"},
    "slices": {"layer_axes": {"a": 0}},
    "narrow moments": {"moment_dtype": "bfloat16"},
    "averages": {"use_ema": True},
    "look-ahead": {"nesterov": "m"},
    "decay outside": {"decay_inside_ratio": False},
}


@pytest.mark.parametrize("options", LISTED.values(), ids=LISTED)
def test_what_the_kernels_cannot_do_is_left_to_the_others(options, calls):
    one_step(tf_lamb.LAMB(0.1, **options), keras.Variable([1.0, 2.0], name="a"))
    assert not calls


@pytest.mark.parametrize(
    "variable",
    [
        lambda: keras.Variable([1.0], dtype="float64", name="a"),
        lambda: keras.Variable([1.0], dtype="bfloat16", name="a"),
        lambda: constrained(keras.Variable([1.0], name="a")),
    ],
    ids=["float64", "bfloat16", "constrained"],
)
def test_variables_that_are_left_to_the_others(variable, calls):
    one_step(tf_lamb.LAMB(0.1), keras.Variable([1.0], name="b"), variable())
    assert not calls


@pytest.mark.parametrize("optimizer", [tf_lamb.LARS, tf_lamb.NormalizedSGD])
def test_other_optimizers_are_not_adam(optimizer, calls):
    one_step(optimizer(0.1), keras.Variable([1.0], name="a"))
    assert not calls


def test_a_compiled_step_stays_one_xla_computation(calls):
    variable, optimizer = keras.Variable([1.0, 2.0], name="a"), tf_lamb.LAMB(0.1)
    optimizer.build([variable])
    tf.function(lambda: optimizer.apply([tf.ones(2)], [variable]), jit_compile=True)()
    assert not calls
    one_step(optimizer, variable)
    assert len(calls) == 1


def constrained(variable):
    variable.constraint = keras.constraints.NonNeg()
    return variable


def one_step(optimizer, *variables):
    optimizer.apply([tf.ones_like(v.value) for v in variables], list(variables))


@pytest.mark.parametrize(
    ("clipping", "norms"), [({}, 40), ({"clipnorm": 1.0}, 60), ({"global_clipnorm": 1.0}, 60)], ids=str
)
def test_a_variable_takes_few_kernels(clipping, norms):
    variables = [keras.Variable(tf.ones((2, 1 + i)), name=f"v{i}") for i in range(20)]
    optimizer = tf_lamb.LAMB(0.1, weight_decay=0.1, **clipping)
    optimizer.build(variables)
    step = tf.function(lambda gradients: optimizer.apply(gradients, variables))
    graph = step.get_concrete_function([v.value for v in variables]).graph.as_graph_def()
    counts = {}
    for function in graph.library.function:
        assert not function.attr["_XlaMustCompile"].b
        for node in function.node_def:
            counts[node.op] = counts.get(node.op, 0) + 1
    assert counts["ResourceApplyAdam"] == counts["ResourceApplyGradientDescent"] == 20
    assert counts["VarHandleOp"] == 20 and counts["L2Loss"] == norms


def test_runs_repeat_bit_for_bit():
    """Large enough for every kernel to share its work among threads."""
    states = [run_large() for _ in range(3)]
    for other in states[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(other, states[0], strict=True))


def run_large():
    random = np.random.default_rng(0)
    shapes = [(700, 900), (300, 300), (5,), (1000, 400), (64, 64)]
    variables = [keras.Variable(random.normal(size=s), name=f"v{i}") for i, s in enumerate(shapes)]
    optimizer = tf_lamb.LAMB(0.01, weight_decay=0.1)
    for _ in range(5):
        optimizer.apply([tf.constant(random.normal(size=s), tf.float32) for s in shapes], variables)
    return [v.numpy() for v in variables]


@pytest.mark.slow
def test_squares_of_1e8_elements():
    x = np.random.default_rng(2).standard_normal(100_000_000, dtype="float32")
    squares = sum(
        float(np.dot(part, part)) for part in (x[i : i + 10**6].astype("float64") for i in range(0, x.size, 10**6))
    )
    assert float(in_place.sum_of_squares(tf.constant(x))) == pytest.approx(squares, rel=2e-6)


def corrected_by_the_kernel_too(patch):
    kernel = tf.raw_ops.ResourceApplyAdam
    patch.setattr(tf.raw_ops, "ResourceApplyAdam", lambda **numbers: kernel(**{**numbers, "beta2_power": 0.5}))


# Float32 has 0.9999 to 1.7e-4 of its distance from 1.
MUTANTS = {
    "adam": lambda patch: patch.setattr(core, "trust_ratio", lambda *norms, **_: core.Trust(1.0, *norms)),
    "no bias correction": lambda patch: patch.setattr(core, "bias_correction", lambda beta, t: tf.ones_like(t)),
    "corrections of betas that the kernel has not": lambda patch: patch.setattr(in_place, "in_float32", float),
    "corrected by the kernel, too": corrected_by_the_kernel_too,
    "norms without roots": lambda patch: patch.setattr(
        in_place, "sum_of_squares", lambda x: (2 * tf.nn.l2_loss(x)) ** 2
    ),
    "half of the squares": lambda patch: patch.setattr(in_place, "sum_of_squares", tf.nn.l2_loss),
    "no decay": lambda patch: patch.setattr(rules.Rule, "decayed", False),
    "decay of all": lambda patch: patch.setattr(rules.Rule, "decayed", True),
}


def missed_by(face):
    options = {**trajectory.OPTIONS, "beta_2": 0.9999}
    return distance(trajectory.run(face, options=options)[0], trajectory.expected(1, options)[0]) / FLOAT32


def test_the_original_passes(face, calls):
    assert missed_by(face) < 1
    assert calls


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_mutant_fails(face, mutant, monkeypatch):
    MUTANTS[mutant](monkeypatch)
    assert missed_by(face) > 10
