"""How long a training step takes at least on a slice of TPUs, and what a run costs: arithmetic on published peaks.

It is a lower bound, not a prediction. What a step really takes is known only on a TPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hlo_text import Costs
from tpu_chips import Topology

SECONDS_PER_HOUR = 3600
WORD_BYTES = 4
ASSUMPTIONS = (
    "Matrix units run at their published bfloat16 peak; other arithmetic takes no time.",
    "Memory moves at its published bandwidth, and each operand and result of an instruction moves once.",
    "The cores of a chip add their gradients first, which takes no time; then the N chips send over all their links at "
    "once, without waiting, and none sends less than 2 (N - 1) / N of the bytes.",
    "Arithmetic, memory and network overlap perfectly, so a step takes as long as the slowest of the three.",
    "Input, checkpoints, evaluation and the start of the program take no time.",
)


@dataclass(frozen=True)
class Roofline:
    """The least time of a step on each core, in seconds.

    Attributes:
        matrix_seconds: Of the matrix units.
        memory_seconds: Of the main memory.
        all_reduce_seconds: Of the network.
    """

    matrix_seconds: float
    memory_seconds: float
    all_reduce_seconds: float

    @property
    def step_seconds(self) -> float:
        """The slowest of the three: a step takes at least this."""
        return max(self.matrix_seconds, self.memory_seconds, self.all_reduce_seconds)

    @property
    def bound(self) -> str:
        """What the step waits for: "matrix", "memory" or "all-reduce"."""
        seconds = {
            "matrix": self.matrix_seconds,
            "memory": self.memory_seconds,
            "all-reduce": self.all_reduce_seconds,
        }
        return max(seconds, key=seconds.get)


@dataclass(frozen=True)
class RunCost:
    """What a stage or a run costs at least.

    Attributes:
        steps: Updates.
        hours: Of the whole slice.
        chip_hours: Chips x hours: what is paid for.
    """

    steps: int
    hours: float
    chip_hours: float


def estimate(costs: Costs, topology: Topology) -> Roofline:
    """The least time of a step with these costs.

    Args:
        costs: Of one core.
        topology: The slice.

    Returns:
        The seconds of each of the three.
    """
    chip = topology.chip
    return Roofline(
        matrix_seconds(costs.matrix_flops, chip.peak_flops_per_second_per_core),
        memory_seconds(costs.hbm_bytes, chip.hbm_bytes_per_second_per_core),
        all_reduce_seconds(costs.all_reduce_bytes, topology.chips, chip.ici_bytes_per_second),
    )


def matrix_seconds(flops: float, flops_per_second: float) -> float:
    """FLOPs / peak."""
    return flops / flops_per_second


def memory_seconds(read_and_written_bytes: float, bytes_per_second: float) -> float:
    """Bytes / bandwidth."""
    return read_and_written_bytes / bytes_per_second


def all_reduce_seconds(summed_bytes: float, chips: int, bytes_per_second: float) -> float:
    """2 (N - 1) / N x bytes / bandwidth, for N chips.

    To sum without arithmetic in the network, a chip sends (N - 1) / N of the bytes to those that add them up, and as
    much of the sums to those that need them (Patarasuk and Yuan 2009, Bandwidth optimal all-reduce algorithms).

    Args:
        summed_bytes: What each chip adds to the sum.
        chips: N.
        bytes_per_second: What a chip sends over all its links.
    """
    return 2 * (chips - 1) / chips * summed_bytes / bytes_per_second


def run_cost(steps: int, step_seconds: float, topology: Topology) -> RunCost:
    """Hours = steps x seconds of a step / 3,600; chip-hours = chips x hours."""
    hours = steps * step_seconds / SECONDS_PER_HOUR
    return RunCost(steps, hours, topology.chips * hours)


def total(stages: Sequence[RunCost]) -> RunCost:
    """The sum over the stages of a run."""
    return RunCost(*(sum(getattr(stage, name) for stage in stages) for name in ("steps", "hours", "chip_hours")))


def words_per_parameter(update_bytes: float, parameters: int) -> float:
    """Words of 4 bytes that an update reads and writes for each parameter: bytes / 4 / parameters.

    LAMB cannot do with less than ten where a variable is too large for the chip: for the norms it reads the gradient,
    the weight and both moments and writes the moments; for the weight it reads the last three again and writes it.
    """
    return update_bytes / WORD_BYTES / parameters
