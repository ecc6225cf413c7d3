"""Prepared data that is there already, and input that cannot be used: one sentence, and nothing is lost."""

import shutil
from pathlib import Path

import prepared as commands
import pytest
from prepared import contents, run

import bert_manifest
import prepare_bert_data
import text_files
import tokenize_text
import work_folder
from config import ConfigError


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return commands.write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def prepared(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    assert run(inputs, folder) == 0
    return folder


@pytest.fixture
def copied(prepared, tmp_path):
    return Path(shutil.copytree(prepared, tmp_path / "copied"))


def test_second_run_is_up_to_date_and_touches_nothing(inputs, copied, capsys, monkeypatch):
    monkeypatch.setattr(prepare_bert_data, "train_vocabulary", None)  # whoever calls it fails
    before = {path: path.stat().st_mtime_ns for path in (copied, *copied.iterdir())}
    for extra in ([], ["--overwrite"], ["--set", "stages.0.steps=1", "run.seed=5"], ["--processes", "7"]):
        assert run(inputs, copied, *extra) == 0
        assert capsys.readouterr().out == f"{copied} is up to date\n"
    assert {path: path.stat().st_mtime_ns for path in (copied, *copied.iterdir())} == before


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--set", "data.dupe_factor=1"], "Received: data.dupe_factor=1. Expected 2, with which that data was made."),
        (["--set", "data.seed=1"], "Received: data.seed=1. Expected 12345, with which that data was made."),
        (["--set", "data.lower_case=false"], "Received: data.lower_case=False. Expected True, with which that data"),
        (["--shards", "2"], "Received: shards=2. Expected 4, with which that data was made."),
        (["--sentence_per_line"], "Received: sentence_per_line=True. Expected False, with which that data was made."),
        (["--vocab_file", "{copied}/vocab.txt"], "Received: vocab_sha256="),
        (["--set", "stages.2.max_predictions=6"], "Received: lengths=((32, 5), (48, 6)). Expected ((32, 5), (48, 7)),"),
    ],
)
def test_other_settings_are_refused(inputs, copied, capsys, extra, message):
    before = contents(copied)
    assert run(inputs, copied, *(argument.format(copied=copied) for argument in extra)) == 2
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
    manifest = bert_manifest.Manifest.load(copied)
    assert (manifest.settings.shards, manifest.settings.data.dupe_factor) == (2, 1)
    assert sorted(contents(copied)) == sorted(
        ["manifest.json", "vocab.txt", *(file.name for file in manifest.record_files)]
    )


@pytest.mark.parametrize("damage", ["missing", "short", "changed"])
def test_only_the_damaged_file_is_made_again(inputs, prepared, copied, damage, capsys):
    path = copied / "train_48-00002-of-00004.tfrecord"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:-1] + (b"" if damage == "short" else b"x"))
    before = {path: path.stat().st_ino for path in copied.glob("*.tfrecord")}
    assert run(inputs, copied) == 0
    assert "up to date" not in capsys.readouterr().out
    assert contents(copied) == contents(prepared)
    after = {path: path.stat().st_ino for path in copied.glob("*.tfrecord")}
    assert {other for other in before if before[other] != after[other]} <= {path}


@pytest.mark.parametrize("content", ["{", '{"settings": {"format_version": 1}}'])
def test_a_broken_or_old_manifest_is_refused_unless_overwritten(inputs, prepared, copied, capsys, content):
    (copied / "manifest.json").write_text(content)
    (copied / "train_32-00000-of-00007.tfrecord").touch()
    assert run(inputs, copied) == 2
    assert "is not a manifest of this version" in capsys.readouterr().err
    assert run(inputs, copied, "--overwrite") == 0
    assert contents(copied) == contents(prepared)


def test_two_runs_in_one_folder(inputs, copied, tmp_path, capsys):
    settings = bert_manifest.Manifest.load(copied).settings
    with work_folder.claim(copied, settings, bert_manifest.Manifest):
        assert run(inputs, copied) == 2
        assert (copied / ".work").exists()
    assert capsys.readouterr().err == (
        f"prepare_bert_data: Another process prepares data in this folder. Received: {copied}. "
        "Expected one at a time, or another --output_dir.\n"
    )


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
        bert_manifest.Manifest.load(copied)


