"""The statistics are what NumPy computes from the equations.

`KERAS_BACKEND=jax` and `=torch` run this file on those backends; what is of TensorFlow alone is skipped there.
"""

import inspect

import keras
import numpy as np
import problem
import pytest
import runner
import tensorflow as tf
from keras import ops
from tolerances import RELATIVE_L2, distance

import tf_lamb
from tf_lamb import core, telemetry, update

BACKEND = keras.backend.backend()
IN_A_STEP = pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.function and tf.distribute are TensorFlow's")
FLOAT32 = RELATIVE_L2["float32", "cpu"]
UNCLIPPED = {**problem.OPTIONS, "global_clipnorm": None}
LISTS = {name: problem.OPTIONS[name] for name in ("exclude_from_weight_decay", "exclude_from_layer_adaptation")}
LARS = {"weight_decay": 0.3, "trust_coefficient": 0.1, **LISTS}
CASES = {
    "global_clipnorm": ("LAMB", problem.OPTIONS),
    "clipnorm": ("LAMB", {**UNCLIPPED, "clipnorm": 0.8}),
    "clipvalue": ("LAMB", {**UNCLIPPED, "clipvalue": 0.7}),
    "no clipping": ("LAMB", UNCLIPPED),
    "bounds": ("LAMB", {**problem.OPTIONS, "trust_ratio_bounds": (0.4, 1.0), "weight_norm_bounds": (None, 3.0)}),
    "slices": (
        "LAMB",
        {**problem.OPTIONS, "layer_axes": {"dense_kernel": 1, "conv": -1}, "trust_ratio_bounds": (0.4, 1.0)},
    ),
    "accumulation": ("LAMB", {**UNCLIPPED, "gradient_accumulation_steps": 2}),
    "skipping": ("LAMB", {**problem.OPTIONS, "skip_nonfinite": True}),
    "missing gradients": ("LAMB", problem.OPTIONS),
    "decay outside the ratio": ("LAMB", {**problem.OPTIONS, "decay_inside_ratio": False}),
    "L1 norm": ("LAMB", {**problem.OPTIONS, "norm": "l1"}),
    "LARS": ("LARS", LARS),
    "LARS, norm of the sum": ("LARS", {**LARS, "denominator": "norm_of_sum"}),
    "LARS, ratio after momentum": ("LARS", {**LARS, "ratio_position": "after_momentum"}),
    "normalised SGD": ("NormalizedSGD", {"weight_decay": 0.3, **LISTS}),
}
EVERY_STEPS = 5


def gradients_of(case, replicas=1):
    """The problem's gradients; for some cases, some of them not finite, or None."""
    gradients = problem.gradients(replicas)
    for step, replica_gradients in enumerate(gradients):
        for own in replica_gradients:
            if case == "skipping" and step % 4 == 1:
                own[1][2, 3] = np.nan
            if case == "missing gradients" and step in (1, 4, 5, 11):
                own[4] = own[5] = None
    return gradients


class Counting:
    """Mixed into an oracle: in how many layers a bound acted in the last update."""

    bound_hits = 0

    def clip(self, gradients):
        self.bound_hits = 0
        return super().clip(gradients)

    def ratio(self, *arguments, **named):
        result = super().ratio(*arguments, **named)
        bounds = self.weight_norm_bounds, self.trust_ratio_bounds
        self.weight_norm_bounds = self.trust_ratio_bounds = None
        self.bound_hits += np.sum(result != super().ratio(*arguments, **named))
        self.weight_norm_bounds, self.trust_ratio_bounds = bounds
        return result


def counting(name):
    return type("CountingOracle", (Counting, runner.ORACLES[name]), {})


def run(face, case):
    """Two lists of statistics as dictionaries, ours and NumPy's, one entry for each call of the optimizer."""
    name, options = CASES[case]
    optimizer = runner.make(face, name, {**options, "telemetry": True, "telemetry_every_steps": EVERY_STEPS})
    variables = runner.make_variables(face)
    optimizer.build(variables)
    oracle = runner.expected(name, options, [], oracle_class=counting(name))
    ours, numpys, gradient_norm = [], [], 0.0
    for replica_gradients in gradients_of(case):
        runner.apply(face, optimizer, replica_gradients[0], variables)
        ours.append({key: np.array(value) for key, value in to_numpy(optimizer.statistics()).items()})
        oracle.step(replica_gradients, problem.learning_rate(oracle.t))
        if "global_clipnorm" in options and options["global_clipnorm"] or oracle.t == 1 or oracle.t % EVERY_STEPS == 0:
            gradient_norm = oracle.gradient_norm
        numpys.append(of_oracle(oracle, gradient_norm, by_gradient=case == "LARS"))
    return ours, numpys


