"""K micro-steps make one update, that of the mean gradient, on one replica and on two."""

import functools

import keras
import numpy as np
import pytest
import runner
import tensorflow as tf
import tf_keras
from global_batch import Training, batches, differing, merged, optimizer_variables, replica_values, replicas_agree
from tolerances import REPLICAS, distance

import tf_lamb
from tf_lamb import core, gate, replicas, update
from tf_lamb.tf_keras import LAMB as TfKerasLAMB

FLOAT32 = REPLICAS["float32", "cpu"]
EMA = {"use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": 2}
SURROUNDINGS = {"global_clipnorm": 0.5, **EMA}
RANDOM = np.random.default_rng(11)
X = RANDOM.normal(size=(32, 5)).astype("float32") * np.linspace(0.1, 2, 32, dtype="float32")[:, None]
Y = RANDOM.normal(size=(32, 1)).astype("float32")


@pytest.fixture(params=["one_replica", "two_replicas"])
def strategy(request):
    """No strategy, and that of two replicas."""
    return tf.distribute.get_strategy() if request.param == "one_replica" else request.getfixturevalue(request.param)


# The mean gradient at once.


@functools.cache
def at_once(face, count):
    """One replica that takes every `count` batches of the custom loop as one."""
    return Training(face, "LAMB", SURROUNDINGS, batch_size=8 * count).run(merged(batches(8), count))


def accumulated(face, strategy, options=SURROUNDINGS):
    return Training(face, "LAMB", {**options, "gradient_accumulation_steps": 2}, strategy).run(batches(8))


def test_a_custom_loop_makes_the_update_of_the_mean(face, strategy):
    training = accumulated(face, strategy)
    assert distance(training.weights(), at_once(face, 2).weights()) < FLOAT32
    assert distance(training.averages(), at_once(face, 2).averages()) < FLOAT32
    assert set(replica_values(training.optimizer.iterations)) == {4}
    assert distance(at_once(face, 1).weights(), at_once(face, 2).weights()) > 10 * FLOAT32, "or the test says nothing"


def clip_each_micro_step(patch):
    accumulate = gate.accumulate
    patch.setattr(gate, "accumulate", lambda g, *rest: accumulate(core.clip_by_global_norm(g, 0.5), *rest))
    patch.setattr(update.LayerwiseUpdate, "_clip", lambda self, gradients, _: (gradients, None, None))


def average_each_micro_step(patch):
    average = update.LayerwiseUpdate._average
    patch.setattr(
        update.LayerwiseUpdate, "_average", lambda self, state, w, t, applied: average(self, state, w, t, None)
    )


def only_the_last_gradient(patch):
    patch.setattr(gate, "accumulate", lambda gradients, *_: (gradients, [None] * len(gradients)))


@pytest.mark.parametrize("mutate", [clip_each_micro_step, average_each_micro_step, only_the_last_gradient])
def test_the_mutant_differs(face, mutate, two_replicas, monkeypatch):
    at_once(face, 2)
    mutate(monkeypatch)
    training = accumulated(face, two_replicas)
    missed_by = max(
        distance(training.weights(), at_once(face, 2).weights()),
        distance(training.averages(), at_once(face, 2).averages()),
    )
    assert missed_by > 10 * FLOAT32


def test_the_mean_is_clipped_once(face, strategy):
    """Clipping each of the two micro-steps gives the mean [0.5, 0.05]."""
    micro_steps = tf.constant([[10.0, 0.0], [0.0, 0.1]])
    with strategy.scope():
        variable = keras.Variable([1.0, 1.0]) if face == "keras" else tf.Variable([1.0, 1.0])
        optimizer = runner.make(face, "LAMB", {"global_clipnorm": 1.0, "gradient_accumulation_steps": 2})
        optimizer.build([variable])
    for gradient in micro_steps:
        share = gradient / strategy.num_replicas_in_sync
        strategy.run(lambda share=share: optimizer.apply_gradients([(share, variable)]))
    for first_moment in replica_values(optimizer._slots[0][0]):
        np.testing.assert_allclose(first_moment / (1 - 0.9), [0.99995, 0.0099995], rtol=1e-6)


