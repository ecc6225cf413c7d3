"""Reads HLO text into computations, instructions and shapes with the memory that they take.

The text is that of a scheduled, optimized module, whose instructions name their operands without their shapes. A shape
such as `bf16[8,56]{1,0:T(8,128)(2,1)S(1)}` has its dimensions from minor to major, its tiles and its memory space: the
last two dimensions are padded to whole tiles, and `S(1)` lies on the chip instead of in the main memory, HBM.
"""

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

# Of one element; less than a byte for numbers of 4 bits.
_ELEMENT_BYTES = {
    "pred": 1,
    "token": 0,
    "opaque": 0,
    "c64": 8,
    "c128": 16,
    "bf16": 2,
}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"(\w+)\[([^\]]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")


@dataclass(frozen=True)
class Array:
    """An array, or a part of a tuple.

    Attributes:
        dtype: As HLO names it, for example "bf16".
        dimensions: Its sizes; the largest ones, where a size may change while the program runs.
        is_dynamic: Whether a size may change while the program runs.
        space: 0 for HBM, others on the chip; 5 is the memory of the host.
        size_bytes: Of its elements.
        padded_bytes: With what its tiles are padded with.
    """

    dtype: str
    dimensions: tuple[int, ...]
    is_dynamic: bool
    space: int
    size_bytes: int
    padded_bytes: int


@dataclass(frozen=True)
class Instruction:
    """A line of a computation.

    Attributes:
        name: Without the percent sign.
        opcode: For example "fusion".
        shape: The text of its shape.
        arrays: Its arrays: one, or those of a tuple from left to right.
        operands: The names of its operands.
        literal: The text between the parentheses: the value of a constant, or the number of a parameter.
        attributes: The text after the operands.
    """

    name: str
    opcode: str
    shape: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str

    def called(self, attribute: str) -> str | None:
        """The computation that an attribute such as "calls" names, or None."""
        match = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return match[1] if match else None

    def numbers(self, attribute: str) -> tuple[int, ...]:
        """The numbers of an attribute such as `lhs_contracting_dims={1,2}` or `index=3`; none if it is missing."""
        match = re.search(rf"\b{attribute}=(?:\{{([\d,]*)\}}|(\d+))", self.attributes)
        text = (match[1] or match[2] or "") if match else ""
        return tuple(int(number) for number in text.split(",") if number)


@dataclass(frozen=True)
class Computation:
    """A function of a module; `root` is the last of its values, which it returns."""

    name: str
    instructions: dict[str, Instruction]
    root: Instruction

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """By number."""
        return {int(i.literal): i for i in self.instructions.values() if i.opcode == "parameter"}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that have a value as an operand, by the name of the value."""
        users = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in dict.fromkeys(instruction.operands):
                users[operand].append(instruction)
        return users


@dataclass(frozen=True)
class Module:
    """All computations by name, and the one that a run of the program executes."""

    computations: dict[str, Computation]
    entry: Computation


def parse(text: str) -> Module:
    """Reads a module.

    Raises:
        ValueError: The text has no entry computation, or a line that cannot be read.
    """
    computations, entry = {}, None
    name, is_entry, instructions, root = None, False, {}, None
    for line in text.splitlines():
        if name is None:
            if match := _COMPUTATION.match(line):
                is_entry, name, instructions, root = bool(match[1]), match[2], {}, None
        elif line.startswith("}"):
            if root is None:
                raise ValueError(f"The computation {name} has no root.")
            computations[name] = Computation(name, instructions, root)
            entry, name = computations[name] if is_entry else entry, None
        elif match := _INSTRUCTION.match(line):
            instruction = _instruction(match[2], match[3])
            instructions[instruction.name] = instruction
            root = instruction if match[1] else root
    if entry is None:
        raise ValueError("The text has no entry computation. Expected the text of an HLO module.")
    return Module(computations, entry)


def _instruction(name: str, text: str) -> Instruction:
    text = re.sub(r"/\*[^*]*\*/", "", text) if "/*" in text else text
    end = _closing(text, 0) + 1 if text.startswith("(") else text.find(" ")
    shape, rest = text[:end], text[end:].lstrip()
    start = rest.find("(")
    if end <= 0 or start < 0:
        raise ValueError(f"An instruction of the HLO text cannot be read. Received: {text[:200]!r}.")
    opcode, close = rest[:start], _closing(rest, start)
    literal = rest[start + 1 : close]
    operands = () if opcode in ("constant", "parameter") else tuple(re.findall(r"%([\w.\-]+)", literal))
    return Instruction(name, opcode, shape, arrays(shape), operands, literal, rest[close + 1 :])


def _closing(text: str, start: int) -> int:
    """The index of the parenthesis that closes the one at `start`; quoted ones do not count."""
    depth, quoted = 0, False
    for index in range(start, len(text)):
        letter = text[index]
        if letter == '"':
            quoted = not quoted
        elif not quoted and letter == "(":
            depth += 1
        elif not quoted and letter == ")":
            depth -= 1
            if depth == 0:
                return index
    raise ValueError(f"A parenthesis of the HLO text is not closed. Received: {text[:200]!r}.")


@functools.lru_cache(maxsize=100_000)
def arrays(shape: str) -> tuple[Array, ...]:
    """The arrays of a shape, a tuple's from left to right.

    Example:
        >>> [(array.size_bytes, array.padded_bytes) for array in arrays("(f32[3,200]{1,0:T(8,128)}, s32[])")]
        [(2400, 8192), (4, 4)]
    """
    return tuple(_arrays(shape))


def _arrays(shape: str) -> Iterator[Array]:
    for dtype, sizes, order, memory in _ARRAY.findall(shape):
        dimensions = tuple(int(size.strip("<= ")) for size in sizes.split(",") if size.strip())
        space = re.search(r"S\((\d+)\)", memory)
        tile = re.match(r"T\(([\d,]+)\)", memory)
        padded = list(dimensions)
        if tile:
            tile_sizes = [int(size) for size in tile[1].split(",")]
            # Of a scalar, a whole tile is kept.
            minor_to_major = [int(index) for index in order.split(",") if index]
            padded += [1] * (len(tile_sizes) - len(padded))
            places = minor_to_major + list(range(len(minor_to_major), len(padded)))
            for place, size in zip(places, reversed(tile_sizes), strict=False):
                padded[place] = -(-padded[place] // size) * size
        element_bytes = _element_bytes(dtype)
        yield Array(
            dtype,
            dimensions,
            "<=" in sizes,
            int(space[1]) if space else 0,
            math.ceil(math.prod(dimensions) * element_bytes),
            math.ceil(math.prod(padded) * element_bytes),
        )


def _element_bytes(dtype: str) -> float:
    if dtype in _ELEMENT_BYTES:
        return _ELEMENT_BYTES[dtype]
    # s4, u32, f8e4m3fn and the like.
    bits = re.match(r"[a-z]+(\d+)", dtype)
    if not bits:
        raise ValueError(f"A type of the HLO text is unknown. Received: {dtype!r}.")
    return int(bits[1]) / 8
