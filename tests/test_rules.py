"""Exclusion lists become one plan; what they hit is visible, and what they do not hit is warned of."""

import keras
import numpy as np
import pytest
import tensorflow as tf

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
