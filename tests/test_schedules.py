"""Schedules equal their closed forms at every corner."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tf_lamb
from tf_lamb.schedules import Stages, WarmupPolynomialDecay


def closed_form(step, peak, total, warmup, power):
    if step < warmup:
        return peak * step / warmup
    if step >= total:
        return 0.0
    return peak * (1 - (step - warmup) / (total - warmup)) ** power


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5])
@pytest.mark.parametrize(("total", "warmup"), [(100, 10), (100, 0), (100, 100), (1, 0), (1, 1), (3, 2)])
def test_warmup_and_decay(total, warmup, power):
    schedule = WarmupPolynomialDecay(0.02, total, warmup, power)
    corners = {0, 1, warmup - 1, warmup, warmup + 1, total - 1, total, total + 5} - {-1}
    for step in corners:
        expected = closed_form(step, 0.02, total, warmup, power)
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-6, abs=1e-9), step


def test_there_is_no_jump_where_the_warmup_ends():
    schedule = WarmupPolynomialDecay(1.0, 1000, 200)
    rates = np.array([float(schedule(step)) for step in range(1001)])
    assert np.abs(np.diff(rates)).max() < 1 / 199


def test_stages_count_their_own_steps():
    first, second, third = (WarmupPolynomialDecay(peak, 10, 4) for peak in (1.0, 0.5, 0.25))
    schedule = Stages([first, second, third], [10, 5, 10])
    for step in range(30):
        own = first(step) if step < 10 else second(step - 10) if step < 15 else third(step - 15)
        assert float(schedule(step)) == pytest.approx(float(own), abs=1e-9), step


@pytest.mark.parametrize("step", [0, 3, 10, 13])
def test_serialization_and_steps_of_tensors(step):
    schedule = Stages([WarmupPolynomialDecay(1.0, 10, 4, 2.0), WarmupPolynomialDecay(0.5, 5, 2)], [10, 5])
    copy = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert float(copy(tf.constant(step, tf.int64))) == float(schedule(step))


def test_tf_keras_optimizers_take_them():
    from tf_lamb.tf_keras import LAMB

    variable = tf.Variable([2.0])
    optimizer = LAMB(WarmupPolynomialDecay(0.1, total_steps=4, warmup_steps=2))
    norms = [2.0]
    for _ in range(4):
        optimizer.apply_gradients([(tf.constant([1.0]), variable)])
        norms.append(float(variable[0]))
    # An adapted scalar shrinks by the rate: 0, 0.05, 0.1, 0.05.
    np.testing.assert_allclose(norms, np.cumprod([2.0, 1.0, 0.95, 0.9, 0.95]), rtol=1e-5)
    assert isinstance(tf_keras.optimizers.deserialize(tf_keras.optimizers.serialize(optimizer)), LAMB)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WarmupPolynomialDecay(-1.0, 10), r"`peak_learning_rate` must be a number >= 0\. Received:.*-1\.0"),
        (lambda: WarmupPolynomialDecay(1.0, 0), r"`total_steps` must be an integer >= 1\. Received: total_steps=0"),
        (
            lambda: WarmupPolynomialDecay(1.0, 10, 11),
            r"`warmup_steps` must be an integer in \[0, 10\]\. Received: warmup_steps=11",
        ),
        (lambda: WarmupPolynomialDecay(1.0, 10, 1, -2), r"`power` must be a number >= 0\. Received: power=-2"),
        (lambda: Stages([], []), "lists of the same length, at least 1. Received: 0 schedules"),
        (
            lambda: Stages([WarmupPolynomialDecay(1.0, 10)], [0]),
            r"`steps\[0\]` must be an integer >= 1\. Received: .*=0",
        ),
        (lambda: Stages([0.1], [5]), r"`schedules` must be schedules of Keras 3\. Received: 0\.1 among them"),
        (lambda: WarmupPolynomialDecay(1.0, True), r"`total_steps` must be an integer >= 1\. Received: .*=True"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_module_is_public():
    assert tf_lamb.schedules.Stages is Stages
