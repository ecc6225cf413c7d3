"""A saved optimizer goes on as if it had not been saved: one more step, bit for bit."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tf_lamb
from tf_lamb.state import variable_path
from tf_lamb.tf_keras import LAMB as TfKerasLAMB

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(32, 6)).astype("float32")
Y = RANDOM.normal(size=(32, 2)).astype("float32")


def make_model(library, lamb, **options):
    library.utils.set_random_seed(0)
    model = library.Sequential(
        [
            library.layers.Dense(8, activation="relu", name="hidden"),
            library.layers.LayerNormalization(name="norm"),
            library.layers.Dense(2, name="head"),
        ]
    )
    model.build((None, 6))
    schedule = tf_lamb.schedules.WarmupPolynomialDecay(0.05, total_steps=20, warmup_steps=10)
    options = {"weight_decay": 0.1, "exclude_from_weight_decay": ["bias", "gamma|beta"], **options}
    model.compile(optimizer=lamb(schedule, **options), loss="mse")
    return model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"exclude_from_layer_adaptation": []},
        {"global_clipnorm": 0.5, "use_ema": True, "ema_momentum": 0.9},
    ],
)
def test_keras_file(face, options, tmp_path):
    library, lamb = (keras, tf_lamb.LAMB) if face == "keras" else (tf_keras, TfKerasLAMB)
    make_model(library, lamb)  # Of a second model in one process, layers and paths may be named anew.
    model = make_model(library, lamb, **options)
    model.fit(X, Y, batch_size=8, epochs=1, shuffle=False, verbose=0)  # Four updates: in the middle of the warmup.
    model.save(tmp_path / "model.keras")
    loaded = library.models.load_model(tmp_path / "model.keras")
    assert [rule.decayed for rule in loaded.optimizer.plan()] == [True, False, False, False, True, False]
    assert [rule.adapted for rule in loaded.optimizer.plan()] == [rule.adapted for rule in model.optimizer.plan()]
    expect_the_same_next_step(model, loaded)


def test_exclusions_survive_new_paths(face, tmp_path):
    """Keras drops the name of a Sequential from the paths of its variables when it loads it."""
    library, lamb = (keras, tf_lamb.LAMB) if face == "keras" else (tf_keras, TfKerasLAMB)
    model = library.Sequential([library.layers.Dense(3, name="hidden"), library.layers.Dense(2)], name="net")
    model.build((None, 6))
    path = variable_path(model.layers[0].kernel)
    optimizer = lamb(0.1, weight_decay=0.5, exclude_from_layer_adaptation=[f"^{path}"])
    optimizer.exclude_from_weight_decay(var_list=[model.layers[1].kernel])
    model.compile(optimizer=optimizer, loss="mse")
    model.fit(X, Y, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The pattern")
        loaded = library.models.load_model(tmp_path / "model.keras")
    for plan in (model.optimizer.plan(), loaded.optimizer.plan()):
        assert [rule.decayed for rule in plan] == [True, True, False, True]
        assert [rule.adapted for rule in plan] == [False, True, True, True]
    if face == "keras":
        assert model.optimizer.plan()[0].path != loaded.optimizer.plan()[0].path, "or the test says nothing"


def test_a_plan_of_other_variables_is_refused(face):
    lamb, make = (tf_lamb.LAMB, keras.Variable) if face == "keras" else (TfKerasLAMB, tf.Variable)
    optimizer = lamb(0.1)
    optimizer.build([make([1.0], name="a"), make([1.0, 2.0], name="b")])
    others = [make([1.0, 2.0, 3.0], name="c")]
    with pytest.raises(ValueError, match=r"saved for other variables.*Received: 1 variables of shapes \[\(3,\)\]"):
        lamb.from_config(optimizer.get_config()).build(others)
    lamb.from_config({**optimizer.get_config(), "plan": None}).build(others)


def test_tensorflow_checkpoint(face, tmp_path):
    library, lamb = (keras, tf_lamb.LAMB) if face == "keras" else (tf_keras, TfKerasLAMB)
    model = make_model(library, lamb)
    model.fit(X, Y, batch_size=8, epochs=1, shuffle=False, verbose=0)
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "ckpt")
    other = make_model(library, lamb)
    other.optimizer.build(other.trainable_variables)
    other.set_weights([np.zeros_like(w) for w in other.get_weights()])
    tf.train.Checkpoint(model=other, optimizer=other.optimizer).restore(path).assert_existing_objects_matched()
    expect_the_same_next_step(model, other)


def expect_the_same_next_step(model, loaded):
    before = [np.array(w) for w in model.get_weights()]
    for each in (model, loaded):
        each.fit(X[:8], Y[:8], batch_size=8, epochs=1, shuffle=False, verbose=0)
    assert int(model.optimizer.iterations) == int(loaded.optimizer.iterations) == 5
    for ours, theirs, old in zip(model.get_weights(), loaded.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert not np.array_equal(ours, old)


def test_weights_file(tmp_path):
    model = make_model(keras, tf_lamb.LAMB)
    model.fit(X, Y, batch_size=8, epochs=1, shuffle=False, verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    other = make_model(keras, tf_lamb.LAMB)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.predict(X, verbose=0), model.predict(X, verbose=0))


def test_saved_model(tmp_path):
    model = make_model(keras, tf_lamb.LAMB)
    model.fit(X, Y, batch_size=8, epochs=1, shuffle=False, verbose=0)
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(exported.serve(X), model.predict(X, verbose=0), rtol=1e-6)
    tf.saved_model.save(model, tmp_path / "saved")
    saved = tf.saved_model.load(tmp_path / "saved")
    (output,) = saved.signatures["serving_default"](tf.constant(X)).values()
    np.testing.assert_allclose(output, model.predict(X, verbose=0), rtol=1e-6)


@pytest.mark.parametrize("lists", [(None, None), ([], []), (["bias"], None), (["bias"], []), (["bias"], ["x"])])
def test_config_keeps_every_option(face, lists):
    lamb = tf_lamb.LAMB if face == "keras" else TfKerasLAMB
    options = {
        "beta_1": 0.8,
        "beta_2": 0.95,
        "epsilon": 1e-4,
        "weight_decay": 0.2,
        "exclude_from_weight_decay": lists[0],
        "exclude_from_layer_adaptation": lists[1],
        "name": "mine",
        "jit_compile": False,
        "global_clipnorm": 3.0,
        "use_ema": True,
        "ema_momentum": 0.5,
        "ema_overwrite_frequency": 7,
    }
    schedule = tf_lamb.schedules.WarmupPolynomialDecay(0.1, 10, 3)
    optimizer = lamb(schedule, **options)
    config = optimizer.get_config()
    assert {name: config[name] for name in options} == options
    copy = lamb.from_config(optimizer.get_config())
    assert copy.get_config() == config
    assert float(copy._learning_rate(2)) == pytest.approx(0.1 * 2 / 3)
