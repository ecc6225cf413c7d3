"""Checkpoints: what is damaged is found, the one before is used, and a failed write costs no earlier one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from checkpoints import Checkpoints, list_prefixes, remove_unfinished
from config import ConfigError

TPU = Path(__file__).parents[2] / "tpu"


def make(folder, size=1000, every_steps=1):
    step, weights = tf.Variable(0, dtype=tf.int64), tf.Variable(tf.zeros([size]))
    return Checkpoints(folder, step, every_steps, weights=weights), step, weights


def save_steps(folder, steps):
    checkpoints, step, weights = make(folder)
    for number in steps:
        step.assign(number)
        weights.assign(tf.fill([1000], float(number)))
        checkpoints.save()
    return checkpoints


def damage(path, how):
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        path.unlink()


def test_the_newest_is_restored_and_the_oldest_go(tmp_path):
    save_steps(tmp_path, [1, 2, 3, 10, 11])
    assert [Path(prefix).name for prefix in list_prefixes(tmp_path)] == ["ckpt-3", "ckpt-10", "ckpt-11"]
    checkpoints, step, weights = make(tmp_path)
    assert checkpoints.restore().endswith("ckpt-11")
    assert step.numpy() == 11 and weights.numpy()[7] == 11.0
    assert tf.train.latest_checkpoint(tmp_path).endswith("ckpt-11")


@pytest.mark.parametrize("file", ["ckpt-3.index", "ckpt-3.data-00000-of-00001"])
@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "removed"])
def test_a_damaged_one_is_left_out(tmp_path, file, how, recwarn):
    save_steps(tmp_path, [1, 2, 3])
    damage(tmp_path / file, how)
    checkpoints, step, weights = make(tmp_path)
    assert checkpoints.restore().endswith("ckpt-2")
    assert step.numpy() == 2
    np.testing.assert_array_equal(weights.numpy(), 2.0)
    if (file, how) != ("ckpt-3.index", "removed"):  # Without its index it is no checkpoint.
        assert any("ckpt-3 is damaged and left out" in str(warning.message) for warning in recwarn)


def test_a_damaged_list_of_checkpoints_costs_none(tmp_path):
    save_steps(tmp_path, [1, 2])
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "ckp')
    assert make(tmp_path)[0].restore().endswith("ckpt-2")


def test_a_folder_without_a_whole_one_is_an_error(tmp_path):
    save_steps(tmp_path, [1, 2])
    for number in (1, 2):
        damage(tmp_path / f"ckpt-{number}.data-00000-of-00001", "truncated")
    with (
        pytest.warns(UserWarning),
        pytest.raises(ConfigError, match=r"No checkpoint can be read\. Received: 2 damaged"),
    ):
        make(tmp_path)[0].restore()
    assert make(tmp_path / "nowhere")[0].restore() is None


def test_another_model_is_an_error_and_no_damage(tmp_path):
    save_steps(tmp_path, [1])
    with pytest.raises(ConfigError, match="is of another model"):
        make(tmp_path, size=999)[0].restore()


def test_what_a_killed_process_left_goes(tmp_path):
    save_steps(tmp_path, [1])
    (tmp_path / "ckpt-2_temp").mkdir()
    (tmp_path / "ckpt-2_temp" / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"half")
    (tmp_path / "ckpt-2.data-00000-of-00001").write_bytes(b"whole, but without an index")
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint",
        "ckpt-1.data-00000-of-00001",
        "ckpt-1.index",
    ]


def test_when_one_is_due(tmp_path):
    checkpoints, step, _ = make(tmp_path, every_steps=5)
    due = []
    for number in range(1, 12):
        step.assign(number)
        if checkpoints.is_due:
            due.append(number)
            checkpoints.save()
    assert due == [5, 10]


def test_a_full_disk_costs_no_earlier_one(tmp_path):
    """A process that may write no file of more than 100 kB has a disk that is full."""
    code = f"""
import sys; sys.path.insert(0, {str(TPU)!r}); sys.path.insert(0, {str(Path(__file__).parent)!r})
import resource, signal
from test_checkpoints import make
checkpoints, step, weights = make({str(tmp_path)!r}, size=100_000)
step.assign(1); checkpoints.save()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
step.assign(2)
try:
    checkpoints.save()
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    )
    assert done.stdout.startswith("RunError The checkpoint of step 2 could not be written: "), done.stdout + done.stderr
    assert f"The newest whole one is {tmp_path}/ckpt-1." in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint",
        "ckpt-1.data-00000-of-00001",
        "ckpt-1.index",
    ]
    checkpoints, step, _ = make(tmp_path, size=100_000)
    assert checkpoints.restore().endswith("ckpt-1")


def test_on_a_file_system_without_atomic_renames():
    """TensorFlow's own in memory, as gs:// would be used."""
    checkpoints = save_steps("ram://checkpoints", [1, 2, 3, 4])
    assert [int(prefix.rsplit("-")[-1]) for prefix in list_prefixes(checkpoints.folder)] == [2, 3, 4]
    assert make("ram://checkpoints")[0].restore().endswith("ckpt-4")
