"""Interrupts a run of this process at a step, and compares the checkpoints of two runs bit by bit."""

import numpy as np
import pytest
import tensorflow as tf

import training_loop
from run_folder import checkpoint_of_run


def interrupt_at(step, run, monkeypatch):
    """Calls `run`, into which Ctrl-C comes after the device loop that ends at `step`."""

    class Interrupted(training_loop.Progress):
        def __call__(self, output):
            super().__call__(output)
            if int(self._step.numpy()) == step:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training_loop, "Progress", Interrupted)
        run()


def checkpoint_values(model_dir):
    """The values of a run's newest checkpoint by name."""
    reader = tf.compat.v1.train.NewCheckpointReader(checkpoint_of_run(model_dir))
    names = reader.get_variable_to_shape_map()
    return {
        name: reader.get_tensor(name) for name in names if "save_counter" not in name and "OBJECT_GRAPH" not in name
    }


def saved_updates(model_dir):
    """The optimizer's count of updates in a run's newest checkpoint."""
    return checkpoint_values(model_dir)["optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE"]


def expect_same_bits(model_dir, other):
    """Fails unless the newest checkpoints of two runs hold the same values."""
    expected, resumed = checkpoint_values(other), checkpoint_values(model_dir)
    assert expected.keys() == resumed.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
