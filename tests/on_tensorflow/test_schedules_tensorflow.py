"""Schedules inside TensorFlow's functions, and both faces of an optimizer that takes them."""

import closed_forms
import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("needs KERAS_BACKEND=tensorflow", allow_module_level=True)

import tensorflow as tf
import tf_keras
from test_schedules import every_schedule

import tf_lamb
from tf_lamb.schedules import WarmupPolynomialDecay, goyal
from tf_lamb.tf_keras import LAMB as TfKerasLAMB
from tf_lamb.tf_keras import KerasSchedule

SCHEDULES = every_schedule()
STEPS = [0, 1, 4, 5, 6, 7, 12, 20, 25, 30, 31, 55, 100]


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("dtype", [tf.int64, tf.int32])
@pytest.mark.parametrize("name", SCHEDULES)
def test_inside_a_function(name, dtype, jit_compile):
    schedule = SCHEDULES[name]
    compiled = tf.function(schedule.__call__, jit_compile=jit_compile)
    for step in STEPS:
        rate = compiled(tf.constant(step, dtype))
        assert rate.dtype == tf.float32 and rate.shape == ()
        assert float(rate) == pytest.approx(float(schedule(step)), rel=closed_forms.RELATIVE)
    assert compiled.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_variable_that_counts_inside_a_function(name):
    schedule, counter = SCHEDULES[name], tf.Variable(0, dtype=tf.int64)

    @tf.function
    def next_rate():
        rate = schedule(counter)
        counter.assign_add(1)
        return rate

    rates = [float(next_rate()) for _ in range(60)]
    np.testing.assert_allclose(rates, [float(schedule(step)) for step in range(60)], rtol=closed_forms.RELATIVE)


@pytest.mark.parametrize("name", SCHEDULES)
def test_as_a_schedule_of_tf_keras(name):
    schedule = KerasSchedule(SCHEDULES[name])
    copy = tf_keras.optimizers.schedules.deserialize(tf_keras.optimizers.schedules.serialize(schedule))
    assert isinstance(copy, tf_keras.optimizers.schedules.LearningRateSchedule)
    assert [float(copy(step)) for step in STEPS] == [float(SCHEDULES[name](step)) for step in STEPS]


@pytest.mark.parametrize("face", ["keras", "tf_keras"])
def test_an_optimizer_makes_its_first_update_at_step_zero(face):
    optimizer_class = {"keras": tf_lamb.LAMB, "tf_keras": TfKerasLAMB}[face]
    variable = {"keras": keras.Variable, "tf_keras": tf.Variable}[face]([2.0])
    optimizer = optimizer_class(WarmupPolynomialDecay(0.1, total_steps=4, warmup_steps=2))
    norms = [2.0]
    for _ in range(5):
        optimizer.apply_gradients([(tf.constant([1.0]), variable)])
        norms.append(float(variable[0]))
    # An adapted scalar shrinks by the rate: 0, 0.05, 0.1, 0.05, 0. Counting from 1 would begin with 0.05.
    np.testing.assert_allclose(norms, np.cumprod([2.0, 1.0, 0.95, 0.9, 0.95, 1.0]), rtol=1e-5)
    package = {"keras": keras, "tf_keras": tf_keras}[face]
    copy = package.optimizers.deserialize(package.optimizers.serialize(optimizer))
    assert isinstance(copy, optimizer_class)
    assert float(copy.learning_rate) == 0.0


@pytest.mark.parametrize("face", ["keras", "tf_keras"])
def test_an_optimizer_starts_inside_an_offset_warmup(face):
    optimizer_class = {"keras": tf_lamb.LAMB, "tf_keras": TfKerasLAMB}[face]
    optimizer = optimizer_class(WarmupPolynomialDecay(2.88293e-3, 600, 287, 1.0, 0.0, "step_zero", 76))
    assert float(optimizer.learning_rate) == pytest.approx(2.88293e-3 * 76 / 287, rel=1e-6)
    assert float(optimizer_class(goyal(3.2, 156, 0.1)).learning_rate) == pytest.approx(0.1, rel=1e-6)


@pytest.mark.model_garden
def test_model_garden_warms_up_to_the_decayed_rate():
    lr_schedule = pytest.importorskip("official.modeling.optimization.lr_schedule")
    peak, total, warmup = 5e-3, 15_625, 3_125
    decay = tf_keras.optimizers.schedules.PolynomialDecay(peak, total, end_learning_rate=0.0)
    peer = lr_schedule.PolynomialWarmUp(decay, warmup_steps=warmup, power=1.0)
    # Its decay runs from step 0, as in the published code, but its warmup aims at what that has left: no jump.
    low = peak * (1 - warmup / total)
    ours = WarmupPolynomialDecay(low, total, warmup)
    published = WarmupPolynomialDecay(peak, total, warmup, decay_start="step_zero")
    # The peer takes 1 - step / total in float32, which costs it digits near the end.
    close = 1e-7 * peak
    for step in (1, warmup - 1, warmup, warmup + 1, total - 1, total, total + 5):
        assert float(peer(step)) == pytest.approx(float(ours(step)), rel=1e-6, abs=close)
        if step >= warmup:
            assert float(peer(step)) == pytest.approx(float(published(step)), rel=1e-6, abs=close)
    assert float(published(warmup - 1)) > 1.2 * float(peer(warmup - 1))
