"""The options that LAMB inherits from Keras keep their documented meaning."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import trajectory
from tolerances import RELATIVE_L2, distance

import tf_lamb

FLOAT32 = RELATIVE_L2["float32", "cpu"]


def steps(optimizer, gradients, in_graph, variables=None):
    """Applies lists of gradients to the problem's variables, and returns their weights."""
    variables = variables or trajectory.keras_variables()
    optimizer.build(variables)
    apply = tf.function(optimizer.apply) if in_graph else optimizer.apply
    for step in gradients:
        apply([tf.constant(g) for g in step])
    return [v.numpy() for v in variables]


@pytest.mark.parametrize("in_graph", [False, True])
def test_accumulation_is_the_mean_gradient(in_graph):
    micro = [step[0] for step in trajectory.gradients(1)]
    pairs = [[(a + b) / 2 for a, b in zip(*pair, strict=True)] for pair in zip(micro[::2], micro[1::2], strict=True)]
    options = {**trajectory.OPTIONS, "learning_rate": 0.02}
    accumulated = tf_lamb.LAMB(**options, gradient_accumulation_steps=2)
    assert distance(steps(accumulated, micro, in_graph), steps(tf_lamb.LAMB(**options), pairs, in_graph)) < FLOAT32
    assert int(accumulated.iterations) == len(pairs)


def test_accumulators_of_narrow_variables_are_float32():
    """In bfloat16 the sum would end at 256."""
    variable = keras.Variable(np.ones(1), dtype="bfloat16")
    optimizer = tf_lamb.LAMB(0.1, gradient_accumulation_steps=1000)
    optimizer.build([variable])
    apply = tf.function(optimizer.apply)
    for _ in range(999):
        apply([tf.ones(1, tf.bfloat16)])
    assert float(optimizer._accumulated_gradients[0][0]) == 999.0


def test_loss_scale_factor_with_an_embedding():
    plain = tf_lamb.LAMB(0.1)
    scaled = tf_lamb.LAMB(0.1, loss_scale_factor=128.0)
    results = []
    for optimizer, scale in ((plain, 1.0), (scaled, 128.0)):
        variable = keras.Variable(np.ones((4, 2)))
        slices = tf.IndexedSlices(tf.constant([[scale, 2 * scale]] * 2), tf.constant([1, 1]), tf.constant([4, 2]))
        optimizer.apply([slices], [variable])
        results.append(variable.numpy())
    np.testing.assert_array_equal(results[0], results[1])


def test_keras_loss_scale_optimizer_around_it():
    inner = tf_lamb.LAMB(0.1)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    variable, other = keras.Variable([1.0, 2.0]), keras.Variable([1.0, 2.0])
    optimizer.apply([tf.constant([8.0, 4.0])], [variable])
    tf_lamb.LAMB(0.1).apply([tf.constant([1.0, 0.5])], [other])
    np.testing.assert_array_equal(variable.numpy(), other.numpy())
    optimizer.apply([tf.constant([np.inf, 4.0])], [variable])
    np.testing.assert_array_equal(variable.numpy(), other.numpy())
    assert int(inner.iterations) == 1


def test_constraints_hold_after_the_update():
    layer = keras.layers.Dense(3, kernel_constraint=keras.constraints.NonNeg())
    layer.build((None, 2))
    optimizer = tf_lamb.LAMB(0.9)
    optimizer.apply([tf.ones((2, 3)), tf.ones(3)], layer.trainable_variables)
    assert layer.kernel.numpy().min() == 0.0


def test_ema_follows_the_weights():
    optimizer = tf_lamb.LAMB(0.1, use_ema=True, ema_momentum=0.75)
    variable = keras.Variable([1.0])
    values = []
    for _ in range(3):
        optimizer.apply([tf.constant([1.0])], [variable])
        values.append(float(variable[0]))
    average = values[0]
    for value in values[1:]:
        average = 0.75 * average + 0.25 * value
    optimizer.finalize_variable_values([variable])
    assert float(variable[0]) == pytest.approx(average, rel=1e-6)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_ema_overwrites_a_variable_without_a_gradient_too():
    """As Keras, which overwrites all variables that the optimizer was built on."""
    optimizer = tf_lamb.LAMB(0.1, use_ema=True, ema_momentum=0.75, ema_overwrite_frequency=3)
    first, second = keras.Variable([1.0]), keras.Variable([1.0])
    values = []
    for gradient in ([1.0], [1.0], None):
        values.append(float(second[0]))
        optimizer.apply([tf.constant([1.0]), None if gradient is None else tf.constant(gradient)], [first, second])
    _, after_one, after_two = values
    average = 0.75 * (0.75 * after_one + 0.25 * after_two) + 0.25 * after_two
    assert average != after_two
    assert float(second[0]) == pytest.approx(average, rel=1e-6)


def test_the_rate_may_be_set_without_a_new_trace():
    variable = keras.Variable([1.0])
    optimizer = tf_lamb.LAMB(0.5)
    for rate, expected in ((0.5, 0.5), (0.25, 0.375), (0.0, 0.375)):
        optimizer.learning_rate = rate
        optimizer.apply([tf.constant([1.0])], [variable])
        assert float(variable[0]) == pytest.approx(expected, rel=1e-6)
    assert optimizer._replica_update.tracing_count == 1


def test_built_twice_it_keeps_its_state():
    variable, optimizer = keras.Variable([1.0]), tf_lamb.LAMB(0.5)
    optimizer.apply([tf.constant([1.0])], [variable])
    before = [v.numpy() for v in optimizer.variables]
    optimizer.build([variable])
    assert [v.numpy() for v in optimizer.variables] == before


def test_a_part_of_the_variables():
    first, second = keras.Variable([1.0]), keras.Variable([1.0])
    optimizer = tf_lamb.LAMB(0.5)
    optimizer.build([first, second])
    optimizer.apply([tf.constant([1.0])], [second])
    assert (float(first[0]), float(second[0])) == (1.0, 0.5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_fits(policy):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(32, 4)), random.normal(size=(32, 1))
    model = keras.Sequential([keras.layers.Dense(8, dtype=policy), keras.layers.Dense(1, dtype=policy)])
    model.compile(optimizer=tf_lamb.LAMB(0.05), loss="mse")
    losses = model.fit(x, y, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
