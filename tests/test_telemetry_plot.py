"""The table and the picture of the statistics."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_lamb
from tf_lamb import telemetry_history, telemetry_plot
from tf_lamb.telemetry import plot, table


def test_the_table():
    variables = [keras.Variable(np.ones((2, 3)), name="stack"), keras.Variable([2.0], name="bias")]
    optimizer = tf_lamb.NormalizedSGD(
        0.1, exclude_from_weight_decay=["bias"], layer_axes={"stack": 0}, trust_ratio_bounds=(None, 0.5), telemetry=True
    )
    optimizer.apply([ops.convert_to_tensor([[2.0] * 3, [0.0] * 3]), ops.convert_to_tensor([3.0])], variables)
    lines = table(optimizer).splitlines()
    assert lines[0].split() == ["layer", "trust", "ratio", "weight", "norm", "update", "norm"]
    assert [line.split() for line in lines[2:5]] == [
        ["stack[0]", "0.5", "1.732", "3.464"],
        ["stack[1]", "1", "1.732", "0"],
        ["bias", "-", "2", "3"],
    ]
    assert lines[5].startswith("update 1: gradient norm 4.583, 0% of updates clipped, 0 bounds hit")
    assert len({len(line) for line in lines[:5]}) == 1


def history_file(path, ratios):
    """A history of these ratios: a row for each step, a column for each layer."""
    rows = [telemetry_history.columns([f"net/block_{i}/kernel" for i in range(len(ratios[0]))])]
    rows += [[10 * step + 1, 1, 0, 0, 0, *row, *row, *row] for step, row in enumerate(ratios)]
    path.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def drawn(monkeypatch):
    """The axes that `plot` draws on."""
    axes = []
    draw = telemetry_plot._draw
    monkeypatch.setattr(telemetry_plot, "_draw", lambda ax, *arguments: axes.append(ax) or draw(ax, *arguments))
    return axes


@pytest.mark.parametrize(("layers", "few"), [(1, True), (8, True), (9, False), (300, False)])
def test_a_line_for_each_layer_that_adapts(layers, few, tmp_path, drawn):
    ratios = np.exp(np.random.default_rng(0).normal(size=(20, layers + 1)))
    ratios[:, 0] = 1.0
    plot(history_file(tmp_path / "history.csv", ratios), tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = drawn
    lines = axes.lines[: len(axes.lines) - (not few)]
    assert len(lines) == layers
    for i, line in enumerate(lines):
        np.testing.assert_array_equal(line.get_xdata(), 10 * np.arange(20) + 1)
        np.testing.assert_array_equal(line.get_ydata(), ratios[:, i + 1])
    if not few:
        np.testing.assert_array_equal(axes.lines[-1].get_ydata(), np.median(ratios[:, 1:], axis=1))
    assert len({line.get_color() for line in lines}) >= min(layers, 200)
    assert (axes.get_yscale(), axes.get_xlabel()) == ("log", "step (updates made)")
    assert axes.get_title(loc="left") == f"{layers} of {layers + 1} layers; the ratio of the others is 1 throughout"
    assert len(axes.get_legend().get_texts()) == (layers if few else 1)


def test_only_the_layers_asked_for(tmp_path, drawn):
    ratios = np.exp(np.random.default_rng(0).normal(size=(3, 12)))
    file = history_file(tmp_path / "history.csv", ratios)
    plot(file, tmp_path / "ratios.png", layers=["block_3", "_1[01]"])
    np.testing.assert_array_equal([line.get_ydata() for line in drawn[0].lines], ratios.T[[3, 10, 11]])
    assert [text.get_text() for text in drawn[0].get_legend().get_texts()] == [f"block_{i}/kernel" for i in (3, 10, 11)]
    with pytest.raises(ValueError, match=r"matches no layer. Received: 'gamma'. Layers are such as 'net/block_0/"):
        plot(file, tmp_path / "ratios.png", layers=["block_3", "gamma"])
    for layers in ("block_3", [3]):
        with pytest.raises(TypeError, match="`layers` must be a list of regular expressions"):
            plot(file, tmp_path / "ratios.png", layers=layers)


def test_a_history_in_which_nothing_adapts(tmp_path):
    with pytest.raises(ValueError, match="ratio of every layer is 1 throughout"):
        plot(history_file(tmp_path / "history.csv", np.ones((3, 2))), tmp_path / "ratios.png")


@pytest.mark.parametrize("ratios", [[[0.5, 2.0]], [[0.5, np.nan], [0.4, np.nan]], [[0.5, 0.0], [0.4, 3.0]]])
def test_odd_histories_are_drawn(ratios, tmp_path):
    plot(history_file(tmp_path / "history.csv", np.array(ratios)), tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").exists()
