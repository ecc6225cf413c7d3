"""The floor in C computes LAMB, and ratios and loads are what they say."""

import time

import numpy as np
import oracle
import pytest
from tolerances import RELATIVE_L2, distance

import floor
from interleaved import OtherLoad, summarize, time_in_turns

OPTIONS = {"learning_rate": 0.01, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-6, "weight_decay": 0.3}
SHAPES = [(70, 300), (5,), (9000,)]
STEPS = 5


def missed_by(**changes):
    """How far the floor's weights are from the oracle's, in units of the tolerance."""
    draw = np.random.default_rng(0)
    weights, gradients = ([draw.standard_normal(shape, np.float32) for shape in SHAPES] for _ in range(2))
    try:
        step, updated = floor.make_step(weights, gradients, **{**OPTIONS, **changes})
    except floor.NoCompiler as error:
        pytest.skip(str(error))
    names = ("beta_1", "beta_2", "epsilon", "weight_decay")
    everything = [True] * len(SHAPES)
    lamb = oracle.Lamb(weights, everything, everything, **{name: OPTIONS[name] for name in names})
    for _ in range(STEPS):
        for gradient in gradients:
            gradient[...] = draw.standard_normal(gradient.shape)  # the floor reads them where they are
        step()
        lamb.step([gradients], OPTIONS["learning_rate"])
    return distance(updated, lamb.weights) / RELATIVE_L2["float32", "cpu"]


def test_the_floor_follows_the_oracle():
    assert missed_by() < 1


@pytest.mark.parametrize(
    "change", [{"beta_1": 0.91}, {"beta_2": 0.98}, {"weight_decay": 0.29}, {"epsilon": 1e-2}], ids=str
)
def test_another_floor_does_not(change):
    assert missed_by(**change) > 10


def test_a_ratio_is_of_the_same_round():
    """A load that doubles all times of two of five rounds changes no ratio."""
    rows = summarize({"one": [1.0, 2.0, 1.0, 2.0, 1.0], "other": [3.0, 6.0, 3.0, 6.0, 3.0]}, "one")
    assert [row["ratio"] for row in rows] == [1.0, 3.0]
    assert rows[1]["lowest_ratio"] == rows[1]["highest_ratio"] == 3.0
    assert [row["value"] for row in rows] == [1.0, 3.0]


def test_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = time_in_turns(calls, 4, warmups=2)
    assert "".join(order) == "cba" + "abc" + "cba" + "abc" + "cba" + "abc"
    assert {name: len(of_call) for name, of_call in seconds.items()} == dict.fromkeys("abc", 4)


def test_own_work_is_no_other_load():
    with OtherLoad() as load:
        begun = time.process_time()
        while time.process_time() - begun < 0.3:
            pass
    assert load.cores is None or load.cores >= 0.0
    load.cores = 0.05
    assert load.note() is None
    load.cores = 0.7
    assert "0.7 cores" in load.note()
