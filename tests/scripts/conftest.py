"""Fixtures of the scripts' tests."""

import pytest
import tensorflow as tf


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
