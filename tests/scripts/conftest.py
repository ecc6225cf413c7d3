"""Fixtures of the scripts' tests."""

import signal

import pytest
import tensorflow as tf
from many_models import gradients_are_forgotten  # noqa: F401 - pytest finds it here

# A shell's background job ignores Ctrl-C, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """An empty remote folder, in memory."""
    from ram_path import RamPath

    def copy(source, target, overwrite, original=tf.io.gfile.copy):
        # ram:// appends to a file that is there, where a bucket replaces it.
        if overwrite and tf.io.gfile.exists(target):
            tf.io.gfile.remove(target)
        original(source, target, overwrite)

    monkeypatch.setattr(tf.io.gfile, "copy", copy)
    place = RamPath(f"ram://{tmp_path.name}")
    tf.io.gfile.makedirs(str(place))
    yield place
    tf.io.gfile.rmtree(str(place))