ERRORS = {
    "no config": (["--config_file", "{tmp}/none.yaml"], "Config file not found. Received: {tmp}/none.yaml. Expected"),
    "unknown field": (["--set", "data.vocab=1"], "{config}: unknown field 'data.vocab'. Expected one of: vocab_size,"),
    "bad value": (["--set", "data.dupe_factor=0"], "{config}: 'data.dupe_factor' is wrong. Received: 0."),
    "no text": (["--train_text", "{tmp}/none"], "Text file not found. Received: {tmp}/none. Expected a text"),
    "no held-out": (["--held_out_text", "{tmp}/none"], "Text file not found. Received: {tmp}/none. Expected a text"),
    "empty folder": (["--train_text", "{tmp}/folder"], "The folder has no text. Received: {tmp}/folder. Expected a"),
    "empty": (["--train_text", "{tmp}/empty"], "The train text has too few documents with a word. Received: 0 in"),
    "one document": (
        ["--held_out_text", "{tmp}/one"],
        "The held_out text has too few documents with a word. Received: 1",
    ),
    "not UTF-8": (["--train_text", "{tmp}/binary"], "{tmp}/binary is not text. Received: invalid start byte at"),
    "not UTF-8 later": (
        ["--train_text", "{tmp}/later"],
        "{tmp}/later is not text. Received: invalid start byte at byte",
    ),
    "no words": (["--train_text", "{tmp}/control"], "The train text has too few documents with a word. Received: 0 in"),
    "no held-out words": (["--held_out_text", "{tmp}/control"], "The held_out text has too few documents with a word."),
    "output is a file": (["--output_dir", "{tmp}/one"], "File exists. Received: {tmp}/one. Expected text files to"),
    "output in a file": (["--output_dir", "{tmp}/one/x"], "Not a directory. Received: {tmp}/one/x. Expected text"),
    "no shards": (["--shards", "0"], "There must be one at least. Received: --shards 0. Expected a number >= 1."),
    "no processes": (["--processes", "0"], "There must be one at least. Received: --processes 0. Expected a number"),
    "many shards": (["--shards", "9999"], "Too few documents for the files of train. Received: --shards 9999. Expect"),
    "small vocabulary": (["--set", "data.vocab_size=30"], "The vocabulary has no room for the characters of the text."),
    "no vocabulary": (["--vocab_file", "{tmp}/none"], "The vocabulary cannot be read: No such file or directory. Rec"),
    "odd vocabulary": (["--vocab_file", "{tmp}/one"], "{tmp}/one: A vocabulary needs the special tokens. Received: no"),
    "vocabulary of another size": (
        ["--vocab_file", "{tmp}/vocabulary"],
        "The vocabulary has another size. Received: 6 tokens in {tmp}/vocabulary. Expected data.vocab_size=1500; "
        "--set data.vocab_size=6 changes it.",
    ),
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
    (tmp_path / "later").write_bytes(b"One.\n\nTwo.\n\n" * 30_000 + b"Three \xff.")
    (tmp_path / "control").write_text("\x00\x01\n\n\u200b\n")
    (tmp_path / "vocabulary").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    (tmp_path / "folder").mkdir()
    names = {"tmp": tmp_path, "config": inputs / "config.yaml"}
    assert run(inputs, tmp_path / "out", *(argument.format(**names) for argument in arguments)) == 2
    output = capfd.readouterr()
    assert output.err.startswith("prepare_bert_data: " + message.format(**names))
    assert output.err.count("\n") == 1
    assert output.out == ""
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not (tmp_path / "out" / ".work").exists()


def test_an_error_of_another_process_is_the_same_sentence(inputs, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(text_files, "MIN_UNIT_BYTES", 1000)
    (tmp_path / "later").write_bytes(b"One.\n\nTwo.\n\n" * 30_000 + b"Three \xff.")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two", "three", "."]
    (tmp_path / "vocabulary").write_text("\n".join(vocabulary))
    arguments = ["--train_text", tmp_path / "later", "--vocab_file", tmp_path / "vocabulary", "--processes", "2"]
    assert run(inputs, tmp_path / "out", *arguments, "--set", "data.vocab_size=9") == 2
    output = capfd.readouterr()
    assert output.err.startswith(f"prepare_bert_data: {tmp_path}/later is not text. Received: invalid start byte at")
    assert output.err.count("\n") == 1


def test_a_folder_without_permission_is_refused(inputs, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path / "out"))

    monkeypatch.setattr("tempfile.mkstemp", refuse)  # root may write to any folder, so a mode would not do
    assert run(inputs, tmp_path / "out") == 2
    assert capsys.readouterr().err.startswith(f"prepare_bert_data: Permission denied. Received: {tmp_path / 'out'}.")


def test_an_unreadable_part_of_the_work_is_made_again(inputs, prepared, tmp_path, monkeypatch):
    """As after a loss of power: names are there, contents are not."""
    join = tokenize_text.join

    def interrupted(units, folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tokenize_text, "join", interrupted)
        assert run(inputs, tmp_path / "out") == 130
    for path in (tmp_path / "out" / ".work" / "train").glob("*.npz"):
        path.write_bytes(b"")
    calls = []
    monkeypatch.setattr(tokenize_text, "join", lambda *arguments: calls.append(arguments) or join(*arguments))
    assert run(inputs, tmp_path / "out") == 0
    assert len(calls) == 2
    assert contents(tmp_path / "out") == contents(prepared)