def test_everything_advances_once_a_cycle(face, strategy):
    """Within a cycle only the accumulators and the count of micro-steps change, and no bit of anything else."""
    options = {**SURROUNDINGS, "gradient_accumulation_steps": 3, "telemetry": True}
    training = Training(face, "LAMB", options, strategy)
    states = [training.state()] + [training.run([batch]).state() for batch in batches(9)]
    for step, (before, after) in enumerate(zip(states[:-1], states[1:], strict=True)):
        changed = differing(before, after)
        others = [name for name in changed if "gradient_accumulator" not in name and "micro_step" not in name]
        assert len(others) < len(changed)
        if step % 3 < 2:
            assert others == []
        else:
            # Four variables with two moments and an average each, the count of updates, some statistics.
            assert len(others) >= 4 * 4 + 1 + 4
    assert replicas_agree(states[-1])
    assert set(replica_values(training.optimizer.iterations)) == {3}


# In fit.


def make_model(face, strategy, **options):
    library, lamb = (keras, tf_lamb.LAMB) if face == "keras" else (tf_keras, TfKerasLAMB)
    library.utils.set_random_seed(0)
    schedule = tf_lamb.schedules.WarmupPolynomialDecay(0.05, total_steps=20, warmup_steps=4)
    with strategy.scope():
        model = library.Sequential(
            [library.layers.Dense(4, activation="tanh", name="hidden"), library.layers.Dense(1, name="head")]
        )
        model.build((None, 5))
        lists = {"exclude_from_weight_decay": ["bias"], "exclude_from_layer_adaptation": ["bias", "head"]}
        optimizer = lamb(schedule, weight_decay=0.1, jit_compile=False, **lists, **options)
        model.compile(optimizer=optimizer, loss="mse")
    return model


def fit(model, begin=0, end=32, batch_size=4):
    model.fit(X[begin:end], Y[begin:end], batch_size=batch_size, shuffle=False, verbose=0)
    return model


@functools.cache
def fit_at_once(face):
    return fit(make_model(face, tf.distribute.get_strategy(), **SURROUNDINGS), batch_size=8)


def test_fit_makes_the_update_of_the_mean(face, strategy):
    model = fit(make_model(face, strategy, **SURROUNDINGS, gradient_accumulation_steps=2))
    assert distance(model.get_weights(), fit_at_once(face).get_weights()) < FLOAT32
    assert set(replica_values(model.optimizer.iterations)) == {4}


def state_of(model):
    """The values of all variables of a model and its optimizer on all replicas, by position."""
    everything = [*model.trainable_variables, *optimizer_variables(model.optimizer)]
    return {str(i): replica_values(v) for i, v in enumerate(everything)}


def checkpoint_of(model):
    return tf.train.Checkpoint(model=model, optimizer=model.optimizer)


def test_fit_resumes_within_a_cycle(face, strategy, tmp_path):
    """Saved after three micro-steps of two; then the end of that cycle, and one more."""
    options = {**SURROUNDINGS, "gradient_accumulation_steps": 2, "skip_nonfinite": True}
    model = fit(make_model(face, strategy, **options), end=12)
    assert set(replica_values(model.optimizer._micro_step)) == {1}
    path = checkpoint_of(model).save(tmp_path / "checkpoint")
    if face == "keras":
        model.save(tmp_path / "model.keras")
    expected = state_of(fit(model, 12, 24))

    other = make_model(face, strategy, **options)
    with strategy.scope():
        other.optimizer.build(other.trainable_variables)
        other.set_weights([np.zeros_like(w) for w in other.get_weights()])
    checkpoint_of(other).restore(path).assert_existing_objects_matched()
    resumed = {"checkpoint": other}
    if face == "keras":
        with strategy.scope():
            resumed["keras"] = keras.models.load_model(tmp_path / "model.keras")
    for name, each in resumed.items():
        assert differing(state_of(fit(each, 12, 24)), expected) == [], name
    assert set(replica_values(model.optimizer.iterations)) == {3}


def resume_a_custom_loop(face, strategy, tmp_path, spoil=lambda training: None):
    """The states after a run that goes on, and after one that is saved within a cycle and restored."""
    options = {**SURROUNDINGS, "gradient_accumulation_steps": 2}
    all_batches = batches(6)
    first, second = (Training(face, "LAMB", options, strategy) for _ in range(2))
    first.run(all_batches[:3])
    path = tf.train.Checkpoint(variables=first.native, optimizer=first.optimizer).save(tmp_path / "checkpoint")
    restored = tf.train.Checkpoint(variables=second.native, optimizer=second.optimizer)
    restored.restore(path).assert_existing_objects_matched()
    spoil(second)
    return first.run(all_batches[3:]).state(), second.run(all_batches[3:]).state()


def test_a_custom_loop_resumes_within_a_cycle(face, strategy, tmp_path):
    assert differing(*resume_a_custom_loop(face, strategy, tmp_path)) == []


