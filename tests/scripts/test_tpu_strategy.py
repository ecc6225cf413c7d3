"""Every kind of training step under the real TPUStrategy: what a TPU would get, traced on a machine without one."""

import pytest
import tensorflow as tf

pytest.importorskip("official", reason="needs tf-models-official")

import tf_keras  # noqa: E402
import tpu_trace  # noqa: E402

from slice_strategy import traced  # noqa: E402
from tf_lamb import LAMB  # noqa: E402
from traced_step import bytes_of, collectives, faults, operations, place_of  # noqa: E402

pytestmark = [pytest.mark.model_garden, pytest.mark.slow]

CORES = 8
# Config, examples a core (more than 2 are accumulated), overrides, the number of the stage.
STEPS = {
    "pre-training": ("bert/large_lamb_32768", 2, ["stages.1.global_batch_size=16"], 0),
    "pre-training, second stage": ("bert/large_lamb_65536_32768", 2, ["stages.1.global_batch_size=16"], 1),
    "pre-training, accumulated": ("bert/large_lamb_32768", 6, ["stages.1.global_batch_size=16"], 0),
    "SQuAD": ("squad/v1_bert_large", 2, [], 0),
    "ResNet": ("resnet50/lamb_16384", 2, ["data.image_size=64", "model.depth=18"], 0),
    "ResNet with LARS, accumulated": ("resnet50/lars_32768", 4, ["data.image_size=64", "model.depth=10"], 0),
    "AlexNet": ("alexnet/alexnet_bn_lars_512", 2, ["data.image_size=67"], 0),
}


def trace(kind, cores=CORES, **changes):
    name, per_core, overrides, number = STEPS[kind]
    overrides = [text.replace("=16", f"={2 * cores}") if "stages.1" in text else text for text in overrides]
    recipe = tpu_trace.small(name, cores, per_core, *overrides)
    stage = recipe.stages(cores)[number]
    assert stage.micro_batches == (per_core + 1) // 2 or number
    return tpu_trace.trace(recipe, stage, **changes)


def expect_one_sum_each(step):
    """One sum per gradient, per moving statistic and per denominator of the loss, none of them in a loop."""
    model = step.state.model
    on_read = tf.VariableSynchronization.ON_READ
    statistics = [v for v in model.non_trainable_variables if v.synchronization == on_read]
    summed = [(tuple(v.shape), tf.float32) for v in (*model.trainable_variables, *statistics)]
    denominators = 2 if hasattr(model, "encoder_network") and hasattr(model, "masked_lm") else 1
    summed += [((), tf.float32)] * denominators
    sums = collectives(step.graph)
    assert sorted((tuple(o.outputs[0].shape), o.outputs[0].dtype.name) for o in sums) == sorted(
        (shape, dtype.name) for shape, dtype in summed
    )
    assert not [owners for operation, owners in operations(step.graph) if operation in sums and owners]
    parameters = sum(v.shape.num_elements() for v in (*model.trainable_variables, *statistics))
    assert sum(map(bytes_of, sums)) == 4 * (parameters + denominators)


@pytest.mark.parametrize("kind", STEPS)
def test_a_tpu_can_run_the_step(kind):
    step = trace(kind)
    assert [str(fault) for fault in faults(step.graph)] == []
    assert step.new_variables == set()
    expect_one_sum_each(step)


@pytest.mark.parametrize("cores", [0, 4, 12])
def test_slices_have_whole_hosts(cores):
    with pytest.raises(ValueError, match=rf"cores={cores}\. Expected a multiple of 8"), traced(cores):
        pass


@pytest.mark.parametrize("cores", [8, 64])
def test_a_model_of_keras_3(cores):
    with tpu_trace.keras_model(cores, LAMB) as (model, strategy):
        batch = (tf.zeros([4, 8]), tf.zeros([4], tf.int32))
        step = tpu_trace.trace_function(lambda: strategy.run(model.train_step, args=(batch,)))
        shapes = sorted(tuple(o.outputs[0].shape) for o in collectives(step.graph))
        assert shapes == sorted(tuple(v.shape) for v in model.trainable_variables)
        assert faults(step.graph) == []
        assert step.new_variables == set()
        (metadata,) = [o for o in step.graph.get_operations() if o.type == "TPUReplicateMetadata"]
        assert metadata.get_attr("num_replicas") == cores


@pytest.mark.parametrize(("moment_dtype", "read_back"), [(None, 0), ("bfloat16", 4)])
def test_narrow_moments_are_read_back(moment_dtype, read_back):
    """A barrier holds those of each of the four variables until the norm of its update is known."""
    with tpu_trace.keras_model(CORES, lambda: LAMB(moment_dtype=moment_dtype)) as (model, strategy):
        batch = (tf.zeros([4, 8]), tf.zeros([4], tf.int32))
        step = tpu_trace.trace_function(lambda: strategy.run(model.train_step, args=(batch,)))
        assert [o.type for o, _ in operations(step.graph)].count("XlaOptimizationBarrier") == read_back
        assert faults(step.graph) == []


