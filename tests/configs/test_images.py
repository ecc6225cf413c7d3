"""Every image config: its arithmetic at full size against the published tables, and two updates of it."""

import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("official", reason="needs tf-models-official")

import train_resnet  # noqa: E402
from config import load  # noqa: E402
from image_config import ImageConfig  # noqa: E402
from stages import schedule  # noqa: E402

pytestmark = [pytest.mark.model_garden]

FOLDER = Path(__file__).parents[2] / "configs"
IMAGES = 1_281_167

# Batch: rate, warmup epochs.
LAMB = {
    512: (0.005, 0.3125),
    1024: (0.0070711, 0.625),
    2048: (0.01, 1.25),
    4096: (0.0141421, 2.5),
    8192: (0.02, 5),
    16384: (0.0282843, 10),
    32768: (0.04, 20),
}
# Batch: rate, epochs of warmup, epochs, power; momentum, decay.
PAPER_LARS = {batch: (rate, 5, 90, 2, 0.9, 1e-4) for batch, rate in ((8192, 0.6), (16384, 2.5), (32768, 2.9))}
MLPERF = {
    4096: (10, 5, 40, 2, 0.9, 2e-4),
    8192: (17, 5, 42, 2, 0.9, 2e-4),
    32768: (21.2, 16, 56, 2, 0.94, 2.5e-5),
    65536: (24.699, 31, 84.5, 2, 0.951807, 1e-4),
}
ALEXNET = {
    "alexnet_lars": ({512: 2, 4096: 10, 8192: 10, 16384: 14}, 2),
    "alexnet_momentum": ({512: 0.02, 4096: 0.05, 8192: 0.03}, 2),
    "alexnet_bn_lars": ({512: 2, 4096: 10, 8192: 14, 16384: 23, 32768: 22}, 5),
    "alexnet_bn_momentum": ({512: 0.02, 4096: 0.18, 8192: 0.3}, 5),
}
# Batch, then of each stage: epochs, epochs of warmup, rate, power.
EXPECTED = {f"resnet50/lamb_{batch}": (batch, [(90, warmup, rate, 1)]) for batch, (rate, warmup) in LAMB.items()}
for kind, rows in (("lars", PAPER_LARS), ("mlperf_lars", MLPERF)):
    EXPECTED |= {
        f"resnet50/{kind}_{batch}": (batch, [(epochs, warmup, rate, power)])
        for batch, (rate, warmup, epochs, power, *_) in rows.items()
    }
EXPECTED |= {
    f"alexnet/{kind}_{batch}": (batch, [(100, warmup, rate, 2)])
    for kind, (rates, warmup) in ALEXNET.items()
    for batch, rate in rates.items()
}
EXPECTED["alexnet/alexnet_bn_lars_32768_200_epochs"] = (32768, [(200, 5, 22, 2)])
EXPECTED["resnet50/momentum_256"] = (256, [(90, 0, 0.2, 2)])


def falling(rate):
    return 16384, [(30, 5, rate, 0), (30, 0, rate / 10, 0), (20, 0, rate / 100, 0), (10, 0, rate / 1000, 0)]


EXPECTED["resnet50/momentum_16384"] = falling(6.4)
for optimizer, base_rate in (("adagrad", 14), ("adam", 2e-3), ("adamw", 2e-3)):
    EXPECTED[f"resnet50/{optimizer}_16384"] = (16384, [(90, 0, base_rate, 1)])
    EXPECTED[f"resnet50/{optimizer}_warmup_16384"] = falling(base_rate)
DIGITS = {"resnet50/digits_lamb": 1e-2, "resnet50/digits_lars": 4.0}
EXPECTED |= {name: (64, [(12, 2, rate, 1)]) for name, rate in DIGITS.items()}
CONFIGS = sorted(
    f"{path.parent.name}/{path.stem}" for folder in ("resnet50", "alexnet") for path in (FOLDER / folder).glob("*.yaml")
)


def load_config(name):
    return load(FOLDER / f"{name}.yaml", ImageConfig)