def of_oracle(oracle, gradient_norm, by_gradient):
    def layers(values):
        return np.concatenate([np.zeros(1) if value is None else np.ravel(value) for value in values])

    update_norms = list(oracle.update_norm)
    if by_gradient and oracle.t:
        # It keeps the denominator ||g|| + wd*||w||. What the trust ratio calls the update's norm there is ||g||.
        update_norms = [n - oracle.decay(i) * oracle.weight_norm[i] for i, n in enumerate(update_norms)]
    return {
        "trust_ratio": layers(oracle.trust_ratio),
        "weight_norm": layers(oracle.weight_norm),
        "update_norm": layers(update_norms),
        "gradient_norm": gradient_norm,
        "clip_rate": oracle.clipped_steps / max(oracle.t, 1),
        "bound_hits": oracle.bound_hits,
        "skipped_steps": oracle.skipped_steps,
    }


def to_numpy(values):
    return {name: ops.convert_to_numpy(value) for name, value in values.items()}


def missed_by(face, case):
    """For each statistic, the largest relative L2 error over all steps, in tolerances."""
    errors = {}
    for ours, numpys in zip(*run(face, case), strict=True):
        assert ours.keys() == numpys.keys()
        for name in ours:
            # A scalar's update may nearly cancel out: its norm is then off by little, but the ratio by much.
            form = (lambda ratio: 1 / np.maximum(ratio, 1e-30)) if name == "trust_ratio" else np.asarray
            error = distance([form(ours[name])], [form(numpys[name])]) / FLOAT32
            errors[name] = max(errors.get(name, 0.0), error)
    return errors


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("face", runner.FACES)
def test_the_statistics_are_those_of_numpy(face, case, record_property):
    errors = missed_by(face, case)
    record_property("tolerances", errors)
    print(errors)
    assert max(errors.values()) < 1, errors


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute is TensorFlow's")
@pytest.mark.parametrize("face", runner.FACES)
def test_two_unequal_replicas_keep_the_statistics_of_their_sum(face, two_replicas):
    name, options = CASES["slices"]
    gradients = problem.gradients(2)
    optimizer, _ = runner.run(face, name, {**options, "telemetry": True}, gradients, two_replicas)
    ours = to_numpy(optimizer.statistics())
    oracle = runner.expected(name, options, gradients, oracle_class=counting(name))
    numpys = of_oracle(oracle, oracle.gradient_norm, by_gradient=False)
    for key in ("weight_norm", "update_norm", "gradient_norm", "clip_rate", "bound_hits"):
        assert distance([ours[key]], [numpys[key]]) < FLOAT32
    with two_replicas.scope():
        per_replica = two_replicas.run(optimizer.statistics)
    for own in two_replicas.experimental_local_results(per_replica["trust_ratio"]):
        np.testing.assert_array_equal(own, ours["trust_ratio"])


@pytest.mark.parametrize("face", runner.FACES)
def test_the_names_are_those_of_the_entries(face):
    name, options = CASES["slices"]
    optimizer, _ = runner.run(face, name, {**options, "telemetry": True}, problem.gradients(1, steps=1))
    names = optimizer.layer_names()
    columns = [f"dense_kernel[{i}]" for i in range(5)]
    assert names[:7] == ["scalar", *columns, "dense_bias"]
    assert len(names) == len(problem.NAMES) + 4 + 3
    norms = dict(zip(names, to_numpy(optimizer.statistics())["weight_norm"], strict=True))
    before = dict(zip(problem.NAMES, runner.initial_weights(), strict=True))
    assert norms["conv_kernel[1]"] == pytest.approx(np.linalg.norm(before["conv_kernel"][..., 1]), rel=1e-6)
    assert norms["embedding"] == pytest.approx(np.linalg.norm(before["embedding"]), rel=1e-6)


# What is wrong with the statistics is seen: each mutant misses NumPy by ten tolerances, in the case and entry named.


def recorded(change):
    """A mutant of `telemetry.record`: `change` gets its arguments by name, and changes them."""

    def mutate(patch):
        original = telemetry.record
        names = inspect.signature(original).parameters

        def record(*arguments):
            named = dict(zip(names, arguments, strict=True))
            named.update(change(named))
            original(**named)

        patch.setattr(telemetry, "record", record)

    return mutate


def with_trusts(change):
    """A mutant that changes each `core.Trust`."""
    return recorded(lambda named: {"trusts": [(rule, change(trust)) for rule, trust in named["trusts"]]})


def norm_after_clipping(patch):
    clip = update.LayerwiseUpdate._clip

    def clip_first(self, gradients, *others):
        clipped, _, any_clipped = clip(self, gradients, *others)
        return clipped, core.global_norm(clipped), any_clipped

    patch.setattr(update.LayerwiseUpdate, "_clip", clip_first)


def mean_of_slices(trust):
    return trust._replace(ratio=ops.mean(trust.ratio) * ops.ones_like(ops.cast(trust.ratio, "float32")))


def nothing(trust):
    return core.Trust(0.0, 0.0, 0.0) if trust is None else trust


