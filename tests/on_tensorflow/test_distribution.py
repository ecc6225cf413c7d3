"""Gradients are summed once, then clipped: N replicas are one replica on the same global batch."""

import functools
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import trajectory
from global_batch import Training, batches, replica_values, replicas_agree
from tensorflow.python.ops import resource_variable_ops
from tolerances import RELATIVE_L2, REPLICAS, distance, state_distance

import tf_lamb
from tf_lamb import core, replicas, update
from tf_lamb.tf_keras import LAMB as TfKerasLAMB

FLOAT32 = REPLICAS["float32", "cpu"]
CLIPPING = {"global_clipnorm": 0.5}
ACCUMULATION = {"gradient_accumulation_steps": 2}
SKIPPING = {"skip_nonfinite": True}
EMA = {"use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": 2}
EVERYTHING = {**CLIPPING, **ACCUMULATION, **SKIPPING, **EMA, "telemetry": True}
CASES = {
    "clipping": ("LAMB", CLIPPING),
    "accumulation": ("LAMB", {**CLIPPING, **ACCUMULATION}),
    "skipping": ("LAMB", {**CLIPPING, **SKIPPING}),
    "averaging": ("LAMB", {**CLIPPING, **EMA}),
    "everything": ("LAMB", EVERYTHING),
    "lars": ("LARS", CLIPPING),
    "lars_everything": ("LARS", EVERYTHING),
    "lars_after_momentum": ("LARS", {**EVERYTHING, "ratio_position": "after_momentum", "nesterov": True}),
}


@pytest.fixture
def strategies(two_replicas, three_replicas):
    """All strategies of one process, by name."""
    one_device = tf.distribute.OneDeviceStrategy("CPU:1")
    default = tf.distribute.get_strategy()
    return {"none": default, "one_device": one_device, "two_replicas": two_replicas, "three_replicas": three_replicas}


def train(face, case, strategy=None, dtype="float32"):
    """Eight micro-steps; with skipping, the last replica's share of the fourth and the fifth is infinite."""
    name, options = CASES[case]
    training = Training(face, name, options, strategy, dtype)
    return training.run(batches(8, spoiled=(3, 4) if "skip_nonfinite" in options else ()))


@functools.cache
def on_one_replica(face, case, dtype):
    return train(face, case, dtype=dtype)


def distance_to_one_replica(training, face, case, dtype="float32"):
    """The distance of the weights and averages from those of one replica without a strategy."""
    reference = on_one_replica(face, case, dtype)
    worst = distance(training.weights(), reference.weights())
    if training.optimizer.use_ema:
        worst = max(worst, distance(training.averages(), reference.averages()))
    return worst


@pytest.mark.parametrize(
    ("case", "strategy"),
    [(case, "two_replicas") for case in CASES]
    + [("everything", "three_replicas"), ("lars_everything", "three_replicas"), ("everything", "one_device")],
)
def test_n_replicas_are_one_on_the_same_global_batch(face, case, strategy, strategies):
    """With unequal shares, repeated ids in the embedding's gradients, and the bad example on the last replica."""
    training = train(face, case, strategies[strategy])
    assert distance_to_one_replica(training, face, case) < FLOAT32
    assert replicas_agree(training.state())
    steps = {"clipping": (8, None), "skipping": (6, 2), "everything": (2, 2), "lars_everything": (2, 2)}
    if case in steps:
        counters = (training.optimizer.iterations, training.optimizer.skipped_steps)
        assert tuple(c if c is None else replica_values(c)[0] for c in counters) == steps[case]


@pytest.mark.parametrize("case", ["everything", "lars_everything"])
def test_n_replicas_are_one_in_float64(face, case, two_replicas):
    training = train(face, case, two_replicas, "float64")
    assert distance_to_one_replica(training, face, case, "float64") < REPLICAS["float64", "cpu"]


def test_the_cases_are_different():
    """So that an option without effect under a strategy could not pass."""
    weights = {case: on_one_replica("keras", case, "float32").weights() for case in CASES}
    for case in CASES:
        others = [weights[other] for other in CASES if other != case]
        assert min(distance(weights[case], other) for other in others) > 10 * FLOAT32