def replicas_of(batch):
    return 2 if batch == 64 else min(max(8, batch // 32), 1024)


def images_of(name):
    return 1438 if name in DIGITS else IMAGES


def resolved(name):
    return train_resnet.resolve_stages(load_config(name), images_of(name), replicas_of(EXPECTED[name][0]))


def test_no_config_is_left_out():
    assert sorted(EXPECTED) == CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_the_arithmetic_at_full_size(name):
    batch, expected = EXPECTED[name]
    replicas = replicas_of(batch)
    for stage, (epochs, warmup, rate, _) in zip(resolved(name), expected, strict=True):
        assert stage.global_batch_size == batch
        assert (stage.replicas, stage.per_replica_batch_size, stage.micro_batches) == (replicas, batch // replicas, 1)
        assert stage.steps == math.ceil(epochs * images_of(name) / batch)
        assert stage.warmup_steps == round(warmup * images_of(name) / batch)
        assert stage.learning_rate == pytest.approx(rate, rel=1e-5)
        assert 0 <= stage.steps * batch - epochs * images_of(name) < batch
    comment = (FOLDER / f"{name}.yaml").read_text()
    assert f"--config_file configs/{name}.yaml" in comment or "make train-resnet" in comment
    if len(expected) == 1:
        assert f"so {resolved(name)[0].steps:,} updates" in comment


def test_the_logged_steps_of_the_papers_author():
    assert resolved("resnet50/lamb_32768")[-1].last_step == 3519


@pytest.mark.parametrize("name", CONFIGS)
def test_the_rates_are_the_closed_form(name):
    """Written from the tables: warmup from zero, then (1 - progress)^power of each stage."""
    batch, expected = EXPECTED[name]
    stages = resolved(name)
    rate = schedule(stages)
    for stage, (_, warmup, peak, power) in zip(stages, expected, strict=True):
        warmup_steps = round(warmup * images_of(name) / batch)
        end = 1e-4 if "mlperf" in name else 0.0
        offsets = {0, 1, warmup_steps - 1, warmup_steps, warmup_steps + 1, stage.steps // 2, stage.steps - 1}
        for step in sorted(offset for offset in offsets if 0 <= offset < stage.steps):
            if step < warmup_steps:
                value = peak * step / warmup_steps
            else:
                progress = (step - warmup_steps) / (stage.steps - warmup_steps)
                value = end + (peak - end) * (1 - progress) ** power
            assert float(rate(stage.first_step + step)) == pytest.approx(value, rel=3e-5, abs=1e-9), (name, step)


def test_the_options_of_the_published_rows():
    for name in CONFIGS:
        config = load_config(name)
        optimizer, kind = config.optimizer, name.split("/")[1]
        if kind.startswith("lamb_"):
            assert (optimizer.weight_decay, optimizer.bias_correction, config.data.label_smoothing) == (1.5, False, 0.1)
        elif "lars" in kind and kind not in ("digits_lars",):
            rows = MLPERF if "mlperf" in kind else PAPER_LARS
            decay = 5e-4 if name.startswith("alexnet") else rows[EXPECTED[name][0]][5]
            momentum = rows[EXPECTED[name][0]][4] if name.startswith("resnet50") else 0.9
            assert (optimizer.weight_decay, optimizer.momentum) == (decay, momentum)
            assert (optimizer.trust_coefficient, optimizer.dampening) == (0.001, 0.0)
            assert optimizer.ratio_position == "before_momentum"
        assert config.data.image_size == (227 if name.startswith("alexnet") else 32 if name in DIGITS else 224)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_two_updates_of_a_shrunk_run(name, tmp_path, capsys):
    train_resnet.smoke(load_config(name), tf.distribute.OneDeviceStrategy("CPU:0"), tmp_path / "run")
    out = capsys.readouterr().out
    stages = len(EXPECTED[name][1])
    assert out.count("2 steps of 2 = 1 replicas x 1 x 2 accumulated") == stages
    assert f"shrunk stages.0.global_batch_size: {EXPECTED[name][0]} -> 2" in out
    history = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert len(history) > 1 and np.isfinite([float(value) for value in history[-1].split(",")]).all()
