"""Learning-rate schedules of large-batch training, as serializable Keras 3 schedules.

The step is the count of updates made so far, from 0. All optimizers of tf_lamb take these schedules, on both faces.
The rules by which rates and warmups follow the batch size, and the plot, are here too by name.
"""

import keras
from keras import ops

from tf_lamb import options
from tf_lamb.scaling import linear_epoch_warmup, linear_scaling, square_root_scaling
from tf_lamb.schedule_plot import plot

__all__ = [
    "InverseTime",
    "Stages",
    "WarmupPolynomialDecay",
    "WarmupStepDecay",
    "goyal",
    "linear_epoch_warmup",
    "linear_scaling",
    "plot",
    "square_root_scaling",
]


@keras.saving.register_keras_serializable(package="tf_lamb")
class WarmupPolynomialDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warmup from zero, then polynomial decay, by default to zero and from where the warmup ends.

    With T = `total_steps`, W = `warmup_steps`, O = `warmup_offset_steps` and E = max(W - O, 0), where the warmup ends,
    the rate at a step s is

        peak * (s + O) / W                                 for s < E
        end + (peak - end) * (1 - (s - D) / (T - D))^power for E <= s < T
        end                                                from T on

    where D = E for `decay_start="warmup_end"` and D = 0 for `decay_start="step_zero"`. In the first case the decay
    begins at the peak. In the second it runs from step 0, as if there were no warmup, and the rate jumps at E from
    nearly the peak down to end + (peak - end) * (1 - E / T)^power: so do the published code of BERT, NVIDIA's recipe
    for BERT with LAMB, and MLPerf's reference.

    The offset starts the run inside the warmup, at the rate peak * O / W. It is `start_warmup_step` of MLPerf's BERT
    with the sign turned: `warmup_offset_steps=76` for a `start_warmup_step` of -76. Neither does anything there
    without warmup steps.

    References: You et al., arXiv 1904.00962v3, section 4: warmup and linear decay for BERT; You et al., arXiv
    1708.03888: power 2 for LARS; github.com/mlcommons/training, language_model/tensorflow/bert/optimization.py: the
    jump and the offset.

    Args:
        peak_learning_rate: A float >= 0, the rate at the end of the warmup.
        total_steps: An integer >= 1, the number of updates.
        warmup_steps: An integer >= 0, the number of updates from zero to the peak. The warmup must end within
            `total_steps`.
        power: A float >= 0: 1 for linear decay, 2 for LARS's, 0 for a constant rate until `total_steps`.
        end_learning_rate: A float in [0, peak_learning_rate], the rate from `total_steps` on.
        decay_start: `"warmup_end"` or `"step_zero"`, where the decay starts to count.
        warmup_offset_steps: An integer >= 0, how many steps of the warmup lie before step 0.

    Raises:
        ValueError: An argument is out of its range.

    Example:

    >>> from tf_lamb.schedules import WarmupPolynomialDecay
    >>> schedule = WarmupPolynomialDecay(0.01, total_steps=10, warmup_steps=2)
    >>> [round(float(schedule(step)), 5) for step in (0, 1, 2, 6, 10)]
    [0.0, 0.005, 0.01, 0.005, 0.0]

    The row of MLPerf's BERT for a batch of 8,192, which jumps at step 211:

    >>> schedule = WarmupPolynomialDecay(2.88293e-3, 600, 287, decay_start="step_zero", warmup_offset_steps=76)
    >>> [round(float(schedule(step)), 8) for step in (0, 210, 211, 600)]
    [0.00076342, 0.00287288, 0.0018691, 0.0]
    """

    def __init__(
        self,
        peak_learning_rate,
        total_steps,
        warmup_steps=0,
        power=1.0,
        end_learning_rate=0.0,
        decay_start="warmup_end",
        warmup_offset_steps=0,
    ):
        self.peak_learning_rate = options.check_non_negative("peak_learning_rate", peak_learning_rate)
        self.power = options.check_non_negative("power", power)
        self.end_learning_rate = options.check_non_negative("end_learning_rate", end_learning_rate)
        if self.end_learning_rate > self.peak_learning_rate:
            raise ValueError(
                "`end_learning_rate` must not be above `peak_learning_rate`. "
                f"Received: end_learning_rate={end_learning_rate!r}, peak_learning_rate={peak_learning_rate!r}."
            )
        self.decay_start = options.check_choice("decay_start", decay_start, ("warmup_end", "step_zero"))
        self.total_steps = options.check_count("total_steps", total_steps)
        self.warmup_offset_steps = options.check_count("warmup_offset_steps", warmup_offset_steps, 0)
        self.warmup_steps = options.check_count(
            "warmup_steps", warmup_steps, 0, self.total_steps + self.warmup_offset_steps
        )

    def __call__(self, step):
        """The rate at `step`, an integer or an array of them; float32 of the same shape."""
        step = ops.cast(step, "int")
        warmup_end = max(self.warmup_steps - self.warmup_offset_steps, 0)
        decay_begin = warmup_end if self.decay_start == "warmup_end" else 0
        # Differences are taken in integers, since float32 counts only to 2^24.
        warmup = ops.cast(step + self.warmup_offset_steps, "float32") / max(self.warmup_steps, 1)
        left = ops.cast(self.total_steps - step, "float32") / max(self.total_steps - decay_begin, 1)
        height = self.peak_learning_rate - self.end_learning_rate
        decay = self.end_learning_rate + height * ops.power(ops.clip(left, 0.0, 1.0), _float32(self.power))
        rate = ops.where(step < warmup_end, self.peak_learning_rate * warmup, decay)
        return ops.where(step < self.total_steps, rate, _float32(self.end_learning_rate))

    def get_config(self):
        """Returns the arguments."""
        return {
            "peak_learning_rate": self.peak_learning_rate,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "power": self.power,
            "end_learning_rate": self.end_learning_rate,
            "decay_start": self.decay_start,
            "warmup_offset_steps": self.warmup_offset_steps,
        }


@keras.saving.register_keras_serializable(package="tf_lamb")
class WarmupStepDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warmup, then a rate that is multiplied by a factor at given steps.

    With W = `warmup_steps` and k(s), the number of `boundary_steps` that are <= s, the rate at a step s is

        initial + (peak - initial) * s / W  for s < W
        peak * factor^k(s)                  from W on

    Reference: Goyal et al., arXiv 1706.02677, sections 2.2 and 5.1; `goyal` gives their recipe.

    Args:
        peak_learning_rate: A float >= 0, the rate at the end of the warmup.
        boundary_steps: A list of increasing integers >= 1, none within the warmup: the first step of each lower rate.
        factor: A float >= 0, what the rate is multiplied by at each of them.
        warmup_steps: An integer >= 0, how many updates warm up.
        initial_learning_rate: A float >= 0, the rate at step 0 of a warmup.

    Raises:
        ValueError: An argument is out of its range.

    Example:

    >>> from tf_lamb.schedules import WarmupStepDecay
    >>> schedule = WarmupStepDecay(0.4, [10, 20], warmup_steps=4, initial_learning_rate=0.1)
    >>> [round(float(schedule(step)), 5) for step in (0, 2, 4, 9, 10, 20)]
    [0.1, 0.25, 0.4, 0.4, 0.04, 0.004]
    """

    def __init__(self, peak_learning_rate, boundary_steps, factor=0.1, warmup_steps=0, initial_learning_rate=0.0):
        self.peak_learning_rate = options.check_non_negative("peak_learning_rate", peak_learning_rate)
        self.factor = options.check_non_negative("factor", factor)
        self.warmup_steps = options.check_count("warmup_steps", warmup_steps, 0)
        self.initial_learning_rate = options.check_non_negative("initial_learning_rate", initial_learning_rate)
        self.boundary_steps = []
        lowest = max(self.warmup_steps, 1)
        for i, boundary in enumerate(boundary_steps):
            self.boundary_steps.append(options.check_count(f"boundary_steps[{i}]", boundary, lowest))
            lowest = self.boundary_steps[-1] + 1

    def __call__(self, step):
        """The rate at `step`, an integer or an array of them; float32 of the same shape."""
        step = ops.cast(step, "int")
        height = self.peak_learning_rate - self.initial_learning_rate
        warmup = self.initial_learning_rate + height * ops.cast(step, "float32") / max(self.warmup_steps, 1)
        rate = ops.where(step < self.warmup_steps, warmup, _float32(self.peak_learning_rate))
        for i, boundary in enumerate(self.boundary_steps, start=1):
            rate = ops.where(step < boundary, rate, _float32(self.peak_learning_rate * self.factor**i))
        return rate

    def get_config(self):
        """Returns the arguments."""
        return {
            "peak_learning_rate": self.peak_learning_rate,
            "boundary_steps": self.boundary_steps,
            "factor": self.factor,
            "warmup_steps": self.warmup_steps,
            "initial_learning_rate": self.initial_learning_rate,
        }


