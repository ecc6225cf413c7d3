"""What must hold for any weights and gradients, whatever the arithmetic: no oracle here, only invariants and peers."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from instance import DTYPE, ON_TENSORFLOW, Axes, follow, follow_one, instance, last_step
from peer_optimizers import jax_float64
from tolerances import PROPERTIES

import tf_lamb

RTOL = PROPERTIES[DTYPE, "cpu"]
SHAPE = (3, 4)
OPTIMIZERS = ("LAMB", "LARS", "NormalizedSGD")
NORMS = {"l2": np.linalg.norm, "l1": lambda x: np.abs(x).sum(), "linf": lambda x: np.abs(x).max()}
LAMBS = {
    "lamb": {},
    "decayed": {"weight_decay": 0.5},
    "uncorrected": {"bias_correction": False, "weight_decay": 0.125},
    "n_lamb": {"nesterov": "m", "weight_decay": 0.125},
    "nn_lamb": {"nesterov": "mv", "weight_decay": 0.125},
}
many_examples = settings(max_examples=200, deadline=None)


def numbers(low, high):
    return st.floats(low, high, allow_nan=False, width=32)


def tensors(shape=SHAPE):
    """Float64 zeros, and elements from 2^-8 to 2^8 of either sign; one power of two scales them all."""
    elements = numbers(-2.0, 2.0).filter(lambda x: x == 0.0 or abs(x) >= 2**-4)
    scaled = st.tuples(arrays.arrays(np.float32, shape, elements=elements), st.integers(-4, 7))
    return scaled.map(lambda pair: np.ldexp(np.float64(pair[0]), pair[1]))


nonzero_tensors = tensors().filter(lambda x: x.any())
rates = numbers(2**-6, 0.5)
series = st.lists(nonzero_tensors, min_size=1, max_size=3)
norms = st.sampled_from(list(NORMS))
decays = st.sampled_from([0.0, 0.25])


def close(actual, expected, scale=None):
    """Relative to the largest element, of the expected or of a scale."""
    scale = np.abs(expected if scale is None else scale).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=RTOL * scale)


# How far a tensor moves.


@settings(max_examples=500, deadline=None)
@given(kind=st.sampled_from(list(LAMBS)), norm=norms, w=nonzero_tensors, series=series, rate=rates)
def test_lamb_moves_an_adapted_tensor_by_rate_times_norm(kind, norm, w, series, rate):
    before, after = last_step("LAMB", w, series, rate, norm=norm, **LAMBS[kind])
    assume(before.any())
    assert NORMS[norm](after - before) == pytest.approx(rate * NORMS[norm](before), rel=RTOL)


@many_examples
@given(norm=norms, weight_decay=decays, w=nonzero_tensors, g=nonzero_tensors, rate=rates)
def test_normalized_sgd_moves_by_rate_times_norm(norm, weight_decay, w, g, rate):
    assume((g + weight_decay * w).any())
    moved = follow_one("NormalizedSGD", w, [g], rate, weight_decay=weight_decay, norm=norm) - w
    assert NORMS[norm](moved) == pytest.approx(rate * NORMS[norm](w), rel=RTOL)


@pytest.mark.parametrize("name", ["LAMB", "NormalizedSGD"])
@many_examples
@given(norm=norms, w=nonzero_tensors, g=nonzero_tensors, rate=rates)
def test_bounds_on_the_weight_norm_make_it_rate_times_phi(name, norm, w, g, rate):
    moved = follow_one(name, w, [g], rate, norm=norm, weight_norm_bounds=(2.0, 32.0)) - w
    phi = min(max(NORMS[norm](w), 2.0), 32.0)
    # The weights themselves are rounded, which can be seen where phi is much smaller than they are.
    rounding = float(np.finfo(DTYPE).eps) * NORMS["l1"](w)
    assert NORMS[norm](moved) == pytest.approx(rate * phi, rel=RTOL, abs=rounding)


@many_examples
@given(norm=norms, weight_decay=decays, w=nonzero_tensors, g=nonzero_tensors, rate=rates)
def test_lars_moves_by_the_rate_of_its_paper(norm, weight_decay, w, g, rate):
    """rate*eta*||w||*||d||/(||g|| + wd*||w||), with d = g + wd*w."""
    options = {"momentum": 0.0, "trust_coefficient": 0.5, "weight_decay": weight_decay, "norm": norm}
    moved = follow_one("LARS", w, [g], rate, **options) - w
    w_norm, g_norm, d_norm = (NORMS[norm](x) for x in (w, g, g + weight_decay * w))
    expected = rate * 0.5 * w_norm * d_norm / (g_norm + weight_decay * w_norm)
    assert NORMS[norm](moved) == pytest.approx(expected, rel=RTOL, abs=RTOL * rate * w_norm)


@many_examples
@given(nesterov=st.booleans(), w=nonzero_tensors, series=series, rate=rates)
def test_lars_after_momentum_moves_by_rate_times_eta_times_norm(nesterov, w, series, rate):
    options = {"ratio_position": "after_momentum", "trust_coefficient": 0.5, "weight_decay": 0.25, "nesterov": nesterov}
    before, after = last_step("LARS", w, series, rate, **options)
    assume(before.any() and (after - before).any())
    assert np.linalg.norm(after - before) == pytest.approx(rate * 0.5 * np.linalg.norm(before), rel=RTOL)


@pytest.mark.parametrize("name", OPTIMIZERS)
@many_examples
@given(w=nonzero_tensors, g=nonzero_tensors, rate=rates)
def test_equal_bounds_fix_the_ratio(name, w, g, rate):
    options = {"trust_ratio_bounds": (0.25, 0.25), "exclude_from_layer_adaptation": ("w1",), "weight_decay": 0.25}
    adapted, excluded = follow(name, [w, w], [[g, g]], rate, **options)
    assume((g + 0.25 * w).any() and (excluded - w).any())
    close(adapted - w, (excluded - w) / 4, scale=np.abs(w) + np.abs(g))


# Zeros.


@pytest.mark.parametrize("name", OPTIMIZERS)
@many_examples
@given(g=tensors(), rate=rates)
def test_zero_weights_have_a_ratio_of_1(name, g, rate):
    """Neither bounds nor coefficients apply: the tensor moves as the excluded one beside it, bit for bit."""
    bounds = {"weight_norm_bounds": (0.5, 2.0), "trust_ratio_bounds": (2.0, 3.0)}
    zeros = np.zeros(SHAPE)
    adapted, excluded = follow(name, [zeros, zeros], [[g, g]], rate, exclude_from_layer_adaptation=("w1",), **bounds)
    np.testing.assert_array_equal(adapted, excluded)


@pytest.mark.parametrize(("name", "factor"), [("LAMB", 1.0), ("NormalizedSGD", 1.0), ("LARS", 0.25)])
@many_examples
@given(weight_decay=st.sampled_from([0.01, 0.3, 5.0]), w=nonzero_tensors, rate=rates, steps=st.integers(1, 3))
def test_decay_alone_shrinks_by_the_rate_whatever_the_decay(name, factor, weight_decay, w, rate, steps):
    options = {"weight_decay": weight_decay}
    if name == "LARS":
        options |= {"denominator": "norm_of_sum", "trust_coefficient": factor, "momentum": 0.0}
    shrunk = follow_one(name, w, [np.zeros(SHAPE)] * steps, rate, **options)
    close(shrunk, (1 - rate * factor) ** steps * w)


@many_examples
@given(weight_decay=st.sampled_from([0.01, 0.3]), w=nonzero_tensors, rate=rates)
def test_without_a_gradient_lars_of_its_paper_has_a_ratio_of_1(weight_decay, w, rate):
    close(follow_one("LARS", w, [np.zeros(SHAPE)], rate, weight_decay=weight_decay), (1 - rate * weight_decay) * w)


# Scales, signs and orders.


@many_examples
@given(
    nesterov=st.sampled_from([False, "mv"]),
    excluded=st.sampled_from([(), ("w0",)]),
    w=tensors(),
    series=series,
    rate=rates,
)
def test_the_scale_of_gradients_enters_lamb_through_epsilon_alone(nesterov, excluded, w, series, rate):
    """With epsilon scaled too, nothing changes by a single bit, because the factor is a power of two."""
    options = {"weight_decay": 0.125, "exclude_from_layer_adaptation": excluded, "nesterov": nesterov}
    plain = follow_one("LAMB", w, series, rate, epsilon=2**-20, **options)
    scaled = follow_one("LAMB", w, [8 * g for g in series], rate, epsilon=2**-17, **options)
    np.testing.assert_array_equal(plain, scaled)


@pytest.mark.parametrize(("name", "options"), [("NormalizedSGD", {}), ("LARS", {"trust_coefficient": 0.5})])
@many_examples
@given(w=nonzero_tensors, series=series, rate=rates, factor=numbers(0.125, 8.0))
def test_without_decay_and_epsilon_the_scale_does_not_matter(name, options, w, series, rate, factor):
    plain = follow_one(name, w, series, rate, **options)
    close(follow_one(name, w, [factor * g for g in series], rate, **options), plain, scale=w)


@many_examples
@given(name=st.sampled_from(OPTIMIZERS), w=tensors(), g=nonzero_tensors, rate=rates)
def test_above_the_clip_only_the_direction_counts(name, w, g, rate):
    g = g / np.linalg.norm(g) * 4.0
    options = {"global_clipnorm": 1.0, "weight_decay": 0.25}
    plain = follow_one(name, w, [g], rate, **options)
    close(follow_one(name, w, [64 * g], rate, **options), plain, scale=np.abs(w) + 1)


@many_examples
@given(name=st.sampled_from(OPTIMIZERS), w=tensors(), series=series, rate=rates)
def test_the_opposite_problem_has_the_opposite_solution(name, w, series, rate):
    plain = follow_one(name, w, series, rate, weight_decay=0.25)
    opposite = follow_one(name, -w, [-g for g in series], rate, weight_decay=0.25)
    np.testing.assert_array_equal(opposite, -plain)


@pytest.mark.parametrize("name", OPTIMIZERS)
@many_examples
@given(norm=norms, w=tensors(), g=nonzero_tensors, rate=rates, order=st.permutations(range(12)))
def test_the_order_of_elements_does_not_matter(name, norm, w, g, rate, order):
    def permuted(x):
        return x.reshape(-1)[order].reshape(SHAPE)

    options = {"weight_decay": 0.25, "norm": norm}
    plain = follow_one(name, w, [g, w], rate, **options)
    close(follow_one(name, permuted(w), [permuted(g), permuted(w)], rate, **options), permuted(plain))


@pytest.mark.parametrize("name", OPTIMIZERS)
@many_examples
@given(norm=norms, w=tensors(), g=tensors(), rate=rates, empty=st.sampled_from([None, 0, 2]))
def test_slices_equal_separate_variables(name, norm, w, g, rate, empty):
    """With zero slices, too."""
    w = np.where(np.arange(4) == empty, 0.0, w)
    options = {"weight_decay": 0.25, "norm": norm, "weight_norm_bounds": (1.0, 8.0), "trust_ratio_bounds": (None, 4.0)}
    stacked = follow_one(name, w, [g, w], rate, layer_axes=Axes(w0=1), **options)
    columns = [[np.ascontiguousarray(column) for column in x.T] for x in (w, g, w)]
    separate = follow(name, columns[0], columns[1:], rate, **options)
    close(stacked, np.stack(separate, axis=1))


# Reduction to known optimizers.


@many_examples
@given(w=tensors(), series=series, rate=rates)
def test_an_unadapted_tensor_follows_adamw_of_torch(w, series, rate):
    torch = pytest.importorskip("torch")
    ours = follow_one("LAMB", w, series, rate, exclude_from_layer_adaptation=("w0",), weight_decay=0.25)
    parameter = torch.nn.Parameter(torch.tensor(w, device="cpu"))
    peer = torch.optim.AdamW([parameter], lr=rate, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.25, foreach=False)
    for g in series:
        parameter.grad = torch.tensor(g, device="cpu")
        peer.step()
    close(ours, parameter.detach().numpy(), scale=np.abs(w) + 1)


@many_examples
@given(
    nesterov=st.booleans(),
    position=st.sampled_from(["before_momentum", "after_momentum"]),
    w=tensors(),
    series=series,
    rate=rates,
)
def test_an_unadapted_tensor_follows_sgd_of_torch(nesterov, position, w, series, rate):
    torch = pytest.importorskip("torch")
    options = {"exclude_from_layer_adaptation": ("w0",), "weight_decay": 0.25, "ratio_position": position}
    ours = follow_one("LARS", w, series, rate, nesterov=nesterov, **options)
    parameter = torch.nn.Parameter(torch.tensor(w, device="cpu"))
    peer = torch.optim.SGD([parameter], lr=rate, momentum=0.9, nesterov=nesterov, weight_decay=0.25, foreach=False)
    for g in series:
        parameter.grad = torch.tensor(g, device="cpu")
        peer.step()
    close(ours, parameter.detach().numpy(), scale=np.abs(w) + max(np.abs(g).max() for g in series))


@many_examples
@given(nesterov=st.booleans(), w=nonzero_tensors, series=series, rate=rates)
def test_dampening_by_half_halves_the_rate(nesterov, w, series, rate):
    """Bit for bit. Torch cannot tell: its first step is not dampened."""
    options = {"weight_decay": 0.25, "trust_coefficient": 0.5, "nesterov": nesterov}
    dampened = follow_one("LARS", w, series, rate, dampening=0.5, **options)
    np.testing.assert_array_equal(dampened, follow_one("LARS", w, series, rate / 2, **options))


@many_examples
@given(nesterov=st.sampled_from([False, "m"]), w=tensors(), series=series, rate=rates)
def test_an_unadapted_tensor_follows_adamw_and_nadamw_of_optax(nesterov, w, series, rate):
    optax = pytest.importorskip("optax")
    options = {"exclude_from_layer_adaptation": ("w0",), "weight_decay": 0.25, "nesterov": nesterov}
    ours = follow_one("LAMB", w, series, rate, **options)
    with jax_float64():
        peer = optax.adamw(rate, b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.25, nesterov=bool(nesterov))
        state, theirs = peer.init(w), w
        for g in series:
            updates, state = peer.update(g, state, theirs)
            theirs = np.asarray(optax.apply_updates(theirs, updates))
    close(ours, theirs, scale=np.abs(w) + 1)


# Replicas, cycles, lists and skipped steps.


@pytest.mark.skipif(not ON_TENSORFLOW, reason="tf.distribute needs the TensorFlow backend")
@many_examples
@given(name=st.sampled_from(OPTIMIZERS), w=tensors(), series=series, share=numbers(-2.0, 2.0), rate=rates)
def test_the_sum_of_shares_equals_the_whole(two_replicas, name, w, series, share, rate):
    options = {"global_clipnorm": 1.0, "weight_decay": 0.25}
    shared = instance(name, (SHAPE,), tuple(options.items()), two_replicas)
    shared.reset([w], np.float32(rate))
    shares = [(share * g, g - share * g) for g in series]
    for first, second in shares:
        shared.step_of_replicas([[first], [second]])
    # Not `series` itself: the shares have a rounding of their own, which turns into noise where they cancel.
    whole = follow_one(name, w, [first + second for first, second in shares], rate, **options)
    close(shared.values()[0], whole, scale=np.abs(w) + 1)


@many_examples
@given(
    name=st.sampled_from(OPTIMIZERS),
    w=tensors(),
    pairs=st.lists(st.tuples(tensors(), tensors()), min_size=1, max_size=2),
    rate=rates,
)
def test_a_cycle_equals_one_step_with_the_mean(name, w, pairs, rate):
    options = {"global_clipnorm": 1.0, "weight_decay": 0.25}
    cycles = follow_one(name, w, list(itertools.chain(*pairs)), rate, gradient_accumulation_steps=2, **options)
    close(cycles, follow_one(name, w, [(a + b) / 2 for a, b in pairs], rate, **options), scale=np.abs(w) + 1)


@many_examples
@given(
    names=st.permutations(["kernel", "bias", "gamma", "beta"]),
    decay_list=st.lists(st.sampled_from(["bias", "gamma|beta", "gamma", "^k"]), max_size=2),
)
def test_no_list_is_the_decay_list_and_an_empty_one_adapts_all(names, decay_list):
    def decisions(adaptation_list):
        optimizer = tf_lamb.LAMB(0.1, 0.9, 0.999, 1e-6, 0.1, decay_list, adaptation_list)
        optimizer.build(variables)
        return [(rule.decayed, rule.adapted) for rule in optimizer.plan()]

    variables = [keras.Variable(np.zeros(1), name=name) for name in names]
    same, named, everything = decisions(None), decisions(tuple(decay_list)), decisions(())
    assert same == named
    assert all(decayed == adapted for decayed, adapted in same)
    assert everything == [(decayed, True) for decayed, _ in same]


@many_examples
@given(
    name=st.sampled_from(OPTIMIZERS),
    weights=st.lists(tensors(), min_size=2, max_size=2),
    g=tensors(),
    bad=st.sampled_from([np.nan, np.inf, -np.inf]),
    place=st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 3)),
    warm=st.booleans(),
)
def test_a_skipped_step_leaves_every_bit(name, weights, g, bad, place, warm):
    options = {"skip_nonfinite": True, "global_clipnorm": 1.0, "use_ema": True, "weight_decay": 0.25}
    one = instance(name, (SHAPE, SHAPE), tuple(options.items()))
    one.reset(weights, np.float32(0.125))
    if warm:
        one.step([g, g])
    before = one.values() + one.state()
    spoiled = [g.copy(), g.copy()]
    spoiled[place[0]][place[1:]] = bad
    one.step(spoiled)
    for old, new in zip(before, one.values() + one.state(), strict=True):
        np.testing.assert_array_equal(new, old)
    assert int(one.optimizer.skipped_steps) == 1
