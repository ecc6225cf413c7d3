"""Checks of the options that every face of an optimizer shares; each error is one clear sentence."""

import math
import numbers


def check_non_negative(name, value):
    """Returns `value` as a float, or raises ValueError when it is not a finite number >= 0."""
    if not _is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"`{name}` must be a number >= 0. Received: {name}={value!r}.")
    return float(value)


def check_beta(name, value):
    """Returns `value`, the decay of a moment, as a float, or raises ValueError when it is not in [0, 1)."""
    if not _is_number(value) or not 0 <= value < 1:
        raise ValueError(f"`{name}` must be a number in [0, 1). Received: {name}={value!r}.")
    return float(value)


def check_limit(name, value):
    """Returns `value`, a limit to clip at, or raises ValueError when it is neither None nor a number > 0."""
    if value is not None and (not _is_number(value) or not value > 0):
        raise ValueError(f"`{name}` must be a number > 0, or None not to clip. Received: {name}={value!r}.")
    return value


def check_count(name, value, low=1, high=math.inf):
    """Returns `value` as an int, or raises ValueError when it is not an integer in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not low <= value <= high:
        limits = f">= {low}" if high == math.inf else f"in [{low}, {high}]"
        raise ValueError(f"`{name}` must be an integer {limits}. Received: {name}={value!r}.")
    return int(value)


def check_jit_compile(value):
    """Returns `value`, or raises ValueError when it is none of "auto", True and False."""
    if value != "auto" and not isinstance(value, bool):
        raise ValueError(f"`jit_compile` must be 'auto', True or False. Received: jit_compile={value!r}.")
    return value


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
