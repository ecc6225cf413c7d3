"""A pytest plugin that points Keras's own tests of its optimizers at ours.

    PYTHONPATH=. python -m pytest -p tests.keras_suite.stand_ins --outcomes FILE --pyargs MODULE ...

Each name of a Keras optimizer stands for one of ours while a test module is imported. Keras's tests of numbers use SGD;
LARS without adaptation is SGD, and so is each test's arithmetic kept. The other names only have to be optimizers, so
each stands for another one of ours.
"""

import ast
import contextlib
import importlib
import importlib.util
import inspect
import json
import sys
import textwrap
import types

import keras
from keras.src import optimizers as keras_optimizers

import tf_lamb

MODULES = (
    "keras.src.optimizers.optimizer_test",
    "keras.src.optimizers.optimizer_sparse_test",
    "keras.src.optimizers.loss_scale_optimizer_test",
    "keras.src.optimizers.lamb_test",
    "keras.src.callbacks.swap_ema_weights_test",
    # Last, since it resets TensorFlow's devices.
    "keras.src.backend.tensorflow.optimizer_distribute_test",
)
# Tests of Keras's private count of calls, which are run a second time without the lines about it.
PRIVATE = "optimizer._iterations"
WITHOUT_PRIVATE = "_without_private_iterations"

UNADAPTED = {"exclude_from_layer_adaptation": [".*"]}
# For each name of Keras: our class, the options it is made with, and the options of Keras's that have no counterpart.
STAND_INS = {
    "SGD": (tf_lamb.LARS, {"learning_rate": 0.01, "momentum": 0.0, **UNADAPTED}, ()),
    "Adam": (tf_lamb.LAMB, {"epsilon": 1e-7, **UNADAPTED}, ("amsgrad",)),
    "AdamW": (tf_lamb.LAMB, {}, ("amsgrad",)),
    "Nadam": (tf_lamb.LAMB, {"nesterov": "m"}, ()),
    "Adamax": (tf_lamb.LAMB, {"norm": "linf"}, ()),
    "Adafactor": (tf_lamb.LAMB, {"bias_correction": "step_size"}, ("clip_threshold",)),
    "Lamb": (tf_lamb.LAMB, {"decay_inside_ratio": False, "epsilon": 1e-7}, ()),
    "Lion": (tf_lamb.LARS, {"nesterov": True}, ()),
    "RMSprop": (tf_lamb.LARS, {}, ("centered",)),
    "Adadelta": (tf_lamb.LARS, {"ratio_position": "after_momentum"}, ()),
    "Adagrad": (tf_lamb.NormalizedSGD, {}, ()),
    "Ftrl": (tf_lamb.NormalizedSGD, {"norm": "l1"}, ()),
}


def make_stand_in(keras_name, ours, defaults, dropped, face=keras):
    """A subclass of ours that takes the arguments of a Keras optimizer."""

    class StandIn(ours):
        def __init__(self, learning_rate=defaults.get("learning_rate", 0.001), weight_decay=0.0, name=None, **options):
            options = {**defaults, **{key: value for key, value in options.items() if key not in dropped}}
            options.pop("learning_rate", None)
            # Keras says None for no decay.
            super().__init__(learning_rate, weight_decay=weight_decay or 0.0, name=name or self._default(), **options)

        def _default(self):
            return keras_name if face is not keras else None

        # Keras's tests of clipping call its own private method.
        def _clip_gradients(self, gradients):
            return self._clip([keras.ops.convert_to_tensor(g) for g in gradients])[0]

    StandIn.__name__ = StandIn.__qualname__ = keras_name
    return face.saving.register_keras_serializable(package="keras_suite")(StandIn)


@contextlib.contextmanager
def pointed_at_ours(classes):
    """While it is in force, what a module imports from Keras's optimizers is ours."""
    proxy = types.ModuleType("optimizers")
    vars(proxy).update({**vars(keras_optimizers), **classes})
    places = [(sys.modules["keras.src"], "optimizers", proxy)]
    for name, stand_in in classes.items():
        places.append((importlib.import_module(f"keras.src.optimizers.{name.lower()}"), name, stand_in))
    before = [getattr(module, name) for module, name, _ in places]
    for module, name, value in places:
        setattr(module, name, value)
    yield
    for (module, name, _), value in zip(places, before, strict=True):
        setattr(module, name, value)


def load_modules():
    """Imports the test modules that this Keras has; returns their names."""
    classes = {name: make_stand_in(name, *how) for name, how in STAND_INS.items()}
    # For `optimizers.get("adam")`.
    keras_optimizers.ALL_OBJECTS_DICT.update({name.lower(): stand_in for name, stand_in in classes.items()})
    on_tensorflow = keras.backend.backend() == "tensorflow"
    if on_tensorflow:
        import tf_keras

        import tf_lamb.tf_keras as ours

        tf_keras.optimizers.SGD = make_stand_in("SGD", ours.LARS, *STAND_INS["SGD"][1:], face=tf_keras)
    names = [name for name in MODULES if importlib.util.find_spec(name) and (on_tensorflow or ".tensorflow." not in name)]
    with pointed_at_ours(classes):
        for name in names:
            module = importlib.import_module(name)
            for test_class in [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == name]:
                for test_name, test in list(vars(test_class).items()):
                    if inspect.isfunction(test) and PRIVATE in inspect.getsource(test):
                        setattr(test_class, test_name + WITHOUT_PRIVATE, without_private(test, module))
    return names


def without_private(test, module):
    """A test without the statements about Keras's private count."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(test)))
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            node.body = [each for each in node.body if isinstance(each, ast.With) or PRIVATE not in ast.unparse(each)]
    scope = {}
    exec(compile(tree, inspect.getsourcefile(test), "exec"), vars(module), scope)
    return scope[test.__name__]


# What pytest calls.


def pytest_addoption(parser):
    parser.addoption("--outcomes", help="where to write the outcome of each test, as JSON")


def pytest_configure(config):
    config.stash_of_outcomes = {}
    load_modules()


def pytest_runtest_makereport(item, call):
    if call.when == "call" or call.excinfo is not None:
        name = item.nodeid.rpartition("/")[2]
        outcome = ["passed", "", ""]
        if call.excinfo is not None:
            kind = "skipped" if call.excinfo.typename == "Skipped" else "failed"
            own = [entry for entry in call.excinfo.traceback if entry.path == item.path]
            statement = " ".join(str(own[-1].statement).split()) if own else ""
            outcome = [kind, statement, str(call.excinfo.value)]
        item.config.stash_of_outcomes[name] = outcome


def pytest_sessionfinish(session):
    with open(session.config.getoption("outcomes"), "w", encoding="utf-8") as file:
        json.dump(session.config.stash_of_outcomes, file, indent=1)
