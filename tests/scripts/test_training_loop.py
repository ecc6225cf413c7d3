"""The loop on a small task of its own: stages, reset moments, stops, losses that are not finite, and the report."""

import os
import signal

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("orbit", reason="needs orbit, of tf-models-official")

import tf_keras  # noqa: E402

import record_order  # noqa: E402
import report  # noqa: E402
import run_config  # noqa: E402
import stages as stages_of_a_run  # noqa: E402
import train_state  # noqa: E402
import training_history  # noqa: E402
import training_loop  # noqa: E402
from checkpoints import list_prefixes  # noqa: E402
from config import RunError, dump  # noqa: E402
from device_loop import Stopped  # noqa: E402

pytestmark = pytest.mark.model_garden

STRATEGY = tf.distribute.OneDeviceStrategy("CPU:0")


class Task:
    """Least squares."""

    shown = {"loss": "loss"}

    def build_model(self):
        """A linear layer."""
        model = tf_keras.Sequential([tf_keras.layers.Dense(3, name="linear")])
        model.build((None, 4))
        return model

    def build_metrics(self):
        """The mean loss."""
        return [tf_keras.metrics.Mean("loss")]

    def model_inputs(self, features):
        """The points."""
        return features["x"]

    def loss_weights(self, features):
        """The count of points."""
        return [tf.cast(tf.shape(features["x"])[0], tf.float32)]

    def losses(self, features, outputs, totals, metrics):
        """The sum of squared errors over the count of all points."""
        errors = tf.reduce_sum(tf.square(outputs - features["y"]), axis=-1)
        metrics[0].update_state(errors)
        return tf.reduce_sum(errors) / totals[0]


def batches(stage, skip_steps, spoiled=()):
    """A batch for each step of the run, some of them with a target that is not finite."""
    random = np.random.default_rng(5)
    x = random.normal(size=(100, stage.global_batch_size, 4)).astype(np.float32)
    y = random.normal(size=(100, stage.global_batch_size, 3)).astype(np.float32)
    y[list(spoiled)] = np.inf
    first = stage.first_step + skip_steps
    return tf.data.Dataset.from_tensor_slices({"x": x[first:], "y": y[first:]})


def make(folder, stages=None, **options):
    options = {"steps_per_loop": 1, "checkpoint_every_steps": 2, **options}
    config = run_config.RunConfig(**options)
    configs = [
        stages_of_a_run.StageConfig(
            **{
                "global_batch_size": 4,
                "max_per_replica_batch_size": 2,
                "learning_rate": 0.05,
                "warmup_steps": 1,
                **stage,
            }
        )
        for stage in (stages or [{"steps": 6}, {"steps": 5}])
    ]
    resolved = stages_of_a_run.resolve(configs, 1, lambda _: 0)
    task = Task()
    model = train_state.build_model(task, STRATEGY, config.seed)
    make_optimizer = run_config.make_optimizer(run_config.LambConfig(), config)
    return training_loop.Run(task, model, make_optimizer, resolved, STRATEGY, folder, config)


def weights(run):
    return [variable.numpy() for variable in (*run.model.variables, *run.optimizer.variables)]


def test_a_reset_begins_with_new_moments_and_keeps_the_weights(tmp_path):
    """The second stage is then the first of a run that begins with these weights."""
    (tmp_path / "first").mkdir()
    run = make(tmp_path / "first", [{"steps": 6}, {"steps": 5, "moments": "reset"}])
    run.train(batches)
    assert int(run.step.numpy()) == 11 and int(run.optimizer.iterations.numpy()) == 5

    (tmp_path / "second").mkdir()
    begun = make(tmp_path / "second", [{"steps": 6}])
    begun.train(batches)
    (tmp_path / "third").mkdir()
    alone = make(tmp_path / "third", [{"steps": 5}])
    for variable, other in zip(alone.model.variables, begun.model.variables, strict=True):
        variable.assign(other)
    alone.train(lambda stage, skip_steps: batches(stage, skip_steps + 6))
    for ours, theirs in zip(run.model.variables, alone.model.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())

    (tmp_path / "kept").mkdir()
    kept = make(tmp_path / "kept")
    kept.train(batches)
    assert int(kept.optimizer.iterations.numpy()) == 11
    assert np.any(kept.model.variables[0].numpy() != run.model.variables[0].numpy())


