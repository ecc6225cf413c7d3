"""The loop around a task's steps, on Orbit: stages, metrics, checkpoints, summaries and a progress bar."""

import contextlib
import json
import math
import os
import time
from pathlib import Path

import orbit
import tensorflow as tf
from tqdm import tqdm

import report
from atomic_file import atomic_path
from checkpoints import Checkpoints, newest_name, remove_unfinished
from config import CHECKPOINTS, RunError
from device_loop import DeviceLoop
from run_config import make_optimizer as make_optimizer_of
from staged_folder import StagedFolder
from train_state import TrainState, build_model
from training_history import History
from workers import Workers


class Trainer(orbit.StandardTrainer):
    """Runs a task's training step on every replica.

    Args:
        run: The `Run`.
        stage: The `stages.Stage`.
        dataset: A distributed dataset of its global batches.
    """

    def __init__(self, run, stage, dataset):
        super().__init__(dataset)
        self._run, self.stage = run, stage
        self._data_wait = tf.Variable(0.0, dtype=tf.float64, trainable=False)

    def begin_stage(self, stage, dataset):
        """Goes on with a stage that has as many accumulated parts: its step need not be traced and compiled again."""
        self.stage, self.train_dataset = stage, dataset

    def train_loop_begin(self):
        """Resets the metrics."""
        _reset(self._run.metrics)
        self._data_wait.assign(0.0)
        self._begin = int(self._run.step.numpy()), time.monotonic()

    def train_step(self, iterator):
        """One update on the next global batch."""
        run, begin = self._run, tf.timestamp()
        inputs = next(iterator)
        with tf.control_dependencies(tf.nest.flatten(inputs, expand_composites=True)):
            self._data_wait.assign_add(tf.timestamp() - begin)
        run.strategy.run(lambda features: run.state.update(features, self.stage.micro_batches), args=(inputs,))

    def train_loop_end(self):
        """Returns the metrics over the loop, its speed, and what its last update was.

        Raises:
            RunError: The loss is not finite, and the run is to stop then.
        """
        run, (first_step, begin) = self._run, self._begin
        results, seconds = _results(run.metrics), time.monotonic() - begin
        run.check_finite({name: value for name, value in results.items() if name.endswith("loss")})
        results["learning_rate"] = float(run.optimizer.learning_rate.numpy())
        results["gradient_norm"] = float(run.optimizer.statistics()["gradient_norm"].numpy())
        examples = (int(run.step.numpy()) - first_step) * self.stage.global_batch_size
        results["examples_per_second"] = examples / seconds
        results["data_wait"] = float(self._data_wait.numpy()) / seconds
        return results


class Evaluator(orbit.StandardEvaluator):
    """Runs a task's validation step on every replica.

    Args:
        run: The `Run`.
        dataset: A distributed dataset.
    """

    def __init__(self, run, dataset):
        super().__init__(dataset)
        self._run = run

    def eval_begin(self):
        """Resets the metrics."""
        _reset(self._run.metrics)

    def eval_step(self, iterator):
        """Updates the metrics with the next global batch."""
        run = self._run
        run.strategy.run(
            lambda features: run.task.validation_step(features, run.model, run.metrics), args=(next(iterator),)
        )

    def eval_end(self, *_):
        """Returns the metrics over the whole evaluation."""
        return _results(self._run.metrics)


