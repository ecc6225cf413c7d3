"""Every pre-training config: its arithmetic at full size against the published tables, and two updates of it."""

import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("official", reason="needs tf-models-official")

import train_bert  # noqa: E402
from bert_config import PretrainConfig  # noqa: E402
from config import ConfigError, load  # noqa: E402
from stages import resolve, schedule, split  # noqa: E402

pytestmark = [pytest.mark.model_garden]

FOLDER = Path(__file__).parents[2] / "configs" / "bert"

# Of each stage: cores, sequences of a core at once, accumulated parts, steps, steps of the schedule, warmup, peak rate.
PAPER = {
    512: (32, 16, 900_000, 100_000, 6.25e-4),
    1024: (64, 16, 450_000, 50_000, 8.8388e-4),
    2048: (128, 16, 225_000, 25_000, 1.25e-3),
    4096: (256, 16, 112_500, 12_500, 1.76777e-3),
    8192: (512, 16, 56_250, 6_250, 2.5e-3),
    16384: (1024, 16, 28_125, 3_125, 3.53553e-3),
    32768: (2048, 16, 14_063, 1_562, 5e-3),
}
EXPECTED = {
    f"large_{optimizer}_{batch}": [(cores, per_core, 1, n, one + two, 3125, rate) for n in (one, two)]
    for batch, (cores, per_core, one, two, rate) in PAPER.items()
    for optimizer in ("lamb", "lars")
}
EXPECTED |= {
    "large_adamw_512": [(32, 16, 1, n, 1_000_000, 10_000, 1e-4) for n in (900_000, 100_000)],
    "large_lamb_65536_32768": [(2048, 32, 1, 7037, 7037, 2001, 6e-3), (2048, 16, 1, 1562, 1562, 200, 4e-3)],
    "base_lamb_4096": [(64, 64, 1, 112_500, 125_000, 3125, 1.76777e-3), (64, 32, 2, 12_500, 125_000, 3125, 1.76777e-3)],
    "tiny": [(2, 16, 1, 2500, 2500, 250, 1e-2), (2, 16, 1, 250, 250, 25, 5e-3)],
}
# Batch: peak rate, steps, warmup, start_warmup_step, beta_1, beta_2, decay; on 16 cores.
MLPERF = {
    256: (3.5e-4, 13_700, 0, 0, 0.9, 0.999, 0.01),
    448: (4.25e-4, 6_700, 0, 0, 0.9, 0.999, 0.01),
    1536: (2e-3, 2_254, 0, 0, 0.66, 0.996, 0.01),
    3072: (2e-3, 1_141, 100, 0, 0.66, 0.998, 0.01),
    4096: (2.4e-3, 855, 0, 0, 0.66, 0.998, 0.01),
    8192: (2.88293e-3, 600, 287, -76, 0.88, 0.88, 0.0166629),
    16384: (3.3e-3, 600, 290, -100, 0.75, 0.9, 0.0166629),
}
MLPERF_SPLITS = {
    256: (16, 1),
    448: (14, 2),
    1536: (16, 6),
    3072: (16, 12),
    4096: (16, 16),
    8192: (16, 32),
    16384: (16, 64),
}
EXPECTED |= {
    f"mlperf_lamb_{batch}": [(16, *MLPERF_SPLITS[batch], steps, steps, warmup, rate)]
    for batch, (rate, steps, warmup, *_) in MLPERF.items()
}
CONFIGS = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_config(name):
    return load(FOLDER / f"{name}.yaml", PretrainConfig)


def resolved(name):
    return resolve(load_config(name).stages, EXPECTED[name][0][0], lambda stage: None)


def test_no_config_is_left_out():
    assert sorted(EXPECTED) == CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_the_arithmetic_at_full_size(name):
    config = load_config(name)
    for stage, numbers in zip(resolved(name), EXPECTED[name], strict=True):
        cores, per_core, parts, steps, schedule_steps, warmup_steps, rate = numbers
        assert (stage.replicas, stage.per_replica_batch_size, stage.micro_batches) == (cores, per_core, parts)
        assert cores * per_core * parts == stage.global_batch_size
        assert (stage.steps, stage.schedule_steps, stage.warmup_steps) == (steps, schedule_steps, warmup_steps)
        assert stage.learning_rate == pytest.approx(rate, rel=2e-5)
    first = config.stages[0]
    if name.startswith("large"):
        assert int(name.split("_")[2]) == first.global_batch_size
        lengths = [(stage.seq_length, stage.max_predictions) for stage in config.stages]
        assert lengths == [(128, 20), (512, 80)]
        assert (config.model.layers, config.model.hidden_size, config.data.vocab_size) == (24, 1024, 30522)
    if name.startswith("base"):
        assert (config.model.layers, config.model.hidden_size, config.model.attention_heads) == (12, 768, 12)
    if name.startswith("mlperf"):
        _, _, _, start, beta_1, beta_2, decay = MLPERF[first.global_batch_size]
        optimizer = config.optimizer
        assert (optimizer.beta_1, optimizer.beta_2, optimizer.weight_decay) == (beta_1, beta_2, decay)
        assert first.warmup_offset_steps == -start


