"""Runs any optimizer of ours, on any backend of Keras, beside the oracle that its options describe.

A run is described by (name of the optimizer, options). The oracle's own options are derived from ours here, so a test
names an option once.
"""

import re

import keras
import numpy as np
import problem
from oracle import Lamb
from oracle_lars import Lars, NormalizedSgd

FACES = ["keras", "tf_keras"] if keras.backend.backend() == "tensorflow" else ["keras"]
ORACLES = {"LAMB": Lamb, "LARS": Lars, "NormalizedSGD": NormalizedSgd}
# Options that may not change what is computed.
WITHOUT_EFFECT = ("jit_compile", "telemetry", "telemetry_every_steps")


def initial_weights():
    """Those of the problem, with slices that are zero, small and large, so that slices and whole tensors differ."""
    weights = dict(zip(problem.NAMES, problem.initial_weights(), strict=True))
    weights["dense_kernel"][:, 2] = 0.0
    weights["conv_kernel"][..., 1] *= 0.01
    weights["embedding"][3] *= 10.0
    return list(weights.values())


def expected(name, options, gradients, oracle_class=None, weights=None):
    """The oracle after all steps.

    Args:
        name: The optimizer's class.
        options: Its options, ours.
        gradients: For each micro-step, for each replica, the list of gradients.
        oracle_class: What to compute instead of the class's own oracle.
        weights: The initial weights; by default `initial_weights()`.
    """
    own = {key: value for key, value in options.items() if key not in WITHOUT_EFFECT}
    decay_list = own.pop("exclude_from_weight_decay", None) or ()
    adaptation_list = own.pop("exclude_from_layer_adaptation", None)
    adaptation_list = decay_list if adaptation_list is None else adaptation_list
    axes = own.pop("layer_axes", None) or {}
    if own.get("gradient_accumulation_steps", 1) is None:
        del own["gradient_accumulation_steps"]
    oracle = (oracle_class or ORACLES[name])(
        initial_weights() if weights is None else weights,
        decays=[not matches(decay_list, path) for path in problem.NAMES],
        adapts=[not matches(adaptation_list, path) for path in problem.NAMES],
        layer_axes=[next((a for p, a in axes.items() if re.search(p, path)), None) for path in problem.NAMES],
        **own,
    )
    for replica_gradients in gradients:
        oracle.step(replica_gradients, problem.learning_rate(oracle.t))
    return oracle


def matches(patterns, path):
    return any(re.search(pattern, path) for pattern in patterns)


def make(face, name, options):
    """An optimizer whose rate is that of the problem, 0.05/(1 + step)."""
    if face == "tf_keras":
        from tf_lamb import tf_keras as module
    else:
        import tf_lamb as module
    schedule = keras.optimizers.schedules.InverseTimeDecay(0.05, decay_steps=1, decay_rate=1.0)
    return getattr(module, name)(learning_rate=schedule, **options)


def make_variables(face, dtype="float32", weights=None):
    weights = initial_weights() if weights is None else weights
    if face == "tf_keras":
        import tensorflow as tf

        return [tf.Variable(w, dtype=dtype, name=n) for n, w in zip(problem.NAMES, weights, strict=True)]
    return [keras.Variable(w, dtype=dtype, name=n) for n, w in zip(problem.NAMES, weights, strict=True)]


def apply(face, optimizer, gradients, variables):
    """One micro-step with a list of arrays or None."""
    gradients = [None if g is None else keras.ops.convert_to_tensor(g) for g in gradients]
    if face == "tf_keras":
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    else:
        optimizer.apply(gradients, variables)


def run(face, name, options, gradients, strategy=None):
    """The optimizer and its variables after all micro-steps.

    Args:
        face: "keras" or "tf_keras".
        name: The optimizer's class.
        options: Its options.
        gradients: For each micro-step, for each replica, the list of gradients.
        strategy: A tf.distribute strategy with as many replicas; by default none, and one replica.
    """
    if strategy is None:
        optimizer, variables = make(face, name, options), make_variables(face)
        optimizer.build(variables)
        for (own,) in gradients:
            apply(face, optimizer, own, variables)
        return optimizer, variables

    import tensorflow as tf

    with strategy.scope():
        optimizer, variables = make(face, name, options), make_variables(face)
        optimizer.build(variables)

    @tf.function
    def step(own):
        apply(face, optimizer, own, variables)

    for replica_gradients in gradients:

        def own(context, replica_gradients=replica_gradients):
            return [tf.constant(g) for g in replica_gradients[context.replica_id_in_sync_group]]

        strategy.run(step, args=(strategy.experimental_distribute_values_from_function(own),))
    return optimizer, variables


def value(variable):
    """The value of a variable, on the first replica, as a float64 array."""
    variable = getattr(variable, "value", variable) if isinstance(variable, keras.Variable) else variable
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        variable = tf.distribute.get_strategy().experimental_local_results(variable)[0]
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float64)


def values(variables):
    return [value(v) for v in variables]


def slots(optimizer):
    """For each kind of slot, the list of its values."""
    return [values(kind) for kind in zip(*optimizer._slots, strict=True)]
