"""Schedules equal their closed forms at every corner, on every backend of Keras, and mutants of them do not."""

import closed_forms
import keras
import numpy as np
import pytest
from closed_forms import RELATIVE, errors
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_lamb
from tf_lamb.schedules import InverseTime, Stages, WarmupPolynomialDecay, WarmupStepDecay, goyal, linear_scaling

# All examples of a property have the same number of steps, so that JAX compiles its operations once.
LONGEST = 60
STEPS = np.arange(LONGEST + 5)
RATES = st.floats(1e-6, 100.0)


def corners(*points):
    """Each point with its neighbours, and a step far beyond the last."""
    near = {point + d for point in points for d in (-1, 0, 1)} | {0, 1, max(points) + 1000}
    return sorted(step for step in near if step >= 0)


def values(schedule):
    """The rates at `STEPS`."""
    return keras.ops.convert_to_numpy(schedule(STEPS))


def polynomial(*args, **kwargs):
    """A `WarmupPolynomialDecay`, and the closed form of the same arguments."""
    schedule = WarmupPolynomialDecay(*args, **kwargs)
    names = {"end_learning_rate": "end", "warmup_steps": "warmup", "warmup_offset_steps": "offset"}
    kwargs = {names.get(name, name): value for name, value in kwargs.items()}
    return schedule, lambda step: closed_forms.polynomial(step, *args, **kwargs)


@pytest.mark.parametrize("decay_start", ["warmup_end", "step_zero"])
@pytest.mark.parametrize("end", [0.0, 1e-4, 0.02])
@pytest.mark.parametrize("power", [1.0, 2.0, 0.5, 0.0])
@pytest.mark.parametrize(
    ("total", "warmup", "offset"),
    [(100, 10, 0), (100, 0, 0), (100, 100, 0), (1, 0, 0), (1, 1, 0), (3, 2, 0), (100, 30, 7), (9, 20, 20), (9, 20, 11)],
)
def test_warmup_and_decay(total, warmup, offset, power, end, decay_start):
    schedule, form = polynomial(0.02, total, warmup, power, end, decay_start, offset)
    assert errors(schedule, form, corners(0, warmup, warmup - offset, total)) <= 1


# The rows of MLPerf's BERT, then its ResNet-50 with LARS at a batch of 4,096: 40 epochs of 312 steps, 5 of warmup.
PUBLISHED = {
    "BERT, 8,192": polynomial(2.88293e-3, 600, 287, decay_start="step_zero", warmup_offset_steps=76),
    "BERT, 16,384": polynomial(3.3e-3, 600, 290, decay_start="step_zero", warmup_offset_steps=100),
    "BERT, 6,144": polynomial(2.9293e-3, 700, 0, decay_start="step_zero", warmup_offset_steps=700),
    "LARS": polynomial(10.0, 40 * 312, 5 * 312, power=2.0, end_learning_rate=1e-4),
}


@pytest.mark.parametrize("row", PUBLISHED)
def test_rows_of_mlperf(row):
    assert errors(*PUBLISHED[row], corners(76, 100, 190, 211, 287, 600, 700, 1560, 12480)) <= 1


def mlperf_reference(step, peak, total, warmup, start):
    # As github.com/mlcommons/training computes it: a decay over all steps, and warmup in its place while it lasts.
    rate = peak * (1 - min(step, total) / total)
    return peak * (step - start) / warmup if warmup and step - start < warmup else rate


@pytest.mark.parametrize(
    ("row", "arguments"),
    [
        ("BERT, 8,192", (2.88293e-3, 600, 287, -76)),
        ("BERT, 16,384", (3.3e-3, 600, 290, -100)),
        ("BERT, 6,144", (2.9293e-3, 700, 0, -700)),
    ],
)
def test_the_offset_is_that_of_mlperf(row, arguments):
    assert errors(PUBLISHED[row][0], lambda step: mlperf_reference(step, *arguments), range(720)) <= 1


