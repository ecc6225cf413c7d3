"""What a TPU reads from its memory, and when: the order in which XLA may compute for it."""

import keras


def is_target():
    """Whether XLA is to compile what is traced now for a TPU, on TensorFlow or JAX."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "tpu"
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    if not tf.distribute.has_strategy():
        return False
    devices = tf.distribute.get_strategy().extended.worker_devices
    return all(tf.DeviceSpec.from_string(device).device_type == "TPU" for device in devices)


def after(first, values):
    """The same values, which XLA has to read from memory once `first` is known, rather than keep or compute them.

    Args:
        first: A tensor.
        values: A list of tensors of any shapes and dtypes.

    Returns:
        A list of tensors.
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.lax.optimization_barrier([first, *values])[1:]
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    return gen_xla_ops.xla_optimization_barrier([first, *values])[1:]
