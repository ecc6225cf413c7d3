"""The configs of configs/squad at full size: batches, updates, warmup, rates, and what each says of itself."""

from pathlib import Path

import pytest
import tensorflow as tf

pytest.importorskip("official", reason="needs tf-models-official")

import finetune_squad
from config import ConfigError, load
from run_config import make_optimizer
from squad_config import SquadConfig
from stages import resolve

FOLDER = Path(__file__).parents[2] / "configs" / "squad"
# Questions of the training files, as published; of a made file for tiny. The features are a few more.
QUESTIONS = {"v1_bert_large": 87_599, "v2_bert_large": 130_319, "v1_bert_base": 87_599, "tiny": 120}
BERT = {"large": (24, 1024, 16, 4096), "base": (12, 768, 12, 3072)}


def test_every_config_is_known():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(QUESTIONS)


@pytest.mark.parametrize(
    ("name", "replicas", "per_replica", "steps", "warmup_steps", "rate"),
    [
        # The published script rounds down, to 7,299, 10,859 and 14,599.
        ("v1_bert_large", 8, 3, 7_300, 730, 3e-5),
        ("v2_bert_large", 8, 3, 10_860, 1_086, 3e-5),
        ("v1_bert_base", 4, 3, 14_600, 1_460, 3e-5),
        ("tiny", 2, 8, 450, 45, 1e-2),
    ],
)
def test_updates_and_rates(name, replicas, per_replica, steps, warmup_steps, rate):
    config = load(FOLDER / f"{name}.yaml", SquadConfig)
    (stage,) = resolve([config.training], replicas, lambda _: QUESTIONS[name])
    assert (stage.per_replica_batch_size, stage.micro_batches) == (per_replica, 1)
    assert config.prediction.global_batch_size % replicas == 0
    assert (stage.steps, stage.warmup_steps, stage.learning_rate) == (steps, warmup_steps, rate)
    assert config.data.version_2_with_negative == name.startswith("v2")


@pytest.mark.parametrize("name", sorted(set(QUESTIONS) - {"tiny"}))
def test_the_published_settings(name):
    config = load(FOLDER / f"{name}.yaml", SquadConfig)
    shape = config.model
    assert (shape.layers, shape.hidden_size, shape.attention_heads, shape.intermediate_size) == BERT[
        name.split("_")[-1]
    ]
    assert (shape.dropout_rate, shape.max_positions) == (0.1, 512)
    data, prediction = config.data, config.prediction
    assert (data.seq_length, data.doc_stride, data.max_query_length) == (384, 128, 64)
    assert (prediction.n_best_size, prediction.max_answer_length) == (20, 30)
    assert (config.training.epochs, config.training.decay_start) == (2, "step_zero")
    options = make_optimizer(config.optimizer, config.run).keywords
    assert options["exclude_from_layer_adaptation"] == (".*",) and options["bias_correction"] is False
    assert (options["weight_decay"], options["epsilon"], options["global_clipnorm"]) == (0.01, 1e-6, 1.0)


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_a_config_opens_with_its_source(name):
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    opening = "\n".join(line for line in lines if line.startswith("# "))
    assert (
        opening.index("# Source: ") < opening.index("# Launch: python tpu/finetune_squad.py") < opening.index("# Expec")
    )
    assert f"configs/squad/{name}.yaml" in opening
    assert ("# Measured: " in opening) != ("# Not yet run." in opening)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_two_updates(name, two_replicas, tmp_path, capsys):
    strategy = two_replicas if name == "tiny" else tf.distribute.OneDeviceStrategy("CPU:0")
    replicas = strategy.num_replicas_in_sync
    finetune_squad.smoke(load(FOLDER / f"{name}.yaml", SquadConfig), strategy, tmp_path)
    printed = capsys.readouterr().out
    assert f"stage 1: 2 steps of {2 * replicas} = {replicas} replicas x 1 x 2 accumulated" in printed
    assert "shrunk model.hidden_size: " in printed and "shrunk training.global_batch_size: " in printed
    rows = (tmp_path / "history.csv").read_text().splitlines()
    assert int(rows[-1].split(",")[0]) == 2


def test_adamw_is_lamb_without_adapted_layers():
    configs = [load(FOLDER / "tiny.yaml", SquadConfig, [f"optimizer.name={name}"]) for name in ("lamb", "adamw")]
    lamb, adamw = (make_optimizer(config.optimizer, config.run) for config in configs)
    assert adamw.func is lamb.func
    assert adamw.keywords == {**lamb.keywords, "exclude_from_layer_adaptation": (".*",)}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.warmup_ratio=1.5", "'training.warmup_ratio' is wrong. Received: 1.5."),
        ("training.epochs=0", "'training.epochs' is wrong. Received: 0."),
        ("data.max_query_length=125", "doc_stride must be at most the room for the context"),
        ("model.max_positions=100", "model.max_positions must cover data.seq_length."),
        ("training.steps=5", "give either steps or epochs. Received: steps=5, epochs=60.0"),
        ("training.rate=5", "unknown field 'training.rate'. Expected one of: global_batch_size, "),
    ],
)
def test_configs_that_cannot_be(override, message):
    with pytest.raises(ConfigError) as error:
        load(FOLDER / "tiny.yaml", SquadConfig, [override])
    assert message in str(error.value)