def clip_before_the_sum(patch):
    """Keras 3's own order."""
    summed = replicas.sum_over_replicas
    patch.setattr(replicas, "sum_over_replicas", lambda g, *rest: summed(core.clip_by_global_norm(g, 0.5), *rest))
    patch.setattr(update.LayerwiseUpdate, "_clip", lambda self, gradients, _: (gradients, None, None))


def each_replica_tests_its_own(patch):
    """A replica whose own share is not finite stays out of the sum, and the others go on."""
    summed = replicas.sum_over_replicas

    def sum_of_the_finite(gradients, *rest):
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
        return summed([tf.where(finite, g, 0.0) for g in gradients], *rest)

    patch.setattr(replicas, "sum_over_replicas", sum_of_the_finite)


def each_replica_accumulates_its_own(patch):
    patch.setattr(replicas, "sum_over_replicas", lambda gradients, *rest: list(gradients))


def counts_skipped_steps(patch):
    """The schedule and the bias correction go on."""
    update_variables = update.LayerwiseUpdate._update_variables

    def mutant(self, gradients, states, shared, learning_rate):
        skipped_before = tf.identity(shared.skipped_steps)
        update_variables(self, gradients, states, shared, learning_rate)
        shared.iterations.assign_add(tf.cast(shared.skipped_steps - skipped_before, shared.iterations.dtype))

    patch.setattr(update.LayerwiseUpdate, "_update_variables", mutant)


