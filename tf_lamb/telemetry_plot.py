"""A picture of a history: the trust ratio of every layer against the step, as a PNG."""

import os
import re

import numpy as np

from tf_lamb.figure import figure_class
from tf_lamb.telemetry_history import read_history

# More lines than these have a bar of colours for the depth, and not a legend.
LEGEND_LINES = 8
# How many layers are named beside that bar at most: if there are more, these are spread evenly.
TICKS = 16


def plot(history_csv, path, layers=None):
    """Draws the trust ratio of each layer against the step, like the figures of the LAMB paper, and writes a PNG.

    Colours go from the first layer to the last. A layer whose ratio is 1 throughout does not adapt, and is not drawn
    unless `layers` names it.

    Args:
        history_csv: The file that `TelemetryCallback` or `Recorder` wrote.
        path: The file to write, a string or a path.
        layers: None, or a list of regular expressions: only layers whose name contains a match are drawn.

    Raises:
        ImportError: matplotlib is missing.
        TypeError: `layers` is not a list of strings.
        ValueError: The file is no history or has no rows, a pattern matches no layer, or every layer's ratio is 1.

    Example:

    >>> import os, tempfile, keras, tf_lamb
    >>> variable = keras.Variable([3.0, 4.0], name="kernel")
    >>> optimizer = tf_lamb.LAMB(0.1, telemetry=True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file, picture = os.path.join(folder, "history.csv"), os.path.join(folder, "ratios.png")
    ...     with tf_lamb.telemetry.Recorder(optimizer, file) as recorder:
    ...         for _ in range(3):
    ...             optimizer.apply([keras.ops.convert_to_tensor([0.0, 8.0])], [variable])
    ...             _ = recorder.write()
    ...     tf_lamb.telemetry.plot(file, picture)
    ...     sorted(os.listdir(folder))
    ['history.csv', 'ratios.png']
    """
    make_figure = figure_class()
    history = read_history(history_csv)
    chosen = _choose(history, layers, history_csv)
    figure = make_figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    _draw(axes, history, chosen)
    if layers is None and len(chosen) < len(history.layers):
        note = f"{len(chosen)} of {len(history.layers)} layers; the ratio of the others is 1 throughout"
        axes.set_title(note, loc="left", fontsize=8, color="0.45")
    figure.savefig(path, format="png", dpi=150)


def _choose(history, patterns, history_csv):
    """The positions of the layers to draw."""
    if patterns is not None:
        return _matching(history.layers, patterns)
    chosen = np.flatnonzero(np.any(history.trust_ratio != 1.0, axis=0)).tolist()
    if not chosen:
        raise ValueError(
            "The trust ratio of every layer is 1 throughout, so there is nothing to draw. "
            f"Received: {os.fspath(history_csv)!r}. Expected a history in which layers adapt, or a list of `layers`."
        )
    return chosen


def _matching(names, patterns):
    if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(
            f"`layers` must be a list of regular expressions, for example layers=['kernel']. Received: {patterns!r}."
        )
    found = set()
    for pattern in patterns:
        hits = {i for i, name in enumerate(names) if re.search(pattern, name)}
        if not hits:
            raise ValueError(
                f"A pattern of `layers` matches no layer. Received: {pattern!r}. "
                f"Layers are such as {', '.join(map(repr, names[:3]))}."
            )
        found |= hits
    return sorted(found)


def _draw(axes, history, chosen):
    from matplotlib import colormaps, patheffects
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.ticker import LogLocator

    # The yellow end would not be seen on white.
    colors = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.9, 256)))
    depth = Normalize(0, max(len(chosen) - 1, 1))
    names = without_common_prefix([history.layers[i] for i in chosen])
    few = len(chosen) <= LEGEND_LINES
    style = {"linewidth": 1.8} if few else {"linewidth": max(0.5, 1.5 - len(chosen) / 150), "alpha": 0.8}
    if len(history.step) == 1:
        style["marker"] = "o"
    for order, i in enumerate(chosen):
        axes.plot(history.step, history.trust_ratio[:, i], label=names[order], color=colors(depth(order)), **style)

    if few:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    else:
        halo = [patheffects.withStroke(linewidth=4.5, foreground="white")]
        median = np.nanmedian(history.trust_ratio[:, chosen], axis=1)
        axes.plot(history.step, median, color="black", linewidth=2, path_effects=halo, label="median of the layers")
        axes.legend(handles=axes.lines[-1:], frameon=False, fontsize=8)
        ticks = np.unique(np.linspace(0, len(chosen) - 1, min(TICKS, len(chosen))).round().astype(int))
        bar = axes.figure.colorbar(ScalarMappable(depth, colors), ax=axes, ticks=ticks, pad=0.02, aspect=40)
        bar.ax.set_yticklabels([names[tick] for tick in ticks], fontsize=7)
        bar.ax.invert_yaxis()  # The first layer is on top, as in a table.
        bar.outline.set_visible(False)

    axes.set(xlabel="step (updates made)", ylabel="trust ratio", yscale="log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.margins(x=0.01)


def without_common_prefix(names):
    """The names without the folders that all of them share."""
    shared = os.path.commonprefix([name.rpartition("/")[0] + "/" for name in names])
    return [name[shared.rfind("/") + 1 :] for name in names]
