"""Measures the peak of memory during an update of all variables: LAMB of this package and its peers.

    python benchmarks/memory.py [--models BERT-base BERT-large] [--json FILE]

Each runs in a process of its own: one update of a small model, so that libraries and threads are there; the weights,
moments and gradients; two updates; then the peak of three more. What it held before the weights is taken off. A ratio
is to four float32 words a parameter: weight, gradient and two moments. TensorFlow's packages are built with oneDNN,
whose allocator keeps more of what was freed; so this package is measured without it as well.
"""

import argparse
import ctypes
import functools
import gc
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cases
import child
import update
from interleaved import OtherLoad
from model_shapes import MODELS

PACKAGES = update.PACKAGES
WITHOUT_ONEDNN = f"{update.OURS}, TF_ENABLE_ONEDNN_OPTS=0"
OURS = (update.OURS, WITHOUT_ONEDNN)
NAMES = (
    update.FLOOR,
    *OURS,
    f"{update.OURS}, {update.XLA}",
    f"keras Lamb, {update.XLA}",
    f"keras Lamb, {update.GRAPH}",
    f"Model Garden LAMB, {update.GRAPH}",
    "optax.lamb, jitted",
    "torch_optimizer Lamb",
)
QUICK_NAMES = (update.OURS, f"keras Lamb, {update.XLA}")
FEWER_NAMES = (*OURS, f"keras Lamb, {update.XLA}")
STATUS = Path("/proc/self/status")


def main():
    """Measures every optimizer on every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = ["BERT-base", "BERT-large"]
    parser.add_argument("--models", nargs="+", choices=MODELS, default=models, help=f"(default: {', '.join(models)})")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "NAME"), help=argparse.SUPPRESS)
    cases.add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one)))
        return
    measured = []
    for model in ["ResNet-50"] if arguments.quick else arguments.models:
        names = QUICK_NAMES if arguments.quick else FEWER_NAMES if model == "BERT-large" else NAMES
        words = 16 * sum(map(math.prod, MODELS[model]()))
        # Two of BERT-large do not fit.
        with OtherLoad() as load, ThreadPoolExecutor(1 if model == "BERT-large" else 2) as pool:
            answers = dict(zip(names, pool.map(functools.partial(ask, model), names), strict=True))
        missing = {name: answer for name, answer in answers.items() if isinstance(answer, str)}
        rows = [
            {"name": name, "value": peak / 2**20, "spread": 0.0, "ratio": peak / words}
            for name, peak in answers.items()
            if name not in missing
        ]
        measured.append(cases.make(f"peak memory of an update of {model}", "MiB", rows, missing, load))
    cases.finish("memory", PACKAGES, measured, arguments)


def ask(model, name):
    """What `measure` gives in a process of its own, or why it gives nothing."""
    maker, environment = name, None
    if name == WITHOUT_ONEDNN:
        maker, environment = update.OURS, {"TF_ENABLE_ONEDNN_OPTS": "0"}
    try:
        return child.ask(__file__, "--one", model, maker, environment=environment)
    except RuntimeError as error:
        return str(error)


def measure(model, name):
    """The bytes at the peak of an update, less those before its weights were there."""
    from contenders import arrays

    if not STATUS.exists():
        raise RuntimeError("only Linux says what a process holds at most")
    make = update.makers("float32")[name]
    small = make(*arrays([(64, 64)] * 2))
    small()
    small()
    release()
    before = now("VmRSS")
    step = make(*arrays(MODELS[model]()))
    step()
    step()
    release()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
    for _ in range(3):
        step()
    return now("VmHWM") - before


def release():
    """Gives freed memory back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def now(field):
    """The bytes that Linux gives for a field of this process."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", STATUS.read_text())[1])


if __name__ == "__main__":
    cases.run(main)
