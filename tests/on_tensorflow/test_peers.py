"""What is wrong with the LAMBs at hand, and not with ours: the figures of the README.

A row for each defect that was found in a peer, on ours and on the peer: `pytest -s tests/on_tensorflow/test_peers.py
tests/on_tensorflow/test_other_peers.py` prints them. A peer that is not run is a transcription of its formula.
"""

import functools
import itertools
import subprocess
import sys
import unittest

import keras
import numpy as np
import oracle
import pytest
import tensorflow as tf
from global_batch import replica_values
from test_distribution import FLOAT32 as REPLICA_NOISE
from test_distribution import fit, own_share
from test_skipping import unequal_shares
from tolerances import RELATIVE_L2, distance

import tf_lamb
from tf_lamb.old_states import as_array

LEARNING_RATE = 0.01
FLOAT32 = RELATIVE_L2["float32", "cpu"]


def one_variable(strategy, make_optimizer):
    with strategy.scope():
        variable, optimizer = keras.Variable([1.0, 1.0]), make_optimizer()
        optimizer.build([variable])
    return variable, optimizer


def traced(strategy, optimizer, variable, make_gradient):
    """A step on every replica, which is traced."""

    def replica_step():
        optimizer.apply([make_gradient()], [variable])

    return tf.function(lambda: strategy.run(replica_step), autograph=False)


def model_gardens_lamb(*args, **options):
    return pytest.importorskip("official.modeling.optimization.lamb").LAMB(*args, **options)


def moved(optimizer_class, size, dtype, steps=10, gradient=1.0):
    """The values, as float32, of a narrow tensor of ones after some updates by a constant gradient."""
    ones = tf.ones(size, dtype)
    optimizer = optimizer_class(LEARNING_RATE)
    keras_3 = isinstance(optimizer, keras.optimizers.Optimizer)
    variable = keras.Variable(ones, dtype=dtype) if keras_3 else tf.Variable(ones)
    for _ in range(steps):
        optimizer.apply_gradients([(tf.cast(gradient, dtype) * ones, variable)])
    return np.asarray(variable.numpy(), "float32")


def relative_step(optimizer):
    """||w_new - w|| / ||w|| of one update from a fixed point: the learning rate, if the algorithm is the paper's."""
    random = np.random.default_rng(0)
    w = random.normal(size=(64, 64)).astype("float32")
    variable = keras.Variable(w)
    optimizer.apply([tf.constant(random.normal(size=w.shape), tf.float32)], [variable])
    return np.linalg.norm(variable.numpy() - w) / np.linalg.norm(w)


def shift_by_decay(optimizer_class):
    """How far decay itself moves weights of standard deviation 0.02, those of a new BERT."""
    results = []
    for weight_decay in (0.0, 1.0):
        random = np.random.default_rng(0)
        variable = keras.Variable(0.02 * random.normal(size=(64, 64)))
        gradient = tf.constant(random.normal(size=(64, 64)), tf.float32)
        optimizer_class(LEARNING_RATE, weight_decay=weight_decay).apply([gradient], [variable])
        results.append(variable.numpy())
    return np.linalg.norm(results[1] - results[0])


def test_row_01_decay_is_inside_the_trust_ratio():
    classes = (tf_lamb.LAMB, keras.optimizers.Lamb)
    ours, peer = ([relative_step(c(LEARNING_RATE, weight_decay=decay)) for decay in (0.01, 0.1, 1.0)] for c in classes)
    harder = shift_by_decay(classes[1]) / shift_by_decay(classes[0])
    print(
        f"row 01 relative step at decay 0.01, 0.1, 1: ours {np.round(ours, 5)} keras {np.round(peer, 5)}; "
        f"at sigma 0.02 its decay is {harder:.0f} times ours"
    )
    np.testing.assert_allclose(ours, LEARNING_RATE, rtol=1e-5)
    np.testing.assert_allclose(peer, [0.01000, 0.01005, 0.01412], atol=5e-6)
    assert harder == pytest.approx(50, rel=0.05)


