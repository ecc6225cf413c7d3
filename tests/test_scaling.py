"""The batch-size rules give the rows of the published tables, and satisfy what makes them rules."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_lamb.schedules import linear_epoch_warmup, linear_scaling, square_root_scaling

# Batch, and of BERT-Large with LAMB: rate, steps for one of warmup, steps; of ResNet-50: rate, warmup epochs.
# From arXiv 1904.00962v3, tables 5 and 6, with the digits that they give.
ROWS = [
    (512, "0.000625", 320, 1_000_000, "0.005", 0.3125),
    (1024, "0.00088388", 160, 500_000, "0.0070711", 0.625),
    (2048, "0.00125", 80, 250_000, "0.01", 1.25),
    (4096, "0.00176777", 40, 125_000, "0.0141421", 2.5),
    (8192, "0.0025", 20, 62_500, "0.02", 5),
    (16384, "0.00353553", 10, 31_250, "0.0282843", 10),
    (32768, "0.005", 5, 15_625, "0.04", 20),
]
BATCHES = st.integers(1, 10**6)
NUMBERS = st.floats(1e-6, 1e3)


def agrees(rule, base, batch, printed):
    """Whether a rule, from the row of 32,768, gives a number to the digits of it that are printed."""
    return float(f"{rule(base, 32768, batch):.{len(printed.lstrip('0.'))}g}") == float(printed)


@pytest.mark.parametrize(("batch", "bert", "divisor", "steps", "resnet", "epochs"), ROWS)
def test_rows_of_lamb(batch, bert, divisor, steps, resnet, epochs):
    assert agrees(square_root_scaling, 5e-3, batch, bert)
    assert agrees(square_root_scaling, 0.04, batch, resnet)
    ratio = linear_epoch_warmup(1 / 5, 32768, batch)
    assert ratio == pytest.approx(1 / divisor, rel=1e-15)
    assert ratio * steps == pytest.approx(3125, rel=1e-15)
    assert linear_epoch_warmup(20, 32768, batch) == epochs
    if batch < 32768:
        # The wrong rule misses every other row.
        assert not agrees(linear_scaling, 5e-3, batch, bert)
        assert not agrees(linear_scaling, 0.04, batch, resnet)
        assert not math.isclose(square_root_scaling(1 / 5, 32768, batch) * steps, 3125, rel_tol=0.1)


def test_goyal_scales_linearly():
    assert linear_scaling(0.1, 256, 8192) == pytest.approx(3.2, rel=1e-15)
    assert not math.isclose(square_root_scaling(0.1, 256, 8192), 3.2, rel_tol=0.1)


@settings(max_examples=200, deadline=None)
@given(NUMBERS, BATCHES, BATCHES, BATCHES)
def test_a_rule_in_two_leaps_is_the_rule_in_one(base, first, second, third):
    for rule in (linear_scaling, square_root_scaling, linear_epoch_warmup):
        assert rule(rule(base, first, second), second, third) == pytest.approx(rule(base, first, third), rel=1e-14)
        assert rule(base, first, first) == base


@settings(max_examples=200, deadline=None)
@given(NUMBERS, BATCHES, BATCHES)
def test_the_square_root_rule_is_half_way_in_the_exponent(base, first, second):
    assert square_root_scaling(base, first, second) ** 2 == pytest.approx(
        base * linear_scaling(base, first, second), rel=1e-14
    )


@settings(max_examples=200, deadline=None)
@given(st.floats(0.001, 1.0), st.integers(10**6, 10**9), BATCHES, BATCHES)
def test_the_warmup_has_the_same_number_of_steps_at_every_batch(ratio, examples, first, second):
    steps = [linear_epoch_warmup(ratio, first, batch) * (examples / batch) for batch in (first, second)]
    assert steps[1] == pytest.approx(steps[0], rel=1e-14)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((-1.0, 256, 512), r"`base_(learning_rate|warmup)` must be a number >= 0\. Received: base_.*=-1\.0"),
        (("0.1", 256, 512), r"`base_(learning_rate|warmup)` must be a number >= 0\. Received: base_.*='0\.1'"),
        ((0.1, 0, 512), r"`base_batch_size` must be an integer >= 1\. Received: base_batch_size=0"),
        ((0.1, 256, 51.2), r"`global_batch_size` must be an integer >= 1\. Received: global_batch_size=51\.2"),
    ],
)
@pytest.mark.parametrize("rule", [linear_scaling, square_root_scaling, linear_epoch_warmup])
def test_errors(rule, args, message):
    with pytest.raises(ValueError, match=message):
        rule(*args)
