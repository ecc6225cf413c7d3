"""Gradients are summed once, then clipped: N replicas are one replica on the same global batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import trajectory
from tolerances import RELATIVE_L2, REPLICAS, distance, state_distance

import tf_lamb
from tf_lamb.tf_keras import LAMB as TfKerasLAMB


def test_two_unequal_replicas_follow_the_oracle(face, two_replicas):
    *state, _ = trajectory.run(face, strategy=two_replicas)
    assert state_distance(state, trajectory.expected(2)) < RELATIVE_L2["float32", "cpu"]


def test_three_unequal_replicas_follow_the_oracle(face):
    # TensorFlow's collectives take groups of one size only in a process, and two_replicas has that of two.
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1", "CPU:2"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    *state, _ = trajectory.run(face, strategy=strategy)
    assert state_distance(state, trajectory.expected(3)) < RELATIVE_L2["float32", "cpu"]


def test_one_device_strategy_follows_the_oracle(face):
    weights, *_ = trajectory.run(face, strategy=tf.distribute.OneDeviceStrategy("CPU:1"))
    assert distance(weights, trajectory.expected(1)[0]) < RELATIVE_L2["float32", "cpu"]


def test_clips_the_sum_and_not_the_shares(face, two_replicas):
    """The case in which keras.optimizers.Lamb applies [1.0, 0.1]."""
    shares = tf.constant([[10.0, 0.0], [0.0, 0.1]])
    first_moment = run_one_step(face, two_replicas, shares, global_clipnorm=1.0)
    np.testing.assert_allclose(first_moment / (1 - 0.9), [0.99995, 0.0099995], rtol=1e-6)


def test_keras_lamb_clips_the_shares(two_replicas):
    with two_replicas.scope():
        variable = keras.Variable([1.0, 1.0])
        peer = keras.optimizers.Lamb(0.01, global_clipnorm=1.0)
        peer.build([variable])
    shares = tf.constant([[10.0, 0.0], [0.0, 0.1]])
    two_replicas.run(lambda: peer.apply([shares[replica_id()]], [variable]))
    first_moment = two_replicas.experimental_local_results(peer._momentums[0].value)[0].numpy()
    np.testing.assert_allclose(first_moment / (1 - 0.9), [1.0, 0.1], rtol=1e-6)


def run_one_step(face, strategy, shares, **options):
    with strategy.scope():
        if face == "keras":
            variable, optimizer = keras.Variable([1.0, 1.0]), tf_lamb.LAMB(0.01, **options)
        else:
            variable, optimizer = tf.Variable([1.0, 1.0]), TfKerasLAMB(0.01, **options)
        optimizer.build([variable])
    strategy.run(lambda: optimizer.apply_gradients([(shares[replica_id()], variable)]))
    return strategy.experimental_local_results(optimizer_slot(optimizer))[0].numpy()


def optimizer_slot(optimizer):
    slot = optimizer._slots[0][0]
    return slot.value if isinstance(slot, keras.Variable) else slot


def replica_id():
    return tf.distribute.get_replica_context().replica_id_in_sync_group


@pytest.mark.parametrize("jit_compile", ["auto", False])
def test_fit_on_two_replicas_equals_fit_on_one(face, two_replicas, jit_compile):
    random = np.random.default_rng(3)
    x = random.normal(size=(48, 6)).astype("float32")
    y = random.normal(size=(48, 1)).astype("float32")
    weights = []
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        library, lamb = (keras, tf_lamb.LAMB) if face == "keras" else (tf_keras, TfKerasLAMB)
        library.utils.set_random_seed(0)
        with strategy.scope():
            model = library.Sequential([library.layers.Dense(8, activation="tanh"), library.layers.Dense(1)])
            model.build((None, 6))
            optimizer = lamb(0.02, weight_decay=0.1, exclude_from_weight_decay=["bias"], global_clipnorm=0.5)
            options = {"jit_compile": jit_compile} if face == "keras" else {}
            model.compile(optimizer=optimizer, loss="mse", **options)
        model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    assert distance(weights[1], weights[0]) < REPLICAS["float32", "cpu"]


def test_cross_replica_context_is_refused(two_replicas):
    with two_replicas.scope():
        variable = keras.Variable([1.0])
        optimizer = tf_lamb.LAMB(0.1)
        optimizer.build([variable])
        with pytest.raises(RuntimeError, match=r"cross-replica context.*strategy\.run"):
            optimizer.apply([tf.constant([1.0])], [variable])
