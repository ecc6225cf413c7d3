"""What is wrong with the LAMBs at hand, and not with ours: the figures of the README."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_lamb

LEARNING_RATE = 0.01


def relative_step(optimizer):
    """||w_new - w|| / ||w|| of one update from a fixed point: the learning rate, if the algorithm is the paper's."""
    random = np.random.default_rng(0)
    w = random.normal(size=(64, 64)).astype("float32")
    variable = keras.Variable(w)
    optimizer.apply([tf.constant(random.normal(size=w.shape), tf.float32)], [variable])
    return np.linalg.norm(variable.numpy() - w) / np.linalg.norm(w)


@pytest.mark.parametrize(("weight_decay", "peers_step"), [(0.01, 0.01000), (0.1, 0.01005), (1.0, 0.01412)])
def test_decay_is_inside_the_trust_ratio(weight_decay, peers_step):
    ours = relative_step(tf_lamb.LAMB(LEARNING_RATE, weight_decay=weight_decay))
    peer = relative_step(keras.optimizers.Lamb(LEARNING_RATE, weight_decay=weight_decay))
    assert ours == pytest.approx(LEARNING_RATE, rel=1e-5)
    assert peer == pytest.approx(peers_step, abs=5e-6)


def moved(optimizer):
    """How many elements of a bfloat16 tensor of ones move in ten updates."""
    variable = keras.Variable(np.ones(100), dtype="bfloat16")
    for _ in range(10):
        optimizer.apply([tf.ones(100, tf.bfloat16)], [variable])
    return int(np.sum(np.asarray(variable.numpy(), "float32") != 1.0))


def test_bfloat16_variables_train():
    assert moved(tf_lamb.LAMB(LEARNING_RATE)) == 100
    assert moved(keras.optimizers.Lamb(LEARNING_RATE)) == 0


def reloaded_bias_decays(optimizer, folder):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="head")])
    model.compile(optimizer=optimizer, loss="mse")
    model.optimizer.build(model.trainable_variables)
    model.save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras")
    bias = loaded.trainable_variables[1]
    bias.assign([1.0])
    loaded.optimizer.apply([tf.zeros((2, 1)), tf.zeros(1)], loaded.trainable_variables)
    return float(bias[0]) != 1.0


def test_exclusions_survive_a_file(tmp_path):
    ours = tf_lamb.LAMB(LEARNING_RATE, weight_decay=0.5, exclude_from_weight_decay=["bias"])
    assert not reloaded_bias_decays(ours, tmp_path)
    peer = keras.optimizers.Lamb(LEARNING_RATE, weight_decay=0.5)
    peer.exclude_from_weight_decay(var_names=["bias"])
    assert reloaded_bias_decays(peer, tmp_path)


def test_the_list_for_layer_adaptation():
    with pytest.raises(ValueError, match="exclude_from_layer_adaptation"):
        keras.optimizers.Lamb(exclude_from_layer_adaptation=["bias"])
    assert tf_lamb.LAMB(exclude_from_layer_adaptation=["bias"])


@pytest.mark.model_garden
def test_model_gardens_lists():
    from official.modeling.optimization import lamb

    peer = lamb.LAMB(exclude_from_weight_decay=["bias"], exclude_from_layer_adaptation=[])
    assert not {"exclude_from_weight_decay", "exclude_from_layer_adaptation"} & set(peer.get_config())
    assert peer.exclude_from_layer_adaptation == ["bias"]  # "Adapt everything" was asked for.


def test_repeated_ids_are_summed_before_they_are_squared():
    slices = tf.IndexedSlices(tf.constant([[1.0], [1.0]]), tf.constant([1, 1]), tf.constant([3, 1]))
    second_moments = []
    for optimizer in (tf_lamb.LAMB(LEARNING_RATE), keras.optimizers.Lamb(LEARNING_RATE)):
        variable = keras.Variable(np.ones((3, 1)))
        optimizer.apply([slices], [variable])
        slot = optimizer._slots[0][1] if isinstance(optimizer, tf_lamb.LAMB) else optimizer._velocities[0]
        second_moments.append(float(slot[1, 0]))
    np.testing.assert_allclose(second_moments, [0.004, 0.002], rtol=1e-5)
