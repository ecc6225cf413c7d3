"""Closed forms of the schedules, in Python's floats, and the distance from them."""

import itertools
import math

# Float32 rounds by 6e-8 an operation. The longest chain has five, and a power multiplies the error of its base.
RELATIVE = 1e-6


def polynomial(step, peak, total, warmup=0, power=1.0, end=0.0, decay_start="warmup_end", offset=0):
    """The rate of `WarmupPolynomialDecay`, by cases."""
    warmup_end = max(warmup - offset, 0)
    if step >= total:
        return end
    if step < warmup_end:
        return peak * (step + offset) / warmup
    begin = {"warmup_end": warmup_end, "step_zero": 0}[decay_start]
    return end + (peak - end) * (1 - (step - begin) / (total - begin)) ** power


def steps_down(step, peak, boundaries, factor=0.1, warmup=0, initial=0.0):
    """The rate of `WarmupStepDecay`, by cases."""
    if step < warmup:
        return initial + (peak - initial) * step / warmup
    return peak * factor ** sum(step >= boundary for boundary in boundaries)


def in_stages(step, forms, counts):
    """The rate of `Stages`, from a closed form for each."""
    begins = [0, *itertools.accumulate(counts[:-1])]
    stage = max(i for i, begin in enumerate(begins) if step >= begin)
    return forms[stage](step - begins[stage])


def errors(rate, form, steps):
    """The largest error over steps, in tolerances.

    Args:
        rate: A function from a step to a scalar.
        form: The closed form, a function from a step to a float. Where it is zero, so must the rate be.
        steps: The steps to compare at.
    """
    worst = 0.0
    for step in steps:
        actual, expected = float(rate(step)), form(step)
        error = abs(actual - expected)
        worst = max(worst, error / (RELATIVE * expected) if expected else math.inf if error else 0.0)
        if math.isnan(actual):
            return math.inf
    return worst
