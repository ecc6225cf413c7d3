"""Checks of the options that every face of an optimizer shares; each error is one clear sentence."""

import dataclasses
import math
import numbers
import warnings


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


def check_positive(name, value):
    """Returns `value` as a float, or raises ValueError when it is not a finite number > 0."""
    if not _is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be a number > 0. Received: {name}={value!r}.")
    return float(value)


def check_limit(name, value):
    """Returns `value`, a limit to clip at, or raises ValueError when it is neither None nor a number > 0."""
    if value is not None and (not _is_number(value) or not value > 0):
        raise ValueError(f"`{name}` must be a number > 0, or None not to clip. Received: {name}={value!r}.")
    return value


def check_limits(limits):
    """Raises ValueError if one of the limits, a dictionary by name, is bad, or if more than one is given."""
    given = {name: check_limit(name, value) for name, value in limits.items() if value is not None}
    if len(given) > 1:
        raise ValueError(f"At most one of {', '.join(f'`{name}`' for name in limits)} may be set. Received: {given}.")


def check_count(name, value, low=1, high=math.inf):
    """Returns `value` as an int, or raises ValueError when it is not an integer in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not low <= value <= high:
        limits = f">= {low}" if high == math.inf else f"in [{low}, {high}]"
        raise ValueError(f"`{name}` must be an integer {limits}. Received: {name}={value!r}.")
    return int(value)


def check_choice(name, value, choices):
    """Returns `value`, or raises ValueError when it is not one of `choices`; True and 1 are different."""
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        expected = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}.")
    return value


def check_bounds(name, value):
    """Returns a pair (lower, upper) of floats or None, or None; raises ValueError for anything else."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and len(value) == 2:
        lower, upper = value
        if all(bound is None or (_is_number(bound) and 0 <= bound < math.inf) for bound in value) and (
            lower is None or upper is None or lower <= upper
        ):
            return tuple(None if bound is None else float(bound) for bound in value)
    raise ValueError(
        f"`{name}` must be a pair (lower, upper) of numbers >= 0, either of them None for no bound. "
        f"Received: {name}={value!r}."
    )


@dataclasses.dataclass(frozen=True)
class LayerwiseOptions:
    """The options that all layer-wise optimizers share; `tf_lamb.layerwise.LayerwiseOptimizer` documents them."""

    norm: str = "l2"
    weight_norm_bounds: tuple | None = None
    trust_ratio_bounds: tuple | None = None
    master_weights: bool = False
    moment_dtype: str | tuple | None = None
    skip_nonfinite: bool = False
    dynamic_loss_scale: bool = False
    initial_scale: float = 2.0**15
    dynamic_growth_steps: int = 2000
    telemetry: bool = False
    telemetry_every_steps: int = 100
    jit_compile: str | bool = "auto"

    def __post_init__(self):
        def check(check_value, name, *arguments):
            object.__setattr__(self, name, check_value(name, getattr(self, name), *arguments))

        check(check_choice, "norm", ("l2", "l1", "linf"))
        check(check_bounds, "weight_norm_bounds")
        check(check_bounds, "trust_ratio_bounds")
        for name in ("master_weights", "skip_nonfinite", "dynamic_loss_scale", "telemetry"):
            check(check_choice, name, (True, False))
        check(check_positive, "initial_scale")
        check(check_count, "dynamic_growth_steps")
        check(check_count, "telemetry_every_steps")
        check(check_choice, "jit_compile", ("auto", True, False))

    def moment_dtypes(self, count):
        """The dtype of each of `count` slots of a float32 or narrower variable, as a tuple of names.

        Raises:
            ValueError: `moment_dtype` is neither such a name, nor one for each slot.
        """
        names = self.moment_dtype
        names = tuple(names) if isinstance(names, (list, tuple)) else (names or "float32",) * count
        if len(names) != count or not set(names) <= {"float32", "bfloat16"}:
            raise ValueError(
                "`moment_dtype` must be None, 'float32', 'bfloat16', or one of the two names for each of the "
                f"{count} moments. Received: moment_dtype={self.moment_dtype!r}."
            )
        return names

    def config(self):
        """The options as a dictionary that JSON can hold."""
        options = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def warn_of_empty_list(decay_list, adaptation_list):
    """Warns of `exclude_from_layer_adaptation=[]` beside a list for decay, which elsewhere means something else."""
    if adaptation_list == [] and decay_list:
        warnings.warn(
            "`exclude_from_layer_adaptation=[]` means here that every variable adapts. In TensorFlow Addons and Model "
            "Garden it meant the list `exclude_from_weight_decay`. Use `()` for the first, without this warning, or "
            "None for the second.",
            stacklevel=5,
        )


def translate_addons_names(learning_rate, weight_decay, options, make_decaying):
    """Takes the names of TensorFlow Addons out of `options`, with a hint at ours.

    Args:
        learning_rate: The rate given under our name.
        weight_decay: The decay given under our name.
        options: The remaining keywords, which lose `lr`, `weight_decay_rate` and `decay`.
        make_decaying: A function of (learning_rate, decay) that gives the schedule learning_rate / (1 + decay * step).

    Returns:
        The learning rate and the weight decay.

    Raises:
        ValueError: `decay` is not a number >= 0.
    """

    def renamed(old, new, value):
        if old not in options:
            return value
        warnings.warn(f"`{old}` is TensorFlow Addons' name. Use `{new}`, which is the same.", stacklevel=5)
        return options.pop(old)

    learning_rate = renamed("lr", "learning_rate", learning_rate)
    weight_decay = renamed("weight_decay_rate", "weight_decay", weight_decay)
    decay = check_non_negative("decay", options.pop("decay", None) or 0.0)
    if decay:
        warnings.warn(
            "`decay` is TensorFlow Addons' option. Give the schedule "
            f"`tf_lamb.schedules.InverseTime(learning_rate, {decay!r})` as the learning rate, which is the same.",
            stacklevel=4,
        )
        learning_rate = make_decaying(learning_rate, decay)
    return learning_rate, weight_decay


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
