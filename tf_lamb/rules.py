"""Exclusion lists, resolved once into a plan: for each variable, whether it decays, whether it adapts, and why."""

import dataclasses
import re
import warnings


@dataclasses.dataclass(frozen=True)
class Rule:
    """What happens to one variable.

    Attributes:
        path: The variable's full path, for example `encoder/layer_0/attention_norm/gamma`.
        shape: Its shape.
        decay_pattern: The pattern that excluded it from weight decay, or None.
        adaptation_pattern: The pattern that excluded it from layer adaptation, or None.
    """

    path: str
    shape: tuple[int, ...]
    decay_pattern: str | None
    adaptation_pattern: str | None

    @property
    def decayed(self):
        """Whether weight decay applies."""
        return self.decay_pattern is None

    @property
    def adapted(self):
        """Whether the trust ratio applies."""
        return self.adaptation_pattern is None

    @property
    def parameters(self):
        """The number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count


class Plan(tuple):
    """One `Rule` for each variable, in the order the optimizer was built on; `str(plan)` is a table."""

    def __str__(self):
        header = ("variable", "shape", "decayed", "adapted", "excluded by")
        rows = [header, *(_cells(rule) for rule in self)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        for name in ("decayed", "adapted"):
            chosen = [rule for rule in self if getattr(rule, name)]
            lines.append(
                f"{name}: {len(chosen)} of {len(self)} tensors, "
                f"{sum(rule.parameters for rule in chosen):,} of {sum(rule.parameters for rule in self):,} parameters"
            )
        return "\n".join(lines)


def _cells(rule):
    reasons = []
    if not rule.decayed:
        reasons.append(f"decay: {rule.decay_pattern}")
    if not rule.adapted:
        reasons.append(f"adaptation: {rule.adaptation_pattern}")
    if len(reasons) == 2 and rule.decay_pattern == rule.adaptation_pattern:
        reasons = [f"both: {rule.decay_pattern}"]
    shape = "x".join(str(size) for size in rule.shape) or "scalar"
    return (rule.path, shape, "yes" if rule.decayed else "-", "yes" if rule.adapted else "-", "; ".join(reasons))


def check_patterns(argument, patterns):
    """Validates an exclusion list.

    Args:
        argument: The name of the optimizer's argument, for the error message.
        patterns: A sequence of regular expressions, or None.

    Returns:
        The patterns as a tuple, or None.

    Raises:
        TypeError: `patterns` is a single string, or an entry is not a string.
        ValueError: An entry is not a regular expression.
    """
    if patterns is None:
        return None
    expected = f"Expected a list of regular expressions, for example {argument}=['bias', 'gamma']."
    if isinstance(patterns, str) or not hasattr(patterns, "__iter__"):
        raise TypeError(f"`{argument}` must be a list. Received: {argument}={patterns!r}. {expected}")
    patterns = tuple(patterns)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"`{argument}` holds an entry that is not a string. Received: {pattern!r}. {expected}")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"`{argument}` holds an entry that is not a regular expression ({error}). "
                f"Received: {pattern!r}. {expected}"
            ) from None
    return patterns


def exactly(path):
    """The pattern that matches `path` and no other path."""
    return f"^{re.escape(path)}$"


def make_plan(paths, shapes, decay_patterns, adaptation_patterns):
    """Resolves the exclusion lists. Warns of each pattern that matches no variable.

    Args:
        paths: The full path of each variable.
        shapes: The shape of each variable.
        decay_patterns: Regular expressions, searched in the path; a match excludes from weight decay. None is ().
        adaptation_patterns: The same for layer adaptation. None means the same as `decay_patterns`; () adapts all.

    Returns:
        A `Plan`.
    """
    decay_patterns = decay_patterns or ()
    lists = {"exclude_from_weight_decay": decay_patterns}
    if adaptation_patterns is None:
        adaptation_patterns = decay_patterns
    else:
        lists["exclude_from_layer_adaptation"] = adaptation_patterns
    for argument, patterns in lists.items():
        _warn_of_unmatched(argument, patterns, paths)
    return Plan(
        Rule(path, tuple(shape), _first_match(decay_patterns, path), _first_match(adaptation_patterns, path))
        for path, shape in zip(paths, shapes, strict=True)
    )


def plan_config(plan):
    """A plan as plain lists, to be saved and given to `restore_plan`."""
    return [[rule.path, list(rule.shape), rule.decay_pattern, rule.adaptation_pattern] for rule in plan]


def restore_plan(saved, paths, shapes):
    """A saved plan for the same variables under other paths, which Keras may give when it loads or rebuilds a model.

    Args:
        saved: What `plan_config` gave.
        paths: The present paths of the variables.
        shapes: Their shapes.

    Returns:
        A `Plan` with the saved decisions, by position.

    Raises:
        ValueError: The shapes are not those of the saved plan, so it is of other variables.
    """
    if [tuple(shape) for _, shape, _, _ in saved] != list(shapes):
        raise ValueError(
            "The optimizer was saved for other variables, so its exclusions cannot be carried over. "
            f"Received: {len(shapes)} variables of shapes {list(shapes)}. "
            f"Expected: {len(saved)} of shapes {[tuple(shape) for _, shape, _, _ in saved]}; "
            "for a new model, set config['plan'] to None."
        )
    return Plan(
        Rule(path, tuple(shape), decay_pattern, adaptation_pattern)
        for path, (_, shape, decay_pattern, adaptation_pattern) in zip(paths, saved, strict=True)
    )


def _first_match(patterns, path):
    return next((pattern for pattern in patterns if re.search(pattern, path)), None)


def _warn_of_unmatched(argument, patterns, paths):
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in paths):
            warnings.warn(
                f"The pattern {pattern!r} of `{argument}` matches no variable, so it excludes nothing. "
                f"It is searched in full paths such as {', '.join(repr(path) for path in paths[:3])}.",
                stacklevel=2,
            )
