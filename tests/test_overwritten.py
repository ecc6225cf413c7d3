"""Variables that Keras overwrites with their gradient, as the scales of float8 layers: no optimizer's arithmetic."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

import tf_lamb

pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist")


def scale_and_weight():
    scale = keras.Variable([1.0, 2.0], name="scale")
    scale.overwrite_with_gradient = True
    return [scale, keras.Variable([3.0, 4.0], name="weight")]


def apply(optimizer, variables, scale, weight=(1.0, 1.0)):
    optimizer.apply([None if g is None else ops.convert_to_tensor(g, "float32") for g in (scale, weight)], variables)
    return [keras.ops.convert_to_numpy(variable).tolist() for variable in variables]


def test_the_gradient_is_the_new_value():
    variables, plain = scale_and_weight(), keras.Variable([3.0, 4.0])
    options = {"clipnorm": 0.1, "weight_decay": 0.1, "telemetry": True}
    optimizer, other = tf_lamb.LAMB(0.1, **options), tf_lamb.LAMB(0.1, **options)
    scale, weight = apply(optimizer, variables, [50.0, 60.0])
    assert scale == [50.0, 60.0]
    other.apply([ops.convert_to_tensor([1.0, 1.0], "float32")], [plain])
    np.testing.assert_array_equal(weight, ops.convert_to_numpy(plain))
    assert [name for name in optimizer.layer_names() if "scale" in name] == []
    assert len(optimizer.variables) == len(other.variables)


def test_without_a_gradient_it_stays():
    variables = scale_and_weight()
    assert apply(tf_lamb.LAMB(0.1), variables, None)[0] == [1.0, 2.0]


def test_of_a_cycle_the_largest_counts():
    variables = scale_and_weight()
    optimizer = tf_lamb.LAMB(0.1, gradient_accumulation_steps=2)
    assert apply(optimizer, variables, [5.0, 1.0]) == [[1.0, 2.0], [3.0, 4.0]]
    scale, weight = apply(optimizer, variables, [4.0, 7.0])
    assert scale == [5.0, 7.0] and weight != [3.0, 4.0]
    apply(optimizer, variables, [0.5, 0.5])
    assert apply(optimizer, variables, [0.25, 0.75])[0] == [0.5, 0.75]


def test_a_skipped_step_skips_it_too():
    variables = scale_and_weight()
    optimizer = tf_lamb.LAMB(0.1, skip_nonfinite=True)
    assert apply(optimizer, variables, [5.0, 5.0], weight=(float("inf"), 1.0)) == [[1.0, 2.0], [3.0, 4.0]]
    assert apply(optimizer, variables, [5.0, 5.0])[0] == [5.0, 5.0]


def test_it_has_no_average():
    variables = scale_and_weight()
    optimizer = tf_lamb.LAMB(0.1, use_ema=True, ema_momentum=0.5)
    apply(optimizer, variables, [5.0, 6.0])
    optimizer.finalize_variable_values(variables)
    assert ops.convert_to_numpy(variables[0]).tolist() == [5.0, 6.0]


def test_no_gradients_are_no_step():
    variables = scale_and_weight()
    optimizer = tf_lamb.LAMB(0.1)
    optimizer.build(variables)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.apply([])
    assert int(optimizer.iterations) == 0