def test_lars_of_mlperf_decays_one_step_longer():
    train, warmup, peak, end = 12480, 1560, 10.0, 1e-4

    def reference(step):
        if step <= warmup:
            return peak * step / warmup
        left = 1 - min(step - warmup, train - warmup + 1) / (train - warmup + 1)
        return (peak - end) * left**2 + end

    steps = corners(warmup, train, 6000)
    assert errors(WarmupPolynomialDecay(peak, train + 1, warmup, 2.0, end), reference, steps) <= 1
    assert errors(WarmupPolynomialDecay(peak, train, warmup, 2.0, end), reference, steps) >= 10


@pytest.mark.parametrize(("warmup", "initial", "factor"), [(8, 0.1, 0.1), (8, 0.0, 0.1), (0, 0.3, 0.5), (10, 0.9, 2.0)])
@pytest.mark.parametrize("boundaries", [[10, 20, 21], [10], []])
def test_warmup_and_steps_down(boundaries, warmup, initial, factor):
    schedule = WarmupStepDecay(0.8, boundaries, factor, warmup, initial)
    steps = corners(warmup, 10, 20, 21)
    assert errors(schedule, lambda s: closed_forms.steps_down(s, 0.8, boundaries, factor, warmup, initial), steps) <= 1


def test_goyal():
    schedule = goyal(linear_scaling(0.1, 256, 8192), steps_per_epoch=156, initial_learning_rate=0.1)
    boundaries = [30 * 156, 60 * 156, 80 * 156]
    steps = corners(5 * 156, *boundaries, 90 * 156)
    assert errors(schedule, lambda s: closed_forms.steps_down(s, 3.2, boundaries, 0.1, 780, 0.1), steps) <= 1
    # AdaGrad's baseline at 16,384: rate 14, 78 full batches in an epoch; the paper gives no other start than zero.
    baseline = goyal(14.0, 78)
    form = lambda s: closed_forms.steps_down(s, 14.0, [2340, 4680, 6240], 0.1, 390)  # noqa: E731
    assert errors(baseline, form, corners(390, 2340, 4680, 6240)) <= 1


def two_stages():
    # The open recipe for BERT with a batch of 65,536, then 32,768.
    first, first_form = polynomial(6e-3, 7037, 2000, 0.5, decay_start="step_zero")
    second, second_form = polynomial(4e-3, 1562, 200, 0.5, decay_start="step_zero")
    counts = [7037, 1562]
    return (
        Stages([first, second], counts),
        lambda step: closed_forms.in_stages(step, [first_form, second_form], counts),
        corners(2000, 7037, 7037 + 200, 7037 + 1562),
    )


def test_two_stages_with_warmup_from_zero_again():
    schedule, form, steps = two_stages()
    assert errors(schedule, form, steps) <= 1
    assert float(schedule(7037)) == 0.0 and float(schedule(7036)) > 0.0


