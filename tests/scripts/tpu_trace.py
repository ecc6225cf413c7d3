"""Steps traced under the real TPUStrategy of a slice that is not there."""

import contextlib
from pathlib import Path

import tensorflow as tf

import recipe as recipes
import strategy as strategies
from config import load
from run_config import make_optimizer
from slice_strategy import traced
from train_state import TrainState, build_model

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL_BERT = ["model.layers=2", "model.hidden_size=32", "model.attention_heads=2", "model.intermediate_size=64"]


def small(name, cores, per_core, *overrides):
    """The recipe of a config with small stages, of some examples a core."""
    section = "training" if name.startswith("squad") else "stages.0"
    sizes = [f"{section}.global_batch_size={cores * per_core}", f"{section}.max_per_replica_batch_size=2"]
    if name.startswith(("bert", "squad")):
        sizes += SMALL_BERT
    return recipes.Recipe(load(CONFIGS / f"{name}.yaml", recipes.schema_of, [*sizes, *overrides]))


class Traced:
    """A training step of a recipe as a TPU would get it.

    Attributes:
        graph: The step's.
        state: The `TrainState`.
        new_variables: The names of variables that were made while the step was traced.
    """

    def __init__(self, graph, state, new_variables):
        self.graph, self.state, self.new_variables = graph, state, new_variables


def trace(recipe, stage, change_task=lambda task: task, change_state=lambda state: None):
    """Traces the step of a stage on as many cores as it has replicas."""
    config = recipe.config
    with traced(stage.replicas) as strategy, strategies.precision(config.run.mixed_precision, strategy) as dtype:
        task = change_task(recipe.make_task())
        model = build_model(task, strategy, config.run.seed)
        with strategy.scope():
            state = TrainState(task, model, make_optimizer(config.optimizer, config.run), [stage], config.run.seed)
        change_state(state)
        features = {name: tf.zeros(spec.shape, spec.dtype) for name, spec in recipe.features(stage, dtype).items()}
        return trace_function(
            lambda: strategy.run(lambda share: state.update(share, stage.micro_batches), args=(features,)), state
        )


def trace_function(function, state=None):
    """Traces a function in the current graph."""
    graph = tf.compat.v1.get_default_graph()
    before = _variables(graph)

    @tf.function
    def step():
        function()

    concrete = step.get_concrete_function()
    return Traced(concrete.graph, state, _variables(graph) - before)


@contextlib.contextmanager
def keras_model(cores, make_optimizer, **options):
    """A Keras 3 model compiled under the TPUStrategy of so many cores; yields it, and the strategy."""
    import keras

    with traced(cores) as strategy, strategy.scope():
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=make_optimizer(), loss=loss, jit_compile=False, **options)
        model.optimizer.build(model.trainable_variables)
        yield model, strategy


def _variables(graph):
    return {operation.name for operation in graph.get_operations() if operation.type == "VarHandleOp"}
