"""Learning-rate schedules of large-batch training, as serializable Keras 3 schedules.

The step is the count of updates made so far, from 0. Both optimizers of tf_lamb take these schedules.
"""

import keras
from keras import ops

from tf_lamb import options


@keras.saving.register_keras_serializable(package="tf_lamb")
class WarmupPolynomialDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warmup from zero, then polynomial decay to zero that starts where the warmup ends.

    With T = `total_steps` and W = `warmup_steps`, the rate at a step s is

        peak * s / W                           for s < W
        peak * (1 - (s - W) / (T - W))^power   for W <= s < T
        0                                      from T on

    Reference: You et al., arXiv 1904.00962v5, section 4: linear warmup and linear decay for BERT.

    Args:
        peak_learning_rate: A float >= 0, the rate at the end of the warmup.
        total_steps: An integer >= 1, the number of updates.
        warmup_steps: An integer in [0, total_steps], how many of them warm up.
        power: A float >= 0, 1 for linear decay.

    Raises:
        ValueError: An argument is out of its range.

    Example:

    >>> import tf_lamb
    >>> schedule = tf_lamb.schedules.WarmupPolynomialDecay(0.01, total_steps=10, warmup_steps=2)
    >>> [round(float(schedule(step)), 5) for step in (0, 1, 2, 6, 10)]
    [0.0, 0.005, 0.01, 0.005, 0.0]
    """

    def __init__(self, peak_learning_rate, total_steps, warmup_steps=0, power=1.0):
        self.peak_learning_rate = options.check_non_negative("peak_learning_rate", peak_learning_rate)
        self.power = options.check_non_negative("power", power)
        self.total_steps = options.check_count("total_steps", total_steps)
        self.warmup_steps = options.check_count("warmup_steps", warmup_steps, 0, self.total_steps)

    def __call__(self, step):
        """The rate at `step`, a scalar integer; a float32 scalar."""
        step = ops.cast(step, "float32")
        warmup = step / max(self.warmup_steps, 1)
        left = (self.total_steps - step) / max(self.total_steps - self.warmup_steps, 1)
        decay = ops.power(ops.clip(left, 0.0, 1.0), self.power)
        return self.peak_learning_rate * ops.where(step < self.warmup_steps, warmup, decay)

    def get_config(self):
        """Returns the arguments."""
        return {
            "peak_learning_rate": self.peak_learning_rate,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "power": self.power,
        }


@keras.saving.register_keras_serializable(package="tf_lamb")
class Stages(keras.optimizers.schedules.LearningRateSchedule):
    """Schedules that follow one another, each counting its own steps from zero.

    With `WarmupPolynomialDecay` this is the two-stage training of BERT, whose second stage warms up again from zero.

    Args:
        schedules: A non-empty list of schedules.
        steps: The number of updates of each, a list of integers >= 1. The last schedule goes on beyond its own.

    Raises:
        ValueError: The lists are empty or differ in length, or a number of steps is not positive.

    Example:

    >>> import tf_lamb
    >>> short = tf_lamb.schedules.WarmupPolynomialDecay(0.01, total_steps=10, warmup_steps=2)
    >>> long = tf_lamb.schedules.WarmupPolynomialDecay(0.004, total_steps=4, warmup_steps=2)
    >>> schedule = tf_lamb.schedules.Stages([short, long], [10, 4])
    >>> [round(float(schedule(step)), 5) for step in (2, 10, 12, 13, 14)]
    [0.01, 0.0, 0.004, 0.002, 0.0]
    """

    def __init__(self, schedules, steps):
        schedules, steps = list(schedules), list(steps)
        if not schedules or len(schedules) != len(steps):
            raise ValueError(
                "`schedules` and `steps` must be lists of the same length, at least 1. "
                f"Received: {len(schedules)} schedules and {len(steps)} numbers of steps."
            )
        self.steps = [options.check_count(f"steps[{i}]", count) for i, count in enumerate(steps)]
        self.schedules = [
            keras.optimizers.schedules.deserialize(schedule) if isinstance(schedule, dict) else schedule
            for schedule in schedules
        ]
        for schedule in self.schedules:
            if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
                raise ValueError(f"`schedules` must be schedules of Keras 3. Received: {schedule!r} among them.")

    def __call__(self, step):
        """The rate at `step`, a scalar integer; a float32 scalar."""
        begin = sum(self.steps[:-1])
        rate = self.schedules[-1](step - begin)
        for schedule, count in zip(reversed(self.schedules[:-1]), reversed(self.steps[:-1]), strict=True):
            rate = ops.where(step < begin, schedule(step - (begin - count)), rate)
            begin -= count
        return rate

    def get_config(self):
        """Returns the arguments, with the schedules serialized."""
        return {
            "schedules": [keras.optimizers.schedules.serialize(schedule) for schedule in self.schedules],
            "steps": self.steps,
        }