def test_a_lost_accumulator_shows(face, tmp_path):
    def lose(training):
        accumulator = training.optimizer._accumulated_gradients[1]
        accumulator.assign(0.0 * accumulator)

    assert differing(*resume_a_custom_loop(face, None, tmp_path, lose))


def test_accumulators_of_shares_do_not_resume(face, two_replicas, tmp_path, monkeypatch):
    """A checkpoint holds the first replica's: why they hold gradients that are summed over replicas already."""
    monkeypatch.setattr(replicas, "sum_over_replicas", lambda gradients, *_: list(gradients))
    assert differing(*resume_a_custom_loop(face, two_replicas, tmp_path))


# What may be missing.


def test_a_micro_step_without_a_gradient_adds_nothing(face, strategy):
    """The other micro-steps of the cycle still count, and a variable that never has a gradient is left alone."""
    initial = {"always": [1.0, 2.0], "first": [3.0, 1.0], "last": [1.0, 1.0], "never": [0.5, 0.7]}
    cycle = [{"always": 1.0, "first": 1.0}, {"always": 1.0, "last": 1.0}]
    mean = {"always": 1.0, "first": 0.5, "last": 0.5}
    results = []
    for steps, options in ((cycle, {"gradient_accumulation_steps": 2}), ([mean], {})):
        with strategy.scope():
            make = keras.Variable if face == "keras" else tf.Variable
            variables = [make(w, name=name) for name, w in initial.items()]
            options = {**options, **EMA, "weight_decay": 0.1, "skip_nonfinite": True, "jit_compile": False}
            optimizer = runner.make(face, "LAMB", options)
            optimizer.build(variables)
        for factors in 3 * steps:

            def step(factors=factors, optimizer=optimizer, variables=variables):
                gradients = [factors[n] * tf.constant(w) / 7 if n in factors else None for n, w in initial.items()]
                optimizer.apply_gradients(zip(gradients, variables, strict=True))

            strategy.run(step)
        results.append([replica_values(v)[0] for v in variables])
    assert distance(*results) < FLOAT32
    np.testing.assert_array_equal(results[0][3], np.float32(initial["never"]))
    assert distance(results[0][:3], [initial[name] for name in mean]) > 0.01


def test_fit_that_ends_before_the_first_update_keeps_the_weights(face, strategy):
    """At its end fit assigns the averages, of which there are none yet."""
    model = make_model(face, strategy, **EMA, gradient_accumulation_steps=16)
    before = [np.array(w) for w in model.get_weights()]
    fit(model)
    assert set(replica_values(model.optimizer.iterations)) == {0}
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


# What keras.optimizers.Lamb does instead.


def test_keras_lamb_refuses_to_accumulate_under_a_strategy(two_replicas):
    with two_replicas.scope():
        variable = keras.Variable([1.0, 1.0])
        peer = keras.optimizers.Lamb(0.01, gradient_accumulation_steps=2)
        peer.build([variable])
    step = tf.function(lambda: two_replicas.run(lambda: peer.apply([tf.constant([1.0, 1.0])], [variable])))
    with pytest.raises(RuntimeError, match="merge_call"):
        step()


def test_keras_lamb_reads_the_schedule_and_averages_in_micro_steps():
    rates, averages = {}, {}
    for optimizer_class in (keras.optimizers.Lamb, tf_lamb.LAMB):
        variable = keras.Variable([1.0, 1.0])
        schedule = keras.optimizers.schedules.InverseTimeDecay(1.0, decay_steps=1, decay_rate=1.0)
        optimizer = optimizer_class(schedule, gradient_accumulation_steps=4, use_ema=True, ema_momentum=0.5)
        optimizer.build([variable])
        own = rates[optimizer_class], averages[optimizer_class] = [], []
        for _ in range(4):
            own[0].append(float(optimizer.learning_rate))
            optimizer.apply([tf.constant([1.0, 1.0])], [variable])
            own[1].append(float(optimizer._model_variables_moving_average[0][0]))
    np.testing.assert_allclose(rates[keras.optimizers.Lamb], [1, 1 / 2, 1 / 3, 1 / 4])
    np.testing.assert_allclose(rates[tf_lamb.LAMB], [1, 1, 1, 1])
    assert averages[keras.optimizers.Lamb][:3] == [1.0, 1.0, 1.0], "three steps of an update that was not made"
    assert averages[tf_lamb.LAMB][:3] == [0.0, 0.0, 0.0]
