"""The TPU chips that a slice may consist of: their published peaks, and the slices that exist.

A chip has one or two cores as TensorFlow and JAX see them; each core is one replica with its own share of the memory.
On v4 and v5p the two cores of a chip are one device, which shares the whole memory ("megacore").

| chip | peak bfloat16 | memory | memory bandwidth | interconnect, one way, all links |
|---|---|---|---|---|
| v2 | 46 TFLOP/s | 16 GiB | 700 GB/s | 4 x 496 Gbit/s |
| v3 | 123 TFLOP/s | 32 GiB | 900 GB/s | 4 x 656 Gbit/s |
| v4 | 275 TFLOP/s | 32 GiB | 1,200 GB/s | 6 x 50 GB/s |
| v5e | 197 TFLOP/s | 16 GiB | 819 GB/s | 1,600 Gbit/s |
| v5p | 459 TFLOP/s | 95 GiB | 2,765 GB/s | 4,800 Gbit/s |
| v6e | 918 TFLOP/s | 32 GiB | 1,638 GB/s | 3,200 Gbit/s |

The bandwidth of the interconnect is what a chip can send at once over all its links; it receives as much at the same
time. The documentation of v5e, v5p and v6e now gives twice that, both ways together: 400, 1,200 and 800 GB/s. Its
"all-reduce bandwidth per Pod" is the one-way figure of all chips: 340 TB/s over 1,024 chips of v3, 51.2 TB/s over 256
of v5e and 102.4 TB/s over 256 of v6e are 332, 200 and 400 GB/s a chip.
"""

import math
import re
from dataclasses import dataclass

from config import ConfigError

_JOUPPI_2020 = (
    "Jouppi et al. 2020, A domain-specific supercomputer for training deep neural networks, "
    "Communications of the ACM 63(7)"  # v3 also: https://cloud.google.com/tpu/docs/v3
)
_JOUPPI_2023 = "Jouppi et al. 2023, TPU v4: an optically reconfigurable supercomputer, ISCA, arXiv:2304.01433"
# Chips of a host, in each dimension: a slice consists of whole hosts, or of a part of one.
_HOST = (2, 2, 1)


@dataclass(frozen=True)
class Chip:
    """What one chip can do at most, and how its pods are built.

    Attributes:
        name: As in the name of a topology, for example "v3".
        cores_per_chip: Devices of a chip, each of which is a replica.
        peak_flops_per_second: Multiplications and additions in bfloat16, each counted, of a chip.
        hbm_bytes: Memory of a chip.
        hbm_bytes_per_second: Bandwidth of a chip's memory, reads and writes together.
        ici_bytes_per_second: What a chip sends to its neighbours, over all links, one way.
        largest_pod: The chips of the largest pod in each dimension.
        usable_hbm_bytes_per_core: What the compiler lets a program use, of a core. libtpu 0.0.51 says so, in hundredths
            of a GiB, where a program is too large; on v5p it is a little more than is published.
        source: Where the other numbers are published.
    """

    name: str
    cores_per_chip: int
    peak_flops_per_second: float
    hbm_bytes: int
    hbm_bytes_per_second: float
    ici_bytes_per_second: float
    largest_pod: tuple[int, ...]
    usable_hbm_bytes_per_core: int
    source: str

    @property
    def peak_flops_per_second_per_core(self) -> float:
        """The share of one core."""
        return self.peak_flops_per_second / self.cores_per_chip

    @property
    def hbm_bytes_per_core(self) -> int:
        """The share of one core, of which a program may use `usable_hbm_bytes_per_core`."""
        return self.hbm_bytes // self.cores_per_chip

    @property
    def hbm_bytes_per_second_per_core(self) -> float:
        """The share of one core."""
        return self.hbm_bytes_per_second / self.cores_per_chip


def _page(name: str) -> str:
    return f"Cloud TPU documentation, TPU {name}: https://cloud.google.com/tpu/docs/{name}"