def test_other_schedules_are_not_asked_for_negative_steps():
    asked = []

    class Recording(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            asked.append(int(step))
            return 0.5

    assert float(Stages([WarmupPolynomialDecay(1.0, 10, 4), Recording()], [10, 5])(3)) == 0.75
    assert asked == [0]


LONG = 2**24


def long_run():
    return polynomial(1.0, LONG + 8, LONG + 2, warmup_offset_steps=LONG - 2)


def test_steps_beyond_what_float32_counts():
    schedule, form = long_run()
    assert errors(schedule, form, [2, 3, 4, 5, LONG + 5, LONG + 7, LONG + 8]) <= 1
    staged = Stages([schedule, WarmupPolynomialDecay(1.0, 10, 4)], [LONG + 1, 10])
    assert [float(staged(LONG + 1 + step)) for step in (0, 1, 3, 4, 10)] == [0.0, 0.25, 0.75, 1.0, 0.0]


@st.composite
def arguments(draw, decay_starts=("warmup_end", "step_zero")):
    total = draw(st.integers(1, LONGEST))
    offset = draw(st.integers(0, 10))
    peak = draw(RATES)
    return {
        "peak_learning_rate": peak,
        "total_steps": total,
        "warmup_steps": draw(st.integers(0, total + offset)),
        "power": draw(st.sampled_from([0.0, 0.5, 1.0, 2.0]) | st.floats(0.1, 4.0)),
        "end_learning_rate": draw(st.sampled_from([0.0, 1e-3 * peak]) | st.floats(1e-6 * peak, peak)),
        "decay_start": draw(st.sampled_from(decay_starts)),
        "warmup_offset_steps": offset,
    }


def warmup_end(kwargs):
    return max(kwargs["warmup_steps"] - kwargs["warmup_offset_steps"], 0)


@settings(max_examples=200, deadline=None)
@given(arguments())
def test_any_arguments_give_the_closed_form(kwargs):
    # 1 - x in the closed form loses digits to float64 alone, far below the tolerance.
    rates = values(WarmupPolynomialDecay(**kwargs))
    assert rates.dtype == np.float32 and rates.shape == STEPS.shape
    assert errors(lambda step: rates[step], lambda step: closed_forms.polynomial(step, *kwargs.values()), STEPS) <= 1


@settings(max_examples=200, deadline=None)
@given(arguments(["warmup_end"]))
def test_the_warmup_reaches_the_peak_and_meets_the_decay(kwargs):
    rates, end, peak = values(WarmupPolynomialDecay(**kwargs)), warmup_end(kwargs), kwargs["peak_learning_rate"]
    if end < kwargs["total_steps"]:
        assert rates[end] == pytest.approx(peak, rel=1e-6)
        if end > 0:
            assert rates[end] - rates[end - 1] == pytest.approx(peak / kwargs["warmup_steps"], abs=1e-6 * peak)


@settings(max_examples=200, deadline=None)
@given(arguments(["step_zero"]))
def test_the_published_code_jumps_by_what_the_decay_has_lost(kwargs):
    rates, end = values(WarmupPolynomialDecay(**kwargs)), warmup_end(kwargs)
    low, peak = kwargs["end_learning_rate"], kwargs["peak_learning_rate"]
    if end < kwargs["total_steps"]:
        left = (1 - end / kwargs["total_steps"]) ** kwargs["power"]
        assert peak - rates[end] == pytest.approx((peak - low) * (1 - left), abs=1e-6 * peak)


@settings(max_examples=200, deadline=None)
@given(arguments())
def test_the_rate_rises_then_falls_and_stays_below_the_peak(kwargs):
    rates, end = values(WarmupPolynomialDecay(**kwargs)).astype(float), warmup_end(kwargs)
    slack = 1e-6 * kwargs["peak_learning_rate"]
    assert 0 <= rates.min() and rates.max() <= kwargs["peak_learning_rate"] + slack
    assert (np.diff(rates[:end]) >= -slack).all()
    assert (np.diff(rates[end:]) <= slack).all()
    assert rates[kwargs["total_steps"] :] == pytest.approx(kwargs["end_learning_rate"], rel=1e-6)


@settings(max_examples=200, deadline=None)
@given(RATES, st.lists(st.integers(1, LONGEST), max_size=4, unique=True), st.floats(0, 2), st.integers(0, 9), RATES)
def test_any_steps_down(peak, boundaries, factor, warmup, initial):
    boundaries = sorted(boundary + warmup for boundary in boundaries)
    rates = values(WarmupStepDecay(peak, boundaries, factor, warmup, initial))
    form = lambda s: closed_forms.steps_down(s, peak, boundaries, factor, warmup, initial)  # noqa: E731
    # Float32 has no numbers below 1e-38, where the factor may lead.
    assert errors(lambda step: rates[step], form, [step for step in STEPS if form(step) > 1e-37]) <= 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(arguments(), st.integers(1, 25)), min_size=1, max_size=3))
def test_any_stages(stages):
    counts = [count for _, count in stages]
    rates = values(Stages([WarmupPolynomialDecay(**kwargs) for kwargs, _ in stages], counts))
    forms = [lambda step, kwargs=kwargs: closed_forms.polynomial(step, *kwargs.values()) for kwargs, _ in stages]
    assert errors(lambda step: rates[step], lambda step: closed_forms.in_stages(step, forms, counts), STEPS) <= 1


