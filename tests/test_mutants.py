"""A wrong optimizer cannot pass: each mutant of ours misses the oracle by at least ten tolerances, on both faces."""

import pytest
import tensorflow as tf
import trajectory
from keras import ops
from test_lamb import split_in_two_slices
from tolerances import RELATIVE_L2, distance

from tf_lamb import core, layerwise, replicas, rules

FLOAT32 = RELATIVE_L2["float32", "cpu"]
CLIPNORM = trajectory.OPTIONS["global_clipnorm"]


def lamb_with(decay_inside=True, epsilon_in_root=False, square=ops.square):
    """`core.lamb`, written anew with a fault."""

    def lamb(w, g, m, v, corrections, *, learning_rate, beta_1, beta_2, epsilon, weight_decay, adapted):
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * square(g)
        v_hat = v / corrections[1]
        root = ops.sqrt(v_hat + epsilon) if epsilon_in_root else ops.sqrt(v_hat) + epsilon
        update = m / corrections[0] / root
        if decay_inside:
            update = update + weight_decay * w
        ratio = core.trust_ratio(w, update) if adapted else 1.0
        w = w - learning_rate * ratio * update
        return w if decay_inside else w - learning_rate * weight_decay * w, m, v

    return lamb


def squares_of_the_two_parts(g):
    """What squaring before summing gives for the ids that `split_in_two_slices` repeats: 1/16 + 9/16 of the square."""
    return ops.square(g) * (0.625 if tuple(g.shape) == trajectory.SHAPES["embedding"] else 1.0)


def last_of_repeated_ids(gradient, dtype):
    if not isinstance(gradient, tf.IndexedSlices):
        return tf.cast(gradient, dtype)
    shape = trajectory.SHAPES["embedding"]
    return tf.tensor_scatter_nd_update(tf.zeros(shape), gradient.indices[:, None], gradient.values)


def clip_before_the_sum(patch):
    """Keras 3's own order: every replica clips its share, and the clipped shares are summed."""
    patch.setattr(layerwise.LayerwiseUpdate, "_clip", lambda self, gradients: gradients)
    whole_sum = replicas.sum_over_replicas
    patch.setattr(replicas, "sum_over_replicas", lambda g: whole_sum(core.clip_by_global_norm(g, CLIPNORM)))


def same_list_for_both(patch):
    make_plan = rules.make_plan
    patch.setattr(rules, "make_plan", lambda paths, shapes, decay, adaptation: make_plan(paths, shapes, decay, None))


MUTANTS = {
    "adam": lambda patch: patch.setattr(core, "trust_ratio", lambda w, update: 1.0),
    "decay_outside_the_ratio": lambda patch: patch.setattr(core, "lamb", lamb_with(decay_inside=False)),
    "no_bias_correction": lambda patch: patch.setattr(core, "bias_correction", lambda beta, t: ops.ones_like(t)),
    "late_bias_correction": lambda patch: patch.setattr(
        core, "bias_correction", lambda beta, t: 1 - ops.power(ops.cast(beta, t.dtype), t + 1)
    ),
    "epsilon_inside_the_root": lambda patch: patch.setattr(core, "lamb", lamb_with(epsilon_in_root=True)),
    "clip_before_the_sum": clip_before_the_sum,
    "no_clip": lambda patch: patch.setattr(layerwise.LayerwiseUpdate, "_clip", lambda self, gradients: gradients),
    "sparse_squared_before_the_sum": lambda patch: patch.setattr(
        core, "lamb", lamb_with(square=squares_of_the_two_parts)
    ),
    "sparse_ids_overwritten": lambda patch: patch.setattr(replicas, "densify", last_of_repeated_ids),
    "one_list_for_decay_and_adaptation": same_list_for_both,
}


def run(face, strategy):
    weights, *_ = trajectory.run(face, strategy=strategy, change=split_in_two_slices)
    return distance(weights, trajectory.expected(replicas=2)[0])


def test_the_original_passes(face, two_replicas, record_property):
    record_property("tolerances", run(face, two_replicas) / FLOAT32)
    assert run(face, two_replicas) < FLOAT32


def test_the_rewritten_original_passes(face, two_replicas, monkeypatch):
    monkeypatch.setattr(core, "lamb", lamb_with())
    assert run(face, two_replicas) < FLOAT32


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_mutant_fails(face, mutant, two_replicas, monkeypatch, record_property):
    MUTANTS[mutant](monkeypatch)
    missed_by = run(face, two_replicas) / FLOAT32
    record_property("tolerances", missed_by)
    print(f"{mutant} on {face}: {missed_by:.3g} tolerances")
    assert missed_by > 10
