"""Exclusion lists, resolved once into a plan: for each variable, whether it decays, whether it adapts, and why."""

import dataclasses
import math
import re
import warnings

NORMALIZATION = r"(?i)norm(alization)?(_\d+)?/[^/]+$|(^|/)(gamma|beta)$"
"""Matches the parameters of normalisation layers: those of a layer whose name ends with "norm" or "normalization", and
all that are called gamma or beta, as Keras, KerasHub and Model Garden name them."""

BIAS = r"bias$"
"""Matches the biases of Keras, KerasHub and Model Garden models."""

NORMALIZATION_AND_BIAS = (NORMALIZATION, BIAS)
"""The list that BERT is trained with; ResNet-50 is trained with `[NORMALIZATION]` alone."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """What happens to one variable.

    Attributes:
        path: The variable's full path, for example `encoder/layer_0/attention_norm/gamma`.
        shape: Its shape.
        decay_pattern: The pattern that excluded it from weight decay, or None.
        adaptation_pattern: The pattern that excluded it from layer adaptation, or None.
        layer_axis: The axis whose slices are layers of their own, or None: the variable is one layer.
        overwritten: Whether the variable is overwritten by its gradient, as the scales of float8 layers are.
    """

    path: str
    shape: tuple[int, ...]
    decay_pattern: str | None
    adaptation_pattern: str | None
    layer_axis: int | None = None
    overwritten: bool = False

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
        return math.prod(self.shape)

    @property
    def layer_names(self):
        """A name for each layer: the path, and the slice where the variable stacks several."""
        if self.layer_axis is None:
            return [self.path]
        return [f"{self.path}[{i}]" for i in range(self.shape[self.layer_axis])]


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
    adapted = "-" if not rule.adapted else "yes" if rule.layer_axis is None else f"{len(rule.layer_names)} slices"
    return (rule.path, shape, "yes" if rule.decayed else "-", adapted, "; ".join(reasons))


class ExclusionList:
    """A validated exclusion list: regular expressions, layers and variables.

    Args:
        argument: The name of the optimizer's argument, for messages.
        entries: A sequence of regular expressions (searched in a variable's full path), layers or variables; or None.

    Raises:
        TypeError: `entries` is a single string, or an entry is none of these.
        ValueError: An entry is a string but not a regular expression.
    """

    def __init__(self, argument, entries):
        self.argument = argument
        self.given = entries is not None
        expected = f"Expected a list of regular expressions, layers or variables, for example {argument}=['bias']."
        if isinstance(entries, str) or (self.given and not isinstance(entries, (list, tuple, set, frozenset))):
            raise TypeError(f"`{argument}` must be a list. Received: {argument}={entries!r}. {expected}")
        self.entries = tuple(entries or ())
        for entry in self.entries:
            if isinstance(entry, str):
                _check_pattern(argument, entry, expected)
            elif _variables_of(entry) is None:
                raise TypeError(
                    f"`{argument}` holds an entry that is neither a string, a layer nor a variable. "
                    f"Received: {entry!r}. {expected}"
                )

    def matches(self, variables, paths, key):
        """For each variable the pattern that excludes it, or None. Warns of each entry that matches no variable.

        Args:
            variables: The variables.
            paths: Their full paths.
            key: A function that gives a variable's identity.

        Returns:
            A list of strings and None: the first regular expression that matches; for a layer or a variable, the
            pattern that matches exactly the variable's path.
        """
        found = [None] * len(paths)
        for entry in self.entries:
            if isinstance(entry, str):
                hits = {i: entry for i, path in enumerate(paths) if re.search(entry, path)}
            else:
                members = {key(variable) for variable in _variables_of(entry)}
                hits = {i: exactly(paths[i]) for i, variable in enumerate(variables) if key(variable) in members}
            if not hits:
                self._warn_of_unmatched(entry, paths)
            for i, pattern in hits.items():
                found[i] = found[i] or pattern
        return found

    def config(self, path_of):
        """The list as regular expressions, or None.

        Args:
            path_of: A function that gives a variable's full path.

        Raises:
            ValueError: A layer of the list has no variables yet, so it has no paths to save.
        """
        if not self.given:
            return None
        patterns = []
        for entry in self.entries:
            members = [entry] if isinstance(entry, str) else [exactly(path_of(v)) for v in _variables_of(entry)]
            if not members:
                raise ValueError(
                    f"`{self.argument}` holds a layer without variables, so it cannot be saved yet. "
                    f"Received: {entry!r}. Build the model first."
                )
            patterns += members
        return patterns

    def _warn_of_unmatched(self, entry, paths):
        what = f"pattern {entry!r}" if isinstance(entry, str) else f"entry {getattr(entry, 'name', entry)!r}"
        _warn_of_unmatched(what, self.argument, paths)


class LayerAxes:
    """A validated mapping of regular expressions to axes, for variables that stack several layers.

    Args:
        axes: A dictionary: the slices along the axis of a variable whose path matches are layers of their own. Or None.

    Raises:
        TypeError: `axes` is not such a dictionary.
        ValueError: A key is not a regular expression.
    """

    def __init__(self, axes):
        expected = "Expected a dictionary of regular expressions to axes, for example layer_axes={'qkv/kernel': 1}."
        self.axes = {} if axes is None else axes
        if not isinstance(self.axes, dict) or not all(
            isinstance(axis, int) and not isinstance(axis, bool) for axis in self.axes.values()
        ):
            raise TypeError(f"`layer_axes` must map patterns to integers. Received: layer_axes={axes!r}. {expected}")
        for pattern in self.axes:
            if not isinstance(pattern, str):
                raise TypeError(f"`layer_axes` has a key that is not a string. Received: {pattern!r}. {expected}")
            _check_pattern("layer_axes", pattern, expected)

    def resolve(self, paths, shapes):
        """The axis of each variable, counted from 0, or None.

        Raises:
            ValueError: A matching variable has no such axis.
        """
        found = [None] * len(paths)
        for pattern, axis in self.axes.items():
            hits = [i for i, path in enumerate(paths) if found[i] is None and re.search(pattern, path)]
            if not any(re.search(pattern, path) for path in paths):
                _warn_of_unmatched(f"pattern {pattern!r}", "layer_axes", paths)
            for i in hits:
                rank = len(shapes[i])
                if not -rank <= axis < rank:
                    raise ValueError(
                        f"`layer_axes` names an axis that {paths[i]!r} of shape {shapes[i]} does not have. "
                        f"Received: layer_axes={{{pattern!r}: {axis}}}. Expected: an axis in [{-rank}, {rank - 1}]."
                    )
                found[i] = axis % rank
        return found


def exactly(path):
    """The pattern that matches `path` and no other path."""
    return f"^{re.escape(path)}$"


def make_plan(variables, paths, decay_list, adaptation_list, layer_axes, key):
    """Resolves the lists. Warns of each pattern that matches no variable.

    Args:
        variables: The variables.
        paths: The full path of each.
        decay_list: An `ExclusionList`; a match excludes from weight decay.
        adaptation_list: The same for layer adaptation. If it was not given, `decay_list` holds; if empty, all adapt.
        layer_axes: A `LayerAxes`.
        key: A function that gives a variable's identity.

    Returns:
        A `Plan`.
    """
    shapes = [tuple(variable.shape) for variable in variables]
    undecayed = decay_list.matches(variables, paths, key)
    unadapted = adaptation_list.matches(variables, paths, key) if adaptation_list.given else undecayed
    axes = layer_axes.resolve(paths, shapes)
    overwritten = [getattr(variable, "overwrite_with_gradient", False) for variable in variables]
    return Plan(map(Rule, paths, shapes, undecayed, unadapted, axes, overwritten))


def plan_config(plan):
    """A plan as plain lists, to be saved and given to `restore_plan`."""
    return [[rule.path, list(rule.shape), *dataclasses.astuple(rule)[2:]] for rule in plan]


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
    saved_shapes = [tuple(row[1]) for row in saved]
    if saved_shapes != list(shapes):
        raise ValueError(
            "The optimizer was saved for other variables, so its exclusions cannot be carried over. "
            f"Received: {len(shapes)} variables of shapes {list(shapes)}. "
            f"Expected: {len(saved)} of shapes {saved_shapes}; for a new model, set config['plan'] to None."
        )
    return Plan(Rule(path, tuple(row[1]), *row[2:]) for path, row in zip(paths, saved, strict=True))


def _variables_of(entry):
    """The variables of a layer, or the variable itself as a list; None for anything else."""
    if hasattr(entry, "trainable_variables"):
        return list(entry.trainable_variables)
    return [entry] if hasattr(entry, "assign") and hasattr(entry, "shape") else None


def _check_pattern(argument, pattern, expected):
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"`{argument}` holds an entry that is not a regular expression ({error}). Received: {pattern!r}. {expected}"
        ) from None


def _warn_of_unmatched(what, argument, paths):
    warnings.warn(
        f"The {what} of `{argument}` matches no variable, so it does nothing. "
        f"Full paths are such as {', '.join(repr(path) for path in paths[:3])}.",
        stacklevel=2,
    )
