"""The prepared data: what Model Garden reads is what the text says, whoever made it."""

import collections
import hashlib
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import prepared as commands
import pytest
from prepared import contents, read_documents, run

import bert_manifest
import prepare_bert_data
import text_files
import vocabulary as vocabularies
from bert_config import PretrainConfig
from config import load as load_config
from sentences import split_sentences
from tfrecord import read_records
from wordpiece import WordPiece


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return commands.write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def prepared(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "made" / "by the script"
    assert run(inputs, folder) == 0
    return folder


@pytest.fixture(scope="module")
def vocabulary(prepared):
    return vocabularies.read(prepared / "vocab.txt")


@pytest.fixture(scope="module")
def documents(inputs, vocabulary):
    """Both splits as lists of sentences of token ids."""
    tokenize = WordPiece(vocabulary).token_ids
    return {
        split: [
            [tokenize(sentence) for line in document for sentence in split_sentences(line)]
            for document in read_documents(inputs / f"{split}.txt")
        ]
        for split in ("train", "held_out")
    }


def features(folder, file):
    """The raw features of each record of a file."""
    from tensorflow.train import Example

    for record in read_records(folder / file.name):
        feature = Example.FromString(record).features.feature
        yield {name: list(getattr(value, value.WhichOneof("kind")).value) for name, value in feature.items()}


def original_runs(values):
    """The two runs of tokens of an example before masking, without special tokens."""
    tokens = list(values["input_word_ids"])
    for position, token, weight in zip(
        values["masked_lm_positions"], values["masked_lm_ids"], values["masked_lm_weights"], strict=True
    ):
        if weight:
            tokens[position] = token
    is_b = values["input_type_ids"].index(1)
    return tokens[1 : is_b - 1], tokens[is_b : sum(values["input_mask"]) - 1]


# --- vocabulary --------------------------------------------------------------------------------------------------


def test_nothing_of_the_held_out_text_changes_the_vocabulary(inputs, prepared, tmp_path):
    (tmp_path / "held_out.txt").write_text("Zyxqvutology is all.\n\n" * 300)
    assert run(inputs, tmp_path / "out", "--held_out_text", tmp_path / "held_out.txt") == 0
    assert (tmp_path / "out" / "vocab.txt").read_bytes() == (prepared / "vocab.txt").read_bytes()


def test_a_given_vocabulary_is_used(inputs, prepared, vocabulary, tmp_path):
    """In the layout of the public one, with special tokens at other ids: the same text, in other numbers."""
    special, others = vocabulary.tokens[:5], vocabulary.tokens[5:]
    tokens = [special[0], *others[:700], *reversed(special[1:]), *others[700:]]
    (tmp_path / "public.txt").write_text("".join(f"{token}\r\n" for token in tokens), encoding="utf-8")
    assert run(inputs, tmp_path / "out", "--vocab_file", tmp_path / "public.txt") == 0
    manifest = bert_manifest.Manifest.load(tmp_path / "out")
    assert manifest.settings.vocab_sha256 == hashlib.sha256((tmp_path / "public.txt").read_bytes()).hexdigest()
    given = manifest.vocabulary(tmp_path / "out")
    assert list(given.tokens) == tokens and given.mask_id == 701 and given.cls_id == 703
    ours, theirs = bert_manifest.Manifest.load(prepared).select("held_out", 32)[0], manifest.select("held_out", 32)[0]
    for expected, values in zip(features(prepared, ours), features(tmp_path / "out", theirs), strict=True):
        for name in ("input_mask", "input_type_ids", "masked_lm_positions", "masked_lm_weights"):
            assert values[name] == expected[name]
        for run_a, run_b in zip(original_runs(values), original_runs(expected), strict=True):
            assert [tokens[token] for token in run_a] == [vocabulary.tokens[token] for token in run_b]


def test_a_cased_vocabulary(inputs, tmp_path):
    assert run(inputs, tmp_path, "--set", "data.lower_case=false") == 0
    tokens = bert_manifest.Manifest.load(tmp_path).vocabulary(tmp_path).tokens
    assert {"The", "the", "T"} <= set(tokens)


# --- files -------------------------------------------------------------------------------------------------------


def test_files_and_manifest(inputs, prepared, vocabulary, documents):
    manifest = bert_manifest.Manifest.load(prepared)
    train = [f"train_{n}-{i:05d}-of-00004.tfrecord" for n in (32, 48) for i in range(4)]
    held_out = [f"held_out_{n}-00000-of-00001.tfrecord" for n in (32, 48)]
    assert sorted(contents(prepared)) == sorted([*train, *held_out, "manifest.json", "vocab.txt"])
    assert [file.name for file in manifest.record_files] == [*train, *held_out]
    assert manifest.settings.lengths == ((32, 5), (48, 7))
    assert manifest.settings.data.model_dump() == {
        "vocab_size": 1500,
        "dupe_factor": 2,
        "masked_lm_probability": 0.15,
        "whole_word_masking": False,
        "short_sequence_probability": 0.1,
        "lower_case": True,
        "seed": 12345,
    }
    for split in ("train", "held_out"):
        digest = hashlib.sha256((inputs / f"{split}.txt").read_bytes()).hexdigest()
        assert getattr(manifest.settings, f"{split}_text_sha256") == digest
        counts = getattr(manifest, f"{split}_text")
        sentences = [sentence for document in documents[split] for sentence in document]
        assert counts.documents == len(documents[split])
        assert (counts.sentences, counts.tokens) == (len(sentences), sum(map(len, sentences)))
    assert manifest.settings.vocab_sha256 is None
    assert manifest.vocab_size == len(vocabulary)
    for file in (manifest.vocab_file, *manifest.record_files):
        assert hashlib.sha256((prepared / file.name).read_bytes()).hexdigest() == file.sha256
        assert (prepared / file.name).stat().st_size == file.size_bytes
    for file in manifest.record_files:
        assert file.name.startswith(f"{file.split}_{file.seq_length}-")
        assert file.examples == len(list(read_records(prepared / file.name)))
    assert [file.name for file in manifest.select("train", 48)] == train[4:]
    assert [file.name for file in manifest.select("held_out", 32)] == held_out[:1]
    assert manifest.select("train", 64) == []


def test_most_frequent_token(prepared, documents, vocabulary):
    counts = collections.Counter(token for document in documents["train"] for line in document for token in line)
    (token_id, count) = counts.most_common(1)[0]
    stated = bert_manifest.Manifest.load(prepared).most_frequent_token
    assert (stated.id, stated.count, stated.token) == (token_id, count, vocabulary.tokens[token_id])
    assert stated.share == pytest.approx(count / counts.total())


@pytest.fixture(scope="module")
def long(inputs, tmp_path_factory):
    """The same text in examples so long that truncation drops little."""
    folder = tmp_path_factory.mktemp("long")
    stage = ["stages.2.seq_length=512", "stages.2.max_predictions=80", "data.short_sequence_probability=0"]
    assert run(inputs, folder, "--set", *stage) == 0
    return folder


@pytest.mark.parametrize(("seq_length", "least_share"), [(32, 0.3), (512, 0.85)])
@pytest.mark.parametrize(("split", "repetitions"), [("train", 2), ("held_out", 1)])
def test_examples_are_all_of_the_text(long, documents, split, repetitions, seq_length, least_share):
    """Every run of tokens is in a document, and the files together cover each document so many times."""
    texts = [" " + " ".join(str(token) for line in document for token in line) + " " for document in documents[split]]
    covered = collections.Counter()
    for file in bert_manifest.Manifest.load(long).select(split, seq_length):
        for values in features(long, file):
            tokens_a, tokens_b = original_runs(values)
            assert 3 + len(tokens_a) + len(tokens_b) <= seq_length == len(values["input_word_ids"])
            run_a, run_b = (" " + " ".join(map(str, tokens)) + " " for tokens in (tokens_a, tokens_b))
            owners_a, owners_b = ({index for index, text in enumerate(texts) if run in text} for run in (run_a, run_b))
            assert owners_a and owners_b
            # A short run may be in several documents by chance.
            covered.update({owner: len(tokens_a) / len(owners_a) for owner in owners_a})
            if values["next_sentence_labels"] == [0]:
                assert owners_a & owners_b
                covered.update({owner: len(tokens_b) / len(owners_a & owners_b) for owner in owners_a & owners_b})
    for index, document in enumerate(documents[split]):
        size = repetitions * sum(map(len, document))
        assert size * least_share < covered[index] < size * 1.05


def test_files_are_samples_of_all_documents(prepared, documents):
    """Of about the same size, and in random order."""
    files = bert_manifest.Manifest.load(prepared).select("train", 32)
    examples = [file.examples for file in files]
    assert max(examples) < 2 * min(examples)
    lines = [" ".join(str(token) for token in line) for document in documents["train"] for line in document]
    place = {line: number for number, line in enumerate(lines) if lines.count(line) == 1}
    for file in files:
        places = [place.get(" ".join(map(str, original_runs(values)[0]))) for values in features(prepared, file)]
        places = [number for number in places if number is not None]
        assert len(places) > 20
        ascending = np.mean(np.diff(places) > 0)
        assert 0.3 < ascending < 0.7


@pytest.mark.model_garden
@pytest.mark.parametrize("length", [(32, 5), (48, 7)])
def test_model_garden_reads_the_same_values(prepared, length):
    pretrain_dataloader = pytest.importorskip("official.nlp.data.pretrain_dataloader")
    (file,) = bert_manifest.Manifest.load(prepared).select("held_out", length[0])
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
    made = list(features(prepared, file))
    assert len(read) == len(made) == file.examples
    for values, expected in zip(read, made, strict=True):
        assert {name: value.ravel().tolist() for name, value in values.items()} == expected
        assert values["masked_lm_weights"].dtype == np.float32
        assert all(value.dtype == np.int32 for name, value in values.items() if name != "masked_lm_weights")


def test_whole_words(inputs, tmp_path):
    assert run(inputs, tmp_path, "--set", "data.whole_word_masking=true", "data.dupe_factor=1") == 0
    manifest = bert_manifest.Manifest.load(tmp_path)
    is_inner = manifest.vocabulary(tmp_path).is_inner_piece
    words = 0
    for values in features(tmp_path, manifest.select("train", 48)[0]):
        tokens_a, tokens_b = original_runs(values)
        tokens = [2, *tokens_a, 3, *tokens_b, 3]
        chosen = set(values["masked_lm_positions"][: int(sum(values["masked_lm_weights"]))])
        for position in chosen:
            if is_inner[tokens[position]] and tokens[position - 1] > 4:
                assert position - 1 in chosen
                words += 1
            if position + 1 < len(tokens) and is_inner[tokens[position + 1]]:
                assert position + 1 in chosen
    assert words > 50


# --- whoever makes them ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 3])
def test_another_process_writes_the_same_bytes(inputs, prepared, tmp_path, processes):
    command, environment = commands.command(inputs, tmp_path, "--processes", processes)
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert contents(tmp_path) == contents(prepared)
    counts = {
        (split, length): sum(file.examples for file in bert_manifest.Manifest.load(prepared).select(split, length))
        for split in ("train", "held_out")
        for length in (32, 48)
    }
    assert result.stdout.splitlines() == [
        "vocab.txt: 1,500 tokens",
        *(f"train_{n}-00000-of-00004.tfrecord: {counts['train', n]:,} examples in 4 files" for n in (32, 48)),
        *(f"held_out_{n}-00000-of-00001.tfrecord: {counts['held_out', n]:,} examples" for n in (32, 48)),
    ]
    assert result.stderr == ""


def test_little_text_is_prepared_by_one_process(inputs, tmp_path, monkeypatch):
    texts = [text_files.open_text("train", inputs / "train.txt", False)] * 3
    assert prepare_bert_data.default_processes(texts) == 1
    size = (inputs / "train.txt").stat().st_size
    monkeypatch.setattr(prepare_bert_data, "MIN_BYTES_PER_PROCESS", size)
    assert prepare_bert_data.default_processes(texts) == min(3, len(os.sched_getaffinity(0)))


def test_no_process_imports_tensorflow(inputs, tmp_path):
    command, environment = commands.command(inputs, tmp_path / "out", "--processes", "2")
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise RuntimeError('imported')")
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    subprocess.run(command, env=environment, capture_output=True, check=True)


def test_the_form_of_the_text_does_not_matter(inputs, prepared, tmp_path):
    """A document a file, in folders; sentences a line; several files: the same vocabulary and examples."""
    for split in ("train", "held_out"):
        documents = read_documents(inputs / f"{split}.txt")
        for number, document in enumerate(documents):
            path = tmp_path / "files" / split / f"{number // 10}" / f"{number:03}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n\n".join(document), encoding="utf-8")
        sentences = ["\n".join(s for line in document for s in split_sentences(line)) for document in documents]
        (tmp_path / f"{split}1").write_text("\n\n".join(sentences[:2]), encoding="utf-8")
        (tmp_path / f"{split}2").write_text("\n\n".join(sentences[2:]), encoding="utf-8")

    def of(split, *names):
        return [f"--{split}_text", *(tmp_path / name.format(split) for name in names)]

    files = [*of("train", "files/{}"), *of("held_out", "files/{}"), "--document_per_file"]
    lines = [*of("train", "{}1", "{}2"), *of("held_out", "{}1", "{}2"), "--sentence_per_line"]
    lines += ["--vocab_file", prepared / "vocab.txt"]
    expected = {name: content for name, content in contents(prepared).items() if name != "manifest.json"}
    for number, form in enumerate((files, lines)):
        assert run(inputs, tmp_path / f"out{number}", *form) == 0
        made = contents(tmp_path / f"out{number}")
        assert bert_manifest.Manifest.load(tmp_path / f"out{number}").settings.document_per_file == (number == 0)
        del made["manifest.json"]
        assert made == expected


