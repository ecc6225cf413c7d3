"""Compiles a module for a slice of TPUs on an ordinary machine: whether it fits, and what the compiler says of it.

The compiler is libtpu, through JAX, in a process of its own (compile_only.py): it may end a process that asks for what
it does not expect, and it reads its settings from the environment.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from config import ConfigError, RunError
from host_facts import free_memory_bytes
from tpu_chips import Topology

CHILD = Path(__file__).with_name("compile_only.py")
INSTALL = "pip install 'tf-lamb[aot]', with Python 3.11 or newer"
# JAX and libtpu alone take this much host memory; the least with which a start makes sense.
LEAST_HOST_BYTES = 2**30
_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)i?B?"
# The words changed with libtpu's versions: the newer ones first.
_TOO_LARGE = (
    rf"total memory required for .*?\({_SIZE}\) exceeds available HBM \({_SIZE}\)",
    rf"Used {_SIZE} of {_SIZE} hbm",
)


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of a module on one core; what it has no number for is 0.

    Attributes:
        fits: Whether the module fits into the memory of a core.
        needed_bytes: Arguments, outputs that take over no argument, temporaries and the program. Where the module does
            not fit, the compiler's own sum, in hundredths of a GiB.
        available_bytes: Memory that the compiler may use, of a core.
        argument_bytes: Arguments as they lie in memory, padded to tiles.
        output_bytes: Outputs, with those that take over arguments.
        aliased_bytes: Outputs that take over arguments.
        temporary_bytes: Everything between.
        generated_code_bytes: The program.
        xla_flops: The compiler's count of all operations; the body of a loop counts once.
        xla_bytes_accessed: The compiler's count of bytes read and written; the body of a loop counts once, and on v4
            and later copies on the chip count too.
        compile_seconds: Of the compiler alone.
        peak_host_bytes: The most memory that its process held.
    """

    fits: bool
    needed_bytes: int
    available_bytes: int
    argument_bytes: int = 0
    output_bytes: int = 0
    aliased_bytes: int = 0
    temporary_bytes: int = 0
    generated_code_bytes: int = 0
    xla_flops: float = 0.0
    xla_bytes_accessed: float = 0.0
    compile_seconds: float = 0.0
    peak_host_bytes: int = 0


def compile_for(module_path: str | Path, topology: Topology, hlo_path: str | Path) -> Compiled:
    """Compiles a module for every core of a slice, as replicas.

    Args:
        module_path: A local file of StableHLO, as `experimental_get_compiler_ir` gives it for "stablehlo_serialized".
        topology: The slice.
        hlo_path: The local file for the scheduled HLO text; not written if the module does not fit.

    Returns:
        What the compiler says of it; `fits` is False where the memory of a core does not suffice.

    Raises:
        ConfigError: The module cannot be compiled for this slice.
        RunError: JAX or libtpu are missing, or this machine cannot do it.
    """
    check_host_memory()
    with tempfile.TemporaryDirectory() as folder:
        outcome_path, log_path = Path(folder, "outcome.json"), Path(folder, "log.txt")
        request = _request(module_path, topology, hlo_path, folder) | {"outcome_path": str(outcome_path)}
        code = _run_child(request, _environment(topology, folder), log_path)
        if not outcome_path.exists():
            raise _crash(code, log_path.read_text(encoding="utf-8", errors="replace"), topology)
        outcome = json.loads(outcome_path.read_text(encoding="utf-8"))
    return _judge(outcome, topology)


def check_host_memory() -> None:
    """Raises a `RunError` if this machine has too little free memory to start the compiler."""
    free_bytes = free_memory_bytes()
    if free_bytes is not None and free_bytes < LEAST_HOST_BYTES:
        raise RunError(
            "This machine has too little free memory for the TPU compiler. "
            f"Received: {free_bytes / 2**30:.1f} GiB. "
            f"Expected at least {LEAST_HOST_BYTES / 2**30:.0f} GiB, and several for a large model."
        )


def _request(module_path: str | Path, topology: Topology, hlo_path: str | Path, folder: str) -> dict:
    return {
        "module_path": str(Path(module_path).absolute()),
        "topology": topology.name,
        # By itself, libtpu takes the two cores of a v4 chip for two devices; Cloud TPU has them as one.
        "options": {"chip_config_name": "megacore"} if topology.chip.name == "v4" else {},
        "replicas": topology.replicas,
        "hlo_path": str(Path(hlo_path).absolute()),
        "dump_path": _dump_path(folder),
    }


def _environment(topology: Topology, folder: str) -> dict[str, str]:
    chip = topology.chip
    names = {"v5e": f"v5litepod-{topology.chips}", "v6e": f"v6e-{topology.chips}"}
    return os.environ | {
        # Else libtpu asks the network which TPU it runs on.
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": names.get(chip.name, f"{chip.name}-{2 * topology.chips}"),
        "TPU_WORKER_HOSTNAMES": "localhost",
        # Two compilations may go on at once; neither uses a TPU.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
        "JAX_PLATFORMS": "cpu",
        "TPU_LOG_DIR": folder,
        "XLA_FLAGS": f"--xla_dump_to={_dump_path(folder)} --xla_dump_hlo_as_text",
    }


