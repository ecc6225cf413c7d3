"""The pure functions: accuracy, zero norms, clipping, and the properties that LAMB must have."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tf_lamb import core

UNCORRECTED = (np.float32(1.0), np.float32(1.0))


@pytest.mark.parametrize("beta", [0.9, 0.999, 0.9999])
@pytest.mark.parametrize("t", [1, 2, 10, 1000, 1_000_000])
def test_bias_correction_is_exact_in_float32(beta, t):
    expected = -math.expm1(t * math.log(beta))
    assert float(core.bias_correction(beta, np.float32(t))) == pytest.approx(expected, rel=5e-7)


def test_the_naive_bias_correction_is_not():
    """The reason for expm1: what the naive form loses at beta 0.999."""
    naive = np.float32(1) - np.float32(0.999) ** np.float32(1)
    assert abs(naive / 0.001 - 1) > 1e-5


def test_bias_correction_without_momentum():
    assert float(core.bias_correction(0.0, np.float32(1))) == 1.0


@pytest.mark.parametrize(
    ("w", "update", "ratio"),
    [([3.0, 4.0], [0.0, 2.0], 2.5), ([0.0, 0.0], [1.0, 1.0], 1.0), ([1.0, 1.0], [0.0, 0.0], 1.0), ([0.0], [0.0], 1.0)],
)
def test_trust_ratio(w, update, ratio):
    assert float(core.trust_ratio(np.float32(w), np.float32(update))) == pytest.approx(ratio, rel=1e-7)


def test_clip_by_global_norm():
    clipped = core.clip_by_global_norm([np.float32([3.0]), np.float32([[0.0, 4.0]])], 2.5)
    np.testing.assert_allclose(clipped[0], [1.5], rtol=1e-6)
    np.testing.assert_allclose(clipped[1], [[0.0, 2.0]], rtol=1e-6)
    unchanged = core.clip_by_global_norm([np.float32([0.1, 0.7])], 2.5)
    np.testing.assert_array_equal(unchanged[0], np.float32([0.1, 0.7]))


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_gradient_that_is_not_finite_shows_in_all_clipped_ones(bad):
    clipped = core.clip_by_global_norm([np.float32([1.0]), np.float32([bad])], 1.0)
    assert np.isnan(clipped[0]).all() and np.isnan(clipped[1]).all()


def floats(low, high):
    return st.floats(low, high, allow_nan=False, width=32)


def tensors(low, high):
    return arrays.arrays(np.float32, st.sampled_from([(3,), (2, 4), (2, 1, 3)]), elements=floats(low, high))


def lamb(w, g, weight_decay, adapted=True, learning_rate=0.1, m=None, v=None, beta_1=0.9, beta_2=0.999):
    zeros = np.zeros_like(w)
    corrections = tuple(core.bias_correction(beta, np.float32(1)) for beta in (beta_1, beta_2))
    new_w, new_m, new_v = core.lamb(
        w,
        g,
        zeros if m is None else m,
        zeros if v is None else v,
        corrections,
        learning_rate=learning_rate,
        beta_1=beta_1,
        beta_2=beta_2,
        epsilon=1e-6,
        weight_decay=weight_decay,
        adapted=adapted,
    )
    return np.asarray(new_w), np.asarray(new_m), np.asarray(new_v)


@settings(max_examples=200, deadline=None)
@given(tensors(0.5, 2.0), floats(0.125, 8.0), floats(0.0, 2.0), floats(2**-10, 0.5))
def test_an_adapted_tensor_moves_by_rate_times_norm(w, scale, weight_decay, learning_rate):
    new_w, *_ = lamb(w, scale * w, weight_decay, learning_rate=learning_rate)
    assert np.linalg.norm(new_w - w) == pytest.approx(learning_rate * np.linalg.norm(w), rel=1e-3)


@settings(max_examples=200, deadline=None)
@given(tensors(0.5, 2.0), floats(0.125, 2.0), floats(0.125, 0.5))
def test_decay_alone_shrinks_an_adapted_tensor_by_the_rate(w, weight_decay, learning_rate):
    new_w, *_ = lamb(w, np.zeros_like(w), weight_decay, learning_rate=learning_rate)
    np.testing.assert_allclose(new_w, (1 - learning_rate) * w, rtol=1e-6)


@settings(max_examples=200, deadline=None)
@given(tensors(0.5, 2.0), tensors(0.5, 2.0), floats(0.125, 8.0))
def test_the_scale_of_gradients_does_not_matter(w, g, scale):
    if w.shape != g.shape:
        g = np.full_like(w, g.flat[0])
    np.testing.assert_allclose(lamb(w, g, 0.1)[0], lamb(w, scale * g, 0.1)[0], rtol=2e-5)


@settings(max_examples=200, deadline=None)
@given(tensors(-2.0, 2.0), floats(-2.0, 2.0), floats(0.0, 1.0))
def test_an_unadapted_tensor_follows_adamw(w, g, weight_decay):
    """Loshchilov and Hutter 2019, with epsilon outside the root; the first step of Adam is the sign of the gradient."""
    new_w, *_ = lamb(w, np.full_like(w, g), weight_decay, adapted=False)
    sign = np.float64(g) / (abs(np.float64(g)) + 1e-6)
    np.testing.assert_allclose(new_w, w - 0.1 * (sign + np.float64(weight_decay) * w), rtol=2e-5, atol=1e-6)