def goyal(peak_learning_rate, steps_per_epoch, initial_learning_rate=0.0):
    """Goyal's recipe for 90 epochs of ImageNet: five epochs of warmup, then a tenth of the rate at 30, 60 and 80.

    Reference: Goyal et al., arXiv 1706.02677, sections 2.2 and 5.1. Their warmup starts at the rate before scaling,
    0.1; the baselines of arXiv 1904.00962v3 (tables 9 to 25) give only the peak.

    Args:
        peak_learning_rate: A float >= 0, the rate after the warmup, for example by `linear_scaling`.
        steps_per_epoch: An integer >= 1, the number of updates in an epoch.
        initial_learning_rate: A float >= 0, the rate at step 0.

    Returns:
        A `WarmupStepDecay`.

    Raises:
        ValueError: An argument is out of its range.

    Example: ResNet-50 at a batch of 8,192, which has 156 full batches in an epoch.

    >>> from tf_lamb.schedules import goyal, linear_scaling
    >>> schedule = goyal(linear_scaling(0.1, 256, 8192), steps_per_epoch=156, initial_learning_rate=0.1)
    >>> [round(float(schedule(epoch * 156)), 5) for epoch in (0, 1, 5, 30, 60, 80)]
    [0.1, 0.72, 3.2, 0.32, 0.032, 0.0032]
    """
    steps_per_epoch = options.check_count("steps_per_epoch", steps_per_epoch)
    return WarmupStepDecay(
        peak_learning_rate,
        [epoch * steps_per_epoch for epoch in (30, 60, 80)],
        warmup_steps=5 * steps_per_epoch,
        initial_learning_rate=initial_learning_rate,
    )


