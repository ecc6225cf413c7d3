"""Draws docs/figures/schedules.png: the schedules of tf_lamb.schedules with the published numbers.

Run from anywhere, with matplotlib installed:

    python docs/figures/schedules.py
"""

import math
from pathlib import Path

import keras
import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from tf_lamb import schedules

OUTPUT = Path(__file__).with_suffix(".png")
IMAGENET, CIFAR = 1_281_167, 50_000
LAMB_BATCHES = [512, 1024, 2048, 4096, 8192, 16384, 32768]
BATCHES = [*LAMB_BATCHES, 65536]
# From violet for the smallest batch to green for the largest; viridis's yellow is too pale for a line or a word.
COLORS = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.8, len(BATCHES)))
GREY, ACCENT = "#5f6368", "#c2410c"
POINTS = 4000

matplotlib.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "axes.labelcolor": "#202124",
        "xtick.color": GREY,
        "ytick.color": GREY,
        "axes.grid": True,
        "grid.color": "#e8eaed",
        "lines.linewidth": 1.7,
        "lines.solid_capstyle": "round",
    }
)


def color(batch):
    """The colour of a batch size: that of the nearest power of two."""
    return COLORS[min(range(len(BATCHES)), key=lambda i: abs(math.log2(batch / BATCHES[i])))]


def curve(axes, schedule, total_steps, unit=1.0, **style):
    """Draws the rates of a run; `unit` is what a step is worth on the horizontal axis."""
    steps = np.unique(np.linspace(0, total_steps, POINTS).astype(int))
    axes.plot(steps * unit, keras.ops.convert_to_numpy(schedule(steps)), **style)


def panel(axes, title, note, xlabel, ylabel="learning rate"):
    """Names a panel: what it shows, whose numbers these are, and its axes."""
    axes.set_title(title, pad=20)
    axes.text(0, 1.025, note, transform=axes.transAxes, color=GREY, fontsize=8, va="bottom")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)


