"""Our metrics against tf_keras's: the same figures on every strategy, and no sum over replicas before they are read."""

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("tf_keras", reason="needs tf_keras")

import tf_keras  # noqa: E402

from slice_strategy import LoweringStrategy  # noqa: E402
from traced_step import collectives  # noqa: E402
from weighted_means import WeightedMean, WeightedSum  # noqa: E402

VALUES = np.array([[1.0, 2.5, -3.0], [4.0, 0.5, 7.0], [0.25, 9.0, 1.0], [2.0, 2.0, 2.0]], np.float32)
WEIGHTS = np.array([[1.0, 0.0, 2.0], [0.5, 0.5, 0.0], [0.0, 3.0, 1.0], [1.0, 1.0, 1.0]], np.float32)
CASES = {"weighted": WEIGHTS, "unweighted": None, "all weights zero": np.zeros_like(WEIGHTS)}
PAIRS = {"mean": (WeightedMean, tf_keras.metrics.Mean), "sum": (WeightedSum, tf_keras.metrics.Sum)}


@pytest.fixture(params=[1, 2, 4])
def strategy(request, two_replicas, four_replicas):
    return {1: tf.distribute.OneDeviceStrategy("CPU:0"), 2: two_replicas, 4: four_replicas}[request.param]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", PAIRS)
def test_the_figures_are_those_of_tf_keras(kind, case, strategy):
    ours, theirs = PAIRS[kind]
    weights, replicas = CASES[case], strategy.num_replicas_in_sync
    expected = theirs()
    with strategy.scope():
        metric = ours("value")

    @tf.function
    def update():
        def on_replica():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            part = tf.gather(tf.reshape(VALUES, [replicas, -1]), replica)
            metric.update_state(
                part, None if weights is None else tf.gather(tf.reshape(weights, [replicas, -1]), replica)
            )

        strategy.run(on_replica)

    for _ in range(2):
        for _ in range(3):
            update()
            expected.update_state(VALUES, weights)
        np.testing.assert_allclose(metric.result().numpy(), expected.result().numpy(), rtol=1e-6)
        metric.reset_states()
        expected.reset_state()
        assert float(metric.result()) == 0.0


def test_truth_values_are_counted():
    metric = WeightedMean("hits")
    metric.update_state(tf.constant([True, False, True, True]))
    assert float(metric.result()) == 0.75


@pytest.mark.parametrize("kind", PAIRS)
def test_an_update_sums_nothing_over_replicas(kind):
    strategy = LoweringStrategy(8)
    with strategy.scope():
        metric = PAIRS[kind][0]("value")

    @tf.function(jit_compile=True)
    def update():
        strategy.run(lambda: metric.update_state(VALUES, WEIGHTS))

    assert collectives(update.get_concrete_function().graph) == []
