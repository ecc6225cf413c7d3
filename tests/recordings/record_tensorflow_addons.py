"""Records what `tensorflow_addons.optimizers.LAMB` 0.23 computes, under the last TensorFlow that it imports with.

TensorFlow Addons has ended, and no current TensorFlow imports it. Its numbers are kept in this folder, and
`tests/on_tensorflow/test_tensorflow_addons.py` replays them. To record them again, with Python 3.10 or 3.11:

    python3.11 -m venv addons
    addons/bin/pip install tensorflow-cpu==2.15.1 tensorflow-addons==0.23.0 numpy==1.26.4
    addons/bin/python tests/recordings/record_tensorflow_addons.py

It writes beside itself:

    tensorflow_addons.npz          for each case of `CASES` the weights after every step, and the moments after the
                                   last; tensors are flattened and joined in the order of `problem.NAMES`.
                                   "cases" (the options), "signature" (the arguments and their defaults) and
                                   "versions" are JSON. "keras_module" is a module of Keras that Addons imports.
                                   "migration/..." is a small model: its data, the weights before each of 6 steps and
                                   after the last, the gradients of each step, and the moments after step 5.
    tensorflow_addons_checkpoint/  that model and its optimizer after step 5, from `tf.train.Checkpoint`
    tensorflow_addons_model.h5     the same, from `model.save`
"""

import inspect
import json
import platform
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

import problem  # noqa: E402

STEPS = 24
# Addons clips before it sums over replicas, so that is not recorded: a global norm is for others to compare.
BOTH_LISTS = {name: value for name, value in problem.OPTIONS.items() if name != "global_clipnorm"}
CASES = {
    "both_lists": BOTH_LISTS,
    "no_adaptation_list": {**BOTH_LISTS, "exclude_from_layer_adaptation": None},
    "empty_adaptation_list": {**BOTH_LISTS, "exclude_from_layer_adaptation": []},
    "defaults": {"learning_rate": 0.05},
    "old_keywords": {"lr": 0.05, "decay": 0.1, "weight_decay_rate": 0.3},
    "decay_of_a_schedule": {**BOTH_LISTS, "decay": 0.1},
    "sparse": BOTH_LISTS,
}
CASES.update({f"{name}_clipnorm": {**options, "clipnorm": 0.4} for name, options in CASES.items()})
STEPS_BEFORE_MIGRATION = 5
MIGRATION_OPTIONS = {
    "learning_rate": 0.05,
    "beta_2": 0.99,
    "weight_decay": 0.1,
    "exclude_from_weight_decay": ["bias"],
    "exclude_from_layer_adaptation": ["head/bias"],
}


class InverseTime(tf.keras.optimizers.schedules.LearningRateSchedule):
    """`problem.learning_rate` as a schedule: the rate of every case that names none."""

    def __call__(self, step):
        return 0.05 / (1.0 + step)


def main():
    versions = {module.__name__: module.__version__ for module in (tf, tfa, keras, np)}
    parameters = list(inspect.signature(tfa.optimizers.LAMB).parameters.values())
    recording = {
        "versions": np.array(json.dumps({**versions, "python": platform.python_version()})),
        "keras_module": np.array(tfa.utils.types.keras_tensor.__name__),
        "signature": np.array(json.dumps([(p.name, p.default) for p in parameters if p.name != "kwargs"])),
        "cases": np.array(json.dumps(CASES)),
    }
    for name, options in CASES.items():
        recording.update({f"{name}/{key}": value for key, value in run(options, name.startswith("sparse")).items()})
    recording.update({f"migration/{key}": value for key, value in migrate().items()})
    np.savez_compressed(FOLDER / "tensorflow_addons.npz", **recording)


def run(options, sparse):
    """The weights of each step and the last moments of one case."""
    rate = {} if {"learning_rate", "lr"} & set(options) else {"learning_rate": InverseTime()}
    optimizer = tfa.optimizers.LAMB(**rate, **options)
    variables = [
        tf.Variable(weight, name=name, dtype=tf.float32)
        for name, weight in zip(problem.NAMES, problem.initial_weights(), strict=True)
    ]
    weights = []
    for step, (arrays,) in enumerate(problem.gradients(1, STEPS)):
        gradients = [tf.constant(array) for array in arrays]
        if sparse:
            index = problem.NAMES.index("embedding")
            rows, ids, dense = problem.embedding_slices(arrays[index], step)
            gradients[index] = tf.IndexedSlices(tf.constant(rows), tf.constant(ids), tf.constant(dense.shape))
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        weights.append(joined(variables))
    return {"weights": np.stack(weights), "moments": moments(optimizer, variables)}


def migrate():
    """Trains a model, saves it and its optimizer in the middle, and goes on for one step."""
    random = np.random.default_rng(2)
    inputs, targets = (random.normal(size=(16, width)).astype(np.float32) for width in (3, 2))
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Dense(4, activation="tanh", name="hidden"),
            tf.keras.layers.Dense(2, name="head"),
        ]
    )
    model.build((None, 3))
    model.set_weights([random.normal(size=weight.shape) for weight in model.get_weights()])
    optimizer = tfa.optimizers.LAMB(**MIGRATION_OPTIONS)
    model.compile(optimizer=optimizer, loss="mse")
    variables = model.trainable_variables
    weights, gradients = [joined(variables)], []
    result = {"options": np.array(json.dumps(MIGRATION_OPTIONS)), "inputs": inputs, "targets": targets}
    for step in range(STEPS_BEFORE_MIGRATION + 1):
        if step == STEPS_BEFORE_MIGRATION:
            result["moments"] = moments(optimizer, variables)
            tf.train.Checkpoint(model=model, optimizer=optimizer).save(
                str(FOLDER / "tensorflow_addons_checkpoint" / "ckpt")
            )
            model.save(FOLDER / "tensorflow_addons_model.h5")
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(inputs) - targets))
        gradients.append(tape.gradient(loss, variables))
        optimizer.apply_gradients(zip(gradients[-1], variables, strict=True))
        weights.append(joined(variables))
    return {**result, "weights": np.stack(weights), "gradients": np.stack([joined(each) for each in gradients])}


def moments(optimizer, variables):
    return np.stack([joined([optimizer.get_slot(variable, slot) for variable in variables]) for slot in ("m", "v")])


def joined(tensors):
    return np.concatenate([np.ravel(tensor.numpy()) for tensor in tensors])


if __name__ == "__main__":
    main()
