"""Lowers the training step of a config to StableHLO, the input of the compiler for a TPU, on any machine."""

import contextlib
import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import compiler_ir

import strategy as strategies
from atomic_file import atomic_path
from config import ConfigError
from run_config import make_optimizer
from slice_strategy import LoweringStrategy
from traced_step import bytes_of, collectives, faults
from train_state import TrainState, build_model

# tensorflow_hub says so in every process that lowers a step.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

# A TPU computes in bfloat16 unless the config says otherwise.
ON_TPU = {"auto": "mixed_bfloat16"}


@dataclass(frozen=True)
class Lowered:
    """A step as a compiler takes it.

    Attributes:
        parameters: The trainable weights, a count.
        variables: The tensors that they are.
        state_bytes: The bytes of all variables: model, optimizer, metrics.
        feature_bytes: The bytes of a replica's share of a batch.
        all_reduces: How many sums over replicas the step asks for.
        all_reduce_bytes: The bytes of these.
    """

    parameters: int
    variables: int
    state_bytes: int
    feature_bytes: int
    all_reduces: int
    all_reduce_bytes: int


def lower_step(recipe, stage, path):
    """Lowers one update of a stage: forward and backward passes, sums over replicas, clipping, optimizer, telemetry.

    Args:
        recipe: The `recipe.Recipe`.
        stage: The `stages.Stage`, for as many replicas as the slice has.
        path: The file for the StableHLO, written whole or not at all.

    Returns:
        A `Lowered`.

    Raises:
        ConfigError: A TPU cannot run the step.
    """
    with _state_of(recipe, stage) as (strategy, state, dtype):
        features = recipe.features(stage, dtype)

        @tf.function(jit_compile=True)
        def step(features):
            strategy.run(lambda share: state.update(share, stage.micro_batches), args=(features,))

        return _lower(step, (features,), state, path)


def lower_update(recipe, stage, path):
    """Lowers the optimizer's update alone, given gradients that are already summed; see `lower_step`."""
    # Telemetry reads more once in many updates; the compiler cannot tell, and would count it in all.
    with _state_of(recipe, stage, telemetry=False) as (strategy, state, _):
        variables = state.model.trainable_variables
        gradients = [tf.TensorSpec(v.shape, tf.float32) for v in variables]

        @tf.function(jit_compile=True)
        def update(gradients):
            def on_replica(gradients):
                pairs = zip(gradients, variables, strict=True)
                state.optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)

            strategy.run(on_replica, args=(gradients,))

        return _lower(update, (gradients,), state, path)


@contextlib.contextmanager
def _state_of(recipe, stage, telemetry=True):
    config, strategy = recipe.config, LoweringStrategy(stage.replicas)
    policy = ON_TPU.get(config.run.mixed_precision, config.run.mixed_precision)
    make = make_optimizer(config.optimizer, config.run)
    with strategies.precision(policy, strategy) as dtype:
        task = recipe.make_task()
        model = build_model(task, strategy, config.run.seed)
        # A stage that goes on with another's schedule has all its numbers, too.
        stages = [dataclasses.replace(stage, schedule_number=stage.number)]
        with strategy.scope():
            state = TrainState(
                task, model, lambda schedule: make(schedule, telemetry=telemetry), stages, config.run.seed
            )
        yield strategy, state, dtype


def _lower(function, arguments, state, path):
    concrete = function.get_concrete_function(*arguments)
    graph = concrete.graph
    if found := faults(graph):
        raise ConfigError(str(found[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        serialized = compiler_ir.from_concrete_function(concrete)(stage="stablehlo_serialized")
    with atomic_path(Path(path)) as unfinished:
        unfinished.write_bytes(serialized)
    sums = collectives(graph)
    trainable = state.model.trainable_variables
    variables = concrete.variables
    return Lowered(
        parameters=int(sum(np.prod(v.shape) for v in trainable)),
        variables=len(trainable),
        state_bytes=int(sum(np.prod(v.shape) * v.dtype.size for v in variables)),
        feature_bytes=int(sum(np.prod(spec.shape) * spec.dtype.size for spec in tf.nest.flatten(arguments))),
        all_reduces=len(sums),
        all_reduce_bytes=sum(map(bytes_of, sums)),
    )
