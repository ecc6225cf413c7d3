"""The least time of a step is arithmetic on published peaks: closed forms."""

import dataclasses

import pytest

import roofline
from hlo_text import Costs
from roofline import estimate, run_cost
from tpu_chips import parse_topology

POD = parse_topology("v3:32x32")


def test_a_second_of_each():
    """A core of v3: half of 123 TFLOP/s and of 900 GB/s; 328 GB/s for the chip."""
    costs = Costs(
        matrix_flops=61.5e12,
        hbm_read_bytes=400e9,
        hbm_written_bytes=50e9,
        all_reduce_bytes=328e9 / 2 * 1024 / 1023,
    )
    bound = estimate(costs, POD)
    assert bound.matrix_seconds == pytest.approx(1)
    assert bound.memory_seconds == pytest.approx(1)
    assert bound.all_reduce_seconds == pytest.approx(1)


@pytest.mark.parametrize(
    ("field", "name"), [("matrix_flops", "matrix"), ("hbm_read_bytes", "memory"), ("all_reduce_bytes", "all-reduce")]
)
def test_the_slowest_bounds_the_step(field, name):
    costs = Costs(matrix_flops=1e12, hbm_read_bytes=1e10, all_reduce_bytes=2e9)
    base = estimate(costs, POD)
    slowest = estimate(dataclasses.replace(costs, **{field: 100 * getattr(costs, field)}), POD)
    assert slowest.bound == name
    assert slowest.step_seconds == pytest.approx(100 * dict(vars(base))[f"{name.replace('-', '_')}_seconds"])
    assert slowest.step_seconds >= max(vars(slowest).values())


@pytest.mark.parametrize("chips", [1, 2, 4, 7])
def test_a_ring_sends_what_the_formula_says(chips):
    """The oracle simulates a ring and counts what a chip sends: sums travel round it first, then copies."""
    values = [[10 * chip + block for block in range(chips)] for chip in range(chips)]
    sent_blocks = 0
    for adds in (True, False):
        for turn in range(chips - 1):
            blocks = [(chip - turn + (not adds)) % chips for chip in range(chips)]
            sent = [values[chip][blocks[chip]] for chip in range(chips)]
            sent_blocks += 1
            for chip, value in enumerate(sent):
                receiver = values[(chip + 1) % chips]
                receiver[blocks[chip]] = value + adds * receiver[blocks[chip]]
    assert all(row == [sum(10 * chip + block for chip in range(chips)) for block in range(chips)] for row in values)
    assert roofline.all_reduce_seconds(8e9, chips, 1e9) == pytest.approx(8 * sent_blocks / chips)


def test_the_cores_of_one_chip_need_no_network():
    assert estimate(Costs(all_reduce_bytes=1e9), parse_topology("v3:1x1")).all_reduce_seconds == 0


def test_a_run_is_the_sum_of_its_stages():
    """LAMB's 76 minutes: 7,038 + 1,563 steps on 1,024 chips."""
    first, second = run_cost(7038, 0.5, POD), run_cost(1563, 0.66, POD)
    assert first.hours == pytest.approx(0.9775)
    assert first.chip_hours == pytest.approx(1000.96)
    whole = roofline.total([first, second])
    assert whole.steps == 8601
    assert whole.hours == pytest.approx((3519 + 1031.58) / 3600)
    assert whole.chip_hours == pytest.approx(1024 * whole.hours)


def test_words_per_parameter():
    """Four tensors of float32 read, three written."""
    assert roofline.words_per_parameter(7 * 4 * 110e6, 110_000_000) == 7


def test_assumptions_are_sentences():
    assert all(text[0].isupper() and text.endswith(".") for text in roofline.ASSUMPTIONS)
