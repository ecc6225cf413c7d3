"""The tf.distribute strategy of a run, and what must happen before TensorFlow is imported for it."""

import contextlib
import os

from config import ConfigError, check_reachable
from paths import is_remote

STRATEGIES = ("one_device", "mirrored", "multi_worker", "tpu")


def add_arguments(parser):
    """Adds `--strategy`, `--cpu_replicas` and `--tpu` to an `argparse` parser."""
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default="mirrored",
        help="where to train: on all GPUs of this machine, or virtual CPU devices without one (mirrored, the default), "
        "on one device, on the machines of TF_CONFIG (multi_worker), or on a Cloud TPU (tpu)",
    )
    parser.add_argument(
        "--cpu_replicas",
        type=int,
        default=2,
        help="how many virtual CPU devices `mirrored` uses on a machine without GPUs (default: 2)",
    )
    parser.add_argument("--tpu", default="local", help="the TPU for `--strategy tpu`: local (default) or its name")


def prepare(arguments, *places):
    """Sets the environment, which has to be done before TensorFlow is imported, and checks that places can be reached.

    Args:
        arguments: The command line, with `--strategy` and `--tpu`.
        *places: The paths that the processes of the strategy read and write, of `paths.as_path`; None for none.

    Raises:
        ConfigError: The strategy's software is not there, or a place cannot be reached.
    """
    if arguments.strategy == "tpu":
        _set_tpu_environment()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for place in filter(None, places):
        if arguments.strategy == "tpu" and arguments.tpu != "local" and not is_remote(place):
            raise ConfigError(
                f"A TPU that is named reads and writes from machines of its own. Received: --tpu {arguments.tpu} with "
                f"{place}. Expected an address that they reach too: gs://..."
            )
    check_reachable(*places)


def make(strategy, cpu_replicas, tpu):
    """Builds the strategy; imports TensorFlow, so `prepare` comes first.

    Args:
        strategy: One of `STRATEGIES`.
        cpu_replicas: How many virtual CPU devices to mirror over where there is no GPU.
        tpu: `local`, or the name or address of a TPU.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ConfigError: The devices that the strategy needs are not there.
    """
    import tensorflow as tf

    if strategy == "tpu":
        return _tpu_strategy(tf, tpu)
    if strategy == "multi_worker":
        if "TF_CONFIG" not in os.environ:
            raise ConfigError(
                "--strategy multi_worker reads the addresses of its machines from the environment variable TF_CONFIG. "
                "Received: none. Expected for example "
                '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}.'
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = tf.config.list_physical_devices("GPU")
    if strategy == "one_device":
        return tf.distribute.OneDeviceStrategy("GPU:0" if gpus else "CPU:0")
    if gpus:
        return tf.distribute.MirroredStrategy()
    if cpu_replicas < 1:
        raise ConfigError(f"--cpu_replicas must be at least 1. Received: {cpu_replicas}.")
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * cpu_replicas)
    return tf.distribute.MirroredStrategy([f"CPU:{replica}" for replica in range(cpu_replicas)])


@contextlib.contextmanager
def precision(policy, strategy):
    """A context in which tf_keras models are made in a precision.

    Args:
        policy: `float32`, `mixed_bfloat16`, or `auto`: the second on a TPU, else the first.
        strategy: The `tf.distribute.Strategy`.

    Yields:
        The dtype in which the models compute.
    """
    import tensorflow as tf
    import tf_keras

    if policy == "auto":
        policy = "mixed_bfloat16" if isinstance(strategy, tf.distribute.TPUStrategy) else "float32"
    before = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy(policy)
    try:
        yield tf.bfloat16 if policy == "mixed_bfloat16" else tf.float32
    finally:
        tf_keras.mixed_precision.set_global_policy(before)


def _set_tpu_environment():
    # The TPU plugin of TensorFlow is chosen when TensorFlow is imported.
    try:
        import libtpu
    except ModuleNotFoundError:
        raise ConfigError(
            "--strategy tpu needs libtpu, which comes with the package tensorflow-tpu. Received: no libtpu. "
            "Expected: a TPU VM with tensorflow-tpu in the place of tensorflow."
        ) from None
    os.environ.setdefault("PJRT_DEVICE", "TPU")
    os.environ.setdefault("NEXT_PLUGGABLE_DEVICE_USE_C_API", "true")
    os.environ.setdefault("TF_PLUGGABLE_DEVICE_LIBRARY_PATH", libtpu.get_library_path())


def _tpu_strategy(tf, tpu):
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu)
        if tpu != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        topology = tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        # Where TensorFlow gives more than one line, the last says what happened; below it, indented, is where.
        reason = [line for line in str(error).splitlines() if line and not line[0].isspace()][-1]
        raise ConfigError(
            f"--strategy tpu found no TPU. Received: --tpu {tpu} ({reason}). "
            "Expected: a TPU VM with a free TPU, or the name of one."
        ) from None
    assignment = tf.tpu.experimental.DeviceAssignment.build(
        topology, num_replicas=topology.num_tasks * topology.num_tpus_per_task
    )
    return tf.distribute.TPUStrategy(resolver, experimental_device_assignment=assignment)
