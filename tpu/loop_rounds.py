"""How often the body of a loop in HLO text runs.

The TPU compiler does not write it down. It follows from the counter: where it starts, what the body adds to it, and the
bound that the condition compares it with.
"""

from hlo_parser import Computation, Instruction, Module

# Pass their operand on unchanged.
_IDENTITIES = {"copy", "bitcast", "convert", "opt-barrier", "reshape", "copy-done"}
# The compiler turns a comparison over where it is shorter.
_FLIPPED = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE", "NE": "NE"}


def rounds(module: Module, computation: Computation, loop: Instruction) -> int | None:
    """The rounds of a loop, or None if they cannot be told from the text.

    Args:
        module: The `hlo_parser.Module`.
        computation: The one that the loop is in.
        loop: Its "while" instruction.
    """
    body = module.computations[loop.called("body")]
    condition = module.computations[loop.called("condition")]
    start = computation.instructions[loop.operands[0]]
    if start.opcode != "tuple":
        return None
    values = [_number(computation, name) for name in start.operands]
    comparison = _comparison(module, condition)
    if comparison is None:
        return None
    left, right, direction = comparison
    bound = _bound(body, right, values)
    if not isinstance(left, _Counter):
        # The counter stands on the right.
        left, right, direction = right, left, _FLIPPED.get(direction)
        bound = _bound(body, right, values)
    elif bound is None and isinstance(right, _Counter):
        turned = _bound(body, left, values)
        left, bound, direction = (right, turned, _FLIPPED.get(direction)) if turned is not None else (left, None, None)
    if not isinstance(left, _Counter) or bound is None or direction is None or left.index >= len(values):
        return None
    first, step = values[left.index], _step(body, left.index)
    return _count(first, step, bound, direction) if first is not None and step else None


class _Counter:
    """A part of the loop's state."""

    def __init__(self, index: int):
        self.index = index


def _count(first: int, step: int, bound: int, direction: str) -> int | None:
    """The rounds of `for (i = first; i direction bound; i += step)`."""
    distance = {"LT": bound - first, "LE": bound - first + 1, "GT": first - bound, "GE": first - bound + 1}
    if direction == "NE":
        count, rest = divmod(bound - first, step)
        return count if count >= 0 and rest == 0 else None
    if (direction in ("LT", "LE")) != (step > 0):
        # It runs never, or forever.
        return 0 if distance[direction] <= 0 else None
    return max(0, -(-distance[direction] // abs(step)))


def _comparison(module: Module, condition: Computation):
    """What the condition compares: two constants or parts of the state, and how; None if it is not of this kind."""
    scope, names = condition, {}
    root = _origin(scope, scope.root)
    if root.opcode == "fusion":
        names = dict(enumerate(root.operands))
        scope = module.computations[root.called("calls")]
        root = _origin(scope, scope.root)
    if root.opcode != "compare":
        return None
    direction = root.called("direction")

    def resolve(name):
        value = _origin(scope, scope.instructions[name])
        if value.opcode == "parameter" and names:
            return _state(condition, names[int(value.literal)])
        return _state(scope, value.name)

    left, right = (resolve(name) for name in root.operands)
    return None if left is None or right is None else (left, right, direction)


def _origin(computation: Computation, value: Instruction) -> Instruction:
    """The value that others only pass on."""
    while value.opcode in _IDENTITIES:
        value = computation.instructions[value.operands[0]]
    return value


def _state(computation: Computation, name: str) -> "_Counter | int | None":
    """A constant, or the part of the loop's state, that a value of its condition is."""
    number = _number(computation, name)
    if number is not None:
        return number
    value = _origin(computation, computation.instructions[name])
    if value.opcode == "get-tuple-element" and computation.instructions[value.operands[0]].opcode == "parameter":
        return _Counter(value.numbers("index")[0])
    return None


def _number(computation: Computation, name: str) -> int | None:
    """The whole number that a value is, or None."""
    value = _origin(computation, computation.instructions[name])
    if value.opcode != "constant":
        return None
    try:
        return int(value.literal)
    except ValueError:
        return None


def _bound(body: Computation, limit: "_Counter | int | None", values: list[int | None]) -> int | None:
    """What the counter is compared with: a number, or a part of the state that the body passes on unchanged."""
    if not isinstance(limit, _Counter):
        return limit
    if body.root.opcode != "tuple" or limit.index >= len(values):
        return None
    passed = _state(body, body.root.operands[limit.index])
    return values[limit.index] if isinstance(passed, _Counter) and passed.index == limit.index else None


def _step(body: Computation, index: int) -> int | None:
    """What the body adds to a part of the state, or None."""
    if body.root.opcode != "tuple":
        return None
    value = _origin(body, body.instructions[body.root.operands[index]])
    if value.opcode not in ("add", "subtract"):
        return None
    left, right = (_state(body, name) for name in value.operands)
    if isinstance(right, _Counter) and value.opcode == "add":
        left, right = right, left
    if not isinstance(left, _Counter) or left.index != index or not isinstance(right, int):
        return None
    return right if value.opcode == "add" else -right
