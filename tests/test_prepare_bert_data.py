"""The prepared data: what Model Garden reads is what was made, and a repeated or broken run does the right thing."""

import collections
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

import bert_manifest
import prepare_bert_data
import python_docs
from bert_config import PretrainConfig
from bert_examples import SPECIAL_TOKENS, document_examples, split_sentences
from config import ConfigError
from config import load as load_config
from wordpiece import tokenize, train_vocabulary

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


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A config and two texts of real English, about 25,000 words for training."""
    folder = tmp_path_factory.mktemp("inputs")
    documents = list(python_docs.clean(sorted(topics.items())[:40]).values())
    documents[2].append(HELD_OUT_ONLY)
    for name, split in (("train.txt", documents[3:]), ("held_out.txt", documents[:3])):
        (folder / name).write_text("\n\n".join("\n".join(document) for document in split), encoding="utf-8")
    (folder / "config.yaml").write_text(CONFIG)
    return folder


def run(inputs, output_dir, *arguments):
    paths = {"config_file": "config.yaml", "train_text": "train.txt", "held_out_text": "held_out.txt"}
    flags = [flag for name, file in paths.items() for flag in (f"--{name}", str(inputs / file))]
    return prepare_bert_data.main([*flags, "--output_dir", str(output_dir), *map(str, arguments)])


@pytest.fixture(scope="module")
def prepared(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "made" / "by the script"
    assert run(inputs, folder) == 0
    return folder


@pytest.fixture
def copied(prepared, tmp_path):
    return Path(shutil.copytree(prepared, tmp_path / "copied"))


@pytest.fixture(scope="module")
def vocabulary(prepared):
    return (prepared / "vocab.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def documents(inputs, vocabulary):
    """Token ids of both splits."""
    return {
        split: prepare_bert_data.tokenize_documents(
            prepare_bert_data.read_text(inputs / f"{split}.txt")[0], vocabulary, split
        )
        for split in ("train", "held_out")
    }


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def features(folder, file):
    """The raw features of each record of a file."""
    from tensorflow.train import Example

    for record in prepare_bert_data.read_records(folder / file.name):
        feature = Example.FromString(record).features.feature
        yield {name: list(getattr(value, value.WhichOneof("kind")).value) for name, value in feature.items()}


def example_features(example):
    values = {name: np.asarray(value).tolist() for name, value in vars(example).items()}
    values["next_sentence_labels"] = [values.pop("next_sentence_label")]
    return values


def sort_key(values):
    return json.dumps(values, sort_keys=True)


# --- vocabulary and tokens ---------------------------------------------------------------------------------------


def test_vocabulary_begins_with_the_special_tokens(vocabulary):
    assert tuple(vocabulary[:5]) == SPECIAL_TOKENS == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert len(set(vocabulary)) == len(vocabulary) == 1500
    assert not any(token != token.lower() for token in vocabulary[5:])


def test_vocabulary_is_of_the_training_text_only(inputs):
    held_out = (inputs / "held_out.txt").read_text(encoding="utf-8").splitlines()
    train = (inputs / "train.txt").read_text(encoding="utf-8").splitlines()
    planted = "zyxqvutology"
    assert "ж" in train_vocabulary(train + held_out, 1500, SPECIAL_TOKENS)
    assert planted in train_vocabulary(train + [planted] * 200, 1500, SPECIAL_TOKENS)


def test_nothing_of_the_held_out_text_changes_the_vocabulary(inputs, prepared, tmp_path):
    shutil.copytree(inputs, tmp_path / "inputs")
    (tmp_path / "inputs" / "held_out.txt").write_text("Zyxqvutology is all.\n\n" * 300)
    assert run(tmp_path / "inputs", tmp_path / "out", "--set", "data.dupe_factor=1") == 0
    assert (tmp_path / "out" / "vocab.txt").read_bytes() == (prepared / "vocab.txt").read_bytes()


def test_other_processes_learn_the_same_vocabulary(inputs, vocabulary):
    """The trainer alone does not: it numbers pieces in the order of a randomly seeded hash table."""
    program = (
        "import sys, wordpiece, bert_examples\n"
        "lines = [line for line in open(sys.argv[1], encoding='utf-8').read().splitlines() if line]\n"
        "print('\\n'.join(wordpiece.train_vocabulary(lines, 1500, bert_examples.SPECIAL_TOKENS)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(prepare_bert_data.__file__).parent), "PYTHONUTF8": "1"}
    for _ in range(2):
        command = [sys.executable, "-c", program, str(inputs / "train.txt")]
        output = subprocess.run(command, env=environment, capture_output=True, check=True, encoding="utf-8").stdout
        assert output.splitlines() == vocabulary


@pytest.mark.model_garden
def test_tokens_equal_those_of_model_gardens_tokenizer(inputs, prepared, vocabulary):
    tokenization = pytest.importorskip("official.nlp.tools.tokenization")
    reference = tokenization.FullTokenizer(str(prepared / "vocab.txt"), do_lower_case=True)
    lines = [line for name in ("train.txt", "held_out.txt") for line in (inputs / name).read_text("utf-8").splitlines()]
    assert HELD_OUT_ONLY in lines
    lines += [
        "",
        "   ",
        "HTTP/1.1 2**31-1 don't 'x' \"y\" `z` <w> {u} a_b @c $d ~e",
        "日本語 ü ß \u00ad\u200b tab\there",
    ]
    ids = list(tokenize(lines, vocabulary, "lines"))
    assert len(ids) == len(lines) > 500
    for line, tokens in zip(lines, ids, strict=True):
        assert tokens == reference.convert_tokens_to_ids(reference.tokenize(line)), line
    assert any(vocabulary.index("[UNK]") in tokens for tokens in ids)


def test_tokenizing_does_not_find_special_tokens_in_text(vocabulary):
    (ids,) = tokenize(["[MASK] [PAD] [CLS]"], vocabulary, "lines")
    assert min(ids) >= len(SPECIAL_TOKENS)


def test_documents_are_split_into_sentences(inputs, documents, vocabulary):
    for split, tokenized in documents.items():
        paragraphs = prepare_bert_data.read_text(inputs / f"{split}.txt")[0]
        assert len(tokenized) == len(paragraphs)
        for document, lines in zip(tokenized, paragraphs, strict=True):
            sentences = [sentence for line in lines for sentence in split_sentences(line)]
            assert document == list(tokenize(sentences, vocabulary, "sentences"))


# --- files -------------------------------------------------------------------------------------------------------


def test_files_and_manifest(inputs, prepared, vocabulary):
    manifest = bert_manifest.load(prepared)
    train = [f"train_{n}-{i:05d}-of-00004.tfrecord" for n in (32, 48) for i in range(4)]
    held_out = [f"held_out_{n}-00000-of-00001.tfrecord" for n in (32, 48)]
    assert sorted(contents(prepared)) == sorted([*train, *held_out, "manifest.json", "vocab.txt"])
    assert {file.name for file in manifest.record_files} == {*train, *held_out}
    assert manifest.settings.lengths == ((32, 5), (48, 7))
    assert manifest.settings.data.model_dump() == {
        "vocab_size": 1500,
        "dupe_factor": 2,
        "masked_lm_probability": 0.15,
        "short_sequence_probability": 0.1,
        "seed": 12345,
    }
    for split in ("train", "held_out"):
        digest = hashlib.sha256((inputs / f"{split}.txt").read_bytes()).hexdigest()
        assert getattr(manifest.settings, f"{split}_text_sha256") == digest
    assert manifest.vocab_size == len(vocabulary)
    for file in (manifest.vocab_file, *manifest.record_files):
        assert hashlib.sha256((prepared / file.name).read_bytes()).hexdigest() == file.sha256
        assert (prepared / file.name).stat().st_size == file.size_bytes
    for file in manifest.record_files:
        assert file.name.startswith(f"{file.split}_{file.seq_length}-")
        assert file.examples == len(list(prepare_bert_data.read_records(prepared / file.name)))
    assert [file.name for file in manifest.select("train", 48)] == train[4:]
    assert [file.name for file in manifest.select("held_out", 32)] == held_out[:1]
    assert manifest.select("train", 64) == []


def test_most_frequent_token(prepared, documents, vocabulary):
    counts = collections.Counter(token for document in documents["train"] for line in document for token in line)
    (token_id, count) = counts.most_common(1)[0]
    stated = bert_manifest.load(prepared).most_frequent_token
    assert (stated.id, stated.count, stated.token) == (token_id, count, vocabulary[token_id])
    assert stated.share == pytest.approx(count / counts.total())


@pytest.mark.parametrize("length", [(32, 5), (48, 7)])
def test_train_files_hold_each_repetition_and_held_out_files_one(prepared, documents, length):
    """The shards together are the examples of each document, no more and no less, in another order."""
    manifest = bert_manifest.load(prepared)
    for split, repetitions in (("train", 2), ("held_out", 1)):
        arguments = {"vocab_size": manifest.vocab_size, "seq_length": length[0], "max_predictions": length[1]}
        made = [
            sort_key(example_features(example))
            for repetition in range(repetitions)
            for index in range(len(documents[split]))
            for example in document_examples(documents[split], index, repetition, manifest.settings.data, **arguments)
        ]
        files = manifest.select(split, length[0])
        written = [[sort_key(values) for values in features(prepared, file)] for file in files]
        together = [values for shard in written for values in shard]
        assert sorted(together) == sorted(made)
        assert together != made
        sizes = [file.examples for file in files]
        assert max(sizes) - min(sizes) <= 1
        # A shard is a sample of all documents, not a stretch of the text.
        early = set(made[: len(made) // 2])
        for shard in written:
            assert len(shard) / 3 < len(early.intersection(shard)) < len(shard) * 2 / 3


@pytest.mark.model_garden
@pytest.mark.parametrize("length", [(32, 5), (48, 7)])
def test_model_garden_reads_the_same_values(prepared, documents, length):
    pretrain_dataloader = pytest.importorskip("official.nlp.data.pretrain_dataloader")
    manifest = bert_manifest.load(prepared)
    (file,) = manifest.select("held_out", length[0])
    params = pretrain_dataloader.BertPretrainDataConfig(
        input_path=str(prepared / file.name),
        global_batch_size=1,
        is_training=False,
        drop_remainder=False,
        seq_length=length[0],
        max_predictions_per_seq=length[1],
        use_v2_feature_names=True,
    )
    batches = pretrain_dataloader.BertPretrainDataLoader(params).load().as_numpy_iterator()
    read = [{name: values[0] for name, values in batch.items()} for batch in batches]
    made = prepare_bert_data.make_examples(
        documents["held_out"], 1, manifest.settings.data, manifest.vocab_size, length, "held_out"
    )
    assert len(read) == len(made) == file.examples
    for values, example in zip(read, made, strict=True):
        assert {name: value.tolist() for name, value in values.items()} == example_features(example)
        assert values["masked_lm_weights"].dtype == np.float32
        assert all(value.dtype == np.int32 for name, value in values.items() if name != "masked_lm_weights")


def test_another_process_writes_the_same_bytes(inputs, prepared, tmp_path):
    command = [sys.executable, prepare_bert_data.__file__, "--config_file", inputs / "config.yaml"]
    command += ["--train_text", inputs / "train.txt", "--held_out_text", inputs / "held_out.txt"]
    result = subprocess.run([*command, "--output_dir", tmp_path], capture_output=True, text=True, check=True)
    assert contents(tmp_path) == contents(prepared)
    manifest = bert_manifest.load(prepared)
    assert result.stdout.splitlines() == [
        "vocab.txt: 1,500 tokens",
        *(f"{file.name}: {file.examples:,} examples" for file in manifest.record_files),
    ]


# --- a folder that is not empty ----------------------------------------------------------------------------------


def test_second_run_is_up_to_date_and_touches_nothing(inputs, copied, capsys, monkeypatch):
    monkeypatch.setattr(prepare_bert_data, "train_vocabulary", None)  # whoever calls it fails
    before = {path: path.stat().st_mtime_ns for path in copied.iterdir()}
    for extra in ([], ["--overwrite"], ["--set", "stages.0.steps=1", "run.seed=5"]):
        assert run(inputs, copied, *extra) == 0
        assert capsys.readouterr().out == f"{copied} is up to date\n"
    assert {path: path.stat().st_mtime_ns for path in copied.iterdir()} == before


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--set", "data.dupe_factor=1"], "Received: data.dupe_factor=1. Expected 2, with which that data was made."),
        (["--set", "data.seed=1"], "Received: data.seed=1. Expected 12345, with which that data was made."),
        (["--shards", "2"], "Received: shards=2. Expected 4, with which that data was made."),
        (["--set", "stages.2.max_predictions=6"], "Received: lengths=((32, 5), (48, 6)). Expected ((32, 5), (48, 7)),"),
    ],
)
def test_other_settings_are_refused(inputs, copied, capsys, extra, message):
    before = contents(copied)
    assert run(inputs, copied, *extra) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"prepare_bert_data: {copied} holds other data. {message}")
    assert error.endswith("Choose another --output_dir or pass --overwrite.\n")
    assert contents(copied) == before


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_other_text_is_refused(inputs, copied, tmp_path, capsys, split):
    shutil.copytree(inputs, tmp_path / "inputs")
    with (tmp_path / "inputs" / f"{split}.txt").open("a") as file:
        file.write("\nOne more line of text.")
    assert run(tmp_path / "inputs", copied) == 2
    assert f"holds other data. Received: {split}_text_sha256=" in capsys.readouterr().err


def test_overwrite_replaces_everything(inputs, copied):
    assert run(inputs, copied, "--shards", 2, "--set", "data.dupe_factor=1", "--overwrite") == 0
    manifest = bert_manifest.load(copied)
    assert (manifest.settings.shards, manifest.settings.data.dupe_factor) == (2, 1)
    assert sorted(contents(copied)) == sorted(
        ["manifest.json", "vocab.txt", *(file.name for file in manifest.record_files)]
    )


@pytest.mark.parametrize("extra", [[], ["--overwrite", "--set", "data.dupe_factor=1"]])
def test_an_interrupted_run_leaves_no_manifest_and_is_redone(inputs, prepared, copied, monkeypatch, extra):
    if not extra:
        (copied / "manifest.json").unlink()
    write_records = prepare_bert_data.write_records
    written = []

    def interrupted(examples, output_dir, split, length, shards):
        if written:
            raise KeyboardInterrupt
        written.append(split)
        return write_records(examples, output_dir, split, length, shards)

    with monkeypatch.context() as patch:
        patch.setattr(prepare_bert_data, "write_records", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, copied, *extra)
    assert written == ["train"]
    assert not (copied / "manifest.json").exists()
    with pytest.raises(ConfigError, match="No prepared data found"):
        bert_manifest.load(copied)
    assert run(inputs, copied) == 0
    assert contents(copied) == contents(prepared)


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_damaged_data_is_made_again(inputs, prepared, copied, damage, capsys):
    path = copied / "train_48-00002-of-00004.tfrecord"
    content = path.read_bytes()
    path.unlink()
    if damage == "short":
        path.write_bytes(content[:-1])
    assert run(inputs, copied) == 0
    assert "up to date" not in capsys.readouterr().out
    assert contents(copied) == contents(prepared)


def test_a_broken_manifest_is_refused_unless_overwritten(inputs, prepared, copied, capsys):
    (copied / "manifest.json").write_text("{")
    assert run(inputs, copied) == 2
    assert "is not a manifest of this version" in capsys.readouterr().err
    assert run(inputs, copied, "--overwrite") == 0
    assert contents(copied) == contents(prepared)


# --- errors ------------------------------------------------------------------------------------------------------


def replace_shard(folder, content):
    path = folder / "train_32-00001-of-00004.tfrecord"
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), r"No prepared data found. Received: .*copied. Expected a"),
        (lambda folder: shutil.rmtree(folder), r"No prepared data found. Received: .*copied. Expected a folder"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), r"not a manifest of this version. Received: sett"),
        (lambda folder: replace_shard(folder, None), r"incomplete. Received: no .*train_32-00001-of-00004.tfrecord. E"),
        (lambda folder: replace_shard(folder, b"short"), r"damaged. Received: .*-00001-of.* of 5 bytes. Expected \d+"),
        (lambda folder: (folder / "vocab.txt").unlink(), r"incomplete. Received: no .*vocab.txt. Expected \d+ bytes"),
    ],
)
def test_load_refuses_a_damaged_folder(copied, damage, message):
    damage(copied)
    with pytest.raises(ConfigError, match=message):
        bert_manifest.load(copied)


ERRORS = {
    "no config": (["--config_file", "{tmp}/none.yaml"], "Config file not found. Received: {tmp}/none.yaml. Expected"),
    "unknown field": (["--set", "data.vocab=1"], "{config}: unknown field 'data.vocab'. Expected one of: vocab_size,"),
    "bad value": (["--set", "data.dupe_factor=0"], "{config}: 'data.dupe_factor' is wrong. Received: 0."),
    "no text": (["--train_text", "{tmp}/none"], "Text file not found. Received: {tmp}/none. Expected a text"),
    "no held-out": (["--held_out_text", "{tmp}/none"], "Text file not found. Received: {tmp}/none. Expected a text"),
    "text is a folder": (["--train_text", "{tmp}"], "Text file not found. Received: {tmp}. Expected a text"),
    "empty": (["--train_text", "{tmp}/empty"], "{tmp}/empty has too little text. Received: 0 documents. Expected two"),
    "one document": (["--held_out_text", "{tmp}/one"], "{tmp}/one has too little text. Received: 1 documents."),
    "not UTF-8": (["--train_text", "{tmp}/binary"], "{tmp}/binary is not text. Received: invalid start byte at"),
    "no words": (["--train_text", "{tmp}/control"], "The train text has too few documents with a word. Received: 0."),
    "no held-out words": (["--held_out_text", "{tmp}/control"], "The held_out text has too few documents with a word."),
    "output is a file": (["--output_dir", "{tmp}/one"], "File exists. Received: {tmp}/one. Expected text files to"),
    "output in a file": (["--output_dir", "{tmp}/one/x"], "Not a directory. Received: {tmp}/one/x. Expected text"),
    "no shards": (["--shards", "0"], "There must be a training file. Received: --shards 0. Expected a number >= 1."),
    "many shards": (["--shards", "99999"], "Too few examples for the files of train. Received: --shards 99999. Expect"),
    "small vocabulary": (["--set", "data.vocab_size=30"], "The vocabulary has no room for the characters of the text."),
    "lengths collide": (
        ["--set", "stages.1.max_predictions=6"],
        "Stages of one seq_length read the same files. Received: [seq_length, max_predictions] = [[32, 5], [32, 6], "
        "[48, 7]]. Expected one max_predictions for each seq_length.",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_one_sentence_and_code_2(inputs, tmp_path, capfd, name):
    arguments, message = ERRORS[name]
    (tmp_path / "empty").write_text("\n \n\n")
    (tmp_path / "one").write_text("A document.\nIts second line.\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\n\n\xff")
    (tmp_path / "control").write_text("\x00\x01\n\n\u200b\n")
    names = {"tmp": tmp_path, "config": inputs / "config.yaml"}
    assert run(inputs, tmp_path / "out", *(argument.format(**names) for argument in arguments)) == 2
    output = capfd.readouterr()
    assert output.err.startswith("prepare_bert_data: " + message.format(**names))
    assert output.err.count("\n") == 1
    assert output.out == ""
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_folder_without_permission_is_refused(inputs, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path / "out"))

    monkeypatch.setattr("tempfile.mkstemp", refuse)  # root may write to any folder, so a mode would not do
    assert run(inputs, tmp_path / "out") == 2
    assert capsys.readouterr().err.startswith(f"prepare_bert_data: Permission denied. Received: {tmp_path / 'out'}.")


# --- inspection --------------------------------------------------------------------------------------------------


def test_inspect_prints_examples_in_words(inputs, prepared, copied, vocabulary, capsys):
    assert run(inputs, copied, "--inspect", 3) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    file = bert_manifest.load(prepared).select("train", 32)[0]
    assert len(lines) == 3
    for line, values in zip(lines, features(prepared, file), strict=False):
        label, _, words = line.partition(" next: ")
        assert label == ("random" if values["next_sentence_labels"] == [1] else "actual")
        words = [re.fullmatch(r"\[(.+)→(.+)\]", word) or word for word in words.split(" ")]
        count = int(sum(values["masked_lm_weights"]))
        answers = [vocabulary[token] for token in values["masked_lm_ids"][:count]]
        assert [word[2] for word in words if not isinstance(word, str)] == answers
        shown = [vocabulary[token] for token in values["input_word_ids"][: sum(values["input_mask"])]]
        assert [word if isinstance(word, str) else word[1].replace("MASK", "[MASK]") for word in words] == shown
    assert "[MASK→" in " ".join(lines)


def test_the_published_config_is_usable():
    config = load_config(Path(__file__).parents[1] / "configs" / "bert" / "tiny.yaml", PretrainConfig)
    assert prepare_bert_data.distinct_lengths(config) == ((64, 10), (128, 20))
