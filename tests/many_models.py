"""For folders whose tests train hundreds of models: TensorFlow lets go of what was traced."""

import pytest
from tensorflow.python.framework import ops


@pytest.fixture(autouse=True)
def gradients_are_forgotten():
    """Empties TensorFlow's registry of gradients after each test.

    It keeps that of every all_reduce that is traced, with its graph and constants, and for ever: some 150 MB for each
    small model.
    """
    yield
    registry = ops.gradient_registry._registry
    for name in [name for name in registry if name.startswith("CustomGradient-")]:
        del registry[name]