def _dump_path(folder: str) -> str:
    return os.path.join(folder, "program")


def _run_child(request: dict, environment: dict[str, str], log_path: Path) -> int:
    """Runs the compiler to its end, which also comes when this process is interrupted; returns its exit code."""
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(CHILD)], stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment
        )
        try:
            # A child that is dead already says why by its exit code.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            return process.wait()
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def _crash(code: int, log: str, topology: Topology) -> Exception:
    """The error of a child that gave no answer."""
    if code == -signal.SIGKILL:
        return RunError(
            f"The TPU compiler was killed while it compiled for {topology.name}, "
            "as Linux does when a machine has no memory left. Expected more memory, or fewer programs on it."
        )
    if "lockfile" in log and code != 0:
        return RunError(
            "libtpu is locked by another process. Received: "
            f"{_last_line(log)!r}. Expected no other program with a TPU; else remove the lock file that it names."
        )
    end = f"signal {-code}" if code < 0 else f"exit code {code}"
    return RunError(
        f"The TPU compiler ended without an answer for {topology.name}. Received: {end}, {_last_line(log)!r}. "
        f"Expected a jax and a libtpu that belong together: {INSTALL}."
    )


def _judge(outcome: dict, topology: Topology) -> Compiled:
    kind, message = outcome.pop("outcome"), outcome.pop("message", "")
    if kind == "compiled":
        needed_bytes = (
            sum(outcome[f"{name}_bytes"] for name in ("argument", "output", "temporary", "generated_code"))
            - outcome["aliased_bytes"]
        )
        return Compiled(True, needed_bytes, topology.chip.usable_hbm_bytes_per_core, **outcome)
    if kind == "memory":
        needed_bytes, available_bytes = _sizes(message, topology)
        return Compiled(False, needed_bytes, available_bytes, **outcome)
    if kind == "missing":
        raise RunError(f"Compiling for a TPU needs jax and libtpu. Received: {message}. Expected: {INSTALL}.")
    if kind == "strange":
        raise RunError(
            f"This jax is not one that the TPU compiler is known to work with. Received: jax {outcome['version']}, "
            f"{_first_line(message)!r}. Expected: {INSTALL}."
        )
    if kind == "host_memory":
        raise RunError(f"This machine has too little memory to compile for {topology.name}. Expected a larger machine.")
    if kind == "topology":
        raise ConfigError(
            f"libtpu does not know this slice. Received: {topology.name}, {_first_line(message)!r}. "
            "Expected a slice that Cloud TPU has, for example v3:4x4."
        )
    if kind == "module":
        raise ConfigError(
            f"The compiler cannot read the module. Received: {_first_line(message)!r}. "
            "Expected StableHLO of TensorFlow's, not newer than this jax."
        )
    raise ConfigError(_refusal(message, topology))


def _sizes(message: str, topology: Topology) -> tuple[int, int]:
    """The bytes that a module needs and those that there are, from the compiler's words."""
    for pattern in _TOO_LARGE:
        if match := re.search(pattern, message):
            used, used_unit, available, available_unit = match.groups()
            return round(float(used) * _UNITS[used_unit]), round(float(available) * _UNITS[available_unit])
    raise ConfigError(
        f"The compiler ran out of a memory of {topology.name} other than its main one. "
        f"Received: {_first_line(message)!r}. Expected smaller operations, for example a smaller batch per replica."
    )


def _refusal(message: str, topology: Topology) -> str:
    """A sentence on a module that the compiler does not take: which operation, and where it comes from."""
    custom = re.search(r"Custom emitter for (\S+) not found", message)
    operation = custom or re.search(r"operation '([^']+)'", message)
    where = re.search(r"Suspected Python Code Location:\s*(\S[^\n]*)", message)
    place = where[1].replace("[xla::PythonStackTrace='']", "").strip() if where else ""
    # Without a file, MLIR names its input "-".
    source = f" from {place}" if place and not place.startswith("-:") else ""
    what = f"the operation {operation[1]}" if operation else "an operation"
    return (
        f"The step has an operation that the compiler for {topology.name} does not take. Received: {what}{source}"
        f"{'' if custom else f', {_first_line(message)!r}'}. Expected operations that run on a TPU."
    )


def _first_line(message: str) -> str:
    """The first line that says something, without the code of the error, and not too long."""
    detail = re.search(r"error: ([^\n]+)", message)
    line = detail[1] if detail else next((line for line in message.splitlines() if line.strip()), "no reason given")
    return re.sub(r"^[A-Z_]+: ", "", line.strip())[:300]


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"\w*Error\b|\*\*\*|F\d{4} ", line)]
    return ((errors or lines or ["no message"])[-1])[:300]