class Run:
    """What is trained, where, and how far it is.

    Args:
        task: The task: what `train_step` asks for, `build_metrics`, `validation_step`, and `shown`, the metrics to show
            beside the progress bar by their short labels.
        model: Its model, of `build_model`.
        make_optimizer: A function of a learning-rate schedule that makes an optimizer of tf_lamb with telemetry.
        stages: The `stages.Stage`s.
        strategy: The `tf.distribute.Strategy`.
        model_dir: The `Path` of the run.
        options: The `run_config.RunConfig`.
    """

    def __init__(self, task, model, make_optimizer, stages, strategy, model_dir, options):
        self.task, self.model, self.stages, self.strategy = task, model, stages, strategy
        self.model_dir, self.options = model_dir, options
        self.workers = Workers(strategy)
        with strategy.scope():
            self.state = TrainState(task, model, make_optimizer, stages, options.seed)
        self.step, self.metrics, self.optimizer = self.state.step, self.state.metrics, self.state.optimizer
        self.folder = StagedFolder(model_dir)
        if self.workers.is_chief:
            (self.folder.path / "plan.txt").write_text(f"{self.optimizer.plan()}\n", encoding="utf-8")
            self.publish()
        print(*str(self.optimizer.plan()).splitlines()[-2:], sep="\n")
        self._messages = self.folder.path / "orbit.log" if self.workers.is_chief else Path(os.devnull)
        self.checkpoints = Checkpoints(
            model_dir / CHECKPOINTS,
            self.step,
            options.checkpoint_every_steps,
            self.workers.is_chief,
            model=self.model,
            optimizer=self.optimizer,
            restarted_at=self.state.schedule.restarted_at,
        )

    def restore(self):
        """Goes to the newest checkpoint that is whole, and says where that is.

        Returns:
            The count of steps, an int.
        """
        if self.workers.is_chief:
            remove_unfinished(self.checkpoints.folder)
        prefix = self.checkpoints.restore()
        step = int(self.step.numpy())
        print(
            f"{self.strategy.num_replicas_in_sync} replicas; step {step} of {self.stages[-1].last_step}"
            + (f", restored from {Path(prefix).name}" if prefix else "")
        )
        return step

    def train(self, make_dataset):
        """Trains to the end from wherever the run stands.

        Args:
            make_dataset: A function of a `stages.Stage` and the number of its steps to leave out at its beginning
                that makes the distributed dataset of its global batches.

        Raises:
            device_loop.Stopped: The run was asked to stop; it is saved.
            RunError: The loss is not finite, or a checkpoint could not be written.
        """
        self.restore()
        progress = Progress(self.stages[-1].last_step, self.step, self.task.shown, self.workers.is_chief)
        history = History(
            self.folder.path, self.model_dir / "summaries", self.optimizer, self.step, self.workers.is_chief
        )
        loop = DeviceLoop(self.checkpoints, self.step, self.workers, self.options.steps_per_loop, self._before_saving)
        with orbit_messages_to(self._messages), history, loop, contextlib.closing(progress):
            trainer = None
            for stage in self.stages:
                done = int(self.step.numpy())
                if done >= stage.last_step:
                    continue
                if done == stage.first_step and stage.config.moments == "reset":
                    self.state.restart_optimizer(stage.first_step)
                progress.begin_stage(stage)
                history.begin_stage(stage)
                loop.begin_stage()
                dataset = make_dataset(stage, done - stage.first_step)
                if trainer and trainer.stage.micro_batches == stage.micro_batches:
                    trainer.begin_stage(stage, dataset)
                else:
                    trainer = Trainer(self, stage, dataset)
                controller = orbit.Controller(
                    trainer=trainer,
                    strategy=self.strategy,
                    global_step=self.step,
                    steps_per_loop=loop.steps,
                    train_actions=[progress, history, loop],
                    summary_dir=str(self.model_dir / "summaries" / "train") if self.workers.is_chief else None,
                )
                controller.train(stage.last_step)
            self._before_saving()
            self.checkpoints.save()

    def evaluate(self, dataset, steps):
        """The metrics over `steps` batches of a distributed dataset, as a dictionary of floats."""
        with orbit_messages_to(self._messages):
            controller = orbit.Controller(
                evaluator=Evaluator(self, dataset),
                strategy=self.strategy,
                global_step=self.step,
                eval_summary_dir=str(self.model_dir / "summaries" / "held_out") if self.workers.is_chief else None,
            )
            results = controller.evaluate(steps)
        return {name: float(value) for name, value in results.items() if name != "steps_per_second"}

    def finish(self, file_name, title, results, curves):
        """Writes the results of the evaluation, and the report.

        Args:
            file_name: The name of the JSON file for the results.
            title: The title of the report.
            results: What `evaluate` returned.
            curves: The panels of the report, see `report.write`.
        """
        with atomic_path(self.folder.path / file_name) as unfinished:
            unfinished.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        report.write(self.folder.path, title, self.stages, self.strategy, results, curves)
        self.publish()

    def publish(self):
        """Copies the small files of the run to where it is, if that is remote.

        Raises:
            RunError: They could not be written.
        """
        if not self.workers.is_chief:
            return
        try:
            self.folder.publish()
        except OSError as error:
            raise RunError(
                f"A file of the run could not be written: {error.strerror}. Received: {error.filename}. Expected: a "
                "folder that can be written to; the same command then continues."
            ) from None

    def check_finite(self, losses):
        """Raises RunError if a loss, or a weight of the model, is not finite and the run is to stop then.

        Args:
            losses: A dictionary of floats.
        """
        if self.options.on_nonfinite != "stop":
            return
        bad = [f"{name}={value}" for name, value in losses.items() if not math.isfinite(value)]
        if not losses and not bool(self._weights_are_finite()):
            bad = ["a weight that is not finite"]
        if bad:
            raise RunError(
                f"Training diverged before step {int(self.step.numpy()):,}. Received: {', '.join(bad)}. The last good "
                f"checkpoint is {newest_name(self.checkpoints.folder)}. Expected: a lower rate, or "
                "run.on_nonfinite=skip, which leaves such steps out."
            )

    def _before_saving(self):
        # A checkpoint never stands without the history that leads to it.
        self.check_finite({})
        self.publish()

    @tf.function
    def _weights_are_finite(self):
        return tf.reduce_all([tf.reduce_all(tf.math.is_finite(v)) for v in self.model.trainable_variables])


