"""A pytest plugin that points Keras's own tests of its optimizers at ours.

    PYTHONPATH=.:tests/keras_suite python -m pytest -p stand_ins --outcomes FILE --pyargs MODULE ...

In this process each name of a Keras optimizer stands for one of ours. The tests of numbers use SGD,
Lamb, and the decay of any optimizer; LARS without adaptation is SGD, and LAMB can decay outside the ratio, so these
tests stay as they are. The other names only have to be optimizers, so each stands for another one of ours.
"""

import functools
import importlib
import importlib.util
import inspect
import json
import os
import textwrap

import keras
from keras.src import optimizers as keras_optimizers

import tf_lamb
from tf_lamb import core

MODULES = (
    "keras.src.optimizers.optimizer_test",
    "keras.src.optimizers.optimizer_sparse_test",
    "keras.src.optimizers.loss_scale_optimizer_test",
    "keras.src.optimizers.lamb_test",
    "keras.src.callbacks.swap_ema_weights_test",
    # Last, since it resets TensorFlow's devices.
    "keras.src.backend.tensorflow.optimizer_distribute_test",
)
# Tests that look at Keras's private count of calls also run as a copy without the lines about it.
PRIVATE_COUNT = "optimizer._iterations"

UNADAPTED = {"exclude_from_layer_adaptation": [".*"]}
SGD_OPTIONS = {"learning_rate": 0.01, "momentum": 0.0, **UNADAPTED}
STAND_INS = {
    "SGD": (tf_lamb.LARS, SGD_OPTIONS),
    "Adam": (tf_lamb.LAMB, {"epsilon": 1e-7, **UNADAPTED}),
    "AdamW": (tf_lamb.LAMB, {}),
    "Nadam": (tf_lamb.LAMB, {"nesterov": "m"}),
    "Adamax": (tf_lamb.LAMB, {"norm": "linf"}),
    "Adafactor": (tf_lamb.LAMB, {"bias_correction": "step_size"}),
    "Lamb": (tf_lamb.LAMB, {"decay_inside_ratio": False, "epsilon": 1e-7}),
    "Lion": (tf_lamb.LARS, {"nesterov": True}),
    "RMSprop": (tf_lamb.LARS, {}),
    "Adadelta": (tf_lamb.LARS, {"ratio_position": "after_momentum"}),
    "Adagrad": (tf_lamb.NormalizedSGD, {}),
    "Ftrl": (tf_lamb.NormalizedSGD, {"norm": "l1"}),
}
NO_COUNTERPART = {"amsgrad", "centered", "clip_threshold"}


def make_stand_in(keras_name, ours, defaults, broken):
    """A subclass of ours that takes the arguments of a Keras optimizer; a broken one does not clip."""

    class StandIn(ours):
        def __init__(self, learning_rate=None, weight_decay=None, name=None, **options):
            options = {**defaults, **{key: value for key, value in options.items() if key not in NO_COUNTERPART}}
            default = options.pop("learning_rate", 0.001)
            rate = default if learning_rate is None else learning_rate
            # Keras says None for no decay, and names an optimizer by its class.
            super().__init__(rate, weight_decay=weight_decay or 0.0, name=name, **options)

        # The tests of clipping call Keras's private method.
        def _clip_gradients(self, gradients):
            return self._clip([keras.ops.convert_to_tensor(gradient) for gradient in gradients], core.sum_of_squares)[0]

        def _clip(self, gradients, *others):
            return (gradients, None, None) if broken else super()._clip(gradients, *others)

    # Pickle looks a class up by its name.
    StandIn.__name__ = StandIn.__qualname__ = keras_name
    globals()[keras_name] = StandIn
    return keras.saving.register_keras_serializable("keras_suite")(StandIn)


def replace_optimizers(broken):
    """Puts ours in the place of Keras's optimizers, and of tf_keras's SGD, which one module also tests."""
    for name, (ours, defaults) in STAND_INS.items():
        replacement = make_stand_in(name, ours, defaults, broken)
        setattr(keras_optimizers, name, replacement)
        setattr(importlib.import_module(f"keras.src.optimizers.{name.lower()}"), name, replacement)
        keras_optimizers.ALL_OBJECTS_DICT[name.lower()] = replacement
    if keras.backend.backend() == "tensorflow":
        import tf_keras

        from tf_lamb.tf_keras import LARS

        tf_keras.optimizers.SGD = functools.partial(LARS, **SGD_OPTIONS)


def add_tests_without_private_count(module):
    for test_class in [each for each in vars(module).values() if inspect.isclass(each)]:
        for name, test in list(vars(test_class).items()):
            source = textwrap.dedent(inspect.getsource(test)) if inspect.isfunction(test) else ""
            if test_class.__module__ == module.__name__ and PRIVATE_COUNT in source:
                lines = [line for line in source.splitlines() if PRIVATE_COUNT not in line]
                scope = {}
                exec(compile("\n".join(lines), module.__file__, "exec"), vars(module), scope)
                setattr(test_class, f"{name}_without_private_count", scope[name])


# What pytest calls.


def pytest_addoption(parser):
    parser.addoption("--outcomes", help="the JSON file to write: the outcome of each test, and its message")
    parser.addoption("--broken", action="store_true", help="do not clip")


def pytest_configure(config):
    replace_optimizers(config.getoption("broken"))
    config.pluginmanager.register(Outcomes(config.getoption("outcomes")))
    for name in config.args:
        add_tests_without_private_count(importlib.import_module(name))


class Outcomes:
    """Collects the outcome and message of each test by `module.test`."""

    def __init__(self, path):
        self.path, self.outcomes = path, {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            crash = getattr(report.longrepr, "reprcrash", None)
            message = crash.message if crash else report.longrepr[2] if report.skipped else ""
            path, _, name = report.location
            test = f"{os.path.basename(path).removesuffix('.py')}.{name.partition('.')[2]}"
            self.outcomes[test] = [report.outcome, message]

    def pytest_sessionfinish(self):
        with open(self.path, "w", encoding="utf-8") as file:
            json.dump(self.outcomes, file, indent=1)
