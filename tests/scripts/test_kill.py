"""A run that is killed at any moment, and started again, ends with the bits of one that nothing stopped.

`KILLS=20 KILLS_IN_WRITES=5` makes it the full test of an hour; by default there are a few.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from kill_run import KilledRun

pytest.importorskip("official", reason="needs tf-models-official")

import prepare_bert_data  # noqa: E402
import train_bert  # noqa: E402
from bert_config import PretrainConfig  # noqa: E402
from config import load  # noqa: E402

pytestmark = [pytest.mark.model_garden, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "bert" / "tiny.yaml"
KILLS, KILLS_IN_WRITES = int(os.environ.get("KILLS", "1")), int(os.environ.get("KILLS_IN_WRITES", "1"))
INTERVAL, STEPS = 3, (24, 12)
SETTINGS = [
    "data.vocab_size=400",
    "model.layers=1",
    "model.hidden_size=16",
    "model.intermediate_size=32",
    "model.dropout_rate=0.1",
    f"stages.0.steps={STEPS[0]}",
    "stages.0.warmup_steps=4",
    "stages.0.global_batch_size=16",
    "stages.0.max_per_replica_batch_size=4",
    f"stages.1.steps={STEPS[1]}",
    "stages.1.warmup_steps=2",
    "stages.1.global_batch_size=8",
    "run.steps_per_loop=1",
    f"run.checkpoint_every_steps={INTERVAL}",
    "run.eval_global_batch_size=8",
]
WAYS = {"one process": (["--cpu_replicas", "2"], 1), "two processes": (["--strategy", "multi_worker"], 2)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A small data set: documents of the words that numbers are made of."""
    folder = tmp_path_factory.mktemp("data")
    for split, documents in (("train", range(40)), ("held_out", range(40, 46))):
        texts = [
            "\n".join(f"Document {n} says that line {i} is {i * n}. It goes on with {n - i} words." for i in range(6))
            for n in documents
        ]
        (folder / f"{split}.txt").write_text("\n\n".join(texts) + "\n")
    config = load(TINY, PretrainConfig, SETTINGS)
    prepare_bert_data.prepare(config, folder / "train.txt", folder / "held_out.txt", folder / "data", 2, False)
    return folder / "data"


def checkpoint_values(model_dir):
    reader = tf.train.load_checkpoint(str(model_dir / "checkpoints" / f"ckpt-{sum(STEPS)}"))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if "OBJECT_GRAPH" not in name}


@pytest.mark.parametrize("way", WAYS)
def test_ends_with_the_same_bits(way, data_dir, tmp_path):
    options, processes = WAYS[way]

    def killed_run(model_dir):
        command = [sys.executable, train_bert.__file__, "--config_file", TINY, "--data_dir", data_dir]
        command = [*map(str, command), "--model_dir", str(model_dir), *options, "--set", *SETTINGS]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        return KilledRun(command, model_dir, environment, sum(STEPS), processes)

    killed_run(tmp_path / "whole").run(0, 0)
    killed = killed_run(tmp_path / "killed")
    killed.run(KILLS, KILLS_IN_WRITES)
    assert (killed.kills, killed.kills_in_writes) == (KILLS, KILLS_IN_WRITES)
    print(f"{way}: {killed.kills} kills, {killed.kills_in_writes} in writes; restored {killed.restored_steps}")
    restarts = len(killed.restored_steps) - 1
    assert restarts >= KILLS + KILLS_IN_WRITES
    assert all(step % INTERVAL == 0 for step in killed.restored_steps)
    assert killed.executed_steps() <= sum(STEPS) + restarts * INTERVAL

    expected, resumed = checkpoint_values(tmp_path / "whole"), checkpoint_values(tmp_path / "killed")
    assert expected.keys() == resumed.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    whole, again = ((tmp_path / name / "held_out.json").read_text() for name in ("whole", "killed"))
    assert whole == again
