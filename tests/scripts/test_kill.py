"""A run that is killed at any moment, and started again, ends with the bits of one that nothing stopped.

`KILLS=20 KILLS_IN_WRITES=5` makes it the full test of an hour; by default there are a few.
"""

import os
import sys
from pathlib import Path

import made_images
import numpy as np
import pytest
import tensorflow as tf
from kill_run import KilledRun

pytest.importorskip("official", reason="needs tf-models-official")

import prepare_bert_data  # noqa: E402
import train_bert  # noqa: E402
import train_resnet  # noqa: E402
from bert_config import PretrainConfig  # noqa: E402
from config import load  # noqa: E402

pytestmark = [pytest.mark.model_garden, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "bert" / "tiny.yaml"
DIGITS = ROOT / "configs" / "resnet50" / "digits_lamb.yaml"
KILLS, KILLS_IN_WRITES = int(os.environ.get("KILLS", "1")), int(os.environ.get("KILLS_IN_WRITES", "1"))
INTERVAL, STEPS = 3, 36
OF_RUN = ["run.steps_per_loop=1", f"run.checkpoint_every_steps={INTERVAL}", "run.eval_global_batch_size=8"]
OF_BERT = [
    "data.vocab_size=400",
    "model.layers=1",
    "model.hidden_size=16",
    "model.intermediate_size=32",
    "model.dropout_rate=0.1",
    "stages.0.steps=24",
    "stages.0.warmup_steps=4",
    "stages.0.global_batch_size=16",
    "stages.0.max_per_replica_batch_size=4",
    "stages.1.steps=12",
    "stages.1.warmup_steps=2",
    "stages.1.global_batch_size=8",
    *OF_RUN,
]
OF_RESNET = [
    "model.depth=10",
    "stages.0.epochs=null",
    f"stages.0.steps={STEPS}",
    "stages.0.global_batch_size=16",
    "stages.0.max_per_replica_batch_size=4",
    "run.shuffle_images=40",
    *OF_RUN,
]
WAYS = {"one process": (["--cpu_replicas", "2"], 1), "two processes": (["--strategy", "multi_worker"], 2)}


@pytest.fixture(scope="module")
def text_dir(tmp_path_factory):
    """A small data set: documents of the words that numbers are made of."""
    folder = tmp_path_factory.mktemp("text")
    for split, documents in (("train", range(40)), ("held_out", range(40, 46))):
        texts = [
            "\n".join(f"Document {n} says that line {i} is {i * n}. It goes on with {n - i} words." for i in range(6))
            for n in documents
        ]
        (folder / f"{split}.txt").write_text("\n\n".join(texts) + "\n")
    config = load(TINY, PretrainConfig, OF_BERT)
    prepare_bert_data.prepare(config, folder / "train.txt", folder / "held_out.txt", folder / "data", 2, False)
    return folder / "data"


@pytest.fixture(scope="module")
def image_dir(tmp_path_factory):
    """A few digits, not a whole number of batches."""
    folder = tmp_path_factory.mktemp("images")
    made_images.write_digits(folder, 53)
    made_images.prepare(folder, folder / "data")
    return folder / "data"


@pytest.mark.parametrize("way", WAYS)
def test_bert_ends_with_the_same_bits(way, text_dir, tmp_path):
    """Weights, moments and counters, with dropout, in two stages."""
    expect_same_end([train_bert.__file__, "--config_file", TINY, "--data_dir", text_dir], OF_BERT, way, tmp_path)
    whole, again = ((tmp_path / name / "held_out.json").read_text() for name in ("whole", "killed"))
    assert whole == again


@pytest.mark.parametrize("way", WAYS)
def test_resnet_ends_with_the_same_bits(way, image_dir, tmp_path):
    """The moving statistics of batch norm, too."""
    command = [train_resnet.__file__, "--config_file", DIGITS, "--data_dir", image_dir]
    values = expect_same_end(command, OF_RESNET, way, tmp_path)
    assert any("moving_variance" in name for name in values)
    whole, again = ((tmp_path / name / "validation.json").read_text() for name in ("whole", "killed"))
    assert whole == again


def expect_same_end(command, settings, way, folder):
    """Runs a command to its end in folder/whole, and with kills in folder/killed; returns the values they end with."""
    options, processes = WAYS[way]

    def killed_run(model_dir):
        parts = [sys.executable, *map(str, command), "--model_dir", str(model_dir), *options, "--set", *settings]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        return KilledRun(parts, model_dir, environment, STEPS, processes)

    killed_run(folder / "whole").run(0, 0)
    killed = killed_run(folder / "killed")
    killed.run(KILLS, KILLS_IN_WRITES)
    assert (killed.kills, killed.kills_in_writes) == (KILLS, KILLS_IN_WRITES)
    print(f"{way}: {killed.kills} kills, {killed.kills_in_writes} in writes; restored {killed.restored_steps}")
    restarts = len(killed.restored_steps) - 1
    assert restarts >= KILLS + KILLS_IN_WRITES
    assert all(step % INTERVAL == 0 for step in killed.restored_steps)
    assert killed.executed_steps() <= STEPS + restarts * INTERVAL

    expected, resumed = checkpoint_values(folder / "whole"), checkpoint_values(folder / "killed")
    assert expected.keys() == resumed.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    return expected


def checkpoint_values(model_dir):
    """The values of a run's last checkpoint, with TensorFlow's own counter of saves."""
    reader = tf.train.load_checkpoint(str(model_dir / "checkpoints" / f"ckpt-{STEPS}"))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if "OBJECT_GRAPH" not in name}
