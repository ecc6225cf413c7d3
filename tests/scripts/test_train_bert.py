"""The main script on a small text: steps, exact resume, evaluation, export, and its errors."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("official", reason="needs tf-models-official")

from ram_path import copy_to  # noqa: E402
from stopped_run import checkpoint_values, expect_same_bits, interrupt_at, saved_updates  # noqa: E402
from tolerances import REPLICAS, distance  # noqa: E402

import bert_input  # noqa: E402
import bert_manifest  # noqa: E402
import export  # noqa: E402
import initial_weights  # noqa: E402
import prepare_bert_data  # noqa: E402
import train_bert  # noqa: E402
from bert_config import PretrainConfig  # noqa: E402
from bert_task import PretrainTask  # noqa: E402
from config import ConfigError, claim_folder, load  # noqa: E402

pytestmark = [pytest.mark.model_garden, pytest.mark.slow]

TINY = Path(__file__).parents[2] / "configs" / "bert" / "tiny.yaml"
SMALL = [
    "data.vocab_size=400",
    "data.dupe_factor=2",
    "model.layers=1",
    "model.hidden_size=16",
    "model.intermediate_size=32",
    "stages.0.steps=4",
    "stages.0.warmup_steps=2",
    "stages.0.global_batch_size=8",
    "stages.1.steps=2",
    "stages.1.warmup_steps=1",
    "stages.1.global_batch_size=4",
    "run.steps_per_loop=1",
    "run.checkpoint_every_steps=1",
    "run.eval_global_batch_size=8",
]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The config, manifest and folder of a small data set: documents of the words that numbers are made of."""
    folder = tmp_path_factory.mktemp("small")
    for split, documents in (("train", range(40)), ("held_out", range(40, 46))):
        texts = [
            "\n".join(
                f"Document {number} says that line {line} is the sum of {line * number} and {line + number}. "
                f"It goes on with {number - line} words about the value of line {line}."
                for line in range(6)
            )
            for number in documents
        ]
        (folder / f"{split}.txt").write_text("\n\n".join(texts) + "\n")
    config = load(TINY, PretrainConfig, SMALL)
    data_dir = folder / "data"
    manifest = prepare_bert_data.prepare(config, folder / "train.txt", folder / "held_out.txt", data_dir, 2, False)
    return config, manifest, data_dir


def run(small, strategy, model_dir, config=None):
    _, manifest, data_dir = small
    config = config or small[0]
    claim_folder(model_dir, config)
    stages = train_bert.resolve_stages(config, manifest, strategy.num_replicas_in_sync)
    return train_bert.run(config, manifest, stages, strategy, data_dir, model_dir)


@pytest.fixture(scope="module")
def finished(small, two_replicas, tmp_path_factory):
    """The folder and the held-out results of a run that nothing interrupted."""
    model_dir = tmp_path_factory.mktemp("finished")
    return model_dir, run(small, two_replicas, model_dir)


def test_a_run_leaves_what_it_promises(finished, small):
    model_dir, results = finished
    assert saved_updates(model_dir) == 6
    assert all(np.all(np.isfinite(value)) for value in checkpoint_values(model_dir).values())
    assert json.loads((model_dir / "held_out.json").read_text()) == results
    assert set(results) >= {"masked_lm_accuracy", "unigram_accuracy", "next_sentence_accuracy", "masked_lm_loss"}
    assert load(model_dir / "config.yaml", PretrainConfig) == small[0]
    assert "LayerNorm|layer_norm|bias" in (model_dir / "plan.txt").read_text()
    scalars = set()
    for path in (model_dir / "summaries").rglob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            scalars |= {value.tag for value in event.summary.value}
    assert scalars >= {"learning_rate", "masked_lm_loss", "masked_lm_accuracy"}


def test_an_interrupted_run_ends_with_the_same_bits(finished, small, two_replicas, tmp_path, monkeypatch):
    """Interrupted in the middle of the first stage and again in the second; the rate is warm, moments are not zero."""
    for stop_at in (3, 5):
        interrupt_at(stop_at, lambda: run(small, two_replicas, tmp_path / "run"), monkeypatch)
        assert saved_updates(tmp_path / "run") == stop_at - 1
    run(small, two_replicas, tmp_path / "run")
    expect_same_bits(tmp_path / "run", finished[0])


