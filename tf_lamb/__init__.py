"""LAMB for Keras and TensorFlow: layer-wise adaptive moments for large-batch training.

`tf_lamb.LAMB` is the optimizer for Keras 3, `tf_lamb.schedules` its learning-rate schedules. `tf_lamb.tf_keras` holds
the optimizer for tf_keras and `tf_lamb.model_garden` what experiments of tf-models-official need; both are imported
only when asked for.
"""

try:
    import keras  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        f"tf_lamb needs Keras 3 with a backend, and {error.name.partition('.')[0]} is missing. "
        "Install one with `pip install tf-lamb[tensorflow]`, or set KERAS_BACKEND to one that is installed."
    ) from None

from tf_lamb import schedules
from tf_lamb.lamb import LAMB

__all__ = ["LAMB", "schedules"]
__version__ = "0.1.0"
