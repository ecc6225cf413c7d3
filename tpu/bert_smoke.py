"""A pre-training config made small enough to try in seconds, and batches for it that need no data."""

import tensorflow as tf

from bert_config import PretrainConfig

STEPS = 2
MICRO_BATCHES = 2
MODEL = {"layers": 1, "hidden_size": 16, "attention_heads": 2, "intermediate_size": 32}
VOCAB_SIZE = 100


def shrink(config, replicas):
    """The config with a tiny model and two updates a stage, each of two accumulated parts of one example a replica.

    Args:
        config: A `PretrainConfig`.
        replicas: The replicas of the strategy.

    Returns:
        The small config, and a list of lines that say what was changed.
    """
    small = config.model_dump()
    changes = []

    def change(where, name, value):
        section = small
        for part in where:
            section = section[part]
        if section[name] != value:
            changes.append(f"{'.'.join(map(str, [*where, name]))}: {section[name]} -> {value}")
            section[name] = value

    for name, value in MODEL.items():
        change(["model"], name, value)
    change(["data"], "vocab_size", VOCAB_SIZE)
    for number, stage in enumerate(config.stages):
        where = ["stages", number]
        change(where, "global_batch_size", replicas * MICRO_BATCHES)
        change(where, "max_per_replica_batch_size", 1)
        change(where, "steps", STEPS)
        change(where, "epochs", None)
        if not stage.continues_schedule:
            change(where, "warmup_steps", 1)
            change(where, "warmup_ratio", None)
            change(where, "warmup_offset_steps", 0)
    return PretrainConfig.model_validate(small), changes


def batches(strategy, stage):
    """Endless batches of random tokens, of the shapes and dtypes of `bert_input.train_batches`.

    Args:
        strategy: The `tf.distribute.Strategy`.
        stage: The `stages.Stage`.
    """
    share, length, predictions = stage.micro_batches, stage.config.seq_length, stage.config.max_predictions

    def example(index):
        def integers(feature, size, limit):
            seed = tf.stack([feature, tf.cast(index, tf.int32)])
            return tf.random.stateless_uniform([size], seed, 0, limit, tf.int32)

        return {
            "input_word_ids": integers(0, length, VOCAB_SIZE),
            "input_mask": tf.ones([length], tf.int32),
            "input_type_ids": integers(1, length, 2),
            "masked_lm_positions": tf.sort(integers(2, predictions, length)),
            "masked_lm_ids": integers(3, predictions, VOCAB_SIZE),
            # Replicas and parts have unequal counts of masked positions.
            "masked_lm_weights": tf.cast(tf.range(predictions) <= integers(4, 1, predictions), tf.float32),
            "next_sentence_labels": integers(5, 1, 2)[0],
            "example_weights": tf.ones([]),
        }

    def of_pipeline(context):
        examples = tf.data.Dataset.range(context.input_pipeline_id, tf.int64.max, context.num_input_pipelines)
        return examples.map(example).batch(share * stage.per_replica_batch_size, drop_remainder=True)

    return strategy.distribute_datasets_from_function(of_pipeline)
