"""The step that is lowered for a slice is the step that is trained: under one replica both give the same bits."""

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("official", reason="needs tf-models-official")

import tpu_trace  # noqa: E402

from run_config import make_optimizer  # noqa: E402
from slice_strategy import LoweringStrategy  # noqa: E402
from tf_lamb import tpu_memory  # noqa: E402
from traced_step import bytes_of, collectives  # noqa: E402
from train_state import TrainState, build_model  # noqa: E402

STEPS = {
    "BERT, accumulated": ("bert/large_lamb_32768", 4, "stages.1.global_batch_size=16", "model.dropout_rate=0.0"),
    "ResNet": ("resnet50/lamb_16384", 2, "data.image_size=32", "model.depth=10"),
}


def train(strategy, name, examples, *overrides):
    """The weights, moving statistics and metrics after two updates."""
    recipe = tpu_trace.small(name, 1, examples, *overrides)
    config, stage = recipe.config, recipe.stages(1)[0]
    task = recipe.make_task()
    model = build_model(task, strategy, 3)
    with strategy.scope():
        state = TrainState(task, model, make_optimizer(config.optimizer, config.run), [stage], 3)
    random = np.random.default_rng(1)

    def draw(spec):
        if spec.dtype == tf.int32:
            return tf.constant(random.integers(0, 2, spec.shape), tf.int32)
        return tf.constant(random.uniform(0.5, 1.0, spec.shape), spec.dtype)

    features = {name: draw(spec) for name, spec in recipe.features(stage, tf.float32).items()}

    @tf.function(jit_compile=True)
    def step(features):
        strategy.run(lambda share: state.update(share, stage.micro_batches), args=(features,))

    step(features)
    step(features)
    return {v.name: v.numpy() for v in model.variables} | {m.name: m.result().numpy() for m in state.metrics}


@pytest.mark.model_garden
@pytest.mark.slow
@pytest.mark.parametrize("kind", STEPS)
def test_the_lowered_step_is_the_trained_one(kind):
    trained = train(tf.distribute.OneDeviceStrategy("CPU:0"), *STEPS[kind])
    lowered = train(LoweringStrategy(1), *STEPS[kind])
    assert trained.keys() == lowered.keys()
    for name, value in trained.items():
        np.testing.assert_array_equal(lowered[name], value, err_msg=name)


@pytest.mark.parametrize("operation", ["SUM", "MEAN"])
def test_sums_are_over_all_replicas(operation):
    """Of N replicas, and a mean is that sum / N."""
    strategy = LoweringStrategy(4)
    assert strategy.num_replicas_in_sync == 4

    @tf.function(jit_compile=True)
    def step():
        def on_replica():
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp[operation], tf.ones([3, 2]))

        return strategy.run(on_replica)

    concrete = step.get_concrete_function()
    (total,) = collectives(concrete.graph)
    assert bytes_of(total) == 24
    groups = tf.get_static_value(total.inputs[1])
    np.testing.assert_array_equal(groups, [[0, 1, 2, 3]])
    divided = [o for o in concrete.graph.get_operations() if o.type == "RealDiv"]
    if operation == "SUM":
        assert not divided
    else:
        assert divided[0].inputs[0] is total.outputs[0]
        assert float(tf.get_static_value(divided[0].inputs[1])) == 4.0


def test_the_optimizer_sees_a_tpu():
    with LoweringStrategy(4).scope():
        assert tpu_memory.is_target()
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        assert not tpu_memory.is_target()
