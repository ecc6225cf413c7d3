"""A user of `tensorflow_addons.optimizers.LAMB` changes the import and nothing else: recorded runs are replayed.

The numbers, and how they were made, are those of `recordings/record_tensorflow_addons.py`.
"""

import inspect
import itertools
import json
import warnings
from pathlib import Path

import h5py
import keras
import numpy as np
import problem
import pytest
import tensorflow as tf
import tf_keras
import trajectory
from tolerances import RELATIVE_L2, distance, state_distance

import tf_lamb
import tf_lamb.tf_keras

FLOAT32 = RELATIVE_L2["float32", "cpu"]
FOLDER = Path(__file__).parents[1] / "recordings"
RECORDING = np.load(FOLDER / "tensorflow_addons.npz")
CASES = json.loads(str(RECORDING["cases"]))
MIGRATION_SHAPES = [(3, 4), (4,), (4, 2), (2,)]
# What a warning must name of each keyword of Addons that ours has under another name.
HINTS = {"weight_decay_rate": "`weight_decay`", "lr": "`learning_rate`", "decay": "schedule"}


def lamb(face):
    return tf_lamb.LAMB if face == "keras" else tf_lamb.tf_keras.LAMB


def variables_of(face):
    return trajectory.keras_variables() if face == "keras" else trajectory.tf_variables()


def split(flat, shapes):
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)]


def recorded(case):
    """The list of weights after each step, and the moments after the last."""
    weights, moments = (
        [split(row, problem.SHAPES.values()) for row in RECORDING[f"{case}/{kind}"]] for kind in ("weights", "moments")
    )
    return weights, moments


def gradients(steps, sparse):
    """The problem's gradients of one replica, that of the embedding as slices where Addons got slices."""
    index = problem.NAMES.index("embedding")
    for step, (arrays,) in enumerate(problem.gradients(1, steps)):
        tensors = [tf.constant(array) for array in arrays]
        if sparse:
            rows, ids, dense = problem.embedding_slices(arrays[index], step)
            tensors[index] = tf.IndexedSlices(tf.constant(rows), tf.constant(ids), tf.constant(dense.shape))
        yield tensors


def run(optimizer, variables, all_gradients):
    """The weights after each step."""
    weights = []
    for step in all_gradients:
        optimizer.apply_gradients(zip(step, variables, strict=True))
        weights.append([variable.numpy() for variable in variables])
    return weights


def replay(face, case, **changed):
    """The weights after each step and the optimizer, given what Addons was given."""
    options = {**CASES[case], **changed}
    if not {"learning_rate", "lr"} & set(options):
        options["learning_rate"] = trajectory.InverseTime()
    optimizer = lamb(face)(**options)
    variables = variables_of(face)
    steps = len(RECORDING[f"{case}/weights"])
    return run(optimizer, variables, gradients(steps, case.startswith("sparse"))), optimizer


def farthest(actual, expected):
    """The largest distance over all steps."""
    return max(distance(a, e) for a, e in zip(actual, expected, strict=True))


def expect_the_recording(case, weights, optimizer):
    expected, expected_moments = recorded(case)
    assert farthest(weights, expected) < FLOAT32
    # Addons takes 1 - beta of a beta rounded to float32, and so do ours in place.
    moments = [[np.asarray(slots[i], np.float64) for slots in optimizer._slots] for i in range(2)]
    assert state_distance((weights[-1], *moments), (expected[-1], *expected_moments)) < FLOAT32


def test_the_recording_follows_the_oracle():
    options = {**trajectory.OPTIONS, "global_clipnorm": None}
    weights, *_ = trajectory.expected(1, options, steps=24)
    assert distance(recorded("both_lists")[0][-1], weights) < FLOAT32


def test_the_cases_differ():
    """Or a replay that ignores an option would pass. In Addons, an empty list for adaptation is no list."""
    same = {
        "empty_adaptation_list": "no_adaptation_list",
        "empty_adaptation_list_clipnorm": "no_adaptation_list_clipnorm",
    }
    for case, other in itertools.combinations(CASES, 2):
        difference = farthest(recorded(case)[0], recorded(other)[0])
        assert difference == 0.0 if same.get(other) == case else difference > 10 * FLOAT32, (case, other)


def test_keras_lamb_misses():
    options = {name: value for name, value in CASES["both_lists"].items() if not name.startswith("exclude")}
    peer = keras.optimizers.Lamb(trajectory.InverseTime(), **options)
    peer.exclude_from_weight_decay(var_names=CASES["both_lists"]["exclude_from_weight_decay"])
    variables = variables_of("keras")
    assert farthest(run(peer, variables, gradients(24, sparse=False)), recorded("both_lists")[0]) > 1000 * FLOAT32


