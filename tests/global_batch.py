"""A small model in plain TensorFlow whose global batch is shared out unequally among the replicas of a strategy.

Its gradients come from a tape within `strategy.run`: those of the embedding are `tf.IndexedSlices` with repeated ids,
and every replica has other examples. The loss of a replica is the sum over its examples by the global batch size, so
the sum of the gradients over replicas is the gradient of the mean over the global batch.
"""

import keras
import numpy as np
import runner
import tensorflow as tf

MICRO_BATCH_SIZE = 8
SHARES = {1: [8], 2: [5, 3], 3: [4, 1, 3]}
SHAPES = {"embedding": (7, 3), "kernel": (3, 4), "bias": (4,), "head": (4, 2)}
LAMB = {
    "beta_2": 0.99,
    "weight_decay": 0.3,
    "exclude_from_weight_decay": ["bias"],
    "exclude_from_layer_adaptation": ["bias", "head"],
    "jit_compile": False,
}
LARS = {**{key: value for key, value in LAMB.items() if key != "beta_2"}, "momentum": 0.8, "trust_coefficient": 0.4}
BASES = {"LAMB": LAMB, "LARS": LARS}


def batches(micro_steps, spoiled=(), seed=0):
    """For each micro-step the ids and the targets of a global batch of 8 examples.

    Args:
        micro_steps: How many.
        spoiled: At which of them, from 0, the last example, which is the last replica's, has an infinite target.
        seed: Of the random numbers.
    """
    random = np.random.default_rng(seed)
    result = []
    for step in range(micro_steps):
        ids = random.integers(0, 7, size=(MICRO_BATCH_SIZE, 4))
        targets = random.normal(size=(MICRO_BATCH_SIZE, 2)) * 10.0 ** random.uniform(-1, 0.5)
        if step in spoiled:
            targets[-1, 0] = np.inf
        result.append((ids, targets))
    return result


def merged(batches, count):
    """The batches, every `count` of them made one."""
    groups = [batches[i : i + count] for i in range(0, len(batches), count)]
    return [tuple(np.concatenate(arrays) for arrays in zip(*group, strict=True)) for group in groups]


class Training:
    """An optimizer and its variables, made in the scope of a strategy.

    Args:
        face: "keras" or "tf_keras".
        name: The optimizer's class.
        options: What differs from its `BASES`.
        strategy: A tf.distribute strategy; by default none.
        dtype: Of the variables.
        batch_size: Of the global batch, a multiple of 8.
    """

    def __init__(self, face, name="LAMB", options=None, strategy=None, dtype="float32", batch_size=MICRO_BATCH_SIZE):
        self.strategy = strategy or tf.distribute.get_strategy()
        self.dtype, self.batch_size = dtype, batch_size
        random = np.random.default_rng(7)
        with self.strategy.scope():
            make = tf.Variable if face == "tf_keras" else keras.Variable
            self.variables = [make(random.normal(size=shape), dtype=dtype, name=name) for name, shape in SHAPES.items()]
            self.optimizer = runner.make(face, name, {**BASES[name], **(options or {})})
            self.optimizer.build(self.variables)
        self.native = [getattr(v, "value", v) if isinstance(v, keras.Variable) else v for v in self.variables]
        self.step = tf.function(lambda *shares: self.strategy.run(self.replica_step, args=shares), autograph=False)

    def replica_step(self, ids, targets):
        """One micro-step of one replica on its share."""
        embedding, kernel, bias, head = self.native
        with tf.GradientTape() as tape:
            hidden = tf.tanh(tf.reduce_mean(tf.gather(embedding, ids), axis=1) @ kernel + bias)
            loss = tf.reduce_sum(tf.square(hidden @ head - targets)) / self.batch_size
            if self.optimizer.loss_scale is not None:
                loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, self.native)
        assert isinstance(gradients[0], tf.IndexedSlices)
        self.optimizer.apply_gradients(zip(gradients, self.variables, strict=True))

    def run(self, batches):
        """Takes a micro-step for each batch; returns self."""
        for batch in batches:
            self.step(*(self.shared_out(array) for array in batch))
        return self

    def shared_out(self, array):
        """The rows of an array as a value of each replica."""
        dtype = self.dtype if array.dtype.kind == "f" else array.dtype
        ends = np.cumsum(SHARES[self.strategy.num_replicas_in_sync]) * len(array) // MICRO_BATCH_SIZE

        def share(context):
            begin, end = [0, *ends][context.replica_id_in_sync_group :][:2]
            return tf.constant(array[begin:end], dtype)

        return self.strategy.experimental_distribute_values_from_function(share)

    def weights(self):
        """The values of the variables on the first replica of this process."""
        return [replica_values(v)[0] for v in self.variables]

    def averages(self):
        """The moving averages of the variables on the first replica of this process."""
        return [replica_values(v)[0] for v in self.optimizer._model_variables_moving_average]

    def state(self, but=()):
        """The values of all variables on all replicas of this process, by name.

        Args:
            but: Parts of the names of those to leave out.
        """
        everything = [*self.variables, *optimizer_variables(self.optimizer)]
        named = {f"{i} {getattr(v, 'path', v.name)}": replica_values(v) for i, v in enumerate(everything)}
        return {name: values for name, values in named.items() if not any(part in name for part in but)}


def optimizer_variables(optimizer):
    """All variables of an optimizer of either face."""
    return list(optimizer.variables() if callable(optimizer.variables) else optimizer.variables)


def replica_values(variable):
    """The values of a variable on all replicas of this process, a list of arrays."""
    variable = variable.value if isinstance(variable, keras.Variable) else variable
    return [x.numpy() for x in getattr(variable, "values", [variable])]


def differing(state, other):
    """The names under which two states are not the same bits, on some replica."""
    assert state.keys() == other.keys()
    return [
        name
        for name in state
        if not all(a.tobytes() == b.tobytes() for a, b in zip(state[name], other[name], strict=True))
    ]


def replicas_agree(state):
    """Whether every variable has the same bits on all replicas."""
    return all(value.tobytes() == values[0].tobytes() for values in state.values() for value in values)