@keras.saving.register_keras_serializable(package="tf_lamb")
class Stages(keras.optimizers.schedules.LearningRateSchedule):
    """Schedules that follow one another, each counting its own steps from zero.

    With `WarmupPolynomialDecay` this is the two-stage training of BERT, whose second stage warms up again from zero.
    With n_i = `steps[i]`, the rate at a step s is

        schedules[i](s - (n_0 + ... + n_{i-1}))  in stage i, for n_0 + ... + n_{i-1} <= s < n_0 + ... + n_i

    Reference: You et al., arXiv 1904.00962v3, section 4.1: mixed-batch training with re-warmup.

    Args:
        schedules: A non-empty list of schedules.
        steps: The number of updates of each, a list of integers >= 1. The last schedule goes on beyond its own.

    Raises:
        ValueError: The lists are empty or differ in length, or a number of steps is not positive.

    Example:

    >>> from tf_lamb.schedules import Stages, WarmupPolynomialDecay
    >>> short = WarmupPolynomialDecay(0.01, total_steps=10, warmup_steps=2)
    >>> long = WarmupPolynomialDecay(0.004, total_steps=4, warmup_steps=2)
    >>> schedule = Stages([short, long], [10, 4])
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
        """The rate at `step`, an integer, or an array if all the schedules take one; float32 of the same shape."""
        step = ops.cast(step, "int")
        rate = self.schedules[0](step)
        begin = 0
        for count, schedule in zip(self.steps[:-1], self.schedules[1:], strict=True):
            begin += count
            # A schedule that has not begun is asked for its step 0: of others than ours, a negative step may be NaN.
            rate = ops.where(step < begin, rate, schedule(ops.maximum(step - begin, 0)))
        return rate

    def get_config(self):
        """Returns the arguments, with the schedules serialized."""
        return {
            "schedules": [keras.optimizers.schedules.serialize(schedule) for schedule in self.schedules],
            "steps": self.steps,
        }


def _float32(number):
    # As a bare number it would be rounded to Keras's default float type on the torch backend, which may be float16.
    return ops.convert_to_tensor(number, "float32")


@keras.saving.register_keras_serializable(package="tf_lamb")
class InverseTime(keras.optimizers.schedules.LearningRateSchedule):
    """A rate divided by 1 + `decay` * step: what the option `decay` of TensorFlow's older optimizers did to it.

    Args:
        learning_rate: A float >= 0, or a schedule.
        decay: A float >= 0.

    Raises:
        ValueError: An argument is out of its range.

    Example:

    >>> from tf_lamb.schedules import InverseTime
    >>> [round(float(InverseTime(0.1, 0.5)(step)), 5) for step in (0, 1, 2)]
    [0.1, 0.06667, 0.05]
    """

    def __init__(self, learning_rate, decay):
        if isinstance(learning_rate, dict):
            learning_rate = keras.optimizers.schedules.deserialize(learning_rate)
        self._varies = isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule)
        if not self._varies:
            learning_rate = options.check_non_negative("learning_rate", learning_rate)
        self.learning_rate, self.decay = learning_rate, options.check_non_negative("decay", decay)

    def __call__(self, step):
        """The rate at `step`, a scalar integer; a float32 scalar."""
        rate = ops.cast(self.learning_rate(step) if self._varies else self.learning_rate, "float32")
        return rate / (1.0 + self.decay * ops.cast(step, "float32"))

    def get_config(self):
        """Returns the arguments, with the schedule serialized."""
        rate = keras.optimizers.schedules.serialize(self.learning_rate) if self._varies else self.learning_rate
        return {"learning_rate": rate, "decay": self.decay}
