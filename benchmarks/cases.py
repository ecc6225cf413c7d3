"""What every benchmark of `make bench` says: its options, its tables, its file of figures."""

import json
import os
import sys
from pathlib import Path

from machine import ROOT, describe_machine, print_machine


def run(main, backend="tensorflow", devices=""):
    """Runs a benchmark from the command line, with this checkout's package.

    Args:
        main: A function without arguments. It has to import Keras and TensorFlow itself.
        backend: Of Keras.
        devices: The GPUs to see: by default none; None for those that the environment says.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = backend
    # Threads that wait for the next call of one contender must not keep the cores from another.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    sys.path.insert(0, str(ROOT))
    sys.exit(main())


def add_arguments(parser):
    """Adds the options that all have."""
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller models")
    parser.add_argument("--json", type=Path, help="the file for the figures")


def make(title, unit, rows, missing, load, note=None):
    """A table of one case, printed as soon as it is there.

    Args:
        title: What was measured.
        unit: Of the values.
        rows: Dictionaries, as `interleaved.summarize` gives them; those of other benchmarks may lack the range.
        missing: A dictionary of what was not measured to the reason.
        load: The `interleaved.OtherLoad` while it was measured.
        note: A sentence on what was measured.

    Returns:
        A dictionary for JSON.
    """
    print(f"\n{title}\n{'':38} {unit:>9} {'spread':>7} {'ratio':>7}")
    for row in rows:
        span = f"{row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f}" if "lowest_ratio" in row else ""
        print(f"{row['name']:38} {row['value']:9.4g} {row['spread']:7.1%} {row['ratio']:7.3f}  {span}")
    for name, reason in missing.items():
        print(f"{name:38} not run: {reason}")
    for line in filter(None, (note, load.note())):
        print(line, flush=True)
    case = {"title": title, "unit": unit, "rows": rows, "missing": missing, "note": note}
    return case | {"other_load_cores": load.cores}


def finish(name, packages, measured, arguments):
    """Prints the machine, and writes the figures if a file is named.

    Args:
        name: Of the benchmark.
        packages: The packages whose versions matter.
        measured: A list of what `make` gave.
        arguments: The command line.
    """
    facts = describe_machine(len(os.sched_getaffinity(0)), packages)
    print_machine(facts, packages)
    if arguments.json:
        figures = {"benchmark": name, "quick": arguments.quick, "machine": facts, "cases": measured}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
