"""A config that cannot be used is refused with one sentence."""

from pathlib import Path

import pytest

import export
import fill_mask
import finetune_squad
import prepare_bert_data
import train_bert
from bert_config import PretrainConfig
from config import ConfigError, claim_folder, dump, load

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "bert").glob("*.yaml"))
TINY = Path(__file__).parents[2] / "configs" / "bert" / "tiny.yaml"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_read_and_written(path, tmp_path):
    config = load(path, PretrainConfig)
    dump(config, tmp_path / "copy.yaml")
    assert load(tmp_path / "copy.yaml", PretrainConfig) == config


def test_overrides():
    config = load(TINY, PretrainConfig, ["stages.0.steps=5000", "optimizer.weight_decay=1e-3", "run.seed=7"])
    assert config.stages[0].steps == 5000
    assert config.optimizer.weight_decay == 0.001
    assert config.run.seed == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.0.stepz=1", r"unknown field 'stages\.0\.stepz'\. Expected one of: global_batch_size, "),
        ("speed=1", r"unknown field 'speed'\. Expected one of: data, model, optimizer, stages, run\."),
        ("model.layers=x", r"'model\.layers' is wrong\. Received: 'x'\."),
        ("stages.9.steps=1", r"names no field of the config, or .*\. Received: 'stages\.9\.steps=1'"),
        ("run.seed=[", r"gives it no YAML value\. Received: 'run\.seed=\['"),
        ("run.seed=-1", r"'run\.seed' is wrong\. Received: -1"),
        ("data.seed=-1", r"'data\.seed' is wrong\. Received: -1"),
        ("optimizer.exclude_from_weight_decay=['(']", r"is not a regular expression"),
        ("steps", r"needs a field and a value\. Received: 'steps'"),
        ("stages=[]", r"'stages' is wrong\. Received: \[\]"),
        ("model.attention_heads=3", "hidden_size must be a multiple of attention_heads"),
        ("model.max_positions=16", "max_positions must cover every stage"),
        ("optimizer.beta_1=1.5", r"'optimizer\.beta_1' is wrong\. Received: 1\.5"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(ConfigError, match=message) as raised:
        load(TINY, PretrainConfig, [override])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text + "\nmodel: {}\n", "is not valid YAML: .*duplicate key"),
        (lambda text: text.replace("layers: 2", "layers: 2\n  layers: 3"), "is not valid YAML: .*duplicate key"),
        (lambda text: text + "\n  - : [", "is not valid YAML"),
        (lambda text: text.replace("  layers: 2\n", ""), r"field 'model\.layers' is missing\. It is the number of"),
        (lambda text: "", "field 'data' is missing"),
    ],
)
def test_bad_files(change, message, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(change(TINY.read_text()))
    with pytest.raises(ConfigError, match=message):
        load(path, PretrainConfig)


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"data: \xff\xfe")
    with pytest.raises(ConfigError, match="is not valid YAML: 'utf-8' codec can't decode"):
        load(tmp_path / "bad.yaml", PretrainConfig)


def test_a_missing_file():
    with pytest.raises(ConfigError, match=r"Config file not found\. Received: nowhere\.yaml\. Expected a YAML file"):
        load("nowhere.yaml", PretrainConfig)


@pytest.mark.parametrize(
    ("script", "name"),
    [
        (fill_mask, "--saved_model"),
        (finetune_squad, "--config_file"),
        (prepare_bert_data, "--output_dir"),
        (train_bert, "--config_file"),
    ],
)
def test_an_address_is_no_path_of_this_machine(script, name, capsys):
    """It would become a folder "gs:" here."""
    with pytest.raises(SystemExit) as stop:
        script.main([name, "gs://bucket/folder"])
    assert stop.value.code == 2
    assert f"argument {name}: This has to be a path of this machine. Received: gs://" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "name"), [(export, "--model_dir"), (finetune_squad, "--features_dir"), (train_bert, "--data_dir")]
)
def test_an_address_of_no_known_file_system(script, name, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main([name, "ftp://host/folder"])
    assert stop.value.code == 2
    assert f"argument {name}: The file system is not known. Received: ftp://host/folder." in capsys.readouterr().err


def test_a_folder_keeps_its_config(tmp_path):
    config = load(TINY, PretrainConfig)
    claim_folder(tmp_path / "run", config)
    claim_folder(tmp_path / "run", config)
    other = load(TINY, PretrainConfig, ["stages.1.learning_rate=0.5"])
    with pytest.raises(ConfigError, match=r"another config\. Received: stages\.1\.learning_rate=0\.5, there"):
        claim_folder(tmp_path / "run", other)
    assert load(tmp_path / "run" / "config.yaml", PretrainConfig) == config


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written: .*\. Received: .*file/run\. Expected a writable folder"):
        claim_folder(tmp_path / "file" / "run", load(TINY, PretrainConfig))
