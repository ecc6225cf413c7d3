"""The update is one compiled computation, traced once, and part of a step that is compiled already."""

import keras
import pytest
import tensorflow as tf
import trajectory
from tolerances import RELATIVE_L2, distance

import tf_lamb


def test_compiled_and_plain_updates_agree(face):
    compiled, *_ = trajectory.run(face, options={**trajectory.OPTIONS, "jit_compile": True})
    plain, *_ = trajectory.run(face, options={**trajectory.OPTIONS, "jit_compile": False})
    assert distance(compiled, plain) < RELATIVE_L2["float32", "cpu"]


def test_later_steps_retrace_nothing(face):
    *_, optimizer = trajectory.run(face)
    assert optimizer._replica_update.tracing_count == 1


def test_later_steps_retrace_nothing_on_two_replicas(face, two_replicas):
    *_, optimizer = trajectory.run(face, strategy=two_replicas)
    assert optimizer._replica_update.tracing_count <= 2


@pytest.mark.parametrize(
    ("jit_compile", "options"), [("auto", {"nesterov": "m"}), (True, {}), (False, {})], ids=["auto", "True", "False"]
)
def test_all_variables_are_one_xla_computation(jit_compile, options):
    """Where `"auto"` leaves LAMB to XLA; test_in_place.py has the rest."""
    variables = [keras.Variable([1.0, 2.0], name="a"), keras.Variable([[3.0]], name="b")]
    optimizer = tf_lamb.LAMB(0.1, global_clipnorm=1.0, jit_compile=jit_compile, **options)
    optimizer.build(variables)

    @tf.function
    def step():
        optimizer.apply([tf.constant([1.0, 1.0]), tf.constant([[1.0]])], variables)

    graph = step.get_concrete_function().graph
    compiled = [f for f in graph.as_graph_def().library.function if f.attr["_XlaMustCompile"].b]
    assert len(compiled) == (1 if jit_compile else 0)
    if jit_compile:
        assigns = [node for node in compiled[0].node_def if node.op == "AssignVariableOp"]
        assert len(assigns) == 7  # A weight and two moments, of two variables, and the count of updates.
        assert not [node for node in graph.as_graph_def().node if node.op == "Sqrt"]


def test_a_compiled_step_holds_the_update():
    compiled, compiled_count = run_in_a_step(jit_compile=True)
    plain, plain_count = run_in_a_step(jit_compile=False)
    assert (compiled_count, plain_count) == (0, 1)
    assert distance(compiled, plain) < RELATIVE_L2["float32", "cpu"]
    assert distance(compiled, trajectory.expected(1)[0]) < RELATIVE_L2["float32", "cpu"]


def run_in_a_step(jit_compile):
    """The final weights of a run whose step is a `tf.function`, and how often the update was traced outside of it."""
    variables = trajectory.keras_variables()
    optimizer = tf_lamb.LAMB(trajectory.InverseTime(), **trajectory.OPTIONS)
    optimizer.build(variables)
    step = tf.function(lambda gradients: optimizer.apply(gradients, variables), jit_compile=jit_compile)
    for (gradients,) in trajectory.gradients(1):
        step([tf.constant(g) for g in gradients])
    return [v.numpy() for v in variables], optimizer._replica_update.tracing_count
