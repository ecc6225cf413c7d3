"""What an update changes: the model, the optimizer's state, the metrics and the count of updates."""

import tensorflow as tf
import tf_keras

from keyed_dropout import KeyedDropout
from stages import schedule
from train_step import train_step

# How many global seeds TensorFlow tells apart.
SEEDS = 2**31 - 1


def build_model(task, strategy, seed):
    """The model of a task, in the strategy's scope, with weights that follow from the seed."""
    # Beside a global seed of 0 TensorFlow cannot take that of a dataset if it is a tensor.
    tf_keras.utils.set_random_seed(seed % SEEDS or SEEDS - 1)
    # Names, too, follow from the model alone, not from others that were built before.
    tf_keras.backend.reset_uids()
    with strategy.scope():
        return task.build_model()


class TrainState:
    """A model in training. To be made in the strategy's scope.

    Args:
        task: The task: what `train_step` asks for, and `build_metrics`.
        model: Its model, of `build_model`.
        make_optimizer: A function of a learning-rate schedule that makes an optimizer of tf_lamb.
        stages: The `stages.Stage`s, for the learning rate.
        seed: An integer, the seed of dropout.
    """

    def __init__(self, task, model, make_optimizer, stages, seed):
        self.task, self.model = task, model
        self.step = _counter("step")
        self.metrics = task.build_metrics()
        self.schedule = RestartedSchedule(schedule(stages), _counter("restarted_at"))
        self.optimizer = make_optimizer(self.schedule)
        self.optimizer.build(model.trainable_variables)
        self.dropout = KeyedDropout(model, seed)

    def update(self, features, micro_batches):
        """One update, on a replica's share of the global batch; see `train_step.train_step`."""
        train_step(
            self.task, features, self.model, self.optimizer, self.metrics, self.step, micro_batches, self.dropout
        )

    def restart_optimizer(self, step):
        """Gives the optimizer the state of a new one, and its schedule the beginning of a stage at `step`."""
        # Whatever an optimizer of tf_lamb keeps begins at zero, its count of updates too.
        for variable in self.optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        self.schedule.restarted_at.assign(step)


class RestartedSchedule(tf_keras.optimizers.schedules.LearningRateSchedule):
    """A schedule for an optimizer whose count of updates may begin anew.

    Args:
        schedule: A function of the run's count of updates.
        restarted_at: A variable, that count when the optimizer's began.
    """

    def __init__(self, schedule, restarted_at):
        self.schedule, self.restarted_at = schedule, restarted_at

    def __call__(self, step):
        """The rate at an optimizer's `step`, an integer scalar."""
        return self.schedule(tf.cast(step, tf.int64) + self.restarted_at)

    def get_config(self):
        """Not to be saved."""
        raise NotImplementedError("A schedule with a variable has no config.")


def _counter(name):
    return tf.Variable(
        0, dtype=tf.int64, trainable=False, name=name, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
    )
