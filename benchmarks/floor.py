"""The floor: LAMB in C, compiled when it is asked for, with the least traffic that two passes need."""

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("floor.c")
FLAGS = ("-O3", "-march=native", "-ffast-math", "-fopenmp", "-shared", "-fPIC")


class NoCompiler(RuntimeError):
    """There is no C compiler on this machine."""


def make_step(weights, gradients, moment_dtype="float32", **options):
    """A function that updates copies of the weights once.

    Args:
        weights: A list of float32 arrays.
        gradients: The same.
        moment_dtype: `"float32"` or `"bfloat16"`.
        **options: `learning_rate`, `beta_1`, `beta_2`, `epsilon` and `weight_decay`.

    Returns:
        The function, and the list of weights that it updates.

    Raises:
        NoCompiler: There is none, or it cannot compile this.
    """
    update = _library()[f"lamb_{'float' if moment_dtype == 'float32' else 'bfloat16'}"]
    stored = np.float32 if moment_dtype == "float32" else np.uint16
    weights = [np.array(w) for w in weights]
    moments = [(np.zeros(w.shape, stored), np.zeros(w.shape, stored)) for w in weights]
    beta_1, beta_2 = options["beta_1"], options["beta_2"]
    t = 0

    def step():
        nonlocal t
        t += 1
        scalars = (beta_1, beta_2, 1 / (1 - beta_1**t), 1 / (1 - beta_2**t))
        scalars += (options["epsilon"], options["weight_decay"], options["learning_rate"])
        for w, g, (m, v) in zip(weights, gradients, moments, strict=True):
            arrays = (ctypes.c_void_p(x.ctypes.data) for x in (w, g, m, v))
            update(*arrays, ctypes.c_long(w.size), *map(ctypes.c_float, scalars))

    return step, weights


def _library():
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompiler("no C compiler")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "floor.so")
        done = subprocess.run(
            [compiler, *FLAGS, str(SOURCE), "-o", str(path), "-lm"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NoCompiler(f"{compiler}: {done.stderr.strip()[-200:]}")
        return ctypes.CDLL(str(path))
