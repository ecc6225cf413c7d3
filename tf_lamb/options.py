"""Checks of the options that every face of an optimizer shares; each error is one clear sentence."""


def check_rate(name, value):
    """Returns `value`, or raises ValueError when it is not a number >= 0."""
    if not _is_number(value) or not value >= 0:
        raise ValueError(f"`{name}` must be a number >= 0. Received: {name}={value!r}.")
    return value


def check_decay(name, value):
    """Returns `value`, the decay of a moving average, or raises ValueError when it is not a number in [0, 1)."""
    if not _is_number(value) or not 0 <= value < 1:
        raise ValueError(f"`{name}` must be a number in [0, 1). Received: {name}={value!r}.")
    return value


def check_jit_compile(value):
    """Returns `value`, or raises ValueError when it is none of "auto", True and False."""
    if value != "auto" and not isinstance(value, bool):
        raise ValueError(f"`jit_compile` must be 'auto', True or False. Received: jit_compile={value!r}.")
    return value


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)
