"""A small text of real English, and the command that prepares it."""

import os
import sys
from pathlib import Path
from pydoc_data.topics import topics

import prepare_bert_data
import python_docs

CONFIG = """
data: {vocab_size: 1500, dupe_factor: 2}
model: {layers: 1, hidden_size: 8, attention_heads: 1, intermediate_size: 8}
optimizer: {}
stages:
  - {seq_length: 32, max_predictions: 5, global_batch_size: 8, steps: 9, learning_rate: 0.1, warmup_steps: 1}
  - {seq_length: 32, max_predictions: 5, global_batch_size: 4, steps: 9, learning_rate: 0.1, warmup_steps: 1}
  - {seq_length: 48, max_predictions: 7, global_batch_size: 8, steps: 9, learning_rate: 0.1, warmup_steps: 1}
"""
HELD_OUT_ONLY = (
    "The wyvernzoologist of Škofja Loka reads [MASK] and [PAD] in the naïve café, Ж or no Ж, at 3.14 o'clock."
)


def write_inputs(folder):
    """Writes a config and two texts, about 25,000 words for training."""
    documents = list(python_docs.clean(sorted(topics.items())[:40]).values())
    documents[2].append(HELD_OUT_ONLY)
    for name, split in (("train.txt", documents[3:]), ("held_out.txt", documents[:3])):
        (folder / name).write_text("\n\n".join("\n".join(document) for document in split), encoding="utf-8")
    (folder / "config.yaml").write_text(CONFIG)
    return folder


def read_documents(path):
    """The documents of a text as lists of paragraphs."""
    return [document.split("\n") for document in path.read_text(encoding="utf-8").split("\n\n")]


def arguments(inputs, output_dir, *more):
    """The command line, with one process unless `more` says otherwise."""
    paths = {"config_file": "config.yaml", "train_text": "train.txt", "held_out_text": "held_out.txt"}
    flags = [flag for name, file in paths.items() for flag in (f"--{name}", str(inputs / file))]
    return [*flags, "--output_dir", str(output_dir), "--processes", "1", *map(str, more)]


def run(inputs, output_dir, *more):
    return prepare_bert_data.main(arguments(inputs, output_dir, *more))


def command(inputs, output_dir, *more):
    """The same for a process of its own, and its environment."""
    environment = {**os.environ, "PYTHONPATH": str(Path(prepare_bert_data.__file__).parent), "PYTHONUTF8": "1"}
    return [sys.executable, prepare_bert_data.__file__, *arguments(inputs, output_dir, *more)], environment


def contents(folder):
    """The content of every file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
