"""Finds what other commands need of a run's folder: its task, its newest checkpoint and its vocabulary."""

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

import vocabulary as vocabularies
from config import CHECKPOINTS, CONFIG_NAME, ConfigError
from paths import as_path

VOCAB_NAME = "vocab.txt"


def newest_checkpoint(folder: str | Path) -> str | None:
    """The prefix of the newest checkpoint in a folder of checkpoints; None if there is none."""
    from checkpoints import list_prefixes

    prefixes = list_prefixes(folder)
    return prefixes[-1] if prefixes else None


def checkpoint_of_run(model_dir: str | Path) -> str:
    """The prefix of a run's newest checkpoint.

    Raises:
        ConfigError: The run has none.
    """
    folder = as_path(model_dir) / CHECKPOINTS
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        raise ConfigError(
            f"The run has no checkpoint. Received: {folder}. "
            "Expected a folder in which a training script of tpu/ has saved one."
        )
    return checkpoint


def keep_vocabulary(vocabulary: vocabularies.Vocabulary, model_dir: str | Path) -> None:
    """Binds a run's folder to its vocabulary: the first call leaves a copy there.

    Raises:
        ConfigError: The run was begun with another vocabulary.
    """
    kept = as_path(model_dir) / VOCAB_NAME
    if not kept.exists():
        vocabularies.write(vocabulary, kept)
    elif vocabularies.read(kept).tokens != vocabulary.tokens:
        raise ConfigError(
            f"The run was begun with another vocabulary. Received: {len(vocabulary)} tokens, unlike those of {kept}. "
            "Expected the same vocabulary, or another folder for the run."
        )


def task_of(model_dir: str | Path) -> str:
    """What a run trained, by its config: "masked_lm", "squad" or "images".

    Raises:
        ConfigError: The folder holds no run.
    """
    path = as_path(model_dir) / CONFIG_NAME
    try:
        sections = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(
            f"No run found. Received: {model_dir} without {CONFIG_NAME}. "
            "Expected the folder of a run of one of the training scripts of tpu/."
        ) from None
    except (YAMLError, UnicodeDecodeError):
        sections = None
    if isinstance(sections, dict) and "training" in sections:
        return "squad"
    if isinstance(sections, dict) and "stages" in sections:
        return "images" if "image_size" in sections.get("data", {}) else "masked_lm"
    raise ConfigError(
        f"The run is of no task. Received: {path}. "
        "Expected the config that tpu/train_bert.py, tpu/finetune_squad.py or tpu/train_resnet.py wrote."
    )
