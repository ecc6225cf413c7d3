"""A step whose summed gradients are not finite leaves every bit of every replica alone, and only that is counted."""

import functools

import keras
import numpy as np
import pytest
import runner
import tensorflow as tf
import tf_keras
from global_batch import Training, batches, differing, replica_values, replicas_agree
from test_distribution import counts_skipped_steps, each_replica_tests_its_own

import tf_lamb
from tf_lamb.tf_keras import LAMB as TfKerasLAMB

CLIPPING = {"global_clipnorm": 0.5}
EMA = {"use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": 2}
SKIPPING = {"skip_nonfinite": True, **CLIPPING, **EMA}
COUNTERS = ("skipped_steps", "loss_scale", "good_steps")


@pytest.fixture(params=["one_replica", "two_replicas"])
def strategy(request):
    """No strategy, and that of two replicas."""
    return tf.distribute.get_strategy() if request.param == "one_replica" else request.getfixturevalue(request.param)


def spoil(batch, value=np.inf):
    """The batch with a target that is not finite in the last replica's share."""
    ids, targets = batch
    targets = targets.copy()
    targets[-1, 0] = value
    return ids, targets


def skipped(training):
    return set(replica_values(training.optimizer.skipped_steps))


@pytest.mark.parametrize(
    ("strategy", "name", "options", "dtype"),
    [
        ("one_replica", "LAMB", {}, "float32"),
        ("two_replicas", "LAMB", {"telemetry": True, "jit_compile": True}, "float32"),
        ("two_replicas", "LAMB", {"master_weights": True, "moment_dtype": "bfloat16"}, "bfloat16"),
        ("two_replicas", "LARS", {"dynamic_loss_scale": True}, "float32"),
    ],
    indirect=["strategy"],
)
def test_a_skipped_step_changes_no_bit(face, strategy, name, options, dtype):
    """So the next step is that of a run without the bad batch: schedule, bias correction and averages stood still."""
    first, second, third = batches(3)
    training = Training(face, name, {**SKIPPING, **options}, strategy, dtype)
    before = training.run([first]).state(but=COUNTERS)
    for count, bad in enumerate((np.inf, np.nan, -np.inf, 1e30)):
        after = training.run([spoil(second, bad)]).state(but=COUNTERS)
        assert differing(before, after) == []
        assert skipped(training) == {count + 1}
    assert set(replica_values(training.optimizer.iterations)) == {1}
    clean = Training(face, name, {**SKIPPING, **options}, strategy, dtype).run([first, second, third])
    assert differing(training.run([second, third]).state(but=COUNTERS), clean.state(but=COUNTERS)) == []
    assert differing(training.state(but=COUNTERS), before)
    assert replicas_agree(training.state())


def test_without_the_option_the_default_applies_what_it_is_given(face):
    first, second = batches(2)
    training = Training(face, "LAMB", {}).run([first, spoil(second)])
    assert any(np.isnan(w).any() for w in training.weights())
    assert training.optimizer.skipped_steps is None


def test_one_bad_micro_step_drops_its_cycle_and_no_other(face, strategy):
    options = {**SKIPPING, "gradient_accumulation_steps": 2}
    given = batches(8)
    clean = Training(face, "LAMB", options, strategy).run(given[:2] + given[6:])
    # Of the second cycle the first gradient is bad, of the third the last.
    spoiled = [spoil(batch) if step in (2, 5) else batch for step, batch in enumerate(given)]
    training = Training(face, "LAMB", options, strategy).run(spoiled)
    assert differing(training.state(but=COUNTERS), clean.state(but=COUNTERS)) == []
    assert skipped(training) == {2}
    assert set(replica_values(training.optimizer.iterations)) == {2}
    assert differing(clean.run(given[2:6]).state(), training.state()), "or the test says nothing"


@pytest.mark.parametrize("mutate", [counts_skipped_steps, each_replica_tests_its_own])
def test_the_mutant_differs(face, mutate, two_replicas, monkeypatch):
    first, second = batches(2)
    mutate(monkeypatch)
    training = Training(face, "LAMB", SKIPPING, two_replicas)
    before = training.run([first]).state(but=COUNTERS)
    assert differing(before, training.run([spoil(second)]).state(but=COUNTERS))


# The dynamic loss scale.


def loss_scale(optimizer):
    (scale,) = set(replica_values(optimizer.loss_scale))
    return scale