def test_row_02_the_sum_over_replicas_is_clipped(two_replicas):
    applied, distances = [], []
    for optimizer_class in (tf_lamb.LAMB, keras.optimizers.Lamb):
        variable, optimizer = one_variable(two_replicas, lambda c=optimizer_class: c(0.01, global_clipnorm=1.0))
        two_replicas.run(lambda o=optimizer, v=variable: o.apply([own_share()], [v]))
        moment = optimizer._slots[0][0] if optimizer_class is tf_lamb.LAMB else optimizer._momentums[0]
        applied.append(replica_values(moment)[0] / (1 - 0.9))
        for clipnorm in (0.5, None):
            make = lambda c=optimizer_class, n=clipnorm: c(0.1, global_clipnorm=n)  # noqa: E731
            distances.append(distance(fit(keras, make, two_replicas), fit(keras, make, tf.distribute.get_strategy())))
    print(
        f"row 02 applied: ours {applied[0]} keras {applied[1]}; fit, 1 and 2 replicas: ours {distances[0]:.1e} "
        f"keras {distances[2]:.3f} (unclipped {distances[1]:.1e} and {distances[3]:.1e})"
    )
    np.testing.assert_allclose(applied[0], [0.99995, 0.0099995], rtol=1e-5)
    np.testing.assert_allclose(applied[1], [1.0, 0.1], rtol=1e-5)
    assert max(distances[0], distances[1], distances[3]) < REPLICA_NOISE
    assert distances[2] > 100 * REPLICA_NOISE


def test_row_03_repeated_ids_are_summed_before_they_are_squared():
    slices = tf.IndexedSlices(tf.constant([[1.0], [1.0]]), tf.constant([1, 1]), tf.constant([3, 1]))
    second_moments = []
    for optimizer in (tf_lamb.LAMB(LEARNING_RATE), keras.optimizers.Lamb(LEARNING_RATE)):
        variable = keras.Variable(np.ones((3, 1)))
        optimizer.apply([slices], [variable])
        slot = optimizer._slots[0][1] if isinstance(optimizer, tf_lamb.LAMB) else optimizer._velocities[0]
        second_moments.append(float(slot[1, 0]))
    print(f"row 03 second moment (right: 0.004): ours {second_moments[0]:.4f} keras {second_moments[1]:.4f}")
    np.testing.assert_allclose(second_moments, [0.004, 0.002], rtol=1e-5)


def test_row_04_bfloat16_variables_train():
    ours, peer = (moved(c, 100, "bfloat16") for c in (tf_lamb.LAMB, keras.optimizers.Lamb))
    last_is_zero = np.array([1.0, 1.0, 1.0, 0.0], "float32")
    zeros = [moved(c, 4, "bfloat16", gradient=last_is_zero) for c in (tf_lamb.LAMB, keras.optimizers.Lamb)]
    print(
        f"row 04 bfloat16, 1.0 after ten steps: ours {ours[0]:.3f} keras {peer[0]:.3f}; "
        f"where the gradient is 0: ours {zeros[0][3]} keras {zeros[1][3]}"
    )
    # Ten steps of 1%, each rounded to 8 bits.
    np.testing.assert_allclose(ours, 0.99**10, rtol=2e-2)
    assert np.all(peer == 1.0)
    assert np.all(np.isfinite(zeros[0])) and zeros[0][3] == 1.0
    assert np.isnan(zeros[1][3])


@pytest.mark.model_garden
def test_row_04_bfloat16_in_model_garden():
    peer = moved(model_gardens_lamb, 100, "bfloat16")
    print(f"row 04 bfloat16, 1.0 after ten steps: Model Garden {peer[0]}")
    assert np.all(np.isnan(peer))


def test_row_04_bfloat16_in_optax():
    """The one that is right, too."""
    optax, jnp = pytest.importorskip("optax"), pytest.importorskip("jax.numpy")
    optimizer, weights = optax.lamb(LEARNING_RATE), jnp.ones(100, jnp.bfloat16)
    state = optimizer.init(weights)
    for _ in range(10):
        updates, state = optimizer.update(jnp.ones(100, jnp.bfloat16), state, weights)
        weights = optax.apply_updates(weights, updates)
    print(f"row 04 bfloat16, 1.0 after ten steps: optax {float(weights[0]):.3f}")
    np.testing.assert_allclose(np.asarray(weights, "float32"), 0.99**10, rtol=2e-2)