def closed_form(stages, step):
    """The rate at a step of the run, written from the tables: warmup, then (1 - step / steps)^power of the schedule."""
    stage = next(stage for stage in stages if step < stage.last_step)
    leader = stages[stage.schedule_number - 1]
    step, config = step - leader.first_step, leader.config
    if step + config.warmup_offset_steps < stage.warmup_steps:
        return stage.learning_rate * (step + config.warmup_offset_steps) / stage.warmup_steps
    begin = stage.warmup_steps - config.warmup_offset_steps if config.decay_start == "warmup_end" else 0
    return stage.learning_rate * (1 - (step - begin) / (stage.schedule_steps - begin)) ** config.decay_power


@pytest.mark.parametrize("name", CONFIGS)
def test_the_rates_are_the_closed_form(name):
    stages = resolved(name)
    rate = schedule(stages)
    total = stages[-1].last_step
    edges = {edge + offset for stage in stages for edge in (stage.first_step, stage.last_step) for offset in (-1, 0, 1)}
    edges |= {stage.first_step + stage.warmup_steps + offset for stage in stages for offset in (-1, 0, 1)}
    steps = sorted(step for step in edges | set(range(0, total, total // 97)) if 0 <= step < total)
    expected = [closed_form(stages, step) for step in steps]
    np.testing.assert_allclose(np.array(rate(np.array(steps))), expected, rtol=2e-5, atol=1e-10)
    assert max(expected) > 0.5 * stages[0].learning_rate


def test_the_run_of_65536_on_eight_cores():
    config = load_config("large_lamb_65536_32768")
    first, second = resolve(config.stages, 8, lambda stage: None)
    assert (first.per_replica_batch_size, first.micro_batches) == (32, 256)
    assert (second.per_replica_batch_size, second.micro_batches) == (16, 256)
    assert "65,536 = 8 replicas x 32 x 256 accumulated" in first.describe()
    with pytest.raises(ConfigError, match=r"65,536 examples = 24 replicas x 2,730 \+ 16\. Expected for example 65,544"):
        resolve(config.stages, 24, lambda stage: None)


def test_splits():
    for batch, replicas, limit in [(24, 2, 5), (24, 4, None), (7, 1, 2), (4096, 8, 33)]:
        per_replica, parts = split(batch, replicas, limit)
        assert per_replica * parts * replicas == batch
        assert per_replica <= (limit or batch)
        fewer = [p for p in range(1, parts) if (batch // replicas) % p == 0]
        assert all(batch // replicas // p > (limit or batch) for p in fewer)


def test_epochs_are_counted_in_examples():
    (stage,) = load_config("tiny").stages[:1]
    stage = type(stage).model_validate({**stage.model_dump(), "steps": None, "epochs": 2.5, "warmup_steps": 9})
    (resolved_stage,) = resolve([stage], 2, lambda _: 1003)
    assert resolved_stage.steps == math.ceil(2.5 * 1003 / 32) == 79


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.0.epochs=3", "give either steps or epochs"),
        ("stages.1.continues_schedule=true", "no schedule and no moments of its own"),
        ("stages.0.warmup_ratio=0.1", "one of warmup_steps, warmup_ratio, warmup_epochs"),
        ("stages.0.warmup_steps=2501", "must end within its schedule"),
        ("optimizer.momentum=0.9", r"unknown field 'optimizer.momentum'\. Expected one of: weight_decay, "),
        ("optimizer.name=sgd", r"'optimizer\.name' is wrong\. Received: 'sgd'\. Expected one of: 'lamb'"),
        ("stages.0.learning_rate=fast", r"'stages\.0\.learning_rate' is wrong"),
        ("run.steps_per_loop=0", r"'run\.steps_per_loop' is wrong"),
    ],
)
def test_errors_of_a_config(override, message):
    with pytest.raises(ConfigError, match=message):
        resolve(load(FOLDER / "tiny.yaml", PretrainConfig, [override]).stages, 2, lambda stage: None)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_two_updates(name, two_replicas, tmp_path, capsys):
    # A second replica is traced again, for the same rates: once will do.
    strategy = two_replicas if name == "tiny" else tf.distribute.OneDeviceStrategy("CPU:0")
    replicas = strategy.num_replicas_in_sync
    train_bert.smoke(load_config(name), strategy, tmp_path)
    printed = capsys.readouterr().out
    config = load_config(name)
    for number, _ in enumerate(config.stages, start=1):
        assert f"stage {number}: 2 steps of {2 * replicas} = {replicas} replicas x 1 x 2 accumulated" in printed
    assert "shrunk model.hidden_size: " in printed and "shrunk stages.0.global_batch_size: " in printed
    rows = (tmp_path / "history.csv").read_text().splitlines()
    assert int(rows[-1].split(",")[0]) == 2 * len(config.stages)