def test_the_loss_scale_halves_and_doubles(face, strategy):
    options = {"initial_scale": 4.0, "dynamic_growth_steps": 2, **CLIPPING}
    training = Training(face, "LAMB", {"dynamic_loss_scale": True, **options}, strategy)
    good, bad = batches(1)[0], spoil(batches(1)[0])
    scales = []
    for batch in (good, good, bad, bad, bad, bad, bad, good, bad, good, good, good):
        training.run([batch])
        scales.append(loss_scale(training.optimizer))
    assert scales == [4, 8, 4, 2, 1, 1, 1, 1, 1, 1, 2, 2]
    assert skipped(training) == {6}
    plain = Training(face, "LAMB", CLIPPING, strategy).run([good] * 6)
    for scaled, unscaled in zip(training.weights(), plain.weights(), strict=True):
        np.testing.assert_array_equal(scaled, unscaled)


def test_the_loss_scale_moves_once_a_cycle(face, strategy):
    options = {"dynamic_loss_scale": True, "initial_scale": 4.0, "dynamic_growth_steps": 1}
    training = Training(face, "LAMB", {**options, "gradient_accumulation_steps": 2}, strategy)
    good, bad = batches(1)[0], spoil(batches(1)[0])
    scales = []
    for batch in (good, good, bad, good, bad, bad, good, good):
        training.run([batch])
        scales.append(loss_scale(training.optimizer))
    assert scales == [4, 8, 8, 4, 4, 2, 2, 4]


def test_the_loss_scale_stays_finite(face):
    """An infinite scale would make every further loss infinite, and half of it is infinite, too."""
    training = Training(
        face, "LAMB", {"dynamic_loss_scale": True, "initial_scale": 2.0**126, "dynamic_growth_steps": 1}
    )
    for _ in range(3):
        training.optimizer.apply_gradients([(tf.zeros(v.shape), v) for v in training.variables])
    assert loss_scale(training.optimizer) == 2.0**127


RANDOM = np.random.default_rng(2)
X = RANDOM.normal(size=(64, 4)).astype("float32")
Y = X @ RANDOM.normal(size=(4, 1)).astype("float32")


def make_model(face, strategy, optimizer, policy="mixed_float16", **compile_options):
    library = keras if face == "keras" else tf_keras
    library.utils.set_random_seed(0)
    with strategy.scope():
        model = library.Sequential(
            [library.layers.Dense(8, activation="tanh", dtype=policy), library.layers.Dense(1, dtype=policy)]
        )
        model.build((None, 4))
        model.compile(optimizer=optimizer(), loss="mse", **compile_options)
    return model


