"""One worker of `test_multi_worker`: trains under MultiWorkerMirroredStrategy and writes what became of it.

It is started with TF_CONFIG in the environment and the path of its output, and prints a line at each stage.
"""

import sys

import tensorflow as tf

# The cluster has to be known before TensorFlow makes its first tensor, as the imports below do. Where a test imports
# this file, to train on one replica, there is none.
STRATEGY = tf.distribute.MultiWorkerMirroredStrategy() if __name__ == "__main__" else None

import numpy as np  # noqa: E402
import tf_keras  # noqa: E402
from global_batch import Training, batches  # noqa: E402

import tf_lamb.tf_keras  # noqa: E402
from tf_lamb import core, replicas, update  # noqa: E402

EVERYTHING = {
    "global_clipnorm": 0.5,
    "gradient_accumulation_steps": 2,
    "skip_nonfinite": True,
    "use_ema": True,
    "ema_momentum": 0.7,
    "ema_overwrite_frequency": 2,
}
CASES = {
    "clipping": ("LAMB", {"global_clipnorm": 0.5}),
    "compiled": ("LAMB", {"global_clipnorm": 0.5, "jit_compile": True}),
    "everything": ("LAMB", EVERYTHING),
    "lars_everything": ("LARS", EVERYTHING),
}
FACES = ("keras", "tf_keras")
X = np.random.default_rng(3).normal(size=(16, 6)).astype("float32") * np.linspace(0.1, 4, 16, dtype="float32")[:, None]
Y = np.random.default_rng(4).normal(size=(16, 1)).astype("float32")


def train(face, case, strategy=None):
    """Eight micro-steps; the last worker's share of the fourth and the fifth is infinite where that is skipped."""
    name, options = CASES[case]
    spoiled = (3, 4) if "skip_nonfinite" in options else ()
    return Training(face, name, options, strategy).run(batches(8, spoiled))


def fit(strategy):
    """The weights of a tf_keras model after three epochs of one global batch in `fit`, accumulated from two halves.

    The `fit` of Keras 3 does not work under this strategy, whatever the optimizer (keras-team/keras issue 20585).
    """
    tf_keras.utils.set_random_seed(0)
    with strategy.scope():
        model = tf_keras.Sequential([tf_keras.layers.Dense(4, activation="tanh"), tf_keras.layers.Dense(1)])
        model.build((None, 6))
        options = {"weight_decay": 0.1, "global_clipnorm": 0.5, "gradient_accumulation_steps": 2, "jit_compile": False}
        model.compile(optimizer=tf_lamb.tf_keras.LAMB(0.02, **options), loss="mse")
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    model.fit(dataset.with_options(options), epochs=3, verbose=0)
    return model.get_weights()


def clip_before_the_sum():
    """Makes ours do what Keras 3 does."""
    summed = replicas.sum_over_replicas
    replicas.sum_over_replicas = lambda g, *rest: summed(core.clip_by_global_norm(g, 0.5), *rest)
    update.LayerwiseUpdate._clip = lambda self, gradients, _: (gradients, None, None)


def main():
    """Runs all cases and writes their states."""
    results = {}
    for face in FACES:
        for case in CASES:
            print("training", face, case, flush=True)
            for name, values in train(face, case, STRATEGY).state().items():
                results[f"{face} {case} {name}"] = values[0]
    print("fitting", flush=True)
    for i, weight in enumerate(fit(STRATEGY)):
        results[f"fit {i}"] = weight
    clip_before_the_sum()
    print("training the mutant", flush=True)
    for name, values in train("keras", "clipping", STRATEGY).state().items():
        results[f"keras mutant {name}"] = values[0]
    np.savez(sys.argv[1], **results)


if __name__ == "__main__":
    main()
