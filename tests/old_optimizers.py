"""Optimizers that ours takes over from: what they leave behind after some steps, and what their next step is.

TensorFlow Addons is as `recordings/record_tensorflow_addons.py` recorded it; Model Garden and Keras run here.
"""

import functools
import json
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tf_lamb
from tf_lamb import dialects
from tf_lamb.old_states import as_array, variables_of

RECORDINGS = Path(__file__).parent / "recordings"
RECORDING = np.load(RECORDINGS / "tensorflow_addons.npz")
ADDONS_FILES = {
    "checkpoint": RECORDINGS / "tensorflow_addons_checkpoint",
    "h5": str(RECORDINGS / "tensorflow_addons_model.h5"),
}
# The recorded model, and one whose shapes do not tell its layers apart: {layer: shape of the kernel}.
RECORDED, TWINS = {"hidden": (3, 4), "head": (4, 2)}, {"first": (4, 4), "second": (4, 4), "head": (4, 2)}
OPTIONS = {"learning_rate": 0.05, "beta_2": 0.99, "weight_decay": 0.1}
LISTS = {"exclude_from_weight_decay": ["bias"], "exclude_from_layer_adaptation": ["head/bias"]}
ADDONS_OPTIONS = json.loads(str(RECORDING["migration/options"]))
# Where every variable adapts, as in Keras, only epsilon tells whether the bias correction is that of the right update.
KERAS_OPTIONS = {**OPTIONS, "epsilon": 0.01}
STEPS = 5


class Old(NamedTuple):
    """What an old optimizer did.

    Attributes:
        t: The count of updates at a point.
        before: The weights, first and second moments at that point.
        calls: The lists of gradients that make the next update.
        after: The weights and moments after it.
    """

    t: int
    before: tuple
    calls: list
    after: tuple


def shapes_of(layers):
    return [shape for kernel in layers.values() for shape in (kernel, kernel[1:])]


def make_model(face, layers=TWINS, weights=None, seed=11):
    library = keras if face == "keras" else tf_keras
    model = library.Sequential([library.layers.Dense(outputs, name=name) for name, (_, outputs) in layers.items()])
    model.build((None, next(iter(layers.values()))[0]))
    random = np.random.default_rng(seed)
    model.set_weights([random.normal(size=shape) for shape in shapes_of(layers)] if weights is None else weights)
    return model


def make_ours(face, dialect, variables, **options):
    given = dialects.options(dialect, **{**OPTIONS, **options})
    if keras.backend.backend() == "tensorflow":
        given["jit_compile"] = False
    module = tf_lamb
    if face == "tf_keras":
        from tf_lamb import tf_keras as module
    optimizer = module.LAMB(**given)
    optimizer.build(list(variables))
    return optimizer


def gradients(index):
    """What the optimizers of the twins are given at a call from 0."""
    random = np.random.default_rng(index)
    return [np.float32(10.0 ** random.uniform(-2, 0) * random.normal(size=shape)) for shape in shapes_of(TWINS)]


def call(optimizer, variables, arrays):
    """One call of any optimizer, ours or old, of Keras 3 or tf_keras."""
    convert = keras.ops.convert_to_tensor if isinstance(optimizer, keras.optimizers.Optimizer) else tf.constant
    optimizer.apply_gradients(list(zip(map(convert, arrays), variables, strict=True)))


def arrays_of(variables):
    return [np.array(as_array(variable)) for variable in variables]


def state_of(optimizer, variables):
    """The weights and moments of one of ours in the order of `variables`, which need not be its own."""
    slots = {id(v): own for v, own in zip(variables_of(optimizer), optimizer._slots, strict=True)}
    return arrays_of(variables), *(arrays_of(slots[id(v)][i] for v in variables) for i in range(2))


def split(row):
    """The tensors of the recorded model, which are recorded as one row."""
    shapes = shapes_of(RECORDED)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(np.split(row, ends[:-1]), shapes, strict=True)]


@functools.cache
def addons():
    """The recording after five steps. The moments after the sixth are what the equations make of its gradient."""
    weights = [split(row) for row in RECORDING["migration/weights"]]
    m, v = (split(row) for row in RECORDING["migration/moments"])
    gradient = split(RECORDING["migration/gradients"][STEPS])
    new_m = [0.9 * a + 0.1 * np.float64(g) for a, g in zip(m, gradient, strict=True)]
    new_v = [0.99 * a + 0.01 * np.float64(g) ** 2 for a, g in zip(v, gradient, strict=True)]
    return Old(STEPS, (weights[STEPS], m, v), [gradient], (weights[STEPS + 1], new_m, new_v))


@functools.cache
def run_model_garden(steps):
    """The model, its Model Garden LAMB after so many steps, and their state."""
    lamb = pytest.importorskip("official.modeling.optimization.lamb")
    options = {"weight_decay_rate" if name == "weight_decay" else name: value for name, value in OPTIONS.items()}
    model, optimizer = make_model("tf_keras"), lamb.LAMB(**options, **LISTS)
    model.compile(optimizer=optimizer, loss="mse")
    variables = model.trainable_variables
    for i in range(steps):
        call(optimizer, variables, gradients(i))
    slots = ([optimizer.get_slot(v, name).numpy() for v in variables] for name in "mv")
    return model, optimizer, (model.get_weights(), *slots)


def model_garden():
    return Old(STEPS, run_model_garden(STEPS)[2], [gradients(STEPS)], run_model_garden(STEPS + 1)[2])


def save_model_garden(folder):
    """What Model Garden's optimizer leaves behind after `STEPS` steps: {kind: path}."""
    model, optimizer, (weights, _, _) = run_model_garden(STEPS)
    model.set_weights(weights)
    model.save(folder / "model.h5")
    model.save_weights(folder / "weights")
    return {
        "checkpoint": tf.train.Checkpoint(model=model, optimizer=optimizer).save(folder / "ckpt"),
        "other names": tf.train.Checkpoint(net=model, rule=optimizer).save(folder / "other"),
        "saved weights": folder / "weights",
        "h5": folder / "model.h5",
    }


def run_keras(calls, **options):
    """The model and its `keras.optimizers.Lamb` after so many calls."""
    model = make_model("keras")
    optimizer = keras.optimizers.Lamb(**{**KERAS_OPTIONS, **options})
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer=optimizer, loss="mse")
    optimizer.build(model.trainable_variables)
    for i in range(calls):
        call(optimizer, model.trainable_variables, gradients(i))
    return model, optimizer


def state_of_keras(optimizer):
    return [arrays_of(each) for each in (optimizer._trainable_variables, optimizer._momentums, optimizer._velocities)]


@functools.cache
def keras_lamb(calls=STEPS, steps=1, **options):
    """From a call to the end of the next update, where `steps` calls make one."""
    left = steps - calls % steps
    before, after = (state_of_keras(run_keras(count, **options)[1]) for count in (calls, calls + left))
    return Old(calls // steps, before, [gradients(calls + i) for i in range(left)], after)