@pytest.mark.parametrize("policy", ["mixed_float16", "float16"])
def test_a_float16_model_trains_on_two_replicas(face, policy, two_replicas):
    lamb = tf_lamb.LAMB if face == "keras" else TfKerasLAMB
    options = {"dynamic_loss_scale": True, "dynamic_growth_steps": 1000, "jit_compile": False}
    masters = {"master_weights": policy == "float16"}
    model = make_model(face, two_replicas, lambda: lamb(0.05, **options, **masters), policy)
    losses = model.fit(X, Y, batch_size=16, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    scale, steps = loss_scale(model.optimizer), int(replica_values(model.optimizer.iterations)[0])
    assert scale * 2 ** int(replica_values(model.optimizer.skipped_steps)[0]) == 2.0**15

    before = [np.array(w) for w in model.get_weights()]
    bad = X[:16].copy()
    bad[-1, 0] = np.inf  # In the second half of the batch, which is replica 1's.
    model.fit(bad, Y[:16], batch_size=16, epochs=1, verbose=0)
    assert loss_scale(model.optimizer) == scale / 2
    assert set(replica_values(model.optimizer.iterations)) == {steps}
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert all(replica_values(v)[0].tobytes() == replica_values(v)[1].tobytes() for v in model.trainable_variables)


# The loss scale optimizers of Keras around ours.


@pytest.fixture
def mixed_float16(face):
    """The policy of the whole process, under which both Keras wrap a model's optimizer."""
    set_policy = keras.config.set_dtype_policy if face == "keras" else tf_keras.mixed_precision.set_global_policy
    set_policy("mixed_float16")
    yield
    set_policy("float32")


def one_variable(face, strategy, make_optimizer):
    with strategy.scope():
        variable = (keras.Variable if face == "keras" else tf.Variable)([1.0, 1.0])
        optimizer = make_optimizer()
        optimizer.build([variable])
    return variable, optimizer


def wrapped(inner):
    return lambda: keras.optimizers.LossScaleOptimizer(inner())


def unequal_shares(scale=2.0**15):
    """The scaled gradient of replica 0, and infinity on replica 1."""
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return tf.constant([[scale, scale], [np.inf, scale]])[replica]


@pytest.mark.parametrize("traced", [False, True])
def test_that_of_keras_is_refused_under_a_strategy(two_replicas, traced):
    variable, optimizer = one_variable("keras", two_replicas, wrapped(lambda: tf_lamb.LAMB(0.1)))

    def step():
        two_replicas.run(lambda: optimizer.apply([unequal_shares()], [variable]))

    sentence = r"tests gradients before they are summed.*all 2.*`dynamic_loss_scale=True`.*`auto_scale_loss=False`"
    with pytest.raises(RuntimeError, match=sentence):
        tf.function(step)() if traced else step()
    assert [w.tolist() for w in replica_values(variable)] == [[1.0, 1.0]] * 2


@pytest.mark.parametrize("face", ["keras"])
def test_that_of_keras_is_refused_in_fit_under_a_strategy(face, mixed_float16, two_replicas):
    model = make_model("keras", two_replicas, lambda: tf_lamb.LAMB(0.1))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    with pytest.raises(RuntimeError, match="tests gradients before they are summed"):
        model.fit(X, Y, batch_size=16, verbose=0)


def test_that_of_keras_takes_the_first_replicas_answer(two_replicas):
    variable, optimizer = one_variable("keras", two_replicas, wrapped(lambda: keras.optimizers.Lamb(0.1)))
    tf.function(lambda: two_replicas.run(lambda: optimizer.apply([unequal_shares()], [variable])))()
    assert all(np.isnan(w).any() for w in replica_values(variable))
    assert set(replica_values(optimizer.dynamic_scale)) == {2.0**15}


def test_our_own_loss_scale_skips_there(face, two_replicas):
    """In the case of the last test."""
    make = functools.partial(runner.make, face, "LAMB", {"dynamic_loss_scale": True, "jit_compile": False})
    variable, optimizer = one_variable(face, two_replicas, make)
    tf.function(lambda: two_replicas.run(lambda: optimizer.apply_gradients([(unequal_shares(), variable)])))()
    assert [w.tolist() for w in replica_values(variable)] == [[1.0, 1.0]] * 2
    assert loss_scale(optimizer) == 2.0**14


def test_two_loss_scales_are_refused(face, mixed_float16):
    """The gradients would be unscaled twice, or the scales would drive each other until no step is left."""
    lamb = tf_lamb.LAMB if face == "keras" else TfKerasLAMB
    model = make_model(face, tf.distribute.get_strategy(), lambda: lamb(0.1, dynamic_loss_scale=True))
    with pytest.raises(
        RuntimeError, match=r"`dynamic_loss_scale=True` would both scale the loss\. Expected one of them"
    ):
        model.fit(X, Y, batch_size=16, verbose=0)


@pytest.mark.parametrize("face", ["keras"])
def test_a_mixed_float16_model_may_leave_it_out(face, mixed_float16, two_replicas):
    options = {"dynamic_loss_scale": True, "initial_scale": 8.0, "jit_compile": False}
    model = make_model("keras", two_replicas, lambda: tf_lamb.LAMB(0.05, **options), auto_scale_loss=False)
    model.fit(X, Y, batch_size=16, verbose=0)
    assert loss_scale(model.optimizer) == 8.0
    assert set(replica_values(model.optimizer.iterations)) == {4}


@pytest.mark.parametrize("face", ["tf_keras"])
def test_that_of_tf_keras_works_under_a_strategy(face, mixed_float16, two_replicas):
    """It sums the gradients first, by our own method, so it needs no refusal."""
    model = make_model("tf_keras", two_replicas, lambda: TfKerasLAMB(0.05, jit_compile=False))
    assert isinstance(model.optimizer, tf_keras.mixed_precision.LossScaleOptimizer)
    losses = model.fit(X, Y, batch_size=16, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    before, scale = [np.array(w) for w in model.get_weights()], float(model.optimizer.loss_scale)
    bad = X[:16].copy()
    bad[-1, 0] = np.inf
    model.fit(bad, Y[:16], batch_size=16, epochs=1, verbose=0)
    assert float(model.optimizer.loss_scale) == scale / 2
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