MUTANTS = {
    "gradient norm after clipping": ("global_clipnorm", "gradient_norm", norm_after_clipping),
    "gradient norm at every step": ("no clipping", "gradient_norm", recorded(lambda named: {"every_steps": 1})),
    "gradient norm of the sum of micro-batches": (
        "accumulation",
        "gradient_norm",
        recorded(lambda named: {"gradients": [2.0 * g for g in named["gradients"]]}),
    ),
    "update norm times ratio": (
        "global_clipnorm",
        "update_norm",
        with_trusts(lambda trust: trust._replace(update_norm=trust.update_norm * trust.ratio)),
    ),
    "ratio before the bounds": (
        "bounds",
        "trust_ratio",
        with_trusts(
            lambda trust: trust._replace(
                ratio=ops.where(trust.update_norm > 0, trust.weight_norm / trust.update_norm, 1.0)
            )
        ),
    ),
    "bound hits by variable": (
        "slices",
        "bound_hits",
        with_trusts(lambda trust: trust._replace(bounded=None if trust.bounded is None else ops.any(trust.bounded))),
    ),
    "one ratio for all slices": ("slices", "trust_ratio", with_trusts(mean_of_slices)),
    "missing gradients forget": ("missing gradients", "weight_norm", with_trusts(nothing)),
    "clipping unseen": ("clipvalue", "clip_rate", recorded(lambda named: {"any_clipped": None})),
    "skipped steps count": ("skipping", "clip_rate", recorded(lambda named: {"any_clipped": True, "applied": None})),
    "skipped steps write": ("skipping", "update_norm", recorded(lambda named: {"applied": None})),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_of_the_statistics_fails(mutant, monkeypatch, record_property):
    case, statistic, mutate = MUTANTS[mutant]
    mutate(monkeypatch)
    error = missed_by("keras", case)[statistic]
    record_property("tolerances", error)
    assert error > 10


# Cost, and reading inside of a function.


def sums_in_the_update(options):
    """How many sums the graph of an update has, without those in branches that run only now and then."""
    optimizer, variables = runner.make("keras", "LAMB", options), runner.make_variables("keras")
    optimizer.build(variables)

    @tf.function(jit_compile=True, autograph=False)
    def step(gradients):
        optimizer.apply(gradients, variables)

    specifications = [tf.TensorSpec(np.shape(w), tf.float32) for w in runner.initial_weights()]
    return [node.type for node in step.get_concrete_function(specifications).graph.get_operations()].count("Sum")


@IN_A_STEP
@pytest.mark.parametrize("limit", [None, 2.5])
def test_nothing_is_computed_twice(limit):
    options = {"weight_decay": 0.1, "global_clipnorm": limit}
    assert sums_in_the_update({**options, "telemetry": True}) == sums_in_the_update(options) > 0


@IN_A_STEP
def test_the_mutant_that_takes_the_gradient_norm_at_every_step_costs_a_pass(monkeypatch):
    monkeypatch.setattr(ops, "cond", lambda due, true, false: ops.where(due, true(), false()))
    # One for each gradient, and one of those.
    assert sums_in_the_update({"telemetry": True}) == sums_in_the_update({}) + len(problem.NAMES) + 1


@IN_A_STEP
@pytest.mark.parametrize("jit_compile", [True, False])
@pytest.mark.parametrize("face", runner.FACES)
def test_a_traced_function_reads_them(face, jit_compile):
    optimizer = runner.make(face, "LAMB", {**problem.OPTIONS, "telemetry": True})
    variables = runner.make_variables(face)
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def step(gradients):
        runner.apply(face, optimizer, gradients, variables)
        return optimizer.statistics()

    for (own,) in problem.gradients(1, steps=3):
        inside = to_numpy(step([tf.constant(g) for g in own]))
        outside = to_numpy(optimizer.statistics())
        assert inside.keys() == outside.keys()
        for name in inside:
            np.testing.assert_array_equal(inside[name], outside[name])
    assert step.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("face", runner.FACES)
def test_there_are_none_without_telemetry_or_before_the_optimizer_is_built(face):
    optimizer = runner.make(face, "LAMB", {})
    optimizer.build(runner.make_variables(face))
    with pytest.raises(ValueError, match="Make it with `telemetry=True`"):
        optimizer.statistics()
    with pytest.raises(ValueError, match="no plan before it knows its variables"):
        runner.make(face, "LAMB", {"telemetry": True}).statistics()


def test_a_gradient_that_is_not_finite_shows():
    variable = keras.Variable([3.0, 4.0])
    optimizer = tf_lamb.LAMB(0.1, telemetry=True, global_clipnorm=1.0)
    optimizer.apply([ops.convert_to_tensor([np.nan, 1.0])], [variable])
    statistics = to_numpy(optimizer.statistics())
    assert np.isnan(statistics["gradient_norm"]) and np.isnan(statistics["update_norm"]).all()
    assert statistics["weight_norm"] == 5.0
