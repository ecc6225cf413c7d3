"""Wrong schedules, each one plausible slip away from ours: every one misses the closed form, and ours does not."""

import closed_forms
import keras
import numpy as np
import pytest
from closed_forms import errors

from tf_lamb.schedules import Stages, WarmupPolynomialDecay, WarmupStepDecay, goyal

TOTAL, WARMUP, OFFSET, PEAK, END = 600, 287, 76, 2.88293e-3, 1e-4
JUMP = {"decay_start": "step_zero"}


def bert(step, **changes):
    """The closed form of MLPerf's row for a batch of 8,192, with a rate at the end and changes."""
    options = {"end": END, "decay_start": "step_zero", "offset": OFFSET, **changes}
    return closed_forms.polynomial(step, PEAK, TOTAL, WARMUP, **options)


def ours(**changes):
    options = {"end_learning_rate": END, "warmup_offset_steps": OFFSET, **JUMP, **changes}
    return WarmupPolynomialDecay(PEAK, TOTAL, WARMUP, **options)


MEETING = {"decay_start": "warmup_end"}
POLYNOMIAL = {
    "the step counts from 1": (JUMP, lambda s: ours()(s + 1)),
    "the decay meets the warmup": (JUMP, lambda s: ours(**MEETING)(s)),
    "the rate jumps": (MEETING, lambda s: ours()(s)),
    "no offset": (JUMP, lambda s: ours(warmup_offset_steps=0)(s)),
    "the offset shifts the decay too": (
        JUMP,
        lambda s: WarmupPolynomialDecay(PEAK, 600, 287, 1.0, END, **JUMP)(s + 76),
    ),
    "the offset shortens the warmup": (JUMP, lambda s: WarmupPolynomialDecay(PEAK, 600, 287 - 76, 1.0, END, **JUMP)(s)),
    "the warmup lasts one step longer": (
        JUMP,
        lambda s: PEAK * (s + OFFSET) / WARMUP if s <= WARMUP - OFFSET else bert(s),
    ),
    "the decay runs over all steps from the warmup's end": (
        MEETING,
        lambda s: bert(s) if s < 211 else END + (PEAK - END) * (1 - min(1, (s - 211) / TOTAL)),
    ),
    "the end is a floor": (MEETING, lambda s: max(bert(s, end=0.0, **MEETING), END)),
    "the end is added": (MEETING, lambda s: bert(s, end=0.0, **MEETING) + END),
    "the warmup climbs from the end": (
        MEETING,
        lambda s: END + (PEAK - END) * (s + OFFSET) / WARMUP if s < 211 else bert(s, **MEETING),
    ),
    "power 2": (MEETING, lambda s: ours(power=2.0, **MEETING)(s)),
    "zero after the run": (MEETING, lambda s: 0.0 if s >= TOTAL else ours(**MEETING)(s)),
}


@pytest.mark.parametrize("name", POLYNOMIAL)
def test_wrong_warmup_and_decay(name):
    options, wrong = POLYNOMIAL[name]
    steps = [0, 1, 75, 76, 77, 210, 211, 212, 286, 287, 288, 599, 600, 601, 5000]
    assert errors(ours(**options), lambda step: bert(step, **options), steps) <= 1
    assert errors(wrong, lambda step: bert(step, **options), steps) >= 10


def test_steps_cast_to_float32_before_their_difference():
    total = 2**24 + 8
    form = lambda step: closed_forms.polynomial(step, 1.0, total)  # noqa: E731
    steps = [total - 7, total - 5, total - 1]
    assert errors(WarmupPolynomialDecay(1.0, total), form, steps) <= 1
    assert errors(lambda step: np.float32(total - np.float32(step)) / np.float32(total), form, steps) >= 10


def test_a_power_of_zero_goes_on_after_the_run():
    form = lambda step: closed_forms.polynomial(step, 1.0, 10, power=0.0)  # noqa: E731
    assert errors(WarmupPolynomialDecay(1.0, 10, power=0.0), form, range(15)) == 0
    assert errors(lambda step: max(1 - step / 10, 0) ** 0.0, form, range(15)) >= 10


EPOCH = 156
BOUNDARIES = [30 * EPOCH, 60 * EPOCH, 80 * EPOCH]


def down(boundaries, warmup=5 * EPOCH, initial=0.1, factor=0.1):
    return lambda step: closed_forms.steps_down(step, 3.2, boundaries, factor, warmup, initial)


STEP_DECAY = {
    "the warmup starts at zero": goyal(3.2, EPOCH),
    "one rate for an epoch of the warmup": lambda s: down(BOUNDARIES)(s // EPOCH * EPOCH),
    "no warmup": down(BOUNDARIES, warmup=0),
    "a boundary late": lambda s: down([boundary + 1 for boundary in BOUNDARIES])(s),
    "epochs taken for steps": WarmupStepDecay(3.2, [30, 60, 80], warmup_steps=5, initial_learning_rate=0.1),
    "each factor of the peak instead of the last rate": lambda s: (
        3.2 * 0.1 if s >= BOUNDARIES[0] else down(BOUNDARIES)(s)
    ),
    "epochs counted from the warmup's end": lambda s: down([boundary + 5 * EPOCH for boundary in BOUNDARIES])(s),
}


@pytest.mark.parametrize("name", STEP_DECAY)
def test_wrong_steps_down(name):
    steps = [0, 1, 77, 779, 780, 781, *(boundary + d for boundary in BOUNDARIES for d in (-1, 0, 1)), 99999]
    schedule = goyal(3.2, EPOCH, initial_learning_rate=0.1)
    assert errors(schedule, down(BOUNDARIES), steps) <= 1
    assert errors(STEP_DECAY[name], down(BOUNDARIES), steps) >= 10


def test_keras_has_a_boundary_as_the_last_step_of_the_higher_rate():
    schedule = WarmupStepDecay(0.8, [10, 20])
    rates = [0.8, 0.08, 0.008]
    peer = keras.optimizers.schedules.PiecewiseConstantDecay
    assert errors(peer([9, 19], rates), schedule, range(30)) <= 1
    assert errors(peer([10, 20], rates), schedule, range(30)) >= 10


def test_wrong_stages():
    first, second = WarmupPolynomialDecay(1.0, 10, 4), WarmupPolynomialDecay(0.5, 6, 2)
    counts = [8, 6]
    form = lambda step: closed_forms.in_stages(  # noqa: E731
        step,
        [lambda s: closed_forms.polynomial(s, 1.0, 10, 4), lambda s: closed_forms.polynomial(s, 0.5, 6, 2)],
        counts,
    )
    wrong = {
        "no count of its own": lambda s: first(s) if s < 8 else second(s),
        "a step late": lambda s: first(s) if s <= 8 else second(s - 8),
        "a count that starts at 1": lambda s: first(s) if s < 8 else second(s - 7),
        "after the schedule's own total instead of the stage's": lambda s: first(s) if s < 10 else second(s - 10),
        "no warmup again": lambda s: first(s) if s < 8 else WarmupPolynomialDecay(0.5, 6)(s - 8),
    }
    steps = range(20)
    assert errors(Stages([first, second], counts), form, steps) <= 1
    assert {name: errors(rate, form, steps) >= 10 for name, rate in wrong.items()} == dict.fromkeys(wrong, True)
