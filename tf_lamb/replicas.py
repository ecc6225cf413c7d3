"""The update on TensorFlow: gradients summed over replicas, then one compiled computation per replica.

Both the Keras 3 and the tf_keras optimizers run through here. Only this file knows of `tf.distribute` and of XLA.
"""

import tensorflow as tf
from tensorflow.python.ops import control_flow_util


def densify(gradient, dtype):
    """Turns a gradient into a dense tensor of `dtype`; the rows of repeated ids of `tf.IndexedSlices` are summed."""
    # Cast first: a sum in bfloat16 would end at 256.
    return tf.convert_to_tensor(tf.cast(gradient, dtype))


def sum_over_replicas(gradients):
    """Sums each gradient over the replicas of the current strategy, once.

    Args:
        gradients: A list of dense tensors.

    Returns:
        The list of sums, the same on every replica.

    Raises:
        RuntimeError: The call is not made by a replica, so there is nothing to sum over.
    """
    context = tf.distribute.get_replica_context()
    if context is None:
        raise RuntimeError(
            "Gradients were applied in the cross-replica context of a tf.distribute strategy, "
            "where every replica has its own. Expected a call from within a function given to `strategy.run`."
        )
    return context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)


class ReplicaUpdate:
    """Runs an update of all variables on every replica, as one XLA computation each.

    Args:
        update: A function of `(indices, gradients, variables, learning_rate, t)` that assigns to `variables`.
            `indices` is a tuple of the positions of the updated variables; `variables` holds for each of them a
            list of the `tf.Variable` and its state.
        jit_compile: Whether to compile. Where the caller's own step is compiled already, the update becomes a part
            of that and nothing is compiled here.
    """

    def __init__(self, update, jit_compile):
        self._update = update
        self._compiled = tf.function(update, jit_compile=bool(jit_compile), autograph=False)

    @property
    def tracing_count(self):
        """How many times the update was traced, outside of a compiled step of the caller."""
        return self._compiled.experimental_get_tracing_count()

    def __call__(self, indices, gradients, variables, learning_rate, t):
        """Updates `variables` on every replica; called by each replica with gradients that are already summed."""
        arguments = (gradients, tf.convert_to_tensor(learning_rate), tf.convert_to_tensor(t))

        def on_all_replicas(strategy, gradients, learning_rate, t):
            if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
                self._update(indices, gradients, variables, learning_rate, t)
            elif not tf.distribute.has_strategy():
                self._compiled(indices, gradients, variables, learning_rate, t)
            else:
                for replica, device in enumerate(strategy.extended.worker_devices):
                    local = tf.nest.map_structure(
                        lambda value, replica=replica: strategy.experimental_local_results(value)[replica],
                        (gradients, variables, learning_rate, t),
                    )
                    with tf.device(device):
                        self._compiled(indices, *local)

        tf.__internal__.distribute.interim.maybe_merge_call(on_all_replicas, tf.distribute.get_strategy(), *arguments)
