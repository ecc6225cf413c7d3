"""Draws docs/figures/bert_rates.png: the learning rates of every config in configs/bert, as the trainer resolves them.

Run from anywhere, with the extras `models` and `plot` installed:

    python docs/figures/bert_rates.py
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from schedules import ACCENT, GREY, color, label, panel

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tpu"))

from bert_config import PretrainConfig  # noqa: E402
from config import load  # noqa: E402
from stages import resolve, schedule  # noqa: E402

OUTPUT = Path(__file__).with_suffix(".png")
POINTS = 4000


def curve(axes, name, in_percent=False, **style):
    """Draws the rates of a config's run and returns its stages."""
    config = load(ROOT / "configs" / "bert" / f"{name}.yaml", PretrainConfig)
    stages = resolve(config.stages, 1, lambda _: None)
    total = stages[-1].last_step
    # Both ends of each stage are among the points, so that a jump is drawn upright.
    edges = [edge for stage in stages for edge in (stage.first_step, stage.last_step - 1)]
    steps = np.unique([*np.linspace(0, total - 1, POINTS).astype(int), *edges])
    rates = np.asarray(schedule(stages)(steps))
    axes.plot(steps * (100 / total if in_percent else 1e-3), rates, **style)
    return stages


def table_rows(axes, optimizer):
    """The rows of BERT-Large, in two stages of one schedule."""
    for batch in (512, 1024, 2048, 4096, 8192, 16384, 32768):
        stages = curve(axes, f"large_{optimizer}_{batch}", in_percent=True, color=color(batch))
        if batch >= 4096:  # Below, the curves are too close for names.
            label(axes, 52, stages[0].learning_rate * 0.5, f"{batch:,}", color=color(batch))
    axes.axvline(90, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xlim(0, 100)


def lamb(axes):
    """LAMB, 512 to 32,768."""
    table_rows(axes, "lamb")
    panel(
        axes,
        "large_lamb_512 ... large_lamb_32768",
        "below: 2,048, 1,024, 512; dotted: from length 128 to 512",
        "updates (% of the run)",
    )


def lars(axes):
    """LARS at the same rates."""
    table_rows(axes, "lars")
    panel(axes, "large_lars_512 ... large_lars_32768", "the paper's baseline", "updates (% of the run)")


def adamw(axes):
    """AdamW as BERT was published."""
    curve(axes, "large_adamw_512", color=ACCENT)
    panel(axes, "large_adamw_512", "the baseline: warmup of 10,000, then linear", "updates (thousands)")


def mixed(axes):
    """A batch of 65,536, then one of 32,768."""
    stages = curve(axes, "large_lamb_65536_32768", color=color(65536))
    axes.axvline(stages[0].last_step / 1e3, color=GREY, linewidth=0.8, linestyle=":")
    label(axes, 3.4, 2.2e-3, "65,536\nlength 128", ha="center", color=color(65536))
    label(axes, 8.0, 4.3e-3, "32,768\nlength 512", ha="center", color=color(32768))
    panel(axes, "large_lamb_65536_32768", "warmed up again at the second stage", "updates (thousands)")


def mlperf(axes):
    """MLPerf's rows."""
    for batch in (256, 448, 1536, 3072, 4096, 8192, 16384):
        stages = curve(axes, f"mlperf_lamb_{batch}", in_percent=True, color=color(max(batch, 512)))
        if batch not in (448, 1536):  # Under its neighbour's name: 256 and 448, 1,536 and 3,072.
            label(axes, 55, stages[0].learning_rate * 0.46, f"{batch:,}", color=color(max(batch, 512)))
    panel(axes, "mlperf_lamb_256 ... mlperf_lamb_16384", "448 lies above 256, 1,536 on 3,072", "updates (% of the run)")
    axes.set_xlim(0, 100)


def small(axes):
    """BERT-Base, and the run of `make train`."""
    curve(axes, "base_lamb_4096", in_percent=True, color=color(4096))
    curve(axes, "tiny", in_percent=True, color=ACCENT)
    label(axes, 40, 6.6e-3, "tiny: two schedules", color=ACCENT)
    label(axes, 40, 1.6e-3, "base_lamb_4096", color=color(4096))
    panel(axes, "base_lamb_4096, tiny", "one schedule over two stages, and one for each", "updates (% of the run)")
    axes.set_xlim(0, 100)


def main():
    """Draws all panels."""
    figure = Figure(figsize=(12.6, 7.4), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.14)
    for draw, axes in zip((lamb, lars, adamw, mixed, mlperf, small), figure.subplots(2, 3).flat, strict=True):
        draw(axes)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 1e3:g}"))
        axes.set_ylabel("learning rate (thousandths)")
    figure.savefig(OUTPUT, dpi=110)


if __name__ == "__main__":
    main()
