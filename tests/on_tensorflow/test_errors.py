"""Bad input to the optimizers: what was wrong, what was received, what was expected."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_lamb
from tf_lamb.tf_keras import LAMB as TfKerasLAMB

TABLE = [
    ({"beta_1": 1.0}, ValueError, r"`beta_1` must be a number in \[0, 1\)\. Received: beta_1=1\.0"),
    ({"beta_1": -0.1}, ValueError, r"`beta_1` must be a number in \[0, 1\)\. Received: beta_1=-0\.1"),
    ({"beta_2": 2}, ValueError, r"`beta_2` must be a number in \[0, 1\)\. Received: beta_2=2"),
    ({"beta_2": "a"}, ValueError, r"`beta_2` must be a number in \[0, 1\)\. Received: beta_2='a'"),
    ({"epsilon": -1e-6}, ValueError, r"`epsilon` must be a number >= 0\. Received: epsilon=-1e-06"),
    ({"epsilon": None}, ValueError, r"`epsilon` must be a number >= 0\. Received: epsilon=None"),
    ({"weight_decay": -1.0}, ValueError, r"`weight_decay` must be a number >= 0\. Received: weight_decay=-1\.0"),
    ({"weight_decay": float("nan")}, ValueError, r"`weight_decay` must be a number >= 0\. Received: weight_decay=nan"),
    ({"weight_decay": None}, ValueError, r"`weight_decay` must be a number >= 0\. Received: weight_decay=None"),
    ({"jit_compile": "yes"}, ValueError, r"`jit_compile` must be 'auto', True or False\. Received:.*'yes'"),
    ({"exclude_from_weight_decay": "bias"}, TypeError, r"must be a list\. Received:.*'bias'\. Expected a list of"),
    (
        {"exclude_from_layer_adaptation": [3]},
        TypeError,
        r"neither a string, a layer nor a variable\. Received: 3\. Expected a list",
    ),
    (
        {"exclude_from_weight_decay": ["("]},
        ValueError,
        r"not a regular expression \(.*Received: '\('\. Expected a list",
    ),
    (
        {"clipnorm": -1.0},
        ValueError,
        r"`clipnorm` must be a number > 0, or None not to clip\. Received: clipnorm=-1\.0",
    ),
    (
        {"global_clipnorm": 0.0},
        ValueError,
        r"`global_clipnorm` must be a number > 0, .* Received: global_clipnorm=0\.0",
    ),
    ({"clipvalue": -2.0}, ValueError, r"`clipvalue` must be a number > 0, .* Received: clipvalue=-2\.0"),
    ({"exclude_from_weight_decay": 5}, TypeError, r"must be a list\. Received: exclude_from_weight_decay=5"),
    ({"norm": "l3"}, ValueError, r"`norm` must be 'l2', 'l1' or 'linf'\. Received: norm='l3'"),
    ({"weight_norm_bounds": 10}, ValueError, r"`weight_norm_bounds` must be a pair \(lower, upper\).*Received:.*=10"),
    ({"trust_ratio_bounds": (2, 1)}, ValueError, r"`trust_ratio_bounds` must be a pair .*Received:.*=\(2, 1\)"),
    ({"trust_ratio_bounds": (-1, None)}, ValueError, r"`trust_ratio_bounds` must be a pair .*\(-1, None\)"),
    ({"master_weights": 1}, ValueError, r"`master_weights` must be True or False\. Received: master_weights=1"),
    ({"moment_dtype": "float16"}, ValueError, r"`moment_dtype` must be None, 'float32', 'bfloat16'.*'float16'"),
    ({"moment_dtype": ["bfloat16"] * 3}, ValueError, r"`moment_dtype` must be .* each of the 2 moments"),
    ({"initial_scale": 0}, ValueError, r"`initial_scale` must be a number > 0\. Received: initial_scale=0"),
    ({"initial_scale": None}, ValueError, r"`initial_scale` must be a number > 0\. Received: initial_scale=None"),
    ({"dynamic_growth_steps": 0}, ValueError, r"`dynamic_growth_steps` must be an integer >= 1\."),
    ({"telemetry_every_steps": 0.5}, ValueError, r"`telemetry_every_steps` must be an integer >= 1\."),
    ({"gradient_accumulation_steps": 1}, ValueError, r"`gradient_accumulation_steps` must be an integer >= 2\."),
    ({"layer_axes": {"kernel": None}}, TypeError, r"`layer_axes` must map patterns to integers\. Received:"),
    ({"bias_correction": "late"}, ValueError, r"`bias_correction` must be True, False or 'step_size'\. Received:"),
    ({"nesterov": True}, ValueError, r"`nesterov` must be False, 'm' or 'mv'\. Received: nesterov=True"),
    ({"decay_inside_ratio": None}, ValueError, r"`decay_inside_ratio` must be True or False\. Received:.*=None"),
    ({"decay": -0.1}, ValueError, r"`decay` must be a number >= 0\. Received: decay=-0\.1"),
]
LARS_TABLE = [
    ({"momentum": 1.0}, r"`momentum` must be a number in \[0, 1\)\. Received: momentum=1\.0"),
    ({"dampening": -0.5}, r"`dampening` must be a number in \[0, 1\)\. Received: dampening=-0\.5"),
    ({"trust_coefficient": -1}, r"`trust_coefficient` must be a number >= 0\. Received: trust_coefficient=-1"),
    ({"epsilon": "0"}, r"`epsilon` must be a number >= 0\. Received: epsilon='0'"),
    ({"nesterov": "m"}, r"`nesterov` must be True or False\. Received: nesterov='m'"),
    ({"ratio_position": "after"}, r"`ratio_position` must be 'before_momentum' or 'after_momentum'\. Received:"),
    ({"denominator": "sum"}, r"`denominator` must be 'sum_of_norms' or 'norm_of_sum'\. Received: denominator='sum'"),
]


@pytest.mark.parametrize(("options", "error", "message"), TABLE)
def test_bad_options(face, options, error, message):
    with pytest.raises(error, match=message):
        (tf_lamb.LAMB if face == "keras" else TfKerasLAMB)(0.1, **options)


@pytest.mark.parametrize(("options", "message"), LARS_TABLE)
def test_bad_options_of_lars(face, options, message):
    with pytest.raises(ValueError, match=message):
        (tf_lamb.LARS if face == "keras" else tf_lamb.tf_keras.LARS)(0.1, **options)


@pytest.mark.parametrize("other", ["clipnorm", "global_clipnorm"])
def test_two_limits_to_clip_at(face, other):
    with pytest.raises(ValueError, match=r"one of .*`clipvalue`.* (can|may) be set\. Received: "):
        (tf_lamb.LAMB if face == "keras" else TfKerasLAMB)(0.1, clipvalue=0.5, **{other: 1.0})


def test_two_loss_scales():
    with pytest.raises(ValueError, match=r"would both scale the loss\..*Received: loss_scale_factor=2\.0"):
        tf_lamb.LAMB(0.1, dynamic_loss_scale=True, loss_scale_factor=2.0)


def test_statistics_need_telemetry(face):
    lamb, make = (tf_lamb.LAMB, keras.Variable) if face == "keras" else (TfKerasLAMB, tf.Variable)
    with pytest.raises(ValueError, match=r"keeps no statistics\. Make it with `telemetry=True`"):
        lamb(0.1).statistics()
    optimizer = lamb(0.1, telemetry=True)
    with pytest.raises(ValueError, match="no plan before it knows its variables"):
        optimizer.statistics()
    optimizer.build([make([1.0], name="w")])
    assert optimizer.layer_names() == ["w"]


def test_numpy_scalars_are_numbers(face):
    lamb = tf_lamb.LAMB if face == "keras" else TfKerasLAMB
    optimizer = lamb(0.1, beta_1=np.float32(0.5), weight_decay=np.float64(0.25), epsilon=0)
    assert (optimizer.beta_1, optimizer.weight_decay, optimizer.epsilon) == (0.5, 0.25, 0.0)


def test_tf_keras_would_read_a_callable_rate_only_once():
    with pytest.raises(ValueError, match="must be a number or a schedule"):
        TfKerasLAMB(lambda: 0.1)


@pytest.mark.parametrize("rate", ["fast", None])
def test_a_bad_learning_rate(rate):
    with pytest.raises(ValueError, match="learning_rate"):
        tf_lamb.LAMB(rate)


def test_an_unknown_option(face):
    with pytest.raises((TypeError, ValueError), match="momentum"):
        (tf_lamb.LAMB if face == "keras" else TfKerasLAMB)(0.1, momentum=0.9)


def test_a_variable_that_the_optimizer_was_not_built_on(face):
    make = keras.Variable if face == "keras" else tf.Variable
    optimizer = (tf_lamb.LAMB if face == "keras" else TfKerasLAMB)(0.1)
    optimizer.build([make([1.0], name="known")])
    with pytest.raises(ValueError, match="stranger"):
        optimizer.apply_gradients([(tf.constant([1.0]), make([1.0], name="stranger"))])


def test_no_gradients_at_all(face):
    make = keras.Variable if face == "keras" else tf.Variable
    optimizer = (tf_lamb.LAMB if face == "keras" else TfKerasLAMB)(0.1)
    with pytest.raises(ValueError, match="No gradients provided"):
        optimizer.apply_gradients([(None, make([1.0], name="w"))])


def test_an_empty_list_of_gradients_is_no_step_in_tf_keras():
    optimizer = TfKerasLAMB(0.1)
    optimizer.apply_gradients([])
    assert int(optimizer.iterations) == 0


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_a_missing_backend_is_one_clear_line():
    code = "import sys; sys.modules['tensorflow'] = None; import tf_lamb"
    result = run_python(code, KERAS_BACKEND="tensorflow")
    assert result.returncode != 0
    assert result.stderr.strip().splitlines()[-1] == (
        "ImportError: tf_lamb needs Keras 3 with a backend, and tensorflow is missing. Install one with "
        "`pip install tf-lamb[tensorflow]`, or set KERAS_BACKEND to one that is installed."
    )


def test_the_tf_keras_face_names_the_backend_it_needs():
    code = "import keras; keras.backend.backend = lambda: 'jax'; import tf_lamb.tf_keras"
    result = run_python(code, KERAS_BACKEND="tensorflow")
    assert "Received: KERAS_BACKEND=jax. Expected: KERAS_BACKEND=tensorflow" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(("package", "module"), [("tf_keras", "tf_keras"), ("official", "model_garden")])
def test_a_missing_package_of_the_tf_keras_face_is_named(package, module):
    result = run_python(f"import sys; sys.modules['{package}'] = None; import tf_lamb.{module}")
    assert result.stderr.splitlines()[-1].startswith(f"ImportError: tf_lamb.{module} needs")


def test_a_package_that_tf_keras_needs_is_not_taken_for_it():
    result = run_python("import sys; sys.modules['tf_keras.src'] = None; import tf_lamb.tf_keras")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("ModuleNotFoundError") and "tf_keras.src" in last


def test_too_many_gradients_change_nothing():
    variable = keras.Variable(np.float32([1.0, 2.0]))
    optimizer = tf_lamb.LAMB(0.1)
    optimizer.build([variable])
    with pytest.raises(ValueError, match="gradients must match"):
        optimizer.apply([tf.constant([1.0, 1.0])] * 2)
    with pytest.raises(ValueError, match=r"does not know its variables.*optimizer\.build"):
        tf_lamb.LAMB(0.1).apply([tf.constant([1.0, 1.0])])
    np.testing.assert_array_equal(variable.numpy(), [1.0, 2.0])