def test_a_slice_may_be_a_whole_pod():
    with traced(2048) as strategy, strategy.scope():
        variable = tf.Variable([1.0, 2.0])

        def on_replica():
            context = tf.distribute.get_replica_context()
            variable.assign(context.all_reduce(tf.distribute.ReduceOp.SUM, variable + 1.0))

        step = tpu_trace.trace_function(lambda: strategy.run(on_replica))
        (metadata,) = [o for o in step.graph.get_operations() if o.type == "TPUReplicateMetadata"]
        assert metadata.get_attr("num_replicas") == 2048
        assert [bytes_of(o) for o in collectives(step.graph)] == [8]


def test_a_variable_made_while_tracing_is_seen():
    with traced(CORES) as strategy:
        made = []

        def on_replica():
            if not made:
                made.append(tf.Variable(1.0, name="late"))
            made[0].assign_add(1.0)

        step = tpu_trace.trace_function(lambda: strategy.run(on_replica))
        assert any(name.startswith("late") for name in step.new_variables)


def with_losses(extra):
    """A task whose loss has something more in it, a function of the outputs."""

    def change(task):
        own = task.losses

        def losses(features, outputs, totals, metrics):
            return own(features, outputs, totals, metrics) + 0.0 * extra(outputs)

        task.losses = losses
        return task

    return change


def test_the_metrics_of_tf_keras_would_sum_in_every_update():
    def change(task):
        task.build_metrics = lambda: [
            tf_keras.metrics.Mean(name) for name in ("loss", "top_1_accuracy", "top_5_accuracy", "corrupt_images")
        ]
        return task

    with pytest.raises(AssertionError):
        expect_one_sum_each(trace("AlexNet", change_task=change))


def logits_of(outputs):
    return tf.cast(outputs, tf.float32)


PLANTED = {
    "a call of the host": (
        lambda outputs: tf.reduce_sum(
            tf.ensure_shape(tf.py_function(lambda x: x, [logits_of(outputs)], tf.float32), ())
        ),
        "calls the host",
        "EagerPyFunc",
    ),
    "a boolean mask": (
        lambda outputs: tf.reduce_sum(tf.boolean_mask(logits_of(outputs), logits_of(outputs) > 0)),
        "has a shape that depends on values",
        "Where",
    ),
    "eigenvalues": (
        lambda outputs: tf.reduce_sum(
            tf.math.real(tf.linalg.eigvals(tf.matmul(logits_of(outputs), logits_of(outputs), transpose_a=True)))
        ),
        "has an operation that XLA cannot compile",
        "Eig",
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_faults_are_named(fault):
    extra, what, operation = PLANTED[fault]
    # One of them in a loop.
    kind = "ResNet with LARS, accumulated" if fault == "a boolean mask" else "AlexNet"
    found = [f for f in faults(trace(kind, change_task=with_losses(extra)).graph) if f.operation == operation]
    assert found and what in str(found[0])
    assert "test_tpu_strategy.py:" in found[0].place


def test_a_conditional_around_a_sum_is_named():
    with traced(CORES) as strategy:
        variable = tf.Variable(1.0)

        def on_replica():
            context = tf.distribute.get_replica_context()
            return tf.cond(
                variable > 0, lambda: context.all_reduce(tf.distribute.ReduceOp.SUM, variable + 1.0), lambda: 0.0
            )

        with strategy.scope():
            step = tpu_trace.trace_function(lambda: strategy.run(on_replica))
        (fault,) = faults(step.graph)
        assert "within a conditional" in str(fault) and fault.operation == "CrossReplicaSum"


def test_the_optimizer_may_not_be_applied_within_a_conditional():
    with tpu_trace.keras_model(CORES, LAMB) as (model, strategy):

        def on_replica():
            gradients = [tf.ones(v.shape) for v in model.trainable_variables]

            def apply():
                model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
                return 1.0

            return tf.cond(model.optimizer.iterations.value >= 0, apply, lambda: 0.0)

        step = tpu_trace.trace_function(lambda: strategy.run(on_replica))
        found = faults(step.graph)
        assert len(found) == len(model.trainable_variables)
        assert all("within a conditional" in str(fault) for fault in found)


def test_places_are_of_the_callers_code():
    @tf.function
    def function():
        return tf.linalg.inv(tf.eye(3))  # this line

    graph = function.get_concrete_function().graph
    (operation,) = [o for o in graph.get_operations() if o.type == "MatrixInverse"]
    line = next(n for n, text in enumerate(open(__file__).read().splitlines(), 1) if text.endswith("# this line"))
    assert place_of(operation).endswith(f"test_tpu_strategy.py:{line}")
