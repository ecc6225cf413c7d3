"""Runs every benchmark, one after the other, and keeps their figures in one file.

    python benchmarks/bench.py [--quick] [--only update features] [--json build/bench.json]

What a machine cannot measure stands as "not run" in its table, with the reason. With --only, the file keeps its figures
of the other benchmarks.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).parent
OF_THE_OPTIMIZER = ("update", "features", "first_step", "memory")
BENCHMARKS = (
    *OF_THE_OPTIMIZER,
    "whole_step",
    "step_profile",
    "scaling",
    "bert_data",
    "imagenet_input",
    "update_words",
    "moments",
    "gpu",
)


def main():
    """Runs the benchmarks; returns the exit code: 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five minutes: the optimizer alone, on small models")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=BENCHMARKS,
        help=f"(default: all; with --quick {', '.join(OF_THE_OPTIMIZER)}, as the others take longer)",
    )
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="the file for the figures")
    arguments = parser.parse_args()
    only = arguments.only or (OF_THE_OPTIMIZER if arguments.quick else BENCHMARKS)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    figures, failed = (read(arguments.json) if arguments.only else {}), []
    for name in only:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "figures.json")
            command = [sys.executable, FOLDER / f"{name}.py", "--json", file, *["--quick"] * arguments.quick]
            print(f"\n=== {name}", flush=True)
            begun = time.monotonic()
            if subprocess.run(command, check=False).returncode:
                failed.append(name)
                continue
            figures[name] = json.loads(file.read_text())
            print(f"({(time.monotonic() - begun) / 60:.1f} minutes)", flush=True)
        # After each, so that an interrupt leaves the others.
        in_order = [figures[each] for each in BENCHMARKS if each in figures]
        arguments.json.write_text(json.dumps(in_order, indent=1) + "\n")
    if left_out := [name for name in BENCHMARKS if name not in only]:
        print(f"\nnot run, name them after --only: {', '.join(left_out)}")
    print(f"\nfigures: {arguments.json}")
    if failed:
        print(f"bench: {', '.join(failed)} failed; the reasons are above.", file=sys.stderr)
    return bool(failed)


def read(path):
    """The figures of a file by their benchmarks; none if it is not there."""
    if not path.exists():
        return {}
    try:
        return {each["benchmark"]: each for each in json.loads(path.read_text())}
    except (ValueError, TypeError, KeyError):
        sys.exit(f"bench: {path} has no figures of this program, which --only adds to. Name another file with --json.")


if __name__ == "__main__":
    sys.exit(main())
