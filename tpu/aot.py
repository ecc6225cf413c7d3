"""Compiles the training step of a config for a slice of TPUs, on any machine: does it fit, and what does it cost?

    python tpu/aot.py --config_file configs/bert/large_lamb_32768.yaml --topology v3:32x32

For each stage of the config, the step that the training command would run is compiled by the TPU's own compiler for
all replicas of the slice. Printed and written as JSON: memory, arithmetic, traffic, the least time of a step, steps,
hours and chip-hours of the run. --sweep finds the largest batch of a replica that fits. Needs the extra [aot].
"""

import argparse
import dataclasses
import json
import platform
import sys
import time
from pathlib import Path

import roofline
import slice_report
from atomic_file import atomic_path
from config import ConfigError, RunError, add_arguments, load
from device_loop import leave
from host_facts import package_version
from tpu_chips import parse_topology

PACKAGES = ("tensorflow", "tf-models-official", "tf-lamb", "jax", "libtpu")


def main(argv=None):
    """Plans the run; returns the exit code: 0 if it fits, 1 if it does not or cannot be known, 2 for unusable input."""
    arguments = parse_arguments(argv)
    try:
        return plan(arguments)
    except (ConfigError, RunError) as error:
        print(f"aot: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("\naot: interrupted; nothing was written.", file=sys.stderr)
        return 130


def parse_arguments(argv):
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument(
        "--topology", required=True, help="the slice: a chip and a shape in chips, for example v3:32x32 or v4:4x4x8"
    )
    parser.add_argument("--stage", type=int, help="the only stage to compile, from 1 (default: all)")
    parser.add_argument(
        "--sweep", action="store_true", help="find the largest batch of a replica that fits, and its accumulation"
    )
    parser.add_argument(
        "--examples", type=int, help="the training examples, for stages with epochs (default: those of the public data)"
    )
    parser.add_argument("--json", type=Path, help="the file for the figures (default: in build/aot)")
    arguments = parser.parse_args(argv)
    if arguments.examples is not None and arguments.examples < 1:
        parser.error(f"--examples must be at least 1. Received: {arguments.examples}")
    return arguments


def plan(arguments):
    """Does what the command line says; returns the exit code.

    Raises:
        ConfigError: Its input cannot be used, or a TPU cannot run the step.
        RunError: This machine cannot compile it.
    """
    topology = parse_topology(arguments.topology)
    # TensorFlow is imported after the command line is known to be right.
    import recipe as recipes
    import slice_plan

    recipe = recipes.Recipe(load(arguments.config_file, recipes.schema_of, arguments.overrides))
    stages = slice_plan.stages_on(recipe, topology, arguments.examples, arguments.stage)
    print(f"{arguments.config_file} on {topology.name}: {topology.chips:,} chips, {topology.replicas:,} replicas")

    begin = time.monotonic()
    plans = []
    for stage in stages:
        print(f"\n{stage.describe()}", flush=True)
        if arguments.sweep:
            found = slice_plan.largest_batch(recipe, stage, topology, lambda tried: print(slice_report.trial(tried)))
            print(slice_report.largest(stage, found))
        else:
            found = slice_plan.plan_stage(recipe, stage, topology)
        if found is not None:
            print(*slice_report.of_stage(found, topology), sep="\n")
            plans.append(found)
    update = slice_plan.plan_update(recipe, stages[0], topology)
    fits = len(plans) == len(stages) and all(found.compiled.fits for found in plans)
    total = roofline.total([found.run for found in plans]) if fits else None
    print(*slice_report.of_run(recipe, arguments.stage, update, total), sep="\n")

    path = arguments.json or Path(
        "build", "aot", f"{arguments.config_file.stem}.{topology.name.replace(':', '_')}.json"
    )
    figures = {
        "config": arguments.config_file.name,
        "overrides": arguments.overrides,
        "topology": topology.name,
        "fits": fits,
        "stages": [slice_report.figures(found) for found in plans],
        "words_per_parameter": update and update.words_per_parameter,
        "run": total and dataclasses.asdict(total),
        "assumptions": roofline.ASSUMPTIONS,
        "seconds": time.monotonic() - begin,
        "versions": {"python": platform.python_version()} | {name: package_version(name) for name in PACKAGES},
    }
    write(figures, path)
    print(f"figures: {path}")
    return 0 if fits else 1


def write(figures, path):
    """Writes the figures as JSON.

    Raises:
        ConfigError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as unfinished:
            unfinished.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"The figures cannot be written: {error.strerror}. Received: --json {path}. Expected a file in a writable "
            "folder."
        ) from None


if __name__ == "__main__":
    leave(main())
