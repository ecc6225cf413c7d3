"""Finds what other commands need of a run's folder: its task, its newest checkpoint and its vocabulary."""

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from atomic_file import atomic_path
from config import CHECKPOINTS, CONFIG_NAME, ConfigError

VOCAB_NAME = "vocab.txt"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


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
    folder = Path(model_dir) / CHECKPOINTS
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        raise ConfigError(
            f"The run has no checkpoint. Received: {folder}. "
            "Expected a folder in which tpu/train_bert.py or tpu/finetune_squad.py has saved one."
        )
    return checkpoint


def read_vocabulary(path: str | Path) -> list[str]:
    """Reads a vocabulary: one token a line, in the order of ids.

    Raises:
        ConfigError: The file is missing, not text, repeats a token or lacks a special one.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"Vocabulary not found. Received: {path}. Expected a vocab.txt, one token a line.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Expected a vocab.txt, one token a line.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text. Received: {error.reason} at byte {error.start}. Expected UTF-8.") from (
            None
        )
    tokens = [token.removesuffix("\r") for token in text.removesuffix("\n").split("\n")]
    missing = [token for token in SPECIAL_TOKENS if token not in tokens]
    if missing or len(set(tokens)) != len(tokens):
        problem = f"no {missing[0]}" if missing else "a token twice"
        raise ConfigError(
            f"{path} is not a vocabulary of BERT. Received: {problem}. "
            f"Expected {', '.join(SPECIAL_TOKENS)} and other tokens, each once."
        )
    return tokens


def keep_vocabulary(vocabulary: list[str], model_dir: str | Path) -> None:
    """Binds a run's folder to its vocabulary: the first call leaves a copy there.

    Raises:
        ConfigError: The run was begun with another vocabulary.
    """
    kept = Path(model_dir) / VOCAB_NAME
    if not kept.exists():
        with atomic_path(kept) as unfinished:
            unfinished.write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8", newline="\n")
    elif read_vocabulary(kept) != vocabulary:
        raise ConfigError(
            f"The run was begun with another vocabulary. Received: {len(vocabulary)} tokens, unlike those of {kept}. "
            "Expected the same vocabulary, or another folder for the run."
        )


def task_of(model_dir: str | Path) -> str:
    """What a run trained, by its config: "masked_lm" or "squad".

    Raises:
        ConfigError: The folder holds no run.
    """
    path = Path(model_dir) / CONFIG_NAME
    try:
        sections = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(
            f"No run found. Received: {model_dir} without {CONFIG_NAME}. "
            "Expected the folder of a run of tpu/train_bert.py or tpu/finetune_squad.py."
        ) from None
    except (YAMLError, UnicodeDecodeError):
        sections = None
    for section, task in (("stages", "masked_lm"), ("training", "squad")):
        if isinstance(sections, dict) and section in sections:
            return task
    raise ConfigError(
        f"The run is neither of pre-training nor of SQuAD. Received: {path}. "
        "Expected the config that tpu/train_bert.py or tpu/finetune_squad.py wrote."
    )
