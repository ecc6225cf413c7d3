"""Keras's own tests of its optimizers pass with ours in their place, but for the differences that are listed here.

Most wheels of Keras have the tests; `tests/keras_suite/stand_ins.py` puts ours in the place of its optimizers.
"""

import collections
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from tests.keras_suite import stand_ins

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("keras.src.optimizers.optimizer_test") is None,
    reason=f"the wheel of Keras {keras.__version__} has no tests",
)

ROOT = Path(__file__).parent.parent
COUNT = "the private count `_iterations` is of updates, in Keras of calls"
SUMMED_FIRST = "gradients are summed over replicas before they are accumulated, and TensorFlow does not sum one tensor"
DENSE = "the update of a sparse gradient is a dense computation, and assigns to the variable itself"
SPARSE_CASES = """
adadelta adafactor adagrad adamax ftrl lion loss_scale_optimizer_sgd nadam rmsprop rmsprop_momentum
rmsprop_momentum_centered sgd sgd_momentum sgd_momentum_nesterov
""".split()
# LAMB's kernels on TensorFlow assign to nothing.
if keras.backend.backend() != "tensorflow":
    SPARSE_CASES += ["adam", "adam_amsgrad", "adamw", "adamw_amsgrad"]
DIFFERENCES = {
    "optimizer_test.test_gradient_accumulation": COUNT,
    "optimizer_test.test_overwrite_with_gradient_with_gradient_accumulation": COUNT,
    "optimizer_distribute_test.test_gradient_accumulation": COUNT,
    "optimizer_distribute_test.test_gradient_accumulation_without_private_count": SUMMED_FIRST,
    **{f"optimizer_sparse_test.test_sparse_gradients_{case}": DENSE for case in SPARSE_CASES},
}


def outcomes_of(modules, folder, *arguments):
    """Runs Keras's test modules in a process of their own; returns the outcome and message of each test."""
    paths = [str(ROOT), str(Path(stand_ins.__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "KERAS_BACKEND": keras.backend.backend(),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        # Compiling the models of the tests would take torch minutes.
        "TORCHDYNAMO_DISABLE": "1",
    }
    file = folder / "outcomes.json"
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-c", os.devnull, "--rootdir", folder]
    command += ["-p", "no:cacheprovider", "-p", "stand_ins", "--outcomes", file, *arguments, "--pyargs", *modules]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1), result.stdout[-3000:] + result.stderr[-3000:]
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_all_but_the_listed_tests_pass(tmp_path):
    on_tensorflow = keras.backend.backend() == "tensorflow"
    modules = [name for name in stand_ins.MODULES if on_tensorflow or ".tensorflow." not in name]
    outcomes = outcomes_of([name for name in modules if importlib.util.find_spec(name)], tmp_path)
    print(f"Keras {keras.__version__}:", dict(collections.Counter(outcome for outcome, _ in outcomes.values())))
    for name, (outcome, message) in outcomes.items():
        if outcome == "skipped":
            print(f"skipped {name}: {message}")
    failed = {name: message for name, (outcome, message) in outcomes.items() if outcome == "failed"}
    # A version of Keras may lack a test, and a backend skip it.
    expected = {name for name in DIFFERENCES if outcomes.get(name, ["skipped"])[0] != "skipped"}
    assert failed.keys() == expected, {name: failed.get(name, "passed") for name in failed.keys() ^ expected}
    assert len(outcomes) - len(failed) > 70


def test_an_optimizer_that_does_not_clip_fails(tmp_path):
    clipping = ["-k", "test_clip_norm or test_clip_value or test_global_clip_norm"]
    outcomes = outcomes_of(["keras.src.optimizers.optimizer_test"], tmp_path, "--broken", *clipping)
    names = ["test_clip_norm", "test_clip_value", "test_global_clip_norm"]
    assert {name: outcome for name, (outcome, _) in outcomes.items()} == {
        f"optimizer_test.{name}": "failed" for name in names
    }
