"""Three virtual CPU devices, so that strategies have replicas; set before TensorFlow starts its runtime. JAX has four."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if os.environ.get("KERAS_BACKEND") == "jax":
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import pytest
import tensorflow as tf

CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(CPU, [tf.config.LogicalDeviceConfiguration()] * 3)


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
