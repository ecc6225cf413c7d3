"""Compiles one StableHLO module with libtpu, which needs no TPU; the child process of slice_compiler.py.

It knows nothing of this repository and imports no TensorFlow. A request comes as JSON on the standard input; the
outcome goes as JSON into the file that the request names. The child ends when its standard input is
closed, so that it never outlives its parent.
"""

import json
import os
import resource
import shutil
import signal
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    """Answers the request on the standard input."""
    # Python would see Ctrl-C only after the compiler returns.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        outcome = answer(request)
    except MemoryError:
        outcome = {"outcome": "host_memory"}
    unfinished = Path(request["outcome_path"]).with_suffix(".unfinished")
    unfinished.write_text(json.dumps(outcome), encoding="utf-8")
    unfinished.rename(request["outcome_path"])


def _end_with_parent() -> None:
    # Not through sys.stdin, whose lock the end of the interpreter would wait for.
    while os.read(0, 1024):
        pass
    os._exit(1)


def answer(request: dict) -> dict:
    """Compiles a module.

    Args:
        request: "module_path", "topology" as libtpu names it, "options" of the topology, "replicas", "hlo_path", and
            "dump_path", the folder to which XLA_FLAGS let the compiler write.

    Returns:
        The "outcome" and what belongs to it: "missing" and its "package"; "strange" (another jax than expected),
        "topology", "module", "memory" or "refused", with a "message"; or "compiled", with the statistics.
    """
    try:
        import jax
        import libtpu  # noqa: F401 - JAX would name the missing package only much later
    except ImportError as error:
        return {"outcome": "missing", "package": error.name or "jax", "message": str(error)}
    try:
        from jax._src.interpreters.mlir import make_ir_context
        from jax._src.lib import _jax, xla_client
        from jax._src.lib.mlir import ir
        from jax.experimental import topologies

        make_assignment, make_list = xla_client.DeviceAssignment.create, _jax.DeviceList
        compile_options, refusal = xla_client.CompileOptions(), jax.errors.JaxRuntimeError
    except (ImportError, AttributeError) as error:
        return {"outcome": "strange", "message": str(error), "version": jax.__version__}

    with make_ir_context() as context:
        try:
            module = ir.Module.parse(Path(request["module_path"]).read_bytes(), context)
        except (ir.MLIRError, ValueError) as error:
            return {"outcome": "module", "message": str(error)}
        prepare(module, ir)
        try:
            devices = topologies.get_topology_desc(
                platform="tpu", topology_name=request["topology"], **request["options"]
            ).devices
        except (refusal, RuntimeError) as error:
            return {"outcome": "topology", "message": str(error)}
        replicas = len(devices)
        if replicas != request["replicas"]:
            message = f"the compiler sees {replicas} cores instead of {request['replicas']}"
            return {"outcome": "topology", "message": message}
        import numpy as np

        compile_options.num_replicas, compile_options.num_partitions = replicas, 1
        compile_options.device_assignment = make_assignment(np.arange(replicas).reshape(replicas, 1))
        start = time.monotonic()
        try:
            executable = devices[0].client.compile(module, make_list(tuple(devices)), compile_options)
        except TypeError as error:
            return {"outcome": "strange", "message": str(error), "version": jax.__version__}
        except (refusal, RuntimeError) as error:
            kind = "memory" if "RESOURCE_EXHAUSTED" in str(error) else "refused"
            return {"outcome": kind, "message": str(error), **_effort(start)}
    effort = _effort(start)
    # As the compiler writes it, since a jax may not read the program of a newer libtpu. The step is the largest.
    programs = Path(request["dump_path"]).glob("*.after_optimizations.txt")
    shutil.move(max(programs, key=lambda path: path.stat().st_size), request["hlo_path"])
    shutil.rmtree(request["dump_path"])
    try:
        costs = executable.cost_analysis()
    except (refusal, RuntimeError):
        costs = {}
    memory = executable.get_compiled_memory_stats()
    return {
        "outcome": "compiled",
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "aliased_bytes": memory.alias_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "generated_code_bytes": memory.generated_code_size_in_bytes,
        "xla_flops": costs.get("flops", 0.0),
        "xla_bytes_accessed": costs.get("bytes accessed", 0.0),
        **effort,
    }


def _effort(start: float) -> dict:
    return {
        "compile_seconds": time.monotonic() - start,
        # Linux counts in KiB, and libtpu runs on nothing else.
        "peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def prepare(module, ir) -> None:
    """Removes the identities from a module of TensorFlow that libtpu does not know in their dialect.

    Args:
        module: An MLIR module, changed in place.
        ir: The `mlir.ir` that the module belongs to.
    """
    copies = []

    def collect(operation):
        if operation.name == "mhlo.copy":
            copies.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(collect)
    for copy in copies:
        copy.results[0].replace_all_uses_with(copy.operands[0])
        copy.erase()


if __name__ == "__main__":
    main()