def test_a_run_in_a_bucket_is_the_same_run(finished, small, two_replicas, tmp_path, bucket, monkeypatch):
    """Data and run are remote; stopped in the middle, it goes on from what lies in the bucket."""
    config, manifest, local_data = small
    data_dir, model_dir = bucket / "data", bucket / "run"
    tf.io.gfile.makedirs(str(data_dir))
    copy_to(local_data, data_dir)
    remote = config, bert_manifest.Manifest.load(data_dir), data_dir
    interrupt_at(3, lambda: run(remote, two_replicas, model_dir), monkeypatch)
    assert saved_updates(model_dir) == 2
    run(remote, two_replicas, model_dir)
    expect_same_bits(model_dir, finished[0])
    assert initial_weights.find_checkpoint(model_dir) == f"{model_dir}/checkpoints/ckpt-6"
    kept = {path.name for path in model_dir.iterdir()}
    assert kept == {path.name for path in finished[0].iterdir()}
    assert (model_dir / "held_out.json").read_text() == (finished[0] / "held_out.json").read_text()
    rows = [(name / "layers_1.csv").read_text() for name in (model_dir, finished[0])]
    assert rows[0] == rows[1]
    assert any(path.name == "train" for path in (model_dir / "summaries").iterdir())

    shutil.copytree(finished[0], tmp_path / "run")
    outputs = []
    for folder, data in ((model_dir, data_dir), (tmp_path / "run", local_data)):
        manifest.claim_run(folder)
        saved_model = export.export(folder, data)
        assert str(saved_model) == f"{folder}/saved_model/6"
        serve = tf.saved_model.load(str(saved_model)).signatures["serving_default"]
        ids = {name: tf.constant([[2, 20, 4, 3]]) for name in ("input_word_ids", "input_mask")}
        ids["input_type_ids"] = tf.zeros([1, 4], tf.int32)
        outputs.append(serve(**ids, masked_lm_positions=tf.constant([[2]]))["mlm_logits"].numpy())
    np.testing.assert_array_equal(*outputs)


def test_one_replica_trains_like_two(finished, small, tmp_path):
    results = run(small, tf.distribute.OneDeviceStrategy("CPU:0"), tmp_path / "run")
    one, two = checkpoint_values(tmp_path / "run"), checkpoint_values(finished[0])
    # The bias of attention keys has no gradient but rounding errors, since softmax ignores it; LAMB divides them by
    # their own size.
    weights = [name for name in one if name.startswith("model/") and "_key_dense/bias" not in name]
    assert distance([one[n] for n in weights], [two[n] for n in weights]) < REPLICAS["float32", "cpu"]
    assert results["masked_lm_loss"] == pytest.approx(finished[1]["masked_lm_loss"], rel=1e-4)


def test_the_loss_is_one_mean_over_unequal_replicas(two_replicas):
    """The replicas hold 1 and 3 masked positions: the gradients must be those of the mean over 4."""
    features = {
        "masked_lm_ids": tf.constant([[1, 2, 0], [3, 1, 2]]),
        "masked_lm_weights": tf.constant([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]),
        "next_sentence_labels": tf.constant([0, 1]),
        "example_weights": tf.ones([2]),
    }
    random = np.random.default_rng(0)
    lm_logits, ns_logits = random.normal(size=(2, 3, 5)), random.normal(size=(2, 2))

    def cross_entropy(logits, label):
        return np.log(np.sum(np.exp(logits))) - logits[label]

    masked = [(0, 0, 1), (1, 0, 3), (1, 1, 1), (1, 2, 2)]
    expected = np.mean([cross_entropy(lm_logits[row, column], label) for row, column, label in masked])
    expected += np.mean([cross_entropy(ns_logits[row], row) for row in range(2)])

    task = PretrainTask(load(TINY, PretrainConfig).model, vocab_size=5, baseline_token=1)
    with two_replicas.scope():
        metrics = task.build_metrics()

    def loss():
        row = tf.distribute.get_replica_context().replica_id_in_sync_group
        own = {name: value[row : row + 1] for name, value in features.items()}
        outputs = {
            "mlm_logits": tf.constant(lm_logits, tf.float32)[row : row + 1],
            "next_sentence": tf.constant(ns_logits, tf.float32)[row : row + 1],
        }
        weights = task.loss_weights(own)
        totals = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, weights)
        return task.losses(own, outputs, totals, metrics)

    shares = two_replicas.experimental_local_results(two_replicas.run(loss))
    assert float(sum(shares)) == pytest.approx(expected, rel=1e-6)
    results = {metric.name: float(metric.result()) for metric in metrics}
    assert results["unigram_accuracy"] == 0.5
    assert results["masked_lm_loss"] + results["next_sentence_loss"] == pytest.approx(expected, rel=1e-6)


def test_evaluation_counts_every_example_once(small, two_replicas):
    config, manifest, data_dir = small
    stage = config.stages[0]
    (file,) = manifest.select("held_out", stage.seq_length)
    batches, steps = bert_input.eval_batches(two_replicas, [str(data_dir / file.name)], file.examples, stage, 8)
    assert file.examples % 8, "The last batch must have padding, or the test says nothing."
    counted = 0.0
    iterator = iter(batches)
    for _ in range(steps):
        weights = next(iterator)["example_weights"]
        counted += sum(float(tf.reduce_sum(w)) for w in two_replicas.experimental_local_results(weights))
    assert counted == file.examples


