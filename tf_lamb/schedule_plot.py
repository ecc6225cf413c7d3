"""A picture of schedules: the rate at each step, as a PNG."""

from tf_lamb import options
from tf_lamb.figure import figure_class

# More points than a figure has columns, so that a jump of one step is drawn upright.
POINTS = 2000


def plot(schedules, total_steps, path):
    """Draws the rates of schedules over the steps of a run, and writes a PNG.

    Args:
        schedules: A schedule, or a dict from names, which go into the legend, to schedules. A schedule is a function
            of the step, an integer, that gives a scalar.
        total_steps: An integer >= 1: the steps 0 to `total_steps` are drawn.
        path: The file to write, a string or a path.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: `schedules` holds something else, or nothing, or `total_steps` is not positive.

    Example:

    >>> import os, tempfile, tf_lamb
    >>> schedule = tf_lamb.schedules.WarmupPolynomialDecay(0.01, total_steps=100, warmup_steps=10)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tf_lamb.schedules.plot({"linear decay": schedule}, 100, os.path.join(folder, "rate.png"))
    ...     os.listdir(folder)
    ['rate.png']
    """
    total_steps = options.check_count("total_steps", total_steps)
    named = schedules if isinstance(schedules, dict) else {None: schedules}
    if not named or not all(callable(schedule) for schedule in named.values()):
        raise ValueError(
            "`schedules` must be a schedule, or a dict from names to schedules that is not empty. "
            f"Received: schedules={schedules!r}."
        )
    figure = figure_class()(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, schedule in named.items():
        axes.plot(*curve(schedule, total_steps), label=name, linewidth=1.8)
    axes.set(xlabel="step (updates made)", ylabel="learning rate (per update)", xlim=(0, total_steps))
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if any(name is not None for name in named):
        axes.legend(frameon=False)
    figure.savefig(path, format="png", dpi=150)


def curve(schedule, total_steps, points=POINTS):
    """The points of a schedule's curve.

    Args:
        schedule: A function of the step, an integer, that gives a scalar.
        total_steps: An integer >= 1, the last step.
        points: An integer >= 1. Of a longer run, `points` + 1 steps are taken, evenly.

    Returns:
        The steps, a list of integers from 0 to `total_steps`, and the rates at them, a list of floats.
    """
    points = min(points, total_steps)
    steps = [i * total_steps // points for i in range(points + 1)]
    return steps, [float(schedule(step)) for step in steps]
