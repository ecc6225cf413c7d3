"""Which folders run on which backend, and virtual CPU devices: four, for the strategies of TensorFlow and for JAX."""

import contextlib
import importlib.util
import os

# Builds of torch for GPUs bring triton, which crashes if it is imported after TensorFlow.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if os.environ.get("KERAS_BACKEND") == "jax":
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import hypothesis
import keras
import pytest
import tensorflow as tf

# The same examples in every run: what passed here passes elsewhere. HYPOTHESIS_RANDOM=1 draws new ones.
hypothesis.settings.register_profile(
    "repeatable", derandomize=os.environ.get("HYPOTHESIS_RANDOM") != "1", deadline=None
)
hypothesis.settings.load_profile("repeatable")

# What is about tf.distribute, tf_keras or XLA on TensorFlow, or the same on every backend.
collect_ignore = [] if keras.backend.backend() == "tensorflow" else ["on_tensorflow", "configs", "scripts"]

CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(CPU, [tf.config.LogicalDeviceConfiguration()] * 4)


def pytest_report_header():
    """Says what this run leaves out."""
    left_out = f"; not run on this backend: {', '.join(collect_ignore)}" if collect_ignore else ""
    return f"Keras {keras.__version__} on {keras.backend.backend()}{left_out}"


def pytest_collection_modifyitems(items):
    """Leaves out what needs tf-models-official where that is not installed, as beside the newest TensorFlow."""
    if importlib.util.find_spec("official") is None:
        for item in items:
            if item.get_closest_marker("model_garden"):
                item.add_marker(pytest.mark.skip(reason="needs tf-models-official"))


@pytest.fixture(params=["keras", "tf_keras"])
def face(request):
    """Each face of the optimizer: Keras 3 and tf_keras."""
    return request.param


@pytest.fixture(scope="session")
def two_replicas():
    """One for the whole session: TensorFlow's collectives are numbered anew by each strategy, and would be mixed up."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="session")
def three_replicas():
    """Without collectives, which take groups of one size only in a process, and `two_replicas` has that of two."""
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1", "CPU:2"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


@pytest.fixture(scope="session")
def four_replicas():
    """Without collectives, as `three_replicas`."""
    return tf.distribute.MirroredStrategy(
        [f"CPU:{replica}" for replica in range(4)], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


@pytest.fixture
def record_property(record_property):
    """Pytest's own, as text: a NumPy number could not be sent from one process of the tests to another."""
    return lambda name, value: record_property(name, str(value))
