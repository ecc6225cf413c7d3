"""One update does not depend on how its batch is divided, and dropout is a function of where in the run it is drawn."""

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("official", reason="needs tf-models-official")

import tf_keras  # noqa: E402

import train_step  # noqa: E402
from bert_config import ModelConfig  # noqa: E402
from bert_task import PretrainTask  # noqa: E402
from keyed_dropout import KeyedDropout  # noqa: E402
from tf_lamb.tf_keras import LAMB  # noqa: E402

pytestmark = [pytest.mark.model_garden, pytest.mark.slow]

SHAPE = {"layers": 2, "hidden_size": 16, "attention_heads": 2, "intermediate_size": 32, "max_positions": 16}
VOCAB, LENGTH, PREDICTIONS, BATCH, STEPS = 50, 16, 4, 128, 10
# Float32 sums in another order, over ten steps; the goal for float64.
TOLERANCE = {"float32": 1e-4, "float64": 1e-10}


class Float64Task(PretrainTask):
    """The same losses on a small model in float64, which Model Garden's encoder does not have."""

    def build_model(self, params=None):
        """A model of the same inputs and outputs."""
        layers, shapes = tf_keras.layers, {"masked_lm_positions": PREDICTIONS}
        names = ("input_word_ids", "input_mask", "input_type_ids", "masked_lm_positions")
        inputs = {name: tf_keras.Input((shapes.get(name, LENGTH),), dtype=tf.int32, name=name) for name in names}
        tokens = layers.Embedding(VOCAB, 16, dtype="float64", name="tokens")(inputs["input_word_ids"])
        mixed = layers.Conv1D(16, 3, padding="same", activation="tanh", dtype="float64", name="mixed")(tokens)
        masked = layers.Lambda(lambda x: tf.gather(x[0], x[1], batch_dims=1), dtype="float64")(
            [mixed, inputs["masked_lm_positions"]]
        )
        pooled = layers.GlobalAveragePooling1D(dtype="float64")(mixed)
        outputs = {
            "mlm_logits": layers.Dense(VOCAB, dtype="float64", name="words")(masked),
            "next_sentence": layers.Dense(2, dtype="float64", name="next")(pooled),
        }
        return tf_keras.Model(inputs, outputs)


TASKS = {"float32": PretrainTask, "float64": Float64Task}