@pytest.mark.parametrize(("second", "traces"), [({"steps": 2}, 1), ({"steps": 2, "global_batch_size": 6}, 2)])
def test_a_stage_with_as_many_parts_takes_the_traced_step(second, traces, tmp_path):
    run = make(tmp_path, [{"steps": 2}, second])
    traced = []
    loss_weights = run.task.loss_weights
    run.task.loss_weights = lambda features: traced.append(features) or loss_weights(features)
    run.train(batches)
    assert len(traced) == traces
    assert int(run.step.numpy()) == 4


@pytest.mark.parametrize("moments", ["keep", "reset"])
@pytest.mark.parametrize("stop_at", [3, 6, 8])
def test_a_stopped_run_goes_on(moments, stop_at, tmp_path, monkeypatch):
    stages = [{"steps": 6}, {"steps": 5, "moments": moments}]
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = make(tmp_path / "whole", stages)
    whole.train(batches)

    stopped = make(tmp_path / "stopped", stages)

    class Stopping(training_loop.Progress):
        def __call__(self, output):
            super().__call__(output)
            if int(self._step.numpy()) == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(training_loop, "Progress", Stopping)
    with pytest.raises(Stopped) as stop:
        stopped.train(batches)
    monkeypatch.undo()
    assert stop.value.exit_code == 75
    assert int(stopped.step.numpy()) == stop_at
    assert list_prefixes(tmp_path / "stopped" / "checkpoints")[-1].endswith(f"ckpt-{int(stopped.step.numpy())}")
    resumed = make(tmp_path / "stopped", stages)
    resumed.train(batches)
    for ours, theirs in zip(weights(resumed), weights(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [row["step"] for row in training_history.read(tmp_path / "stopped")] == list(range(1, 12))


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(tmp_path):
    run = make(tmp_path)
    with pytest.raises(
        RunError, match=r"diverged before step 6\. Received: loss=inf\. The last good checkpoint is .*ckpt-4\."
    ):
        run.train(lambda stage, skip_steps: batches(stage, skip_steps, spoiled=(5,)))
    assert [prefix.rsplit("-")[-1] for prefix in list_prefixes(tmp_path / "checkpoints")] == ["2", "4"]


def test_or_its_step_is_left_out(tmp_path):
    run = make(tmp_path, on_nonfinite="skip")
    run.train(lambda stage, skip_steps: batches(stage, skip_steps, spoiled=(5,)))
    assert int(run.step.numpy()) == 11 and int(run.optimizer.iterations.numpy()) == 10
    assert int(run.optimizer.skipped_steps.numpy()) == 1
    assert all(np.all(np.isfinite(value)) for value in weights(run))


@pytest.mark.parametrize("seed", [0, 2**31 - 1, 2**40])
def test_any_seed_orders_records(seed, tmp_path):
    files = {}
    for name in "ab":
        files[str(tmp_path / name)] = 3
        with tf.io.TFRecordWriter(str(tmp_path / name)) as writer:
            for number in "123":
                writer.write(f"{name}{number}".encode())
    train_state.build_model(Task(), STRATEGY, seed)
    records = record_order.train_records(tf.distribute.InputContext(), list(files), 6, 6, seed, 0, 6)
    ((batch, _),) = records.take(1).as_numpy_iterator()
    assert sorted(batch) == [b"a1", b"a2", b"a3", b"b1", b"b2", b"b3"]


def test_loops_grow_to_some_seconds_and_end_at_checkpoints(tmp_path):
    run = make(tmp_path, [{"steps": 90}], steps_per_loop="auto", checkpoint_every_steps=40)
    run.train(batches)
    steps = [int(row["step"]) for row in training_history.read(tmp_path)]
    assert {40, 80, 90} <= set(steps)
    loops = np.diff([0, *steps])
    assert loops[0] == 1 and loops.max() > 1 and all(b <= 4 * a for a, b in zip(loops[:3], loops[1:4], strict=True))


def test_the_report(tmp_path):
    run = make(tmp_path)
    run.train(batches)
    dump(run.options, tmp_path / "config.yaml")
    report.write(
        tmp_path, "A small task", run.stages, STRATEGY, {"loss": 0.25}, {"loss": ["loss"], "rate": ["learning_rate"]}
    )
    text = (tmp_path / "report.md").read_text()
    assert "| loss | 0.25 |" in text and "| 2 | 5 | 4 | 1 x 2 x 2 | 0.05 | 1 |" in text
    for picture in ("report.png", "trust_ratios_1.png", "trust_ratios_2.png"):
        assert f"({picture})" in text
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
