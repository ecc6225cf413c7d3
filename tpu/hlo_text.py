"""What one run of a compiled TPU program costs, counted from its scheduled HLO text.

The compiler's own count takes the body of a loop once, and on v4 and later it counts copies on the chip. Here every
instruction counts as often as it is executed, and bytes count where they move to or from the main memory, HBM:

- Matrix FLOPs: multiplications and additions of convolutions and dot products, alone or in a fusion, counted as XLA
  does: products with padding, or with the holes of a dilated input, do not count. Other arithmetic is not counted.
- Bytes: the operands and results of each instruction that lie in HBM, padded to tiles as they are there. What stays in
  a fusion does not count. Of an operand that is only sliced, gathered from or updated in place, that part counts.
- A loop whose number of rounds the text does not tell counts once, and is reported. Of the branches of a conditional,
  the one with the most FLOPs, then bytes, counts.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields

from hlo_parser import Array, Computation, Instruction, Module, parse
from loop_rounds import rounds

HOST_SPACE = 5
# They move nothing: names for parts of other values, or the ends of what began before.
_FREE = {
    "add-dependency",
    "after-all",
    "bitcast",
    "constant",
    "domain",
    "get-dimension-size",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
}
# So do these, among the operations that only the TPU compiler knows.
_FREE_TARGETS = {"AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound"}
_SLICES = {"slice", "dynamic-slice", "gather"}
_UPDATES = {"dynamic-update-slice", "scatter"}
_COLLECTIVES = {
    "all-gather",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
}


@dataclass(frozen=True)
class Costs:
    """What is executed on one core.

    Attributes:
        matrix_flops: Multiplications and additions of convolutions and dot products, each counted.
        hbm_read_bytes: From the main memory.
        hbm_written_bytes: To the main memory.
        all_reduces: Sums over replicas; several tensors that are sent together are one.
        all_reduce_tensors: The tensors of these.
        all_reduce_bytes: The bytes of their sums, without padding.
        other_collectives: Other exchanges between replicas.
        host_transfers: Exchanges with the host while the program runs.
        dynamic_shapes: Results whose size is not known before the program runs.
        conditionals: Branches.
        unknown_loops: Loops that count once as the text does not tell their rounds.
    """

    matrix_flops: float = 0
    hbm_read_bytes: float = 0
    hbm_written_bytes: float = 0
    all_reduces: int = 0
    all_reduce_tensors: int = 0
    all_reduce_bytes: float = 0
    other_collectives: int = 0
    host_transfers: int = 0
    dynamic_shapes: int = 0
    conditionals: int = 0
    unknown_loops: int = 0

    @property
    def hbm_bytes(self) -> float:
        """Read and written."""
        return self.hbm_read_bytes + self.hbm_written_bytes

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: int) -> "Costs":
        return Costs(*(getattr(self, f.name) * times for f in fields(self)))


@dataclass(frozen=True)
class Executed:
    """An instruction that a run executes.

    Attributes:
        name: Of the instruction.
        opcode: For example "fusion".
        origin: The operation of the model that it comes from, as the framework names it; may be empty.
        times: How often a run executes it.
        costs: Of one time.
    """

    name: str
    opcode: str
    origin: str
    times: int
    costs: Costs


def summary(text: str) -> Costs:
    """The costs of one run of a program.

    Args:
        text: Scheduled, optimized HLO.

    Returns:
        The sum over all instructions.

    Raises:
        ValueError: The text cannot be read.
    """
    return _total(executed(text))


def executed(text: str) -> list[Executed]:
    """All instructions that a run executes; see `summary`."""
    module = parse(text)
    return list(_walk(module, module.entry, 1))


def _total(instructions: list[Executed]) -> Costs:
    return sum((instruction.costs * instruction.times for instruction in instructions), Costs())


def _walk(module: Module, computation: Computation, times: int) -> Iterator[Executed]:
    for instruction in computation.instructions.values():
        opcode = instruction.opcode
        own = Costs(dynamic_shapes=int(opcode not in _FREE and any(array.is_dynamic for array in instruction.arrays)))
        if opcode == "while":
            count = rounds(module, computation, instruction)
            own += Costs(unknown_loops=int(count is None))
            count = 1 if count is None else count
            yield from _walk(module, module.computations[instruction.called("body")], times * count)
            yield from _walk(module, module.computations[instruction.called("condition")], times * (count + 1))
        elif opcode == "conditional":
            own += Costs(conditionals=1)
            branches = [list(_walk(module, module.computations[name], times)) for name in _branches(instruction)]
            yield from max(branches, key=lambda branch: (_total(branch).matrix_flops, _total(branch).hbm_bytes))
        elif opcode in ("call", "async-start"):
            name = instruction.called("to_apply") or instruction.called("calls")
            yield from _walk(module, module.computations[name], times)
        elif opcode not in _FREE and not opcode.endswith(("-done", "-update")):
            own += _costs(module, computation, instruction)
        if own != Costs():
            origin = re.search(r'op_name="([^"]*)"', instruction.attributes)
            yield Executed(instruction.name, opcode, origin[1] if origin else "", times, own)


def _branches(instruction: Instruction) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
    if listed:
        return re.findall(r"%?([\w.\-]+)", listed[1])
    return [instruction.called("true_computation"), instruction.called("false_computation")]


def _costs(module: Module, computation: Computation, instruction: Instruction) -> Costs:
    """Of one instruction, executed once."""
    operands = [computation.instructions[name].arrays for name in instruction.operands]
    inner = _inner(module, computation, instruction)
    kind = instruction.opcode.removesuffix("-start")
    target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    if target and target[1] in _FREE_TARGETS:
        return inner
    if instruction.opcode == "fusion":
        called = module.computations[instruction.called("calls")]
        read = sum(
            min(_in_hbm(arrays), _read_bytes(module, called, called.parameters[number]))
            for number, arrays in enumerate(operands)
        )
        whole = [_in_hbm([array]) for array in instruction.arrays]
        parts = _written_bytes(module, called, called.root)
        written = sum(map(min, whole, parts)) if len(whole) == len(parts) else sum(whole)
        return inner + Costs(hbm_read_bytes=read, hbm_written_bytes=written)
    results = instruction.arrays
    if kind != instruction.opcode and kind not in ("all-reduce", "all-gather"):
        # What starts a copy gives its result, its operand and a flag; of other operations, the operands come first.
        results = results[:1] if kind == "copy" else results[sum(map(len, operands)) :][:1]
    if kind in _SLICES:
        part = sum(array.padded_bytes for array in results)
        read = [min(part, _in_hbm(operands[0]))] + [_in_hbm(arrays) for arrays in operands[1:]]
        return inner + Costs(hbm_read_bytes=sum(read), hbm_written_bytes=_in_hbm(results))
    if kind in _UPDATES:
        update = _update(computation, instruction)
        part = sum(array.padded_bytes for array in update.arrays)
        old = min(part, _in_hbm(operands[0])) if kind == "scatter" else 0
        read = old + sum(_in_hbm(arrays) for arrays in operands[1:])
        return inner + Costs(hbm_read_bytes=read, hbm_written_bytes=min(part, _in_hbm(results)))
    return inner + Costs(hbm_read_bytes=sum(map(_in_hbm, operands)), hbm_written_bytes=_in_hbm(results))


def _inner(module: Module, computation: Computation, instruction: Instruction) -> Costs:
    """All costs but bytes of memory, with those of the instructions in a fusion."""
    kind = instruction.opcode.removesuffix("-start")
    if kind == "fusion":
        called = module.computations[instruction.called("calls")]
        return sum((_inner(module, called, i) for i in called.instructions.values()), Costs())
    operands = [computation.instructions[name].arrays for name in instruction.operands]
    if kind == "convolution":
        return Costs(matrix_flops=convolution_flops(instruction, operands[0][0], operands[1][0]))
    if kind == "dot":
        return Costs(matrix_flops=dot_flops(instruction, operands[0][0]))
    if kind == "all-reduce" and not _alone(instruction):
        # The compiler lets some operands be of fewer bits than the sums are.
        sizes = [array.size_bytes for array in instruction.arrays]
        return Costs(all_reduces=1, all_reduce_tensors=len(sizes), all_reduce_bytes=sum(sizes))
    arrays = [array for arrays in (*operands, instruction.arrays) for array in arrays]
    is_host = (
        kind in ("infeed", "outfeed")
        or "is_host_transfer=true" in instruction.attributes
        or (kind == "copy" and any(array.space == HOST_SPACE for array in arrays))
    )
    return Costs(other_collectives=int(kind in _COLLECTIVES), host_transfers=int(is_host))


def _alone(instruction: Instruction) -> bool:
    """Whether each replica sums with itself only."""
    groups = re.search(r"replica_groups=\{(\{.*?\})\}", instruction.attributes)
    return bool(groups) and "," not in groups[1].replace("},{", "")


def _in_hbm(arrays) -> int:
    return sum(array.padded_bytes for array in arrays if array.space == 0)


def _read_bytes(module: Module, computation: Computation, value: Instruction) -> float:
    """What a fusion reads of an operand, seen from the value that stands for it; infinity for all."""
    total = 0
    for user in computation.users[value.name]:
        places = [number for number, name in enumerate(user.operands) if name == value.name]
        if user.opcode == "bitcast":
            total += _read_bytes(module, computation, user)
        elif user.opcode == "fusion":
            called = module.computations[user.called("calls")]
            for parameter in (called.parameters[place] for place in places):
                if _is_result(called, parameter):
                    # The inner fusion only renames it.
                    total += _read_bytes(module, computation, user)
                else:
                    total += _read_bytes(module, called, parameter)
        elif user.opcode in _SLICES and places == [0]:
            total += sum(array.padded_bytes for array in user.arrays)
        elif user.opcode in _UPDATES and places == [0]:
            # A scatter adds to what is there; an update replaces it.
            update = _update(computation, user)
            total += sum(array.padded_bytes for array in update.arrays) if user.opcode == "scatter" else 0
        else:
            return math.inf
    return total


def _is_result(computation: Computation, parameter: Instruction) -> bool:
    """Whether a fusion returns its parameter as it is."""
    value = computation.root
    while value.opcode == "bitcast":
        value = computation.instructions[value.operands[0]]
    return value is parameter


def _written_bytes(module: Module, computation: Computation, value: Instruction) -> list[float]:
    """What a fusion writes of each array of its result; infinity for all of it."""
    operands = [computation.instructions[name] for name in value.operands]
    if value.opcode == "tuple":
        return [part for operand in operands for part in _written_bytes(module, computation, operand)]
    if value.opcode == "bitcast":
        return _written_bytes(module, computation, operands[0])
    if value.opcode == "fusion":
        called = module.computations[value.called("calls")]
        return _written_bytes(module, called, called.root)
    if value.opcode in _UPDATES:
        base = operands[0]
        while base.opcode == "bitcast":
            base = computation.instructions[base.operands[0]]
        below = [0] if base.opcode == "parameter" else _written_bytes(module, computation, base)
        return [sum(array.padded_bytes for array in _update(computation, value).arrays) + sum(below)]
    return [math.inf] * len(value.arrays)


def _update(computation: Computation, instruction: Instruction) -> Instruction:
    """The new values of an update in place: the second operand of a slice's, the third of a scatter's."""
    return computation.instructions[instruction.operands[1 if "slice" in instruction.opcode else 2]]


def dot_flops(instruction: Instruction, left: Array) -> int:
    """2 x the elements of the result x those of a sum."""
    contracted = [left.dimensions[index] for index in instruction.numbers("lhs_contracting_dims")]
    return 2 * math.prod(instruction.arrays[0].dimensions) * math.prod(contracted)


def convolution_flops(instruction: Instruction, image: Array, kernel: Array) -> int:
    """2 x the products of an element of the image and one of the kernel, as XLA's HloCostAnalysis counts them.

    Of each dimension of the window, the pairs of a position in the kernel and one in the result count that meet an
    element of the image: not its padding, and not the holes between the elements of a dilated image.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    image_labels, kernel_labels, result_labels = labels.groups()
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    settings = dict(part.split("=") for part in window[1].split()) if window else {}
    feature_groups = (*instruction.numbers("feature_group_count"), 1)[0]
    batch_groups = (*instruction.numbers("batch_group_count"), 1)[0]
    batch = image.dimensions[image_labels.index("b")]
    inputs = image.dimensions[image_labels.index("f")]
    outputs = kernel.dimensions[kernel_labels.index("o")]
    pairs = 1
    for place in range(len(image_labels) - 2):
        pairs *= _pairs(
            image.dimensions[image_labels.index(str(place))],
            kernel.dimensions[kernel_labels.index(str(place))],
            instruction.arrays[0].dimensions[result_labels.index(str(place))],
            stride=int(_part(settings, "stride", place, "1")),
            padding=int(_part(settings, "pad", place, "0_0").split("_")[0]),
            image_dilation=int(_part(settings, "lhs_dilate", place, "1")),
            kernel_dilation=int(_part(settings, "rhs_dilate", place, "1")),
        )
    return 2 * (inputs // feature_groups) * outputs * (batch // batch_groups) * pairs


def _part(settings: dict[str, str], name: str, place: int, default: str) -> str:
    return settings[name].split("x")[place] if name in settings else default


def _pairs(
    image: int, kernel: int, result: int, *, stride: int, padding: int, image_dilation: int, kernel_dilation: int
) -> int:
    """The pairs of positions in the kernel and in the result that meet an element of the image."""
    last = (image - 1) * image_dilation
    count = 0
    for kernel_place in range(kernel):
        for result_place in range(result):
            place = result_place * stride - padding + kernel_place * kernel_dilation
            count += 0 <= place <= last and place % image_dilation == 0
    return count