def batches(steps):
    """Global batches in which the replicas and parts have unequal counts of masked positions."""
    random = np.random.default_rng(3)
    for _ in range(steps):
        counts = random.integers(1, PREDICTIONS + 1, BATCH)
        counts[: BATCH // 4] = 1
        yield {
            "input_word_ids": random.integers(0, VOCAB, (BATCH, LENGTH)).astype(np.int32),
            "input_mask": np.ones((BATCH, LENGTH), np.int32),
            "input_type_ids": random.integers(0, 2, (BATCH, LENGTH)).astype(np.int32),
            "masked_lm_positions": np.sort(random.integers(0, LENGTH, (BATCH, PREDICTIONS))).astype(np.int32),
            "masked_lm_ids": random.integers(0, VOCAB, (BATCH, PREDICTIONS)).astype(np.int32),
            "masked_lm_weights": (np.arange(PREDICTIONS) < counts[:, None]).astype(np.float32),
            "next_sentence_labels": random.integers(0, 2, BATCH).astype(np.int32),
            "example_weights": np.ones(BATCH, np.float32),
        }


def train(strategy, micro_batches, dropout_rate=0.0, steps=STEPS, given=None, start=0, seed=7, task_class=PretrainTask):
    """The weights after some steps, with the parts of a batch in the order of (replica, part)."""
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        tf_keras.utils.set_random_seed(1)
        task = task_class(ModelConfig(**SHAPE, dropout_rate=dropout_rate), VOCAB, 0)
        model = task.build_model()
        for variable, value in zip(model.trainable_variables, given or [], strict=False):
            variable.assign(value)
        step = tf.Variable(start, dtype=tf.int64, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
        optimizer = LAMB(0.02, weight_decay=0.01, epsilon=1e-3, global_clipnorm=1.0, exclude_from_weight_decay=["bias"])
        optimizer.build(model.trainable_variables)
        metrics = task.build_metrics()
    dropout = KeyedDropout(model, seed)

    @tf.function
    def update(features):
        def on_replica():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            share = {
                name: tf.split(value, replicas)[0]
                if replicas == 1
                else tf.gather(tf.stack(tf.split(value, replicas)), replica)
                for name, value in features.items()
            }
            train_step.train_step(task, share, model, optimizer, metrics, step, micro_batches, dropout)

        strategy.run(on_replica)

    for features in batches(steps):
        update({name: tf.constant(value) for name, value in features.items()})
    assert int(step.numpy()) == start + steps
    return {v.name: v.numpy() for v in model.trainable_variables}


def farthest(ours, theirs):
    """The largest relative L2 distance of a tensor; attention keys' biases have rounding errors for gradients."""
    return max(
        np.linalg.norm(ours[name] - theirs[name]) / np.linalg.norm(theirs[name])
        for name in ours
        if "key/bias" not in name
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_division_of_a_batch_changes_nothing(dtype, two_replicas, four_replicas):
    """1 x 128 x 1 against 1 x 32 x 4, 4 x 32 x 1 and 2 x 16 x 4."""
    one = tf.distribute.OneDeviceStrategy("CPU:0")
    whole = train(one, 1, task_class=TASKS[dtype])
    for strategy, micro_batches in ((one, 4), (four_replicas, 1), (two_replicas, 4)):
        distance = farthest(train(strategy, micro_batches, task_class=TASKS[dtype]), whole)
        print(f"{dtype}, {strategy.num_replicas_in_sync} replicas, {micro_batches} parts: {distance:.2g}")
        assert distance < TOLERANCE[dtype]


class LocalMeans(PretrainTask):
    """A mutant: every part divides by its own count, as Model Garden's task."""

    def losses(self, features, outputs, totals, metrics):
        own = [
            weight * float(BATCH) / tf.cast(tf.shape(features["masked_lm_ids"])[0], weight.dtype)
            for weight in self.loss_weights(features)
        ]
        return super().losses(features, outputs, own, metrics)


def test_means_of_parts_would():
    one = tf.distribute.OneDeviceStrategy("CPU:0")
    whole = train(one, 1, steps=2)
    assert farthest(train(one, 4, steps=2, task_class=LocalMeans), whole) > 100 * TOLERANCE["float32"]


def test_dropout_is_a_function_of_its_key(two_replicas):
    first = train(two_replicas, 2, dropout_rate=0.5, steps=2)
    again = train(two_replicas, 2, dropout_rate=0.5, steps=2)
    for name, value in first.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    later = train(two_replicas, 2, dropout_rate=0.5, steps=2, start=1)
    other = train(two_replicas, 2, dropout_rate=0.5, steps=2, seed=8)
    for name in ("transformer/layer_0/output/kernel:0",):
        assert np.any(later[name] != first[name]) and np.any(other[name] != first[name])


def test_every_key_draws_another_mask():
    model = tf_keras.Sequential([tf_keras.layers.Dropout(0.5), tf_keras.layers.Dropout(0.5)])
    model.build((None, 64))
    dropout = KeyedDropout(model, 5)
    ones = tf.ones([8, 64])

    def mask(*numbers):
        with dropout.at(*numbers):
            first = model.layers[0](ones, training=True)
            return np.stack([first, model.layers[1](ones, training=True)])

    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)]
    masks = [mask(*key) for key in keys]
    np.testing.assert_array_equal(mask(*keys[0]), masks[0])
    drawn = [layer.tobytes() for both in masks for layer in both]
    assert len(set(drawn)) == 2 * len(keys)
    assert 0.4 < np.mean(masks[0] == 0) < 0.6 and set(np.unique(masks[0])) == {0.0, 2.0}
    with pytest.raises(RuntimeError, match="outside of"):
        model(ones, training=True)
    np.testing.assert_array_equal(model(ones, training=False), ones)
