"""Exclusion lists become one plan; what they hit is visible, and what they do not hit is warned of."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tf_lamb
from tf_lamb import rules
from tf_lamb.tf_keras import LAMB as TfKerasLAMB

PATHS = ["net/dense/kernel", "net/dense/bias", "net/norm/gamma"]
SHAPES = [(4, 3), (3,), (3,)]


def plan(decay, adaptation, paths=PATHS, shapes=SHAPES, layer_axes=None):
    lists = (
        rules.ExclusionList("exclude_from_weight_decay", decay),
        rules.ExclusionList("exclude_from_layer_adaptation", adaptation),
    )
    variables = [np.zeros(shape) for shape in shapes]
    return rules.make_plan(variables, paths, *lists, rules.LayerAxes(layer_axes), id)


@pytest.mark.parametrize(
    ("decay", "adaptation", "decayed", "adapted"),
    [
        (None, None, [1, 1, 1], [1, 1, 1]),
        ((), (), [1, 1, 1], [1, 1, 1]),
        (("bias", "gamma"), None, [1, 0, 0], [1, 0, 0]),
        (("bias", "gamma"), (), [1, 0, 0], [1, 1, 1]),
        (None, ("gamma",), [1, 1, 1], [1, 1, 0]),
        (("bias",), ("gamma",), [1, 0, 1], [1, 1, 0]),
        (("^net/dense/",), ("dense/kernel$",), [0, 0, 1], [0, 1, 1]),
    ],
)
def test_lists(decay, adaptation, decayed, adapted):
    resolved = plan(decay, adaptation)
    assert [rule.decayed for rule in resolved] == [bool(x) for x in decayed]
    assert [rule.adapted for rule in resolved] == [bool(x) for x in adapted]


def test_the_deciding_pattern_is_the_first_that_matches():
    assert [rule.decay_pattern for rule in plan(("bias|gamma", "gamma"), None)] == [None, "bias|gamma", "bias|gamma"]


def test_the_table():
    assert str(plan(("bias", "gamma"), ("gamma",))) == (
        "variable          shape  decayed  adapted  excluded by\n"
        "----------------  -----  -------  -------  -----------\n"
        "net/dense/kernel  4x3    yes      yes\n"
        "net/dense/bias    3      -        yes      decay: bias\n"
        "net/norm/gamma    3      -        -        both: gamma\n"
        "decayed: 1 of 3 tensors, 12 of 18 parameters\n"
        "adapted: 2 of 3 tensors, 15 of 18 parameters"
    )


def test_an_unmatched_pattern_is_warned_of():
    with pytest.warns(UserWarning, match=r"'LayerNorm' of `exclude_from_weight_decay` matches no variable.*net/dense"):
        plan(("LayerNorm", "bias"), None)
    with pytest.warns(UserWarning, match="'beta' of `exclude_from_layer_adaptation`"):
        plan((), ("beta",))


@pytest.mark.filterwarnings("error")
def test_matched_patterns_are_not():
    plan(("bias",), None)
    plan(("bias",), ("gamma",))


def test_an_exact_path_hits_no_other():
    pattern = rules.exactly("net/dense/kernel")
    paths = ["net/dense/kernel", "net/dense/kernel_1", "big_net/dense/kernel", "net/densexkernel"]
    resolved = plan((pattern,), None, paths, [()] * 4)
    assert [rule.decayed for rule in resolved] == [False, True, True, True]


def variables(face):
    if face == "tf_keras":
        return [tf.Variable([1.0], name="kernel"), tf.Variable([1.0], name="bias")]
    return [keras.Variable([1.0], name="kernel"), keras.Variable([1.0], name="bias")]


def test_plan_of_an_optimizer(face):
    optimizer = (tf_lamb.LAMB if face == "keras" else TfKerasLAMB)(0.1, exclude_from_weight_decay=["bias"])
    with pytest.raises(ValueError, match=r"no plan before it knows its variables.*optimizer\.build"):
        optimizer.plan()
    optimizer.build(variables(face))
    assert [(rule.path, rule.decayed) for rule in optimizer.plan()] == [("kernel", True), ("bias", False)]


def test_kerass_own_method_is_kept_and_saved(face):
    lamb = tf_lamb.LAMB if face == "keras" else TfKerasLAMB
    optimizer = lamb(0.1)
    both = variables(face)
    optimizer.exclude_from_weight_decay(var_list=[both[0]], var_names=["bias"])
    copy = lamb.from_config(optimizer.get_config())
    for each in (optimizer, copy):
        each.build(both)
        assert [rule.decayed for rule in each.plan()] == [False, False]
    with pytest.raises(ValueError, match="after the optimizer was built"):
        optimizer.exclude_from_weight_decay(var_names=["kernel"])


def test_layers_and_variables_exclude_by_identity(face):
    library, lamb = (keras, tf_lamb.LAMB) if face == "keras" else (tf_keras, TfKerasLAMB)
    layers = [library.layers.Dense(2, name="dense"), library.layers.Dense(2, name="dense_1")]
    model = library.Sequential(layers)
    model.build((None, 3))
    lists = {"exclude_from_weight_decay": [layers[0]], "exclude_from_layer_adaptation": [layers[1].kernel, "bias"]}
    optimizer = lamb(0.1, **lists)
    copy = lamb.from_config(optimizer.get_config())
    for each in (optimizer, copy):
        each.build(model.trainable_variables)
        assert [rule.decayed for rule in each.plan()] == [False, False, True, True]
        assert [rule.adapted for rule in each.plan()] == [True, False, False, False]
    path = optimizer.plan()[0].path
    assert optimizer.plan()[0].decay_pattern == rules.exactly(path)


def test_a_layer_without_variables_cannot_be_saved_yet():
    layer = keras.layers.Dense(2, name="late")
    optimizer = tf_lamb.LAMB(0.1, exclude_from_weight_decay=[layer])
    with pytest.raises(ValueError, match=r"layer without variables.*Build the model first"):
        optimizer.get_config()
    layer.build((None, 3))
    assert optimizer.get_config()["exclude_from_weight_decay"] == [r"^late/kernel$", r"^late/bias$"]


def test_an_entry_that_matches_nothing_is_named():
    variable = keras.Variable([1.0], name="stranger")
    optimizer = tf_lamb.LAMB(0.1, exclude_from_weight_decay=[variable])
    with pytest.warns(UserWarning, match=r"entry 'stranger' of `exclude_from_weight_decay` matches no variable"):
        optimizer.build(variables("keras"))


def test_two_variables_of_one_path(face):
    lamb = tf_lamb.LAMB if face == "keras" else TfKerasLAMB
    make = keras.Variable if face == "keras" else tf.Variable
    both = [make([1.0], name="twin"), make([1.0], name="twin")]
    optimizer = lamb(0.1, exclude_from_weight_decay=[both[1]])
    optimizer.build(both)
    assert [rule.decayed for rule in optimizer.plan()] == [True, False]
    copy = lamb.from_config(optimizer.get_config())
    copy.build(both)
    assert [rule.decayed for rule in copy.plan()] == [True, False]


def test_layer_axes():
    resolved = plan(("bias",), None, layer_axes={"kernel": -1, "dense": 0})
    assert [rule.layer_axis for rule in resolved] == [1, 0, None]
    assert resolved[0].layer_names == [f"net/dense/kernel[{i}]" for i in range(3)]
    assert resolved[2].layer_names == ["net/norm/gamma"]
    assert "net/dense/kernel  4x3    yes      3 slices\n" in str(resolved)
    assert rules.restore_plan(rules.plan_config(resolved), PATHS, SHAPES) == resolved


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        ({"kernel": 2}, ValueError, r"axis that 'net/dense/kernel' of shape \(4, 3\) does not have.*in \[-2, 1\]"),
        ({"kernel": 0.5}, TypeError, r"must map patterns to integers\. Received: layer_axes=\{'kernel': 0\.5\}"),
        (["kernel"], TypeError, r"must map patterns to integers\. Received: layer_axes=\['kernel'\]"),
        ({3: 0}, TypeError, r"key that is not a string\. Received: 3"),
        ({"(": 0}, ValueError, r"not a regular expression .*Received: '\('"),
    ],
)
def test_bad_layer_axes(axes, error, message):
    with pytest.raises(error, match=message):
        plan(None, None, layer_axes=axes)


def test_an_unmatched_axis_is_warned_of():
    with pytest.warns(UserWarning, match="'qkv' of `layer_axes` matches no variable"):
        plan(None, None, layer_axes={"qkv": 0})