def make(task, config, stages, strategy, model_dir, initialize=lambda model: None):
    """The `Run` of a config with the sections `optimizer` and `run`.

    Args:
        task: As in `Run`.
        config: Such as a `PretrainConfig`.
        stages: As in `Run`.
        strategy: As in `Run`.
        model_dir: As in `Run`.
        initialize: Gives the new model other weights than random ones, in the strategy's scope.
    """
    model = build_model(task, strategy, config.run.seed)
    with strategy.scope():
        initialize(model)
    make_optimizer = make_optimizer_of(config.optimizer, config.run)
    return Run(task, model, make_optimizer, stages, strategy, model_dir, config.run)


class Progress:
    """A progress bar over all stages of a run, to be given to Orbit as an action.

    Args:
        total_steps: The updates of the whole run.
        step: The variable that counts them.
        shown: The names of the metrics to show, by their short labels.
        is_chief: Whether this process shows it.
    """

    def __init__(self, total_steps, step, shown, is_chief):
        self._step, self._shown = step, shown
        done = int(step.numpy())
        self._bar = tqdm(
            total=total_steps, initial=done, unit="step", desc="train", dynamic_ncols=True, disable=not is_chief
        )

    def begin_stage(self, stage):
        """Names the stage."""
        self._bar.set_description(f"stage {stage.number}")

    def __call__(self, output):
        """Moves the bar on to the present step; `output` holds the metrics of the last loop."""
        values = {label: f"{float(output[name]):.4g}" for label, name in self._shown.items()}
        self._bar.set_postfix(values, refresh=False)
        self._bar.update(int(self._step.numpy()) - self._bar.n)

    def close(self):
        """Leaves the bar as it stands."""
        self._bar.close()


@contextlib.contextmanager
def orbit_messages_to(path):
    """Sends what Orbit prints to a file, since it would break the progress bar."""
    with Path(path).open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        yield


def _reset(metrics):
    for metric in metrics:
        metric.reset_states()


def _results(metrics):
    return {metric.name: float(metric.result()) for metric in metrics}