def _gib(size: float) -> int:
    return round(size * 2**30)


_GIGABIT = 1e9 / 8
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v2", 2, 46e12, _gib(16), 700e9, 4 * 496 * _GIGABIT, (16, 16), _gib(7.48), _JOUPPI_2020),
        Chip("v3", 2, 123e12, _gib(32), 900e9, 4 * 656 * _GIGABIT, (32, 32), _gib(15.48), _JOUPPI_2020),
        Chip("v4", 1, 275e12, _gib(32), 1200e9, 6 * 50e9, (16, 16, 16), _gib(30.75), _JOUPPI_2023),
        Chip("v5e", 1, 197e12, _gib(16), 819e9, 1600 * _GIGABIT, (16, 16), _gib(15.75), _page("v5e")),
        Chip("v5p", 1, 459e12, _gib(95), 2765e9, 4800 * _GIGABIT, (16, 20, 28), _gib(95.73), _page("v5p")),
        Chip("v6e", 1, 918e12, _gib(32), 1638e9, 3200 * _GIGABIT, (16, 16), _gib(31.24), _page("v6e")),
    )
}


@dataclass(frozen=True)
class Topology:
    """A slice: chips of one kind, in a grid.

    Attributes:
        chip: The `Chip`.
        shape: Chips in each dimension.
    """

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """For example "v3:32x32"."""
        return f"{self.chip.name}:{_grid(self.shape)}"

    @property
    def chips(self) -> int:
        """The chips of the slice."""
        return math.prod(self.shape)

    @property
    def replicas(self) -> int:
        """The cores of the slice, each of which trains on its share of a batch."""
        return self.chips * self.chip.cores_per_chip


def parse_topology(text: str) -> Topology:
    """The slice of a name such as "v3:32x32" or "v4:2x2x4".

    Args:
        text: The chip, a colon, and the chips in each dimension.

    Returns:
        The `Topology`.

    Raises:
        ConfigError: No such chip, or it has no slice of this shape.

    Example:
        >>> parse_topology("v3:32x32").replicas
        2048
    """
    match = re.fullmatch(r"(v\w+):([1-9]\d{0,4}(?:x[1-9]\d{0,4})*)", text.strip())
    if not match:
        raise ConfigError(
            f"A topology is a chip and a shape in chips. Received: {text!r}. Expected for example v3:32x32 or v4:2x2x4."
        )
    name, shape = match[1], tuple(int(size) for size in match[2].split("x"))
    if name not in CHIPS:
        raise ConfigError(f"No such TPU is known. Received: {name!r} in {text!r}. Expected one of: {', '.join(CHIPS)}.")
    chip = CHIPS[name]
    if len(shape) != len(chip.largest_pod):
        example = "x".join(["4"] * len(chip.largest_pod))
        raise ConfigError(
            f"{name} is wired in {len(chip.largest_pod)} dimensions. Received: {text!r} with {len(shape)}. "
            f"Expected for example {name}:{example}."
        )
    if math.prod(shape) > math.prod(chip.largest_pod) or max(shape) > _longest(chip):
        raise ConfigError(
            f"No pod of {name} is so large. Received: {text!r} with {math.prod(shape):,} chips. "
            f"Expected at most {name}:{_grid(chip.largest_pod)}, {math.prod(chip.largest_pod):,} chips."
        )
    if any(size > 1 and size % host for size, host in zip(shape, _HOST, strict=False)):
        raise ConfigError(
            f"A slice consists of whole hosts of 2x2 chips. Received: {text!r}. "
            "Expected even numbers in the first two dimensions, or 1."
        )
    return Topology(chip, shape)


def _grid(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)


def _longest(chip: Chip) -> int:
    """The chips of the longest line: pods of two dimensions are wired as they are, those of three anew for a slice."""
    return max(chip.largest_pod) if len(chip.largest_pod) == 2 else math.prod(chip.largest_pod)
