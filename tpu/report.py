"""The report at the end of a run: report.md, and report.png with the curves of all stages."""

import platform
import statistics

from matplotlib.figure import Figure

import training_history
from atomic_file import atomic_path
from config import CONFIG_NAME
from host_facts import package_version
from tf_lamb import telemetry

# The packages whose versions a reader may want to know.
PACKAGES = ("tensorflow", "tf_keras", "tf-models-official", "tf-lamb")


def write(folder, title, stages, strategy, results, curves):
    """Writes report.md, report.png and the trust ratios of each stage as a PNG, from the files of the run.

    Args:
        folder: The local `Path` of the files, where the report goes as well.
        title: The first line.
        stages: The run's `stages.Stage`s.
        strategy: The `tf.distribute.Strategy` of the run.
        results: The figures at the end, a dictionary of floats.
        curves: The panels of report.png: a dictionary of their labels to lists of columns of history.csv.
    """
    rows = training_history.read(folder)
    with atomic_path(folder / "report.png") as unfinished:
        draw(rows, stages, curves, unfinished)
    ratios = [stage for stage in stages if _adapts(training_history.layers_path(folder, stage.number))]
    for stage in ratios:
        with atomic_path(folder / f"trust_ratios_{stage.number}.png") as unfinished:
            telemetry.plot(training_history.layers_path(folder, stage.number), unfinished)
    with atomic_path(folder / "report.md") as unfinished:
        unfinished.write_text("\n".join(_lines(folder, title, stages, strategy, results, rows, ratios)) + "\n")


def draw(rows, stages, curves, path):
    """Draws columns of the history against the step, a panel for each entry of `curves`, as a PNG.

    Args:
        rows: The rows of history.csv.
        stages: The `stages.Stage`s, whose boundaries are marked.
        curves: A dictionary of labels to lists of columns.
        path: The file to write.
    """
    figure = Figure(figsize=(8, 1.9 * len(curves)), layout="constrained")
    steps = [row["step"] for row in rows]
    panels = figure.subplots(len(curves), sharex=True, squeeze=False)[:, 0]
    for axes, (label, columns) in zip(panels, curves.items(), strict=True):
        for column in columns:
            axes.plot(steps, [row[column] for row in rows], label=column.replace("_", " "), linewidth=1.2)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        for stage in stages[1:]:
            axes.axvline(stage.first_step, color="0.6", linestyle="--", linewidth=0.8)
        if len(columns) > 1:
            axes.legend(fontsize=8)
    panels[-1].set_xlabel("step")
    figure.savefig(path, format="png", dpi=150)


def _adapts(path):
    # AdamW has no layer to draw.
    return path.exists() and bool((telemetry.read_history(path).trust_ratio != 1.0).any())


def _lines(folder, title, stages, strategy, results, rows, ratios):
    versions = ", ".join(f"{name} {package_version(name) or '(not installed as such)'}" for name in PACKAGES)
    yield f"# {title}"
    yield ""
    yield f"{type(strategy).__name__}, {strategy.num_replicas_in_sync} replicas; Python {platform.python_version()}, "
    yield f"{versions}; {platform.machine()}."
    yield ""
    yield "| Result | |"
    yield "|---|---|"
    yield from (f"| {name.replace('_', ' ')} | {value:.6g} |" for name, value in results.items())
    yield ""
    columns = ("Stage", "Steps", "Global batch", "= replicas x examples x accumulated", "Rate", "Warmup", "Examples/s")
    yield f"| {' | '.join(columns)} | Data wait |"
    yield "|---" * (len(columns) + 1) + "|"
    for stage in stages:
        own = [row for row in rows if row["stage"] == stage.number]
        # The first loop of a stage includes compiling.
        speed = statistics.median(row["examples_per_second"] for row in own[1:] or own) if own else float("nan")
        wait = statistics.median(row["data_wait"] for row in own[1:] or own) if own else float("nan")
        yield (
            f"| {stage.number} | {stage.steps:,} | {stage.global_batch_size:,} | {stage.replicas} x "
            f"{stage.per_replica_batch_size:,} x {stage.micro_batches:,} | {stage.learning_rate:.6g} | "
            f"{stage.warmup_steps:,} | {speed:.4g} | {wait:.1%} |"
        )
    yield ""
    yield "![Curves](report.png)"
    for stage in ratios:
        yield ""
        yield f"Trust ratios of stage {stage.number}:"
        yield ""
        yield f"![Trust ratios of stage {stage.number}](trust_ratios_{stage.number}.png)"
    yield ""
    yield "```yaml"
    yield (folder / CONFIG_NAME).read_text(encoding="utf-8").rstrip()
    yield "```"