def label(axes, x, y, text, **style):
    """Writes a word at a curve, over a white edge that keeps it legible on the grid."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}
    axes.text(x, y, text, **{"fontsize": 8, "bbox": box, **style})


def rates_by_batch(axes):
    """The square-root rule against the linear one."""
    for base, name in ((0.04, "ResNet-50, LAMB"), (5e-3, "BERT-Large, LAMB")):
        rates = [schedules.square_root_scaling(base, 32768, batch) for batch in LAMB_BATCHES]
        axes.plot(LAMB_BATCHES, rates, color=GREY, zorder=1)
        axes.scatter(LAMB_BATCHES, rates, c=COLORS[: len(rates)], s=26, zorder=2)
        label(axes, 560, rates[0] * 1.8, name, color=GREY, rotation=14)
    batches = [256, 8192]
    axes.plot(batches, [schedules.linear_scaling(0.1, 256, batch) for batch in batches], color=ACCENT, linestyle="--")
    label(axes, 1300, 0.16, "ResNet-50, SGD", color=ACCENT, rotation=27)
    panel(axes, "Rate by batch size", "solid: square root (LAMB); dashed: linear (Goyal)", "global batch (examples)")
    axes.set(xscale="log", yscale="log", xlim=(220, 45000), ylim=(4e-4, 6))
    batch_axis(axes)


def warmup_by_batch(axes):
    """The linear-epoch rule."""
    ratios = [100 * schedules.linear_epoch_warmup(1 / 320, 512, batch) for batch in LAMB_BATCHES]
    axes.plot(LAMB_BATCHES, ratios, color=GREY, zorder=1)
    axes.scatter(LAMB_BATCHES, ratios, c=COLORS[: len(ratios)], s=26, zorder=2)
    label(axes, 3500, 3.1, "1/40 at 4,096", ha="right", color=color(4096))
    label(axes, 28000, 22, "1/5 at 32,768", ha="right", color=color(32768))
    label(axes, 33000, 0.42, "3,125 updates at\nevery batch size", ha="right", color=GREY)
    panel(
        axes,
        "Warmup by batch size",
        "BERT-Large, LAMB: linear-epoch warmup",
        "global batch (examples)",
        "warmup (% of the updates)",
    )
    axes.set(xscale="log", yscale="log", xlim=(400, 45000), ylim=(0.22, 40))
    axes.set_yticks([0.3, 1, 3, 10, 30], ["0.3", "1", "3", "10", "30"])
    axes.yaxis.set_minor_locator(NullLocator())
    batch_axis(axes)


def batch_axis(axes):
    """Ticks at powers of two."""
    axes.set_xticks([512, 2048, 8192, 32768], ["512", "2K", "8K", "32K"])
    axes.xaxis.set_minor_locator(NullLocator())


def bert_lamb(axes):
    """BERT-Large by the two rules."""
    for batch in LAMB_BATCHES:
        rate = schedules.square_root_scaling(5e-3, 32768, batch)
        total = 1_000_000 * 512 // batch
        schedule = schedules.WarmupPolynomialDecay(rate, total, warmup_steps=3125)
        curve(axes, schedule, total, 100 / total, color=color(batch))
    panel(axes, "BERT-Large, LAMB", "arXiv 1904.00962v3, table 5: 512 to 32,768", "updates (% of the run)")
    axes.set_xlim(0, 100)


def jump(axes):
    """What the published code does at the end of the warmup."""
    options = {"peak_learning_rate": 5e-3, "total_steps": 15625, "warmup_steps": 3125}
    published = schedules.WarmupPolynomialDecay(**options, decay_start="step_zero")
    curve(axes, schedules.WarmupPolynomialDecay(**options), 15625, 1e-3, color=color(32768))
    curve(axes, published, 15625, 1e-3, color=ACCENT, linestyle="--")
    label(axes, 7.2, 3.9e-3, 'decay_start="warmup_end"', color=color(32768))
    label(axes, 6.6, 1.15e-3, 'decay_start=\n"step_zero"', color=ACCENT, ha="center")
    panel(axes, "BERT-Large: the decay's start", "batch 32,768; dashed: BERT's published code", "updates (thousands)")


def two_stages(axes):
    """A batch of 65,536 at length 128, then of 32,768 at length 512."""
    counts = [7037, 1562]
    stages = [
        schedules.WarmupPolynomialDecay(6e-3, counts[0], 2000, 0.5, decay_start="step_zero"),
        schedules.WarmupPolynomialDecay(4e-3, counts[1], 200, 0.5, decay_start="step_zero"),
    ]
    axes.axvline(counts[0] / 1e3, color=GREY, linewidth=0.8, linestyle=":")
    schedule = schedules.Stages(stages, counts)
    # In two parts for their colours; the second begins where the rate falls to zero.
    rates = keras.ops.convert_to_numpy(schedule(np.arange(sum(counts) + 1)))
    steps = np.arange(len(rates)) / 1e3
    axes.plot(steps[: counts[0] + 1], rates[: counts[0] + 1], color=color(65536))
    axes.plot(steps[counts[0] :], rates[counts[0] :], color=color(32768))
    label(axes, 3.3, 2.4e-3, "65,536\nlength 128", ha="center", color=color(65536))
    label(axes, 8.05, 4.3e-3, "32,768\nlength 512", ha="center", color=color(32768))
    panel(axes, "BERT-Large in two stages", "rates of NVIDIA's open recipe, power 0.5", "updates (thousands)")


def mlperf_bert(axes):
    """Two rows start inside the warmup."""
    rows = [(3072, 2e-3, 1141, 100, 0), (8192, 2.88293e-3, 600, 287, 76), (16384, 3.3e-3, 600, 290, 100)]
    for batch, rate, total, warmup, offset in rows:
        schedule = schedules.WarmupPolynomialDecay(
            rate, total, warmup, decay_start="step_zero", warmup_offset_steps=offset
        )
        curve(axes, schedule, total, color=color(batch))
    label(axes, 215, 3.12e-3, "16,384", color=color(16384))
    label(axes, 232, 2.6e-3, "8,192", color=color(8192))
    label(axes, 640, 1.05e-3, "3,072", color=color(3072))
    panel(axes, "BERT, MLPerf", "RCP v5.1: 8,192 starts 76 steps into the warmup", "updates")


def resnet_lamb(axes):
    """ResNet-50 by the two rules."""
    for batch in LAMB_BATCHES:
        rate = schedules.square_root_scaling(0.04, 32768, batch)
        epochs = schedules.linear_epoch_warmup(20, 32768, batch)
        total = math.ceil(90 * IMAGENET / batch)
        schedule = schedules.WarmupPolynomialDecay(rate, total, warmup_steps=round(epochs * IMAGENET / batch))
        curve(axes, schedule, total, batch / IMAGENET, color=color(batch))
    panel(axes, "ResNet-50, LAMB", "arXiv 1904.00962v3, table 6: 512 to 32,768", "epoch")
    axes.set_xlim(0, 90)


def lars(axes, rows, power=2.0, end=0.0):
    """Runs of (batch, rate, warmup epochs, epochs) over ImageNet."""
    for batch, rate, warmup_epochs, epochs in rows:
        per_epoch = IMAGENET / batch
        schedule = schedules.WarmupPolynomialDecay(
            rate, round(epochs * per_epoch), round(warmup_epochs * per_epoch), power, end
        )
        curve(axes, schedule, round(epochs * per_epoch), 1 / per_epoch, color=color(batch))
        label(axes, warmup_epochs + 1.5, rate, f"{batch:,}", color=color(batch), va="bottom")


def resnet_lars(axes):
    """LARS as first published."""
    lars(axes, [(8192, 0.6, 5, 90), (16384, 2.5, 5, 90), (32768, 2.9, 5, 90)])
    panel(axes, "ResNet-50, LARS", "arXiv 1708.03888: power 2, 5 epochs of warmup", "epoch")
    axes.set(xlim=(0, 90), ylim=(0, 3.3))


def mlperf_lars(axes):
    """LARS with a rate to end at."""
    rows = [(4096, 10, 5, 40), (8192, 17, 5, 42), (32768, 21.2, 16, 56), (65536, 24.699, 31, 84.5)]
    lars(axes, rows, end=1e-4)
    panel(axes, "ResNet-50, LARS, MLPerf", "RCP v4.0: power 2, to an end rate of 1e-4", "epoch")
    axes.set(xlim=(0, 90), ylim=(0, 28))


def alexnet_lars(axes):
    """The larger the batch, the less a rule predicts the rate."""
    lars(axes, [(512, 2, 5, 100), (4096, 10, 5, 100), (8192, 14, 5, 100), (16384, 23, 5, 100)])
    panel(axes, "AlexNet-BN, LARS", "arXiv 1708.03888: power 2, tuned rates", "epoch")
    axes.set(xlim=(0, 100), ylim=(0, 26))


def goyal(axes):
    """Momentum SGD at 8,192."""
    per_epoch = IMAGENET // 8192
    rate = schedules.linear_scaling(0.1, 256, 8192)
    schedule = schedules.goyal(rate, per_epoch, initial_learning_rate=0.1)
    curve(axes, schedule, 90 * per_epoch, 1 / per_epoch, color=color(8192))
    panel(axes, "ResNet-50, Goyal's recipe", "arXiv 1706.02677: batch 8,192, from 0.1 to 3.2", "epoch")
    axes.set(yscale="log", ylim=(2e-3, 6), xlim=(0, 90), xticks=[0, 5, 30, 60, 80])


def cifar(axes):
    """A triangle is a warmup and a linear decay."""
    per_epoch = math.ceil(CIFAR / 512)
    schedule = schedules.WarmupPolynomialDecay(10 / 512, 24 * per_epoch, warmup_steps=6 * per_epoch)
    curve(axes, schedule, 24 * per_epoch, 1 / per_epoch, color=color(512))
    panel(axes, "CIFAR-10 DavidNet, LAMB", "author's settings: a triangle, peak 10/512, batch 512", "epoch")
    axes.set(xlim=(0, 24), xticks=[0, 6, 12, 18, 24])


def main():
    """Draws all panels and one key of colours."""
    panels = [
        *(rates_by_batch, warmup_by_batch, bert_lamb),
        *(jump, two_stages, mlperf_bert),
        *(resnet_lamb, resnet_lars, mlperf_lars),
        *(alexnet_lars, goyal, cifar),
    ]
    figure = Figure(figsize=(12.6, 14.2), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.14)
    grid = figure.subplots(4, 3)
    for draw, axes in zip(panels, grid.flat, strict=True):
        draw(axes)
        if axes.get_yscale() == "linear" and axes.get_ylim()[1] < 0.1:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 1e3:g}"))
            axes.set_ylabel("learning rate (thousandths)")
    key = ScalarMappable(BoundaryNorm(range(len(BATCHES) + 1), len(BATCHES)), ListedColormap(COLORS))
    bar = figure.colorbar(key, ax=grid, orientation="horizontal", fraction=0.012, aspect=60, pad=0.02)
    bar.set_ticks([i + 0.5 for i in range(len(BATCHES))], labels=[f"{batch:,}" for batch in BATCHES])
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)
    bar.set_label("global batch (examples), nearest power of two")
    figure.savefig(OUTPUT, dpi=110)


if __name__ == "__main__":
    main()
