"""The update on TensorFlow: gradients summed over replicas, then one function call per replica, compiled by XLA or not.

Both the Keras 3 and the tf_keras optimizers run through here. Only this file knows of `tf.distribute` and of XLA.
"""

import sys

import keras
import tensorflow as tf
from tensorflow.python.ops import control_flow_util


def densify(gradient, dtype):
    """Turns a gradient into a dense tensor of `dtype`; the rows of repeated ids of `tf.IndexedSlices` are summed."""
    # Cast first: a sum in bfloat16 would end at 256.
    return tf.convert_to_tensor(tf.cast(gradient, dtype))


def sum_over_replicas(gradients, exempt=None):
    """Sums each gradient over the replicas of the current strategy, once.

    Args:
        gradients: A list of dense tensors and None.
        exempt: For each gradient, whether it stays as it is; by default none does.

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
    gradients = list(gradients)
    summed = [i for i, g in enumerate(gradients) if g is not None and not (exempt and exempt[i])]
    if summed:
        sums = context.all_reduce(tf.distribute.ReduceOp.SUM, [gradients[i] for i in summed])
        for i, gradient in zip(summed, sums, strict=True):
            gradients[i] = gradient
    return gradients


def outside_of_tracing():
    """A context in which variables are made outside of any function that is being traced."""
    return tf.init_scope()


def refuse_keras_loss_scale_optimizer(dynamic_loss_scale):
    """Raises RuntimeError if Keras's LossScaleOptimizer makes the call, and there are several replicas.

    It tests the gradients before they are summed and takes the first replica's answer for all.

    Args:
        dynamic_loss_scale: Whether the optimizer scales the loss itself, so that it is refused on one replica, too.
    """
    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync == 1 and not dynamic_loss_scale:
        return
    frame = sys._getframe()
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), keras.optimizers.LossScaleOptimizer):
            if dynamic_loss_scale:
                raise RuntimeError(
                    "`keras.optimizers.LossScaleOptimizer` and `dynamic_loss_scale=True` would both scale the loss. "
                    "Expected one of them. Where Keras wraps the optimizer of a `mixed_float16` model by itself, "
                    "compile the model with `auto_scale_loss=False`."
                )
            raise RuntimeError(
                "`keras.optimizers.LossScaleOptimizer` tests gradients before they are summed over replicas, and takes "
                f"the first replica's answer for all {strategy.num_replicas_in_sync}. Use `dynamic_loss_scale=True` of "
                "the optimizer itself, which tests the sum, and compile a `mixed_float16` model with "
                "`auto_scale_loss=False`."
            )
        frame = frame.f_back


class ReplicaUpdate:
    """Runs an update of all variables on every replica, as one call of a function each.

    Args:
        update: A function of `(gradients, states, shared, learning_rate)` that assigns to the variables in the nested
            structures `states` and `shared`.
        states: These variables. What a call does not pass costs it no time.
        shared: The same.
        jit_compile: Whether to compile. Where the caller's own step is compiled already, the update becomes a part
            of that and nothing is compiled here.
        in_place: A function that does the same without XLA, and better than it, elsewhere; None if there is none.
    """

    def __init__(self, update, states, shared, jit_compile, in_place=None):
        # Within a caller's function AutoGraph would rewrite all of the library's Python, to no use.
        self._update = tf.autograph.experimental.do_not_convert(update)
        self._states, self._shared = states, shared
        self._alone = in_place or update
        self._jit_compile = bool(jit_compile) and in_place is None
        self._functions = {}

    @property
    def tracing_count(self):
        """How many times the update was traced, outside of a compiled step of the caller."""
        return sum(function.experimental_get_tracing_count() for function in self._functions.values())

    def __call__(self, gradients, learning_rate):
        """Updates the variables on every replica; called by each replica with gradients that are already summed."""

        def on_all_replicas(strategy, gradients, learning_rate):
            if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
                if any(isinstance(gradient, tf.distribute.DistributedValues) for gradient in gradients):
                    raise RuntimeError(
                        "XLA cannot compile a step that spans several devices, unless all of them are GPUs or TPUs. "
                        f"Received: jit_compile=True for a step on {', '.join(strategy.extended.worker_devices)}. "
                        "Leave it out: the optimizer compiles its own update, once for each replica."
                    )
                self._update(gradients, self._states, self._shared, learning_rate)
            elif not tf.distribute.has_strategy():
                self._function(None, lambda value: value)(gradients, learning_rate)
            else:
                for replica, device in enumerate(strategy.extended.worker_devices):

                    def local(value, replica=replica):
                        return None if value is None else strategy.experimental_local_results(value)[replica]

                    arguments = tf.nest.map_structure(local, (gradients, learning_rate))
                    with tf.device(device):
                        self._function(replica, local)(*arguments)

        tf.__internal__.distribute.interim.maybe_merge_call(
            on_all_replicas, tf.distribute.get_strategy(), gradients, tf.convert_to_tensor(learning_rate)
        )

    def _function(self, replica, local):
        """The function of a replica, in which `local` gives its own of each variable."""
        if replica not in self._functions:
            states, shared = tf.nest.map_structure(local, (self._states, self._shared))

            def update(gradients, learning_rate):
                self._alone(gradients, states, shared, learning_rate)

            self._functions[replica] = tf.function(update, jit_compile=self._jit_compile, autograph=False)
        return self._functions[replica]
