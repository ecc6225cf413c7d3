"""Draws docs/figures/large_batch.png from large_batch.json, and writes its tables into docs/large_batch.md.

Run from anywhere, with the extra `plot` installed:

    python docs/figures/large_batch.py
"""

import json
import math
from pathlib import Path
from statistics import mean

import page_table
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from schedules import COLORS, GREY

FIGURES = Path(__file__).with_suffix(".json")
OUTPUT = Path(__file__).with_suffix(".png")
PAGE = Path(__file__).parents[1] / "large_batch.md"
NAMES = {"lamb": "LAMB", "lars": "LARS", "adam": "Adam", "adamw": "AdamW", "momentum": "momentum"}
RULES = {"square_root": "square root", "linear": "linear"}
LINES = {
    ("lamb", "square_root"): {"color": "#c2410c", "marker": "o"},
    ("lars", "square_root"): {"color": "#1d4ed8", "marker": "s"},
    ("lars", "linear"): {"color": "#1d4ed8", "marker": "s", "linestyle": ":"},
    ("adam", "square_root"): {"color": "#15803d", "marker": "^"},
    ("adamw", "square_root"): {"color": "#7e22ce", "marker": "v"},
    ("momentum", "linear"): {"color": "#5f6368", "marker": "D"},
}
CHANCE = 0.9


def main():
    """Draws the panels and writes the tables."""
    figures = json.loads(FIGURES.read_text())
    batches = sorted({result["batch"] for result in figures["test"]})
    figure = Figure(figsize=(15.2, 7.6), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.12)
    axes = figure.subplots(2, 4)
    errors(axes[0, 0], figures["test"], batches)
    search(axes[1, 0], figures["search"])
    for place, key in zip(axes[:, 1:].flat, LINES, strict=True):
        curves(place, key, figures, batches)
    figure.savefig(OUTPUT, dpi=110)
    page_table.write(PAGE, "errors", page_table.table(*error_table(figures["test"], batches)))
    page_table.write(PAGE, "search", page_table.table(*search_table(figures["search"])))


def of(results, key, batch):
    """The results of an optimizer with a rule at a batch, one for each seed."""
    return [result for result in results if (result["optimizer"], result["rule"], result["batch"]) == (*key, batch)]


def error_of(result):
    """The error; that of guessing where the run diverged."""
    return CHANCE if result["error"] is None else result["error"]


def errors(axes, results, batches):
    """The error on the test images against the batch: the mean and the range of the seeds."""
    for key, style in LINES.items():
        of_seeds = [[error_of(result) for result in of(results, key, batch)] for batch in batches]
        axes.plot(batches, list(map(mean, of_seeds)), label=name_of(key), markersize=4, **style)
        axes.fill_between(batches, list(map(min, of_seeds)), list(map(max, of_seeds)), color=style["color"], alpha=0.1)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(batches))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda batch, _: f"{batch:.0f}"))
    axes.tick_params(axis="x", labelsize=7.5)
    percent(axes)
    axes.legend(fontsize=7.5, frameon=False)
    name(axes, "Test error", "mean and range of three seeds", "batch", "error")


def search(axes, results):
    """The error on the images to choose on against the rate, of the better decay."""
    for optimizer in NAMES:
        style = next(style for key, style in LINES.items() if key[0] == optimizer)
        of_rates = {}
        for result in results:
            if result["optimizer"] == optimizer:
                of_rates[result["rate"]] = min(error_of(result), of_rates.get(result["rate"], 1.0))
        rates = sorted(of_rates)
        axes.plot(rates, [of_rates[rate] for rate in rates], label=NAMES[optimizer], markersize=4, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    percent(axes)
    name(axes, "The choice at batch 32", "of two decays the better one; one seed", "rate", "error")


def curves(axes, key, figures, batches):
    """The training loss of every run against epochs."""
    for number, batch in enumerate(batches):
        shade = COLORS[round(number * (len(COLORS) - 1) / (len(batches) - 1))]
        for result in of(figures["test"], key, batch):
            steps, losses = result["curve"]["step"], result["curve"]["loss"]
            total = math.ceil(figures["epochs"] * batches[-1] / batch)
            epochs = [step * figures["epochs"] / total for step in steps]
            axes.plot(epochs, losses, color=shade, linewidth=0.9, label=f"{batch:,}" if result["seed"] == 0 else None)
            if result["error"] is None:
                axes.plot(epochs[-1:], [min(losses[-1], 3.4)], "x", color=shade)
    axes.set_ylim(0.45, 3.5)
    axes.set_xlim(0, figures["epochs"])
    if key == next(iter(LINES)):
        axes.legend(title="batch", fontsize=7.5, frameon=False, ncols=2)
    name(axes, name_of(key), "every run; x: diverged", "epochs", "training loss")


def name_of(key):
    """An optimizer with its rule, where it has two."""
    optimizer, rule = key
    return NAMES[optimizer] + (f", {RULES[rule]}" if sum(other[0] == optimizer for other in LINES) > 1 else "")


def percent(axes):
    """Writes the vertical axis in percent."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3%}".rstrip("0%").rstrip(".") + "%"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def name(axes, title, note, xlabel, ylabel):
    """Names a panel: what it shows, and its axes."""
    axes.set_title(title, pad=20)
    axes.text(0, 1.025, note, transform=axes.transAxes, color=GREY, fontsize=8, va="bottom")
    axes.set(xlabel=xlabel, ylabel=ylabel)


def error_table(results, batches):
    """The columns, and a row for each optimizer with a rule: the mean error with the range of the seeds."""
    head = ["", "rule", "rate at 32", "decay", *(f"{batch:,}" for batch in batches)]
    rows = []
    for key in LINES:
        first = of(results, key, batches[0])[0]
        cells = [cell([error_of(result) for result in of(results, key, batch)]) for batch in batches]
        rows.append([NAMES[key[0]], RULES[key[1]], f"{first['rate']:g}", f"{first['decay']:g}", *cells])
    return head, rows


def cell(values):
    """A mean and a range in percent."""
    return f"{mean(values) * 100:.1f} ({min(values) * 100:.1f} to {max(values) * 100:.1f})"


def search_table(results):
    """The columns, and a row for each optimizer and decay: the rates with their errors."""
    rows = {}
    for result in results:
        error = "diverged" if result["error"] is None else f"{result['error'] * 100:.1f}"
        rows.setdefault((result["optimizer"], result["decay"]), []).append(f"{result['rate']:g}: {error}")
    return ["", "decay", "rate: error in %"], [[NAMES[o], f"{d:g}", ", ".join(c)] for (o, d), c in rows.items()]


if __name__ == "__main__":
    main()