def test_row_05_float16_variables_train():
    classes = (tf_lamb.LAMB, keras.optimizers.Lamb)
    ours, peer = (moved(c, 100, "float16", gradient=1e-3) for c in classes)
    large = [moved(c, (300, 300), "float16", steps=1) for c in classes]
    print(
        f"row 05 float16, 1.0 after ten steps with gradients of 0.001: ours {ours[0]:.3f} keras {peer[0]:.3f}; "
        f"300x300 after one of 1: ours {large[0][0, 0]:.3f} keras {large[1][0, 0]}"
    )
    np.testing.assert_allclose(ours, 0.99**10, rtol=2e-3)
    assert np.all(peer == 1.0)
    np.testing.assert_allclose(large[0], 0.99, rtol=1e-3)
    assert np.all(np.isnan(large[1]))


def reloaded_bias(optimizer, folder):
    """What a step with gradients of 0 makes of a bias of 1, after a file."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="head")])
    model.compile(optimizer=optimizer, loss="mse")
    model.optimizer.build(model.trainable_variables)
    model.save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras")
    bias = loaded.trainable_variables[1]
    bias.assign([1.0])
    loaded.optimizer.apply([tf.zeros((2, 1)), tf.zeros(1)], loaded.trainable_variables)
    return float(bias[0])


def test_row_06_exclusions_survive_a_file(tmp_path):
    peer = keras.optimizers.Lamb(LEARNING_RATE, weight_decay=0.5)
    peer.exclude_from_weight_decay(var_names=["bias"])
    ours = tf_lamb.LAMB(LEARNING_RATE, weight_decay=0.5, exclude_from_weight_decay=["bias"])
    ours, peer = reloaded_bias(ours, tmp_path), reloaded_bias(peer, tmp_path)
    print(f"row 06 a bias of 1.0, excluded, after a file and a step of decay: ours {ours} keras {peer:.3f}")
    assert ours == 1.0
    assert peer < 1.0


EXCLUDED = """
import keras, numpy, tf_lamb
model = keras.Sequential([keras.Input((2,)), keras.layers.LayerNormalization(name="layer_norm"), keras.layers.Dense(1)])
ours = tf_lamb.LAMB(0.1, weight_decay=0.5, exclude_from_weight_decay=["layer_norm"])
peer = keras.optimizers.Lamb(0.1, weight_decay=0.5)
peer.exclude_from_weight_decay(var_names=["layer_norm"])
for optimizer in (ours, peer):
    model.set_weights([numpy.ones(v.shape) for v in model.trainable_variables])
    optimizer.apply([keras.ops.zeros(v.shape) for v in model.trainable_variables], model.trainable_variables)
    print(*[v.name for v in model.trainable_variables if numpy.all(keras.ops.convert_to_numpy(v) == 1)] or ["nothing"])
"""


def test_row_07_exclusions_mean_the_same_on_every_backend(monkeypatch):
    pytest.importorskip("jax")
    excluded = {}
    for backend in ("tensorflow", "jax"):
        monkeypatch.setenv("KERAS_BACKEND", backend)
        run = subprocess.run([sys.executable, "-c", EXCLUDED], capture_output=True, text=True, check=True)
        excluded[backend] = run.stdout.strip().splitlines()
    ours, peer = zip(*excluded.values(), strict=True)
    print(f"row 07 ['layer_norm'] excludes on TensorFlow and JAX: ours {ours} keras {peer}")
    assert excluded == {"tensorflow": ["gamma beta"] * 2, "jax": ["gamma beta", "nothing"]}


class ItsStep(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.01 + tf.cast(step, tf.float32) / 1000


def test_row_08_accumulation_counts_updates(two_replicas):
    """The schedule's step and how often the average moved, in eight micro-steps of two; and two replicas."""
    rows, options = [], {"gradient_accumulation_steps": 2, "use_ema": True, "ema_momentum": 0.5}
    for optimizer_class in (tf_lamb.LAMB, keras.optimizers.Lamb):
        variable, optimizer = keras.Variable([1.0, 1.0]), optimizer_class(ItsStep(), **options)
        optimizer.build([variable])
        averages = [0.0]
        for _ in range(8):
            optimizer.apply([tf.constant([1.0, 2.0])], [variable])
            averages.append(float(as_array(optimizer._model_variables_moving_average[0])[0]))
        schedule_step = round(1000 * (float(optimizer.learning_rate) - 0.01))
        moves = sum(a != b for a, b in itertools.pairwise(averages))
        variable, optimizer = one_variable(
            two_replicas, functools.partial(optimizer_class, gradient_accumulation_steps=2)
        )
        step = traced(two_replicas, optimizer, variable, own_share)
        try:
            step()
            step()
            trains = int(replica_values(optimizer.iterations)[0]) == 1
        except RuntimeError:
            trains = "RuntimeError"
        rows.append((schedule_step, moves, trains))
    print(
        f"row 08 after 4 updates of 2 micro-steps: (schedule's step, moves of the average, two replicas train): "
        f"ours {rows[0]} keras {rows[1]}"
    )
    assert rows[0] == (4, 4, True)
    assert rows[1][0] == 8 and rows[1][1] > 4 and rows[1][2] == "RuntimeError"