@pytest.mark.parametrize("skip_steps", [1, 3, 50])
def test_skipped_batches_are_those_that_were_read_before(small, skip_steps):
    """50 batches of 8 are beyond the first epoch."""
    config, manifest, data_dir = small
    names, count = manifest.records(data_dir, "train", config.stages[0].seq_length)
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")

    def rows(skip, take):
        batches = iter(bert_input.train_batches(strategy, names, count, config.stages[0], seed=5, skip_steps=skip))
        return [next(batches)["input_word_ids"].numpy() for _ in range(take)]

    assert 3 * 8 < count < 50 * 8
    np.testing.assert_array_equal(rows(skip_steps, 2), rows(0, skip_steps + 2)[skip_steps:])
    epoch = np.concatenate(rows(0, count // 8 + 1))[:count]
    assert len({row.tobytes() for row in epoch}) > 0.9 * count  # Hardly an example is twice in an epoch.


def test_the_command_is_interrupted_and_goes_on(small, tmp_path):
    """One virtual replica in a process of its own; SIGINT while the first checkpoint is written."""
    more = ["stages.0.steps=600", "run.checkpoint_every_steps=300", "run.steps_per_loop=10"]
    command = [sys.executable, train_bert.__file__, "--cpu_replicas", "1", *arguments(small, tmp_path), *more]
    environment = {**os.environ, "PYTHONPATH": str(TINY.parents[2])}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    while process.poll() is None and not list((tmp_path / "run").glob("checkpoints/*.index")):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted; the same command continues from the newest checkpoint." in errors
    assert "stopping after this loop" in errors and "Traceback" not in errors
    step = saved_updates(tmp_path / "run")
    assert 0 < step < 600 and step % 300, "A checkpoint of the interrupt itself."

    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert finished.returncode == 0, finished.stderr
    assert f"step {step} of 602" in finished.stdout
    assert "held-out masked-LM accuracy" in finished.stdout and "unigram baseline" in finished.stdout


def arguments(small, tmp_path, **changes):
    values = {"config_file": TINY, "data_dir": small[2], "model_dir": tmp_path / "run", **changes}
    return [part for name, value in values.items() for part in (f"--{name}", str(value))] + ["--set", *SMALL]


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"config_file": "nowhere.yaml"}, [], "Config file not found. Received: nowhere.yaml."),
        ({"data_dir": "nowhere"}, [], "No prepared data found. Received: nowhere."),
        ({"model_dir": TINY / "run"}, [], "The folder cannot be written"),
        ({}, ["model.width=5"], "unknown field 'model.width'."),
        ({}, ["stages.1.seq_length=96"], "The data has no train examples for stages.1."),
        ({}, ["stages.0.max_predictions=9"], "The data has no train examples for stages.0."),
    ],
)
def test_errors_of_the_command_line(small, tmp_path, capsys, changes, more, message):
    assert train_bert.main(["--strategy", "one_device", *arguments(small, tmp_path, **changes), *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("train_bert: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_initial_checkpoint_is_needed_only_by_a_new_run(finished, small, tmp_path, capsys):
    """The same command goes on when that checkpoint is gone."""
    more = ["--strategy", "one_device", "--init_checkpoint", str(tmp_path / "gone")]
    assert train_bert.main([*more, *arguments(small, tmp_path)]) == 2
    assert "No checkpoint found. Received: " in capsys.readouterr().err and not (tmp_path / "run").exists()
    shutil.copytree(finished[0], tmp_path / "run")
    assert train_bert.main([*more, *arguments(small, tmp_path)]) == 0
    assert "the run goes on from its own checkpoint" in capsys.readouterr().out


def test_a_run_keeps_its_data(small, tmp_path):
    _, manifest, _ = small
    manifest.claim_run(tmp_path)
    manifest.claim_run(tmp_path)
    settings = manifest.settings.model_copy(update={"train_text_sha256": "0"})
    with pytest.raises(ConfigError, match="The run was begun with other data"):
        manifest.model_copy(update={"settings": settings}).claim_run(tmp_path)


def test_a_missing_shard_is_named(small, tmp_path, capsys):
    copy = shutil.copytree(small[2], tmp_path / "data")
    name = bert_manifest.Manifest.load(copy).record_files[0].name
    (copy / name).unlink()
    assert train_bert.main(arguments(small, tmp_path, data_dir=copy)) == 2
    assert name in capsys.readouterr().err


def test_a_damaged_shard_is_named(small, tmp_path):
    copy = shutil.copytree(small[2], tmp_path / "data")
    path = copy / bert_manifest.Manifest.load(copy).record_files[0].name
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"Prepared data is damaged. Received: .*{path.name} with another content"):
        bert_manifest.Manifest.load(copy)
