"""The plot is a PNG that shows the rates it was given, and says what is missing where matplotlib is."""

import sys

import pytest

from tf_lamb import schedule_plot
from tf_lamb.schedules import WarmupPolynomialDecay, plot

SCHEDULE = WarmupPolynomialDecay(0.01, 300, 50)
JUMP = WarmupPolynomialDecay(0.01, 300, 50, decay_start="step_zero")


def pixels(path):
    from matplotlib.image import imread

    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    return imread(path)


@pytest.mark.parametrize("schedules", [SCHEDULE, {"linear": SCHEDULE, "jump": JUMP}, lambda step: 0.01])
def test_a_png(schedules, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "rate.png"
    plot(schedules, 300, path)
    image = pixels(path)
    assert image.shape[:2] == (675, 1200) and image.std() > 0.01


def test_other_rates_give_another_picture(tmp_path):
    pytest.importorskip("matplotlib")
    paths = [tmp_path / name for name in ("first.png", "again.png", "jump.png")]
    for path, schedule in zip(paths, (SCHEDULE, SCHEDULE, JUMP), strict=True):
        plot(schedule, 300, str(path))
    first, again, jump = map(pixels, paths)
    assert (first == again).all()
    assert (first != jump).any()


@pytest.mark.parametrize("total", [1, 7, 2000, 2001, 5000, 1_000_000])
def test_the_curve(total):
    steps, rates = schedule_plot.curve(lambda step: 2.0 * step, total)
    assert steps[0] == 0 and steps[-1] == total and len(steps) == min(total, 2000) + 1
    assert len(set(steps)) == len(steps) and steps == sorted(steps)
    assert rates == [2.0 * step for step in steps]


def test_a_missing_matplotlib(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"A plot needs matplotlib\. Install it with `pip install tf-lamb\[plot\]`\."):
        plot(SCHEDULE, 10, tmp_path / "rate.png")
    assert not (tmp_path / "rate.png").exists()


@pytest.mark.parametrize(
    ("schedules", "total_steps", "message"),
    [
        ({}, 10, r"`schedules` must be a schedule, or a dict .* not empty\. Received: schedules=\{\}"),
        (0.1, 10, r"`schedules` must be a schedule, .* Received: schedules=0\.1"),
        ({"a": 0.1}, 10, r"`schedules` must be a schedule, .* Received: schedules=\{'a': 0\.1\}"),
        (SCHEDULE, 0, r"`total_steps` must be an integer >= 1\. Received: total_steps=0"),
    ],
)
def test_errors(schedules, total_steps, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plot(schedules, total_steps, tmp_path / "rate.png")