def test_row_09_a_loss_scale_factor_with_an_embedding():
    def train(optimizer):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Embedding(5, 3), keras.layers.Flatten(), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((2,), dtype="int32"), *layers])
        model.compile(optimizer=optimizer, loss="mse")
        model.fit(np.array([[1, 1]]), np.ones((1, 1)), verbose=0)
        return model.get_weights()

    scaled, plain = (train(tf_lamb.LAMB(LEARNING_RATE, loss_scale_factor=factor)) for factor in (8.0, None))
    with pytest.raises(TypeError, match="IndexedSlices") as caught:
        train(keras.optimizers.Lamb(LEARNING_RATE, loss_scale_factor=8.0))
    print(f"row 09 factor 8 or none: ours {distance(scaled, plain):.1g} apart, keras: {caught.typename}")
    assert distance(scaled, plain) < FLOAT32


def test_row_10_the_test_tells_lamb_from_adam(monkeypatch):
    """Keras's own unit test of its LAMB, given Adam, beside the oracle of these tests."""
    lamb_test = pytest.importorskip("keras.src.optimizers.lamb_test")
    failures = {}
    for optimizer_class in (keras.optimizers.Adam, keras.optimizers.SGD):
        monkeypatch.setattr(lamb_test, "Lamb", optimizer_class)
        result = unittest.TestResult()
        lamb_test.LambTest("test_correctness_with_golden").run(result)
        failures[optimizer_class.__name__] = len(result.failures)
    lamb = oracle.Lamb([np.ones(10)], [True], [True], beta_1=0.9, beta_2=0.999, epsilon=1e-6, weight_decay=0.0)
    gradients = [np.full(10, 0.01, "float32"), *[np.arange(0.1, 1.1, 0.1, "float32")] * 5]
    optimizers = {"ours": tf_lamb.LAMB(0.001), "Adam": keras.optimizers.Adam(0.001)}
    variables = {name: keras.Variable(np.ones(10)) for name in optimizers}
    for gradient in gradients:
        lamb.step([[gradient]], 0.001)
        for name, optimizer in optimizers.items():
            optimizer.apply([tf.constant(gradient)], [variables[name]])
    missed_by = {name: distance([v.numpy()], lamb.weights) / FLOAT32 for name, v in variables.items()}
    print(
        f"row 10 our test: ours {missed_by['ours']:.2g} and Adam {missed_by['Adam']:.3g} tolerances off; "
        f"keras's test: failures of Adam {failures['Adam']}, of SGD {failures['SGD']}"
    )
    assert failures == {"Adam": 0, "SGD": 1}
    assert missed_by["ours"] < 1
    assert missed_by["Adam"] > 10


def test_row_17_a_gradient_that_is_not_finite_on_one_replica(two_replicas):
    optimizers = {
        "ours": lambda: tf_lamb.LAMB(0.1, dynamic_loss_scale=True, jit_compile=False),
        "keras": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Lamb(0.1)),
    }
    results = {}
    for who, make in optimizers.items():
        variable, optimizer = one_variable(two_replicas, make)
        traced(two_replicas, optimizer, variable, unequal_shares)()
        scale = optimizer.loss_scale if who == "ours" else optimizer.dynamic_scale
        results[who] = (replica_values(variable)[0].tolist(), float(replica_values(scale)[0]))
    print(f"row 17 inf on replica 1: (weights, loss scale): ours {results['ours']} keras {results['keras']}")
    assert results["ours"] == ([1.0, 1.0], 2.0**14)
    assert np.isnan(results["keras"][0]).any() and results["keras"][1] == 2.0**15
