"""The pure functions: accuracy, norms and their slices, zero norms, bounds, clipping."""

import math

import numpy as np
import pytest
from keras import ops

from tf_lamb import core


@pytest.mark.parametrize("beta", [0.9, 0.999, 0.9999])
@pytest.mark.parametrize("t", [1, 2, 10, 1000, 1_000_000])
def test_bias_correction_is_exact_in_float32(beta, t):
    expected = -math.expm1(t * math.log(beta))
    assert float(core.bias_correction(beta, ops.convert_to_tensor(t, "float32"))) == pytest.approx(expected, rel=5e-7)


def test_the_naive_bias_correction_is_not():
    """The reason for expm1: what the naive form loses at beta 0.999."""
    naive = np.float32(1) - np.float32(0.999) ** np.float32(1)
    assert abs(naive / 0.001 - 1) > 1e-5


def test_bias_correction_without_momentum():
    assert float(core.bias_correction(0.0, ops.ones(()))) == 1.0


@pytest.mark.parametrize(
    ("w", "update", "ratio"),
    [([3.0, 4.0], [0.0, 2.0], 2.5), ([0.0, 0.0], [1.0, 1.0], 1.0), ([1.0, 1.0], [0.0, 0.0], 1.0), ([0.0], [0.0], 1.0)],
)
def test_trust_ratio(w, update, ratio):
    trust = core.trust_ratio(core.norm(np.float32(w)), core.norm(np.float32(update)), weight_norm_bounds=None)
    assert float(trust.ratio) == pytest.approx(ratio, rel=1e-7)
    assert trust.bounded is None


@pytest.mark.parametrize(
    ("weight_norm_bounds", "trust_ratio_bounds", "ratio", "bounded"),
    [
        (None, (None, 2.0), 2.0, True),
        (None, (3.0, None), 3.0, True),
        (None, (0.0, 2.5), 2.5, False),
        ((None, 4.0), None, 2.0, True),
        ((6.0, None), None, 3.0, True),
        ((6.0, 8.0), (0.0, 2.75), 2.75, True),
        ((1.0, 5.0), None, 2.5, False),
    ],
)
def test_bounds(weight_norm_bounds, trust_ratio_bounds, ratio, bounded):
    bounds = {"weight_norm_bounds": weight_norm_bounds, "trust_ratio_bounds": trust_ratio_bounds}
    trust = core.trust_ratio(np.float32(5.0), np.float32(2.0), **bounds)
    assert (float(trust.ratio), bool(trust.bounded)) == (ratio, bounded)
    for norms in ((0.0, 2.0), (5.0, 0.0)):
        trust = core.trust_ratio(*map(np.float32, norms), **bounds, coefficient=0.5)
        assert (float(trust.ratio), bool(trust.bounded)) == (1.0, False)


@pytest.mark.parametrize("layer_axis", [None, 0, 1, 2])
@pytest.mark.parametrize(("kind", "order"), [("l1", 1), ("l2", 2), ("linf", np.inf)])
def test_norms_and_their_slices(kind, order, layer_axis):
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    actual = np.asarray(core.norm(x, kind, layer_axis))
    if layer_axis is None:
        np.testing.assert_allclose(actual, np.linalg.norm(x.ravel(), order), rtol=1e-6)
        return
    expected = [np.linalg.norm(x.take(i, layer_axis).ravel(), order) for i in range(x.shape[layer_axis])]
    np.testing.assert_allclose(actual.ravel(), expected, rtol=1e-6)
    assert (actual * x).shape == x.shape


def test_the_norm_of_no_elements():
    assert float(core.norm(np.zeros((0,), np.float32), "linf")) == 0.0


def clip_by_global_norm(gradients, limit):
    clipped = core.clip_by_global_norm([ops.convert_to_tensor(g, "float32") for g in gradients], limit)
    return [ops.convert_to_numpy(g) for g in clipped]


def test_clip_by_global_norm():
    clipped = clip_by_global_norm([[3.0], [[0.0, 4.0]]], 2.5)
    np.testing.assert_allclose(clipped[0], [1.5], rtol=1e-6)
    np.testing.assert_allclose(clipped[1], [[0.0, 2.0]], rtol=1e-6)
    unchanged = clip_by_global_norm([[0.1, 0.7]], 2.5)
    np.testing.assert_array_equal(unchanged[0], np.float32([0.1, 0.7]))


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_gradient_that_is_not_finite_shows_in_all_clipped_ones(bad):
    clipped = clip_by_global_norm([[1.0], [bad]], 1.0)
    assert np.isnan(clipped[0]).all() and np.isnan(clipped[1]).all()
