"""LAMB and LARS for Keras and TensorFlow: layer-wise adaptive optimizers for large-batch training.

`LAMB`, `LARS` and `NormalizedSGD` are the optimizers for Keras 3, `schedules` their learning-rate schedules, `rules`
the exclusion lists and plans, `telemetry` what the optimizer did, `dialects` what other implementations compute, and
`migrate` loads the state of those. `tf_lamb.tf_keras` holds the optimizers for tf_keras and `tf_lamb.model_garden` what
experiments of tf-models-official need; both are imported only when asked for.
"""

try:
    import keras  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        f"tf_lamb needs Keras 3 with a backend, and {error.name.partition('.')[0]} is missing. "
        "Install one with `pip install tf-lamb[tensorflow]`, or set KERAS_BACKEND to one that is installed."
    ) from None

from tf_lamb import dialects, migrate, rules, schedules, telemetry
from tf_lamb.lamb import LAMB
from tf_lamb.lars import LARS
from tf_lamb.normalized_sgd import NormalizedSGD

__all__ = ["LAMB", "LARS", "NormalizedSGD", "dialects", "migrate", "rules", "schedules", "telemetry"]
__version__ = "0.1.0"