def test_the_arguments_are_the_same_in_the_same_order(face):
    recorded_signature = json.loads(str(RECORDING["signature"]))
    ours = [[p.name, p.default] for p in inspect.signature(lamb(face)).parameters.values()]
    assert ours[: len(recorded_signature)] == recorded_signature


@pytest.mark.parametrize("clipped", ["", "_clipnorm"])
@pytest.mark.parametrize("case", ["both_lists", "no_adaptation_list", "defaults"])
def test_follows_addons_without_a_warning(face, case, clipped):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights, optimizer = replay(face, case + clipped)
    expect_the_recording(case + clipped, weights, optimizer)


@pytest.mark.parametrize("clipped", ["", "_clipnorm"])
@pytest.mark.parametrize("case", ["old_keywords", "decay_of_a_schedule"])
def test_old_keywords_mean_what_they_did(face, case, clipped):
    with pytest.warns(Warning) as caught:
        weights, optimizer = replay(face, case + clipped)
    messages = [str(each.message) for each in caught]
    for keyword, hint in HINTS.items():
        if keyword in CASES[case]:
            assert any(f"`{keyword}`" in message and hint in message for message in messages), messages
    expect_the_recording(case + clipped, weights, optimizer)


@pytest.mark.parametrize("case", ["empty_adaptation_list", "empty_adaptation_list_clipnorm"])
def test_an_empty_list_for_adaptation_means_what_it_says(face, case):
    """In Addons it meant the list for decay, which is None here. So a user of Addons is told."""
    with pytest.warns(UserWarning, match="exclude_from_layer_adaptation") as caught:
        weights, _ = replay(face, case)
    messages = [str(each.message) for each in caught]
    assert any("Addons" in message and "None" in message and "()" in message for message in messages), messages
    assert farthest(weights, recorded(case)[0]) > 1000 * FLOAT32
    expect_the_recording(case, *replay(face, case, exclude_from_layer_adaptation=None))


def test_follows_addons_on_repeated_ids(face):
    expect_the_recording("sparse", *replay(face, "sparse"))


def test_slices_are_clipped_after_repeated_ids_are_summed(face):
    """Addons clips them before that, so what it computes depends on how a gradient is split."""
    actual, expected = (
        zip(*replay(face, "sparse_clipnorm")[0], strict=True),
        zip(*recorded("sparse_clipnorm")[0], strict=True),
    )
    for name, ours, theirs in zip(problem.NAMES, actual, expected, strict=True):
        difference = distance(ours, theirs)
        assert difference > 1000 * FLOAT32 if name == "embedding" else difference < FLOAT32, (name, difference)


def test_the_recorded_model_is_followed(face):
    library = keras if face == "keras" else tf_keras
    model = library.Sequential([library.layers.Dense(4, name="hidden"), library.layers.Dense(2, name="head")])
    model.build((None, 3))
    weights = [split(row, MIGRATION_SHAPES) for row in RECORDING["migration/weights"]]
    model.set_weights(weights[0])
    optimizer = lamb(face)(**json.loads(str(RECORDING["migration/options"])))
    recorded_gradients = [map(tf.constant, split(row, MIGRATION_SHAPES)) for row in RECORDING["migration/gradients"]]
    assert farthest(run(optimizer, model.trainable_variables, recorded_gradients), weights[1:]) < FLOAT32


def test_the_files_hold_the_state_after_five_steps():
    checkpoint = tf.train.load_checkpoint(str(FOLDER / "tensorflow_addons_checkpoint"))
    assert checkpoint.get_tensor("optimizer/iter/.ATTRIBUTES/VARIABLE_VALUE") == 5
    m, v = (split(row, MIGRATION_SHAPES) for row in RECORDING["migration/moments"])
    state = {"": split(RECORDING["migration/weights"][5], MIGRATION_SHAPES)}
    state |= {"/.OPTIMIZER_SLOT/optimizer/m": m, "/.OPTIMIZER_SLOT/optimizer/v": v}
    layers = list(itertools.product(enumerate(("hidden", "head")), ("kernel", "bias")))
    with h5py.File(FOLDER / "tensorflow_addons_model.h5") as file:
        assert file["optimizer_weights/LAMB/iter:0"][()] == 5
        for slot, tensors in state.items():
            for ((number, layer), kind), tensor in zip(layers, tensors, strict=True):
                key = f"model/layer_with_weights-{number}/{kind}{slot}/.ATTRIBUTES/VARIABLE_VALUE"
                np.testing.assert_array_equal(checkpoint.get_tensor(key), tensor)
                name = (
                    f"optimizer_weights/LAMB/{layer}/{kind}/{slot[-1]}:0"
                    if slot
                    else f"model_weights/{layer}/{layer}/{kind}:0"
                )
                np.testing.assert_array_equal(file[name][()], tensor)
