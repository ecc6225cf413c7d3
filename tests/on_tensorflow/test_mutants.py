"""A wrong optimizer cannot pass: each mutant of ours misses the oracle by at least ten tolerances, on both faces."""

import pytest
import tensorflow as tf
import trajectory
from keras import ops
from test_lamb import split_in_two_slices
from tolerances import RELATIVE_L2, distance

from tf_lamb import core, replicas, rules, update
from tf_lamb.lamb import LambUpdate

FLOAT32 = RELATIVE_L2["float32", "cpu"]
CLIPNORM = trajectory.OPTIONS["global_clipnorm"]


def lamb_with(epsilon_in_root=False, square=ops.square):
    """`core.lamb`, written anew with a fault."""

    def lamb(w, g, m, v, corrections, *, beta_1, beta_2, epsilon, weight_decay, nesterov, stored):
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * square(g)
        v_hat = v / corrections[1][0]
        root = ops.sqrt(v_hat + epsilon) if epsilon_in_root else ops.sqrt(v_hat) + epsilon
        return m / corrections[0][0] / root + weight_decay * w, m, v

    return lamb


def decay_outside(patch):
    """Keras 3's own order: the decay acts on the variable, and the update is that of no decay."""
    new_values = LambUpdate.new_values

    def decayed_first(self, step, w, g, slots, learning_rate, scalars):
        self.decay_inside_ratio = False
        return new_values(self, step, w, g, slots, learning_rate, scalars)

    patch.setattr(LambUpdate, "new_values", decayed_first)


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
    no_clip(patch)
    whole_sum = replicas.sum_over_replicas
    patch.setattr(
        replicas, "sum_over_replicas", lambda g, *exempt: whole_sum(core.clip_by_global_norm(g, CLIPNORM), *exempt)
    )


def no_clip(patch):
    patch.setattr(update.LayerwiseUpdate, "_clip", lambda self, gradients, _: (gradients, None, None))


def same_list_for_both(patch):
    matches = rules.ExclusionList.matches

    def always_the_list_for_decay(self, *arguments):
        self.entries = tuple(trajectory.OPTIONS["exclude_from_weight_decay"])
        return matches(self, *arguments)

    patch.setattr(rules.ExclusionList, "matches", always_the_list_for_decay)


MUTANTS = {
    "adam": lambda patch: patch.setattr(core, "trust_ratio", lambda *norms, **_: core.Trust(1.0, *norms)),
    "decay_outside_the_ratio": decay_outside,
    "no_bias_correction": lambda patch: patch.setattr(core, "bias_correction", lambda beta, t: ops.ones_like(t)),
    "late_bias_correction": lambda patch: patch.setattr(
        core, "bias_correction", lambda beta, t: 1 - ops.power(ops.cast(beta, t.dtype), t + 1)
    ),
    "epsilon_inside_the_root": lambda patch: patch.setattr(core, "lamb", lamb_with(epsilon_in_root=True)),
    "clip_before_the_sum": clip_before_the_sum,
    "no_clip": no_clip,
    "sparse_squared_before_the_sum": lambda patch: patch.setattr(
        core, "lamb", lamb_with(square=squares_of_the_two_parts)
    ),
    "sparse_ids_overwritten": lambda patch: patch.setattr(replicas, "densify", last_of_repeated_ids),
    "one_list_for_decay_and_adaptation": same_list_for_both,
}


def run(face, strategy):
    """The distance from the oracle, in plain operations; test_in_place.py has the mutants of the other way."""
    options = {**trajectory.OPTIONS, "jit_compile": False}
    weights, *_ = trajectory.run(face, strategy=strategy, options=options, change=split_in_two_slices)
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