def every_schedule():
    """One of each with every argument away from its default."""
    first = WarmupPolynomialDecay(1.0, 30, 9, 0.3, 1e-3, "step_zero", 4)
    second = WarmupStepDecay(0.5, [12, 20], 0.2, 7, 0.05)
    return {
        "polynomial": first,
        "steps down": second,
        "stages": Stages([first, second], [25, 30]),
        "inverse time": InverseTime(first, 0.25),
        "inverse time of a number": InverseTime(0.5, 0.25),
    }


def kinds_of_steps():
    return {
        "Python int": lambda step: step,
        "NumPy int64": np.int64,
        "NumPy int8": np.int8,
        "NumPy uint8": np.uint8,
        "tensor": lambda step: keras.ops.convert_to_tensor(step),
        "int32 tensor": lambda step: keras.ops.cast(step, "int32"),
        "Keras variable": lambda step: keras.Variable(step, dtype="int", trainable=False),
    }


@pytest.mark.parametrize("kind", kinds_of_steps())
@pytest.mark.parametrize("name", every_schedule())
def test_every_kind_of_step(name, kind):
    schedule, make = every_schedule()[name], kinds_of_steps()[kind]
    for step in (0, 4, 5, 12, 25, 30, 31, 100):
        rate = schedule(make(step))
        assert keras.ops.shape(rate) == () and keras.backend.standardize_dtype(rate.dtype) == "float32"
        assert float(rate) == float(schedule(step))


@pytest.mark.parametrize("name", every_schedule())
def test_an_array_of_steps(name):
    schedule = every_schedule()[name]
    np.testing.assert_allclose(values(schedule), [float(schedule(int(step))) for step in STEPS], rtol=RELATIVE)


@pytest.mark.parametrize("name", every_schedule())
def test_the_rate_is_float32_whatever_keras_computes_in(name):
    schedule, before = every_schedule()[name], keras.config.floatx()
    expected = values(schedule)
    keras.config.set_floatx("float16")
    try:
        rates = values(schedule)
    finally:
        keras.config.set_floatx(before)
    assert rates.dtype == np.float32
    np.testing.assert_array_equal(rates, expected)


@pytest.mark.parametrize("name", every_schedule())
def test_serialization(name):
    schedule = every_schedule()[name]
    copy = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert type(copy) is type(schedule) and copy.get_config() == schedule.get_config()
    np.testing.assert_array_equal(values(copy), values(schedule))


def test_a_config_without_the_newer_arguments_still_loads():
    old = {"peak_learning_rate": 1.0, "total_steps": 10, "warmup_steps": 4, "power": 2.0}
    np.testing.assert_array_equal(
        values(WarmupPolynomialDecay.from_config(old)), values(WarmupPolynomialDecay(1.0, 10, 4, 2.0))
    )


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="jax.jit needs KERAS_BACKEND=jax")
@pytest.mark.parametrize("name", every_schedule())
def test_inside_jit(name):
    import jax

    schedule = every_schedule()[name]
    compiled = jax.jit(schedule)
    for step in (0, 4, 5, 12, 25, 30, 31, 100):
        assert float(compiled(step)) == pytest.approx(float(schedule(step)), rel=RELATIVE)
    assert compiled._cache_size() == 1


def test_optax_has_the_same_warmup_and_decay():
    optax = pytest.importorskip("optax")
    peak, total, warmup, power, end = 0.02, 50, 20, 2.0, 1e-3
    warming = optax.linear_schedule(0.0, peak, warmup)
    peer = optax.join_schedules([warming, optax.polynomial_schedule(peak, end, power, total - warmup)], [warmup])
    jumping = optax.join_schedules([warming, lambda step: peer_decay(step + warmup)], [warmup])
    peer_decay = optax.polynomial_schedule(peak, end, power, total)
    meets, jumps = (
        WarmupPolynomialDecay(peak, total, warmup, power, end, decay_start)
        for decay_start in ("warmup_end", "step_zero")
    )
    assert errors(meets, lambda step: float(peer(step)), STEPS) <= 2
    assert errors(jumps, lambda step: float(jumping(step)), STEPS) <= 2
    assert errors(jumps, lambda step: float(peer(step)), STEPS) >= 10


