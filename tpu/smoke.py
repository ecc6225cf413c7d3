"""A trial of a config in seconds: two updates a stage of a tiny model, on random examples that need no data."""

import itertools

import tensorflow as tf

import strategy as strategies
import training_loop
from config import Section, claim_folder
from stages import resolve

STEPS = 2
MICRO_BATCHES = 2
TINY_BERT = {"model": {"layers": 1, "hidden_size": 16, "attention_heads": 2, "intermediate_size": 32}}
VOCAB_SIZE = 100
SMALL_IMAGES = {"data": {"image_size": 64}, "model": {"depth": 10}}
CLASSES = 10


def run(config, stages_at, shrunk, strategy, model_dir, make_task, make_example):
    """Makes two updates of each stage of a config, shrunk; prints what it shrank, and the arithmetic of each stage.

    Args:
        config: A config with the sections `model`, `optimizer` and `run`, such as `PretrainConfig`.
        stages_at: Where its `stages.StageConfig`s are: a list of paths of keys and indices.
        shrunk: What makes the model small: a dictionary of sections to dictionaries of their fields.
        strategy: A `tf.distribute.Strategy`.
        model_dir: The `Path` of the trial run, not that of a real one.
        make_task: A function of the shrunk config that makes the task, with `VOCAB_SIZE` tokens or `CLASSES` classes.
        make_example: A function of the shrunk config, a `stages.StageConfig` and a function `integers(size, limit)`,
            random numbers from 0 up to `limit`, that makes the features of an example.
    """
    small, changes = shrink(config, stages_at, shrunk, strategy.num_replicas_in_sync)
    claim_folder(model_dir, small)
    print(*(f"shrunk {change}" for change in changes), sep="\n")
    stages = resolve([_at(small, path) for path in stages_at], strategy.num_replicas_in_sync, lambda _: None)
    with strategies.precision(small.run.mixed_precision, strategy):
        training = training_loop.make(make_task(small), small, stages, strategy, model_dir)
        training.train(
            lambda stage, _: _batches(strategy, stage, lambda integers: make_example(small, stage.config, integers))
        )
    print(*(stage.describe() for stage in stages), sep="\n")


def shrink(config, stages_at, shrunk, replicas):
    """The config with a tiny model and two updates a stage, each of two accumulated parts of one example a replica.

    Args:
        config: As in `run`.
        stages_at: As in `run`.
        shrunk: As in `run`.
        replicas: The replicas of the strategy.

    Returns:
        The small config, and a list of lines that say what was changed.
    """
    small = config.model_dump()
    changes = []

    def change(path, name, value):
        section = _at(small, path)
        if section[name] != value:
            changes.append(f"{'.'.join(map(str, [*path, name]))}: {section[name]} -> {value}")
            section[name] = value

    for section, fields in shrunk.items():
        for name, value in fields.items():
            change((section,), name, value)
    for path in stages_at:
        change(path, "global_batch_size", replicas * MICRO_BATCHES)
        change(path, "max_per_replica_batch_size", 1)
        change(path, "steps", STEPS)
        change(path, "epochs", None)
        if not _at(small, path)["continues_schedule"]:
            change(path, "warmup_steps", 1)
            change(path, "warmup_ratio", None)
            change(path, "warmup_epochs", None)
            change(path, "warmup_offset_steps", 0)
    return type(config).model_validate(small), changes


def _batches(strategy, stage, make_example):
    """Endless batches of random examples."""

    def example(index):
        drawn = itertools.count()

        def integers(size, limit):
            seed = tf.stack([next(drawn), tf.cast(index, tf.int32)])
            return tf.random.stateless_uniform([size], seed, 0, limit, tf.int32)

        return make_example(integers)

    def of_pipeline(context):
        examples = tf.data.Dataset.range(context.input_pipeline_id, tf.int64.max, context.num_input_pipelines)
        return examples.map(example).batch(stage.micro_batches * stage.per_replica_batch_size, drop_remainder=True)

    return strategy.distribute_datasets_from_function(of_pipeline)


def _at(value, path):
    for key in path:
        value = getattr(value, key) if isinstance(value, Section) else value[key]
    return value
