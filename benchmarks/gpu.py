"""Times LAMB of Keras on JAX on a GPU: the update of BERT-Large's variables, and a whole step of BERT-Base.

    python benchmarks/gpu.py [--any_device] [--json FILE]

Ours is the `stateless_apply` that Keras calls on JAX, against `optax.lamb`; both in `jax.jit` with weights and state
donated. A ratio of an update is to ten float32 words a parameter at the speed at which this GPU copies; that of a step
is to optax. Needs a jax with CUDA, and no TensorFlow.
"""

import argparse
import functools
import math

import cases
import contenders
from interleaved import OtherLoad, summarize, time_in_turns
from model_shapes import MODELS

PACKAGES = ("keras", "jax", "optax")
OURS, OPTAX, COPY = "tf_lamb", "optax.lamb", "10 words a parameter, copied"
WORDS = 10
LAYERS, WIDTH, HEADS, VOCABULARY, LENGTH, BATCH = 12, 768, 12, 30_522, 128, 32


def main():
    """Times both, or says why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--any_device", action="store_true", help="whatever jax finds; with --quick, to try this script"
    )
    parser.add_argument("--rounds", type=int, default=30, help="how many rounds (default: 30)")
    cases.add_arguments(parser)
    arguments = parser.parse_args()
    import jax

    rounds = 5 if arguments.quick else arguments.rounds
    model = "BERT-tiny" if arguments.quick else "BERT-large"
    titles = f"update of {model} by Keras on JAX, on a GPU", "step of BERT-base by Keras on JAX, on a GPU"
    device = jax.devices()[0].device_kind
    measured = []
    for title, measure in zip(titles, (measure_update, measure_step), strict=True):
        rows, missing = [], {}
        with OtherLoad() as load:
            if arguments.any_device or jax.default_backend() == "gpu":
                rows = measure(MODELS[model](), rounds, arguments.quick)
            else:
                missing = {name: "jax sees no GPU" for name in (OURS, OPTAX)}
        measured.append(cases.make(title, "seconds", rows, missing, load, note=f"on {device}" if rows else None))
    cases.finish("gpu", PACKAGES, measured, arguments)


def measure_update(shapes, rounds, quick):
    """The rows of an update of variables of these shapes."""
    del quick
    weights, gradients = contenders.arrays(shapes)
    steps = {
        COPY: copying(WORDS * sum(map(math.prod, shapes)) // 2),
        OURS: keras_on_jax(weights, gradients),
        OPTAX: contenders.optax_lamb(weights, gradients),
    }
    return summarize(time_in_turns(steps, rounds), COPY)


def copying(words):
    """A function that reads and writes so many float32 words each."""
    import jax

    copy = jax.jit(lambda x: x + 1.0)
    source = jax.numpy.zeros(words, "float32")
    return lambda: copy(source).block_until_ready()


def keras_on_jax(weights, gradients):
    """An update by `stateless_apply`; see `contenders`."""
    import jax
    import keras

    import tf_lamb

    variables = [keras.Variable(w, name=f"v{i}") for i, w in enumerate(weights)]
    optimizer = tf_lamb.LAMB(**contenders.OPTIONS)
    optimizer.build(variables)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(values, state, gradients):
        return optimizer.stateless_apply(state, gradients, values)

    now = [[v.value for v in variables], [v.value for v in optimizer.variables]]
    gradients = [jax.numpy.array(g) for g in gradients]

    def step():
        now[:] = update(*now, gradients)
        jax.block_until_ready(now)

    return step


def measure_step(shapes, rounds, quick):
    """The rows of a whole step of BERT, with each."""
    del shapes
    import optax

    import tf_lamb

    options = {name: value for name, value in contenders.OPTIONS.items() if name != "weight_decay"}
    ours = tf_lamb.LAMB(**contenders.OPTIONS)
    theirs = optax.lamb(
        options["learning_rate"], options["beta_1"], options["beta_2"], options["epsilon"], weight_decay=0.01
    )
    layers = 1 if quick else LAYERS
    steps = {OPTAX: training_step(theirs, layers), OURS: training_step(ours, layers)}
    return summarize(time_in_turns(steps, rounds), OPTAX)


def training_step(optimizer, layers):
    """A step of masked-LM training of a BERT on random tokens, all positions predicted."""
    import jax
    import keras
    import numpy as np
    import optax

    model = bert(layers)
    trainable = [v.value for v in model.trainable_variables]
    other = [v.value for v in model.non_trainable_variables]
    if isinstance(optimizer, keras.optimizers.Optimizer):
        optimizer.build(model.trainable_variables)
        state = [v.value for v in optimizer.variables]

        def update(gradients, state, trainable):
            return optimizer.stateless_apply(state, gradients, trainable)
    else:
        state = optimizer.init(trainable)

        def update(gradients, state, trainable):
            changes, state = optimizer.update(gradients, state, trainable)
            return optax.apply_updates(trainable, changes), state

    def loss(trainable, tokens):
        logits, _ = model.stateless_call(trainable, other, tokens)
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(trainable, state, tokens):
        return update(jax.grad(loss)(trainable, tokens), state, trainable)

    tokens = jax.numpy.array(np.random.default_rng(0).integers(VOCABULARY, size=(BATCH, LENGTH)))
    now = [trainable, state]

    def run():
        now[:] = step(*now, tokens)
        jax.block_until_ready(now)

    return run


def bert(layers):
    """A BERT of Keras's own layers, from tokens to logits."""
    import keras

    tokens = keras.Input((LENGTH,), dtype="int32")
    x = keras.layers.Embedding(VOCABULARY, WIDTH)(tokens)
    x = keras.layers.LayerNormalization()(x)
    for _ in range(layers):
        attended = keras.layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(x, x)
        x = keras.layers.LayerNormalization()(x + attended)
        inner = keras.layers.Dense(4 * WIDTH, activation="gelu")(x)
        x = keras.layers.LayerNormalization()(x + keras.layers.Dense(WIDTH)(inner))
    return keras.Model(tokens, keras.layers.Dense(VOCABULARY)(x))


if __name__ == "__main__":
    cases.run(main, backend="jax", devices=None)