WARMUP_STEPS = r"`warmup_steps` must be an integer in \[0, 10\]\. Received: warmup_steps="
ERRORS = [
    (WarmupPolynomialDecay, (-1.0, 10), r"`peak_learning_rate` must be a number >= 0\. Received:.*-1\.0"),
    (WarmupPolynomialDecay, (1.0, 0), r"`total_steps` must be an integer >= 1\. Received: total_steps=0"),
    (WarmupPolynomialDecay, (1.0, True), r"`total_steps` must be an integer >= 1\. Received: .*=True"),
    (WarmupPolynomialDecay, (1.0, 10, 11), WARMUP_STEPS + "11"),
    (WarmupPolynomialDecay, (1.0, 10, 0.5), WARMUP_STEPS + "0.5"),
    (WarmupPolynomialDecay, (1.0, 10, 16, 1, 0, "step_zero", 5), r"must be an integer in \[0, 15\]\. Received: .*=16"),
    (WarmupPolynomialDecay, (1.0, 10, 1, -2), r"`power` must be a number >= 0\. Received: power=-2"),
    (WarmupPolynomialDecay, (1.0, 10, 1, 1, -1e-4), r"`end_learning_rate` must be a number >= 0\. Received:.*-0\.0001"),
    (
        WarmupPolynomialDecay,
        (1e-5, 10, 1, 1, 1e-4),
        r"`end_learning_rate` must not be above `peak_learning_rate`\. Received: end_.*=0\.0001, peak_.*=1e-05",
    ),
    (
        WarmupPolynomialDecay,
        (1.0, 10, 1, 1, 0, True),
        r"`decay_start` must be 'warmup_end' or 'step_zero'\. Received: decay_start=True",
    ),
    (
        WarmupPolynomialDecay,
        (1.0, 10, 1, 1, 0, "step_zero", -76),
        r"`warmup_offset_steps` must be an integer >= 0\. Received: warmup_offset_steps=-76",
    ),
    (WarmupStepDecay, (-1.0, []), r"`peak_learning_rate` must be a number >= 0\. Received:.*-1\.0"),
    (WarmupStepDecay, (1.0, [0]), r"`boundary_steps\[0\]` must be an integer >= 1\. Received: .*=0"),
    (WarmupStepDecay, (1.0, [5, 5]), r"`boundary_steps\[1\]` must be an integer >= 6\. Received: .*=5"),
    (WarmupStepDecay, (1.0, [5], 0.1, 6), r"`boundary_steps\[0\]` must be an integer >= 6\. Received: .*=5"),
    (WarmupStepDecay, (1.0, [5], -0.1), r"`factor` must be a number >= 0\. Received: factor=-0\.1"),
    (WarmupStepDecay, (1.0, [5], 0.1, -1), r"`warmup_steps` must be an integer >= 0\. Received: warmup_steps=-1"),
    (WarmupStepDecay, (1.0, [5], 0.1, 1, None), r"`initial_learning_rate` must be a number >= 0\. Received:.*None"),
    (goyal, (3.2, 156.4), r"`steps_per_epoch` must be an integer >= 1\. Received: steps_per_epoch=156\.4"),
    (Stages, ([], []), "lists of the same length, at least 1. Received: 0 schedules"),
    (Stages, ([WarmupPolynomialDecay(1.0, 10)], [0]), r"`steps\[0\]` must be an integer >= 1\. Received: .*=0"),
    (Stages, ([0.1], [5]), r"`schedules` must be schedules of Keras 3\. Received: 0\.1 among them"),
]


@pytest.mark.parametrize(("make", "args", "message"), ERRORS)
def test_errors(make, args, message):
    with pytest.raises(ValueError, match=message):
        make(*args)


def test_everything_is_public_under_one_name():
    assert all(hasattr(tf_lamb.schedules, name) for name in tf_lamb.schedules.__all__)
    assert {"Stages", "plot", "square_root_scaling"} < set(tf_lamb.schedules.__all__)