MUTANTS = {
    "clip_before_the_sum": (clip_before_the_sum, "clipping"),
    "each_replica_tests_its_own": (each_replica_tests_its_own, "skipping"),
    "each_replica_accumulates_its_own": (each_replica_accumulates_its_own, "accumulation"),
    "counts_skipped_steps": (counts_skipped_steps, "skipping"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_mutant_differs(face, mutant, two_replicas, monkeypatch, record_property):
    mutate, case = MUTANTS[mutant]
    on_one_replica(face, case, "float32")  # of what the mutant is not
    mutate(monkeypatch)
    training = train(face, case, two_replicas)
    missed_by = distance_to_one_replica(training, face, case) / FLOAT32
    record_property("tolerances", missed_by)
    print(f"{mutant} on {face}: {missed_by:.3g} tolerances")
    assert missed_by > 10
    assert replicas_agree(training.state()) == (mutant != "each_replica_accumulates_its_own")


def test_three_unequal_replicas_follow_the_oracle(face, three_replicas):
    *state, _ = trajectory.run(face, strategy=three_replicas)
    assert state_distance(state, trajectory.expected(3)) < RELATIVE_L2["float32", "cpu"]


# What keras.optimizers.Lamb does instead.

SHARES = ([10.0, 0.0], [0.0, 0.1])


def test_clips_the_sum_and_not_the_shares(face, two_replicas):
    """The case in which keras.optimizers.Lamb applies [1.0, 0.1]."""
    with two_replicas.scope():
        variable, optimizer = make_one_variable(face, global_clipnorm=1.0)
    two_replicas.run(lambda: optimizer.apply_gradients([(own_share(), variable)]))
    np.testing.assert_allclose(replica_values(optimizer._slots[0][0])[0] / (1 - 0.9), [0.99995, 0.0099995], rtol=1e-6)


def test_keras_lamb_clips_the_shares(two_replicas):
    with two_replicas.scope():
        variable = keras.Variable([1.0, 1.0])
        peer = keras.optimizers.Lamb(0.01, global_clipnorm=1.0)
        peer.build([variable])
    two_replicas.run(lambda: peer.apply([own_share()], [variable]))
    np.testing.assert_allclose(replica_values(peer._momentums[0])[0] / (1 - 0.9), [1.0, 0.1], rtol=1e-6)


def make_one_variable(face, **options):
    if face == "keras":
        variable, optimizer = keras.Variable([1.0, 1.0]), tf_lamb.LAMB(0.01, **options)
    else:
        variable, optimizer = tf.Variable([1.0, 1.0]), TfKerasLAMB(0.01, **options)
    optimizer.build([variable])
    return variable, optimizer


def own_share():
    return tf.constant(SHARES)[tf.distribute.get_replica_context().replica_id_in_sync_group]


def fit(library, make_optimizer, strategy):
    """The weights after three epochs of one batch."""
    random = np.random.default_rng(3)
    x, y = (random.normal(size=(16, size)).astype("float32") for size in (6, 1))
    library.utils.set_random_seed(0)
    with strategy.scope():
        model = library.Sequential([library.layers.Dense(8, activation="tanh"), library.layers.Dense(1)])
        model.build((None, 6))
        model.compile(optimizer=make_optimizer(), loss="mse")
    # Replica 1 gets the larger examples.
    model.fit(x * np.linspace(0.1, 4, 16)[:, None], y, batch_size=16, epochs=3, shuffle=False, verbose=0)
    return model.get_weights()


def test_fit_on_two_replicas_equals_fit_on_one(face, strategies):
    library, lamb = (keras, tf_lamb.LAMB) if face == "keras" else (tf_keras, TfKerasLAMB)
    options = {"weight_decay": 0.1, "exclude_from_weight_decay": ["bias"], "global_clipnorm": 0.5}
    one, two = (fit(library, lambda: lamb(0.02, **options), strategies[name]) for name in ("none", "two_replicas"))
    assert distance(two, one) < FLOAT32


def test_keras_lamb_in_fit_differs_where_it_clips(strategies, record_property):
    for clipnorm, low, high in ((None, 0, FLOAT32), (0.5, 100 * FLOAT32, np.inf)):
        one, two = (
            fit(keras, lambda clipnorm=clipnorm: keras.optimizers.Lamb(0.1, global_clipnorm=clipnorm), strategies[name])
            for name in ("none", "two_replicas")
        )
        record_property(f"global_clipnorm={clipnorm}", distance(two, one))
        print(f"keras.optimizers.Lamb, global_clipnorm={clipnorm}, 1 and 2 replicas: {distance(two, one):.3g}")
        assert low <= distance(two, one) < high


# Where the update is compiled, and where the step of the caller is.

STEPS = {
    "eager": lambda strategy, step: lambda: strategy.run(step),
    "traced_around_the_run": lambda strategy, step: tf.function(lambda: strategy.run(step), autograph=False),
    "traced_in_the_run": lambda strategy, step: functools.partial(strategy.run, tf.function(step, autograph=False)),
}
COMPILED_STEPS = {
    "around_the_run": lambda strategy, step: tf.function(lambda: strategy.run(step), jit_compile=True),
    "in_the_run": lambda strategy, step: functools.partial(strategy.run, tf.function(step, jit_compile=True)),
}


@pytest.mark.parametrize("jit_compile", [True, False])
def test_compiled_or_not_a_step_is_the_same(face, two_replicas, jit_compile):
    weights = {}
    for name, make_step in STEPS.items():
        with two_replicas.scope():
            variable, optimizer = make_one_variable(face, jit_compile=jit_compile, **EVERYTHING)
        step = make_step(two_replicas, lambda v=variable, o=optimizer: o.apply_gradients([(own_share(), v)]))
        for _ in range(4):
            step()
        weights[name] = replica_values(variable)
        assert optimizer._replica_update.tracing_count == 2, "once on each replica"
    plain = make_one_variable(face, jit_compile=False, **EVERYTHING)
    for _ in range(4):
        plain[1].apply_gradients([(tf.constant([10.0, 0.1]), plain[0])])
    for values in weights.values():
        assert distance(values, 2 * replica_values(plain[0])) < FLOAT32


@pytest.mark.parametrize("where", COMPILED_STEPS)
def test_a_step_on_two_cpus_cannot_be_compiled(face, where, two_replicas):
    with two_replicas.scope():
        variable, optimizer = make_one_variable(face)
    step = COMPILED_STEPS[where](two_replicas, lambda: optimizer.apply_gradients([(own_share(), variable)]))
    with pytest.raises(RuntimeError, match=r"XLA cannot compile a step that spans several devices.*CPU:0.*CPU:1"):
        step()


def test_a_compiled_step_on_one_device_of_a_strategy(face):
    strategy = tf.distribute.OneDeviceStrategy("CPU:1")
    with strategy.scope():
        variable, optimizer = make_one_variable(face, **EVERYTHING)
    step = COMPILED_STEPS["in_the_run"](strategy, lambda: optimizer.apply_gradients([(own_share(), variable)]))
    for _ in range(2):
        step()
    assert replica_values(optimizer.iterations) == [1]
    assert optimizer._replica_update.tracing_count == 0, "it is a part of the step"


def test_the_update_as_a_part_of_a_step_on_gpus(face, two_replicas, monkeypatch):
    """Where all devices are GPUs, TensorFlow runs a compiled step on every replica without leaving its context."""
    monkeypatch.setattr(two_replicas.extended, "_use_merge_call", lambda: False)
    compiled = types.SimpleNamespace(GraphOrParentsInXlaContext=lambda graph: True)
    monkeypatch.setattr(replicas, "control_flow_util", compiled)
    training = train(face, "everything", two_replicas)
    assert distance_to_one_replica(training, face, "everything") < FLOAT32
    assert replicas_agree(training.state())


# What a traced function may do.

FEATURES = {
    "clipping": CLIPPING,
    "accumulation": ACCUMULATION,
    "skipping": SKIPPING,
    "averaging": EMA,
    "loss_scale": {"dynamic_loss_scale": True, "dynamic_growth_steps": 1},
    "telemetry": {"telemetry": True, "telemetry_every_steps": 2},
    "layer_axes": {"layer_axes": {"kernel": 1}, "norm": "l1", "trust_ratio_bounds": (0.1, 10.0)},
    "narrow": {"master_weights": True, "moment_dtype": "bfloat16"},
    "everything": {**EVERYTHING, "dynamic_loss_scale": True},
}


@pytest.mark.parametrize("feature", FEATURES)
def test_traced_once_and_no_variable_is_made_in_it(face, feature, two_replicas, monkeypatch):
    dtype = "bfloat16" if feature == "narrow" else "float32"
    training = Training(face, "LAMB", FEATURES[feature], two_replicas, dtype)
    made, make = [], resource_variable_ops.eager_safe_variable_handle

    def recording(*args, **kwargs):
        made.append(kwargs.get("name"))
        return make(*args, **kwargs)

    monkeypatch.setattr(resource_variable_ops, "eager_safe_variable_handle", recording)
    tf.Variable(0.0)
    assert len(made) == 1, "or the test sees nothing"
    training.run(batches(5, spoiled=(1,)))
    assert len(made) == 1, "by this test"
    assert training.step.experimental_get_tracing_count() == 1
    assert training.optimizer._replica_update.tracing_count == 2, "once on each replica"


@pytest.mark.parametrize("options", [{}, {"dynamic_loss_scale": True, "dynamic_growth_steps": 1}])
def test_an_optimizer_may_be_built_by_a_traced_step(face, two_replicas, options):
    """Its variables are then made outside; keras.optimizers.Adam is left with placeholders that nothing feeds."""
    states = []
    for built in (True, False):
        with two_replicas.scope():
            variable, optimizer = make_one_variable(face, **options)
            if not built:
                optimizer = type(optimizer).from_config(optimizer.get_config() | {"plan": None})

        def step(v=variable, o=optimizer):
            o.apply_gradients([(o.scale_loss(own_share()), v)])

        step = STEPS["traced_around_the_run"](two_replicas, step)
        for _ in range(3):
            step()
        states.append(replica_values(variable) + replica_values(optimizer._slots[0][1]))
    np.testing.assert_array_equal(states[0], states[1])


def test_cross_replica_context_is_refused(face, two_replicas):
    with two_replicas.scope():
        variable, optimizer = make_one_variable(face)
        with pytest.raises(RuntimeError, match=r"cross-replica context.*strategy\.run"):
            optimizer.apply_gradients([(tf.constant([1.0, 1.0]), variable)])
