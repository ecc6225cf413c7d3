"""Draws docs/figures/step_parts.png: where the time of a training step goes, from bench_1.json.

Run from anywhere, with the extra `plot` installed:

    python docs/figures/step_parts.py
"""

import speed
from matplotlib.figure import Figure
from schedules import GREY

OUTPUT = speed.FOLDER / "step_parts.png"
COLORS = {"forward, loss and metrics": "#93c5fd", "backward": "#1d4ed8", "optimizer": "#c2410c"}
TITLE = "parts of a step of "
WHOSE = ("ours", "Model Garden")


def main():
    """Draws a panel for each training."""
    run = speed.read()[0]
    steps = {title.removeprefix(TITLE): case for title, case in run.items() if title.startswith(TITLE)}
    figure = Figure(figsize=(9.6, 1.6 * len(steps) + 0.8), layout="constrained", facecolor="white")
    for axes, (name, case) in zip(figure.subplots(len(steps), squeeze=False)[:, 0], steps.items(), strict=True):
        bars(axes, speed.rows_of(case))
        axes.set_title(f"A step of tpu/{name}", loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("milliseconds of operations", color=GREY, fontsize=9)
    figure.axes[0].legend(fontsize=8.5, frameon=False, ncols=len(COLORS), loc="lower right", bbox_to_anchor=(1, 1))
    figure.savefig(OUTPUT, dpi=110)


def bars(axes, rows):
    """A bar for each of `WHOSE`, divided into its parts."""
    for place, whose in enumerate(WHOSE):
        left = 0.0
        for part, color in COLORS.items():
            value = rows[f"{part}, {whose}"]["value"]
            axes.barh(place, value, left=left, color=color, height=0.62, label=part if place == 0 else None)
            color = "black" if part.startswith("forward") else "white"
            axes.text(left + value / 2, place, f"{value:.0f}", ha="center", va="center", fontsize=8.5, color=color)
            left += value
        axes.text(left, place, f"  {left:.0f}", va="center", fontsize=9)
    axes.set_yticks(range(len(WHOSE)), WHOSE, fontsize=9)
    axes.tick_params(length=0, labelsize=9)
    axes.set_axisbelow(True)
    axes.grid(visible=False, axis="y")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.margins(x=0.08)


if __name__ == "__main__":
    main()
