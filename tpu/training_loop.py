"""The loop around a task's steps, on Orbit: metrics, checkpoints, summaries and a progress bar."""

import contextlib
import signal
import sys
import time
from pathlib import Path

import orbit
import tensorflow as tf
from tqdm import tqdm


class Trainer(orbit.StandardTrainer):
    """Runs a task's training step on every replica.

    Args:
        strategy: The `tf.distribute.Strategy`.
        task: Has `train_step(inputs, model, optimizer, metrics)`.
        model: The model.
        optimizer: The optimizer.
        metrics: The metrics to reset, update and report.
        dataset: A distributed dataset.
    """

    def __init__(self, strategy, task, model, optimizer, metrics, dataset):
        super().__init__(dataset)
        self._strategy, self._task, self._model = strategy, task, model
        self._optimizer, self._metrics = optimizer, metrics

    def train_loop_begin(self):
        """Resets the metrics."""
        _reset(self._metrics)

    def train_step(self, iterator):
        """One update on the next global batch."""
        self._strategy.run(
            lambda inputs: self._task.train_step(inputs, self._model, self._optimizer, self._metrics),
            args=(next(iterator),),
        )

    def train_loop_end(self):
        """Returns the metrics over the loop, and the rate of its last update."""
        return {**_results(self._metrics), "learning_rate": float(self._optimizer.learning_rate.numpy())}


class Evaluator(orbit.StandardEvaluator):
    """Runs a task's validation step on every replica; the arguments are those of `Trainer`."""

    def __init__(self, strategy, task, model, metrics, dataset):
        super().__init__(dataset)
        self._strategy, self._task, self._model, self._metrics = strategy, task, model, metrics

    def eval_begin(self):
        """Resets the metrics."""
        _reset(self._metrics)

    def eval_step(self, iterator):
        """Updates the metrics with the next global batch."""
        self._strategy.run(
            lambda inputs: self._task.validation_step(inputs, self._model, self._metrics), args=(next(iterator),)
        )

    def eval_end(self, *_):
        """Returns the metrics over the whole evaluation."""
        return _results(self._metrics)


class Progress:
    """A progress bar over all stages of a run, to be given to Orbit as an action.

    Args:
        total_steps: The updates of the whole run.
        done_steps: Those made before.
        iterations: The optimizer's counter of updates.
        shown: The names of the metrics to show, by their short labels.
    """

    def __init__(self, total_steps, done_steps, iterations, shown):
        self._iterations, self._shown = iterations, shown
        self._bar = tqdm(total=total_steps, initial=done_steps, unit="step", desc="train", dynamic_ncols=True)

    def begin_stage(self, description, global_batch_size):
        """Names the stage, and starts to count its sequences per second."""
        self._bar.set_description(description)
        self._global_batch_size = global_batch_size
        self._mark = int(self._iterations.numpy()), time.monotonic()

    def __call__(self, output):
        """Moves the bar on to the present step; `output` holds the metrics of the last loop."""
        step, now = int(self._iterations.numpy()), time.monotonic()
        rate = (step - self._mark[0]) * self._global_batch_size / (now - self._mark[1])
        self._mark = step, now
        values = {label: f"{float(output[name]):.4g}" for label, name in self._shown.items()}
        self._bar.set_postfix({**values, "seq/s": f"{rate:.0f}"}, refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self):
        """Leaves the bar as it stands."""
        self._bar.close()


class StopAtEdge:
    """Turns the first Ctrl-C into a checkpoint and a stop at the next edge of the device loop; the second acts at once.

    A context, and an action for Orbit. Elsewhere an interrupt may be lost: Python drops one that comes in a destructor.

    Args:
        checkpoints: The `tf.train.CheckpointManager` to save with.
        iterations: The optimizer's counter of updates.
    """

    def __init__(self, checkpoints, iterations):
        self._checkpoints, self._iterations = checkpoints, iterations
        self._requested = False

    def __enter__(self):
        """Takes over SIGINT."""
        self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_):
        """Gives SIGINT back."""
        signal.signal(signal.SIGINT, self._previous)

    def _request(self, *_):
        self._requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tqdm.write("stopping after this loop; press Ctrl-C again to stop at once", file=sys.stderr)

    def __call__(self, output):
        """Raises KeyboardInterrupt, with a checkpoint saved, if a stop was asked for."""
        if self._requested:
            self._checkpoints.save(checkpoint_number=self._iterations, check_interval=False)
            raise KeyboardInterrupt


@contextlib.contextmanager
def orbit_messages_to(path):
    """Sends what Orbit prints to a file, since it would break the progress bar."""
    with Path(path).open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        yield


def checkpoint_manager(folder, model, optimizer, every_steps):
    """Keeps the newest checkpoints of model and optimizer under `folder`, one each `every_steps` updates."""
    return tf.train.CheckpointManager(
        tf.train.Checkpoint(model=model, optimizer=optimizer),
        str(folder),
        max_to_keep=3,
        step_counter=optimizer.iterations,
        checkpoint_interval=every_steps,
    )


def _reset(metrics):
    for metric in metrics:
        metric.reset_states()


def _results(metrics):
    return {metric.name: float(metric.result()) for metric in metrics}