def test_the_number_of_files_and_the_seed_change_the_examples(inputs, prepared, tmp_path):
    for number, more in enumerate((["--shards", "5"], ["--set", "data.seed=1"])):
        assert run(inputs, tmp_path / f"{number}", *more) == 0
        made = contents(tmp_path / f"{number}")
        assert made["vocab.txt"] == contents(prepared)["vocab.txt"]
        old = set(contents(prepared).values())
        assert not any(content in old for name, content in made.items() if name.startswith("train"))


# --- inspection --------------------------------------------------------------------------------------------------


def test_inspect_prints_examples_in_words(inputs, prepared, vocabulary, capsys):
    assert run(inputs, prepared, "--inspect", 3) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    file = bert_manifest.Manifest.load(prepared).select("train", 32)[0]
    assert len(lines) == 3
    for line, values in zip(lines, features(prepared, file), strict=False):
        label, _, words = line.partition(" next: ")
        assert label == ("random" if values["next_sentence_labels"] == [1] else "actual")
        words = [re.fullmatch(r"\[(.+)→(.+)\]", word) or word for word in words.split(" ")]
        count = int(sum(values["masked_lm_weights"]))
        answers = [vocabulary.tokens[token] for token in values["masked_lm_ids"][:count]]
        assert [word[2] for word in words if not isinstance(word, str)] == answers
        shown = [vocabulary.tokens[token] for token in values["input_word_ids"][: sum(values["input_mask"])]]
        assert [word if isinstance(word, str) else word[1].replace("MASK", "[MASK]") for word in words] == shown
    assert "[MASK→" in " ".join(lines)


def test_the_published_config_is_usable():
    config = load_config(Path(__file__).parents[2] / "configs" / "bert" / "tiny.yaml", PretrainConfig)
    assert prepare_bert_data.distinct_lengths(config) == ((64, 10), (128, 20))
