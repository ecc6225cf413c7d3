"""SavedModels: in a fresh process of plain TensorFlow, logits from ids and from text are those of the checkpoint."""

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("official", reason="needs tf-models-official")

import squad_file  # noqa: E402

import export  # noqa: E402
import fill_mask  # noqa: E402
import finetune_squad  # noqa: E402
import prepare_bert_data  # noqa: E402
import squad_features  # noqa: E402
import train_bert  # noqa: E402
from bert_config import PretrainConfig  # noqa: E402
from bert_task import PretrainTask  # noqa: E402
from config import ConfigError, load  # noqa: E402
from run_folder import checkpoint_of_run  # noqa: E402
from squad_config import SquadConfig  # noqa: E402
from squad_task import SquadTask  # noqa: E402
from vocabulary import read as read_vocabulary  # noqa: E402
from wordpiece import WordPiece  # noqa: E402

pytestmark = [pytest.mark.model_garden, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
MODEL = ["model.layers=1", "model.hidden_size=16", "model.intermediate_size=32"]
# Of the logits in a fresh process against those of the checkpoint's model.
TOLERANCE = 1e-5
# Loads a SavedModel with plain TensorFlow, and with tensorflow_text if asked to, calls it, and prints what it gives.
CLIENT = """
import json, sys
import tensorflow as tf
if sys.argv[2] == "text":
    import tensorflow_text
model = tf.saved_model.load(sys.argv[1])
values = json.load(sys.stdin)
types = {name: tf.string if sys.argv[2] == "text" else tf.int32 for name in values}
outputs = model.signatures["serving_default"](**{name: tf.constant(values[name], types[name]) for name in values})
assert not {"official", "tf_keras", "bert_task"} & set(sys.modules)
print(json.dumps({name: [value.dtype.name, value.shape.as_list(), value.numpy().ravel().tolist()]
                  for name, value in outputs.items()}))
"""


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}


def fresh_process(saved_model, kind, **inputs):
    """The outputs of a SavedModel in a process that knows nothing of ours."""
    values = {name: np.asarray(value).tolist() for name, value in inputs.items()}
    result = subprocess.run(
        [sys.executable, "-c", CLIENT, str(saved_model), kind],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        env={**environment(), "PYTHONPATH": ""},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    outputs = json.loads(result.stdout.splitlines()[-1])
    return {name: np.array(flat, dtype).reshape(shape) for name, (dtype, shape, flat) in outputs.items()}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A short pre-training run on CPython's documentation, its data, and the model of its newest checkpoint."""
    folder = tmp_path_factory.mktemp("pretrained")
    lines = [text for _, text in squad_file.paragraphs()]
    for name, part in (("train", lines[:200]), ("held_out", lines[200:240])):
        documents = ["\n".join(part[start : start + 5]) for start in range(0, len(part), 5)]
        (folder / f"{name}.txt").write_text("\n\n".join(documents), encoding="utf-8")
    config = ["--config_file", str(ROOT / "configs" / "bert" / "tiny.yaml")]
    smaller = [*MODEL, "data.vocab_size=900", "data.dupe_factor=1"]
    texts = ["--train_text", str(folder / "train.txt"), "--held_out_text", str(folder / "held_out.txt")]
    data_dir = folder / "data"
    assert prepare_bert_data.main([*config, *texts, "--output_dir", str(data_dir), "--set", *smaller]) == 0
    model_dir = folder / "run"
    command = [sys.executable, train_bert.__file__, *config, "--data_dir", data_dir, "--model_dir", model_dir]
    smaller += [f"stages.{stage}.{field}=2" for stage in range(2) for field in ("steps", "warmup_steps")]
    command += ["--strategy", "one_device", "--set", *smaller]
    subprocess.run(command, check=True, env=environment(), capture_output=True)
    config = load(model_dir / "config.yaml", PretrainConfig)
    vocabulary = read_vocabulary(data_dir / "vocab.txt")
    model = PretrainTask(config.model, len(vocabulary), baseline_token=0).build_model()
    tf.train.Checkpoint(model=model).read(checkpoint_of_run(model_dir)).expect_partial()
    paths = {"model_dir": model_dir, "data_dir": data_dir}
    return types.SimpleNamespace(**paths, config=config, vocabulary=vocabulary, model=model)


@pytest.fixture(scope="module")
def answering(tmp_path_factory):
    """A short fine-tuning run, and the model of its newest checkpoint."""
    folder = tmp_path_factory.mktemp("answering")
    content = squad_file.write(folder, count=40)
    flags = {"train_file": "train.json", "predict_file": "dev.json", "vocab_file": "vocab.txt", "model_dir": "run"}
    arguments = [part for name, value in flags.items() for part in (f"--{name}", str(folder / value))]
    lengths = ["data.seq_length=64", "data.doc_stride=24", "data.max_query_length=12", "training.epochs=2"]
    arguments += ["--config_file", str(ROOT / "configs" / "squad" / "tiny.yaml"), "--set", *MODEL, *lengths]
    parsed = finetune_squad.parse_arguments(arguments)
    config = load(parsed.config_file, SquadConfig, parsed.overrides)
    vocabulary = read_vocabulary(folder / "vocab.txt")
    finetune_squad.run(config, vocabulary, tf.distribute.OneDeviceStrategy("CPU:0"), parsed)
    model = SquadTask(config, len(vocabulary)).build_model()
    tf.train.Checkpoint(model=model).read(checkpoint_of_run(folder / "run")).expect_partial()
    return types.SimpleNamespace(
        folder=folder, model_dir=folder / "run", config=config, vocabulary=vocabulary, model=model, content=content
    )


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE, rtol=0)


# --- masked tokens -----------------------------------------------------------------------------------------------


def masked_lm_inputs(pretrained):
    random = np.random.default_rng(0)
    mask = np.ones([3, 9], np.int32)
    mask[1, 6:] = 0
    return {
        "input_word_ids": random.integers(5, len(pretrained.vocabulary), [3, 9]).astype(np.int32),
        "input_mask": mask,
        "input_type_ids": random.integers(0, 2, [3, 9]).astype(np.int32),
        "masked_lm_positions": random.integers(0, 6, [3, 2]).astype(np.int32),
    }


def test_masked_lm_of_ids(pretrained):
    command = [sys.executable, export.__file__, "--data_dir", pretrained.data_dir, "--model_dir", pretrained.model_dir]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    saved_model = pretrained.model_dir / "saved_model" / "4"
    assert result.stdout.splitlines()[-1] == f"SavedModel: {saved_model}"
    assert (saved_model / "assets" / "vocab.txt").read_bytes() == (pretrained.data_dir / "vocab.txt").read_bytes()
    inputs = masked_lm_inputs(pretrained)
    served = fresh_process(saved_model, "ids", **inputs)
    direct = pretrained.model({name: tf.constant(value) for name, value in inputs.items()}, training=False)
    assert set(served) == {"mlm_logits", "next_sentence"}
    for name, value in served.items():
        assert value.dtype == np.float32
        close(value, direct[name])
    assert served["mlm_logits"].shape == (3, 2, len(pretrained.vocabulary))
    # Not the weights that a new model begins with.
    new = PretrainTask(pretrained.config.model, len(pretrained.vocabulary), baseline_token=0).build_model()
    assert np.abs(new(inputs, training=False)["mlm_logits"] - served["mlm_logits"]).max() > 100 * TOLERANCE


def test_masked_lm_of_text(pretrained):
    texts = [
        "Return the [MASK] of the object.",
        "[MASK][MASK] naïve Café, don't [MASK]",
        "without one",
        "[MASK]",
        "a [mask] and [CLS] [MASK] ß 日本",
    ]
    saved_model = export.export(pretrained.model_dir, pretrained.data_dir, text=True)
    assert saved_model == pretrained.model_dir / "saved_model_text" / "4"
    served = fresh_process(saved_model, "text", text=texts)
    word_piece = WordPiece(pretrained.vocabulary)
    cls, sep, mask = (pretrained.vocabulary.ids[token] for token in ("[CLS]", "[SEP]", "[MASK]"))
    assert served["mask_count"].tolist() == [1, 3, 0, 1, 1]
    assert served["mlm_logits"].shape == (5, 3, len(pretrained.vocabulary))
    for row, text in enumerate(texts):
        ids = [cls]
        for part in text.split("[MASK]"):
            ids += [*word_piece.token_ids(part), mask]
        ids[-1] = sep
        padding = served["input_word_ids"].shape[1] - len(ids)
        assert served["input_word_ids"][row].tolist() == ids + [0] * padding
        positions = [place for place, token in enumerate(ids) if token == mask]
        assert served["masked_lm_positions"][row].tolist() == positions + [0] * (3 - len(positions))
        inputs = {
            "input_word_ids": tf.constant([ids]),
            "input_mask": tf.ones([1, len(ids)], tf.int32),
            "input_type_ids": tf.zeros([1, len(ids)], tf.int32),
            "masked_lm_positions": tf.constant([positions or [0]]),
        }
        direct = pretrained.model(inputs, training=False)
        close(served["mlm_logits"][row, : len(positions)], direct["mlm_logits"][0, : len(positions)])
        close(served["next_sentence"][row], direct["next_sentence"][0])


@pytest.mark.parametrize(
    ("text", "message"),
    [("the " * 200 + "[MASK]", "more tokens than the model has positions"), ("no mask", r"No text has a \[MASK\]")],
)
def test_text_that_masked_lm_cannot_take(pretrained, text, message):
    model = tf.saved_model.load(str(export.export(pretrained.model_dir, pretrained.data_dir, text=True)))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model.signatures["serving_default"](text=tf.constant([text]))


def test_fill_mask(pretrained, capsys):
    export.export(pretrained.model_dir, pretrained.data_dir)
    folder = pretrained.model_dir / "saved_model"
    sentence = "the [MASK] of line [MASK]."
    assert fill_mask.main(["--saved_model", str(folder), sentence]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == sentence and len(lines) == 1 + 2 * 6
    probabilities = [float(line.split("%")[0]) for line in lines[2:7]]
    assert probabilities == sorted(probabilities, reverse=True)
    text = tf.saved_model.load(str(export.export(pretrained.model_dir, pretrained.data_dir, text=True)))
    logits = text.signatures["serving_default"](text=tf.constant([sentence]))["mlm_logits"][0]
    expected = [pretrained.vocabulary.tokens[index] for index in tf.math.top_k(logits[0], 5).indices.numpy()]
    assert [line.split()[-1] for line in lines[2:7]] == expected


# --- questions ---------------------------------------------------------------------------------------------------


def test_squad_of_ids(answering):
    saved_model = export.export(answering.model_dir)
    step = checkpoint_of_run(answering.model_dir).rsplit("-", 1)[-1]
    assert saved_model == answering.model_dir / "saved_model" / step
    assert (saved_model / "assets" / "vocab.txt").read_bytes() == (answering.folder / "vocab.txt").read_bytes()
    (path,) = (answering.model_dir / "features").glob("predict-*.tfrecord")
    features = squad_features.read_features(path, answering.vocabulary)[:7]
    names = {"input_word_ids": "input_ids", "input_mask": "input_mask", "input_type_ids": "segment_ids"}
    inputs = {name: np.array([getattr(feature, stored) for feature in features]) for name, stored in names.items()}
    served = fresh_process(saved_model, "ids", **inputs)
    direct = answering.model({name: tf.constant(value, tf.int32) for name, value in inputs.items()}, training=False)
    assert set(served) == {"start_logits", "end_logits"}
    for name, value in zip(("start_logits", "end_logits"), direct, strict=True):
        assert served[name].dtype == np.float32 and served[name].shape == (7, 64)
        close(served[name], value)
    new = SquadTask(answering.config, len(answering.vocabulary)).build_model()
    assert np.abs(new(inputs, training=False)[0] - served["start_logits"]).max() > 100 * TOLERANCE


def test_squad_of_text(answering):
    """Every window of every question is the feature that training and prediction read, and its logits are the same."""
    questions = squad_file.questions(answering.content)
    saved_model = export.export(answering.model_dir, text=True)
    served = fresh_process(
        saved_model,
        "text",
        question=[question["question"] for _, question in questions],
        context=[context for context, _ in questions],
    )
    (path,) = (answering.model_dir / "features").glob("predict-*.tfrecord")
    features = squad_features.read_features(path, answering.vocabulary)
    assert len(features) > len(questions), "Some context must have several windows, or the test says nothing."
    assert served["example"].tolist() == [feature.example_index for feature in features]
    length = served["input_word_ids"].shape[1]
    for row, feature in enumerate(features):
        assert served["input_word_ids"][row].tolist() == feature.input_ids[:length]
        inputs = {
            "input_word_ids": tf.constant([feature.input_ids]),
            "input_mask": tf.constant([feature.input_mask]),
            "input_type_ids": tf.constant([feature.segment_ids]),
        }
        seen = len(feature.tokens)
        for name, value in zip(("start_logits", "end_logits"), answering.model(inputs, training=False), strict=True):
            close(served[name][row, :seen], value[0, :seen])
        places = sorted(feature.token_to_orig_map)
        outside = sorted(set(range(length)) - set(places))
        assert set(served["first_byte"][row][outside]) == set(served["end_byte"][row][outside]) == {-1}
        context = questions[feature.example_index][0].encode()
        words = context.decode().split()
        for place in places:
            piece = context[served["first_byte"][row, place] : served["end_byte"][row, place]].decode()
            assert piece in words[feature.token_to_orig_map[place]]
            if feature.tokens[place] != "[UNK]":
                assert piece.lower() == feature.tokens[place].removeprefix("##")


def test_an_answer_is_cut_by_bytes(answering):
    """Characters of several bytes come before the answer."""
    context = "“Ünïcode” — été, naïve: 日本. " + squad_file.questions(answering.content)[0][0]
    model = tf.saved_model.load(str(export.export(answering.model_dir, text=True)))
    served = model.signatures["serving_default"](question=tf.constant(["Which words?"]), context=tf.constant([context]))
    content, first, end = context.encode(), served["first_byte"][0].numpy(), served["end_byte"][0].numpy()
    begin = content.index("été".encode())
    start = int(np.flatnonzero(first == begin)[0])
    stop = int(np.flatnonzero(end == content.index("日".encode()) + len("日".encode()))[0])
    assert content[first[start] : end[stop]].decode() == "été, naïve: 日"


def test_a_context_without_words_and_an_empty_batch(answering):
    model = tf.saved_model.load(str(export.export(answering.model_dir, text=True)))
    serve = model.signatures["serving_default"]
    outputs = serve(question=tf.constant(["Which words?", ""]), context=tf.constant(["", "One word."]))
    assert outputs["example"].numpy().tolist() == [0, 1]
    assert np.all(np.isfinite(outputs["start_logits"]))
    assert set(outputs["first_byte"].numpy()[0]) == {-1}
    assert serve(question=tf.constant([], tf.string), context=tf.constant([], tf.string))["example"].shape == [0]
    with pytest.raises(tf.errors.InvalidArgumentError, match="Each question needs a context"):
        serve(question=tf.constant(["a", "b"]), context=tf.constant(["a"]))


# --- folders and errors ------------------------------------------------------------------------------------------


def copied(answering, tmp_path):
    return Path(shutil.copytree(answering.model_dir, tmp_path / "run", ignore=shutil.ignore_patterns("saved*")))


def test_a_second_export_touches_nothing_and_a_broken_one_is_replaced(answering, tmp_path):
    model_dir = copied(answering, tmp_path)
    step = checkpoint_of_run(model_dir).rsplit("-", 1)[-1]
    (model_dir / "saved_model" / f".{step}.unfinished" / "variables").mkdir(parents=True)
    (model_dir / "saved_model" / f".{step}.unfinished" / "half").write_text("half")
    saved_model = export.export(model_dir)
    assert [path.name for path in (model_dir / "saved_model").iterdir()] == [step]
    assert not (saved_model / "half").exists()
    before = {path: path.stat().st_mtime_ns for path in saved_model.rglob("*")}
    assert export.export(model_dir, task="squad") == saved_model
    assert {path: path.stat().st_mtime_ns for path in saved_model.rglob("*")} == before


def test_an_interrupted_export_leaves_no_model(answering, tmp_path, monkeypatch):
    model_dir = copied(answering, tmp_path)

    def interrupted(module, path, **_):
        Path(path).mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(tf.saved_model, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export.export(model_dir)
    with pytest.raises(ConfigError, match="No SavedModel found"):
        fill_mask.newest_version(model_dir / "saved_model")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model_dir", "{tmp}"], "export: No run found. Received: {tmp} without config.yaml."),
        (["--model_dir", "{pretrained}"], "export: A pre-training run needs its vocabulary. Received: no --data_dir."),
        (["--model_dir", "{pretrained}", "--data_dir", "{tmp}"], "export: The data has not the vocabulary of the run."),
        (
            ["--model_dir", "{pretrained}", "--data_dir", "{data}", "--task", "squad"],
            "export: The run was trained for another task. Received: --task squad. Expected masked_lm",
        ),
        (
            ["--model_dir", "{answering}", "--task", "masked_lm"],
            "export: The run was trained for another task. Received: --task masked_lm. Expected squad",
        ),
    ],
)
def test_errors_of_the_command_line(pretrained, answering, tmp_path, capsys, monkeypatch, argv, message):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    names = {"tmp": tmp_path, "data": pretrained.data_dir, "pretrained": pretrained.model_dir}
    names["answering"] = answering.model_dir
    assert export.main([part.format(**names) for part in argv]) == 2
    error = capsys.readouterr().err
    assert message.format(**names) in error and error.count("\n") == 1


def test_runs_that_cannot_be_exported(answering, tmp_path):
    model_dir = copied(answering, tmp_path)
    config = (model_dir / "config.yaml").read_text()
    (model_dir / "config.yaml").write_text(config.replace("hidden_size: 16", "hidden_size: 32"))
    with pytest.raises(
        ConfigError,
        match=r"The checkpoint is of another model\. Received: .*ckpt-.* Expected the variables of this run's config\.",
    ):
        export.export(model_dir)
    assert not (model_dir / "saved_model").exists()
    for text in ("rows: 1", "[1", "a: [}"):
        (model_dir / "config.yaml").write_text(text)
        with pytest.raises(ConfigError, match="The run is of no task"):
            export.export(model_dir)
    (model_dir / "config.yaml").write_text(config)
    (model_dir / "saved_model").write_text("a file in the way")
    with pytest.raises(ConfigError, match=r"The SavedModel cannot be written: .* Expected a writable folder"):
        export.export(model_dir)
    shutil.rmtree(model_dir / "checkpoints")
    with pytest.raises(ConfigError, match=r"The run has no checkpoint\. Received: .*checkpoints\."):
        export.export(model_dir)
    (model_dir / "vocab.txt").unlink()
    with pytest.raises(ConfigError, match=r"The vocabulary cannot be read: No such file"):
        export.export(model_dir)


def test_a_cased_run(pretrained, tmp_path, monkeypatch):
    """Its SavedModel of ids tells a client not to lower-case; one for text would do so, and is refused."""
    model_dir = Path(shutil.copytree(pretrained.model_dir, tmp_path / "run", ignore=shutil.ignore_patterns("saved*")))
    config = (model_dir / "config.yaml").read_text()
    (model_dir / "config.yaml").write_text(config.replace("lower_case: true", "lower_case: false"))
    with pytest.raises(
        ConfigError, match=r"for text lower-cases it\. Received: --text for a run with data\.lower_case"
    ):
        export.export(model_dir, pretrained.data_dir, text=True)
    asked = []
    monkeypatch.setattr(fill_mask, "WordPiece", lambda *arguments: asked.append(arguments[1]) or WordPiece(*arguments))
    for run_dir, lower_case in ((model_dir, False), (pretrained.model_dir, True)):
        fill_mask.fill(export.export(run_dir, pretrained.data_dir), "The [MASK].", 1)
        assert asked.pop() is lower_case


def test_errors_of_fill_mask(pretrained, answering, tmp_path, capsys):
    ids = export.export(pretrained.model_dir, pretrained.data_dir)
    text = export.export(pretrained.model_dir, pretrained.data_dir, text=True)
    for saved_model, sentence, message in (
        (tmp_path, "A [MASK].", f"fill_mask: No SavedModel found. Received: {tmp_path}."),
        (ids, "No mask.", "fill_mask: The sentence has no [MASK]."),
        (ids, "the " * 200 + "[MASK]", "fill_mask: The sentence is longer than the model takes. Received: 203 tokens."),
        (text, "A [MASK].", "fill_mask: The SavedModel does not predict masked tokens from ids."),
        (export.export(answering.model_dir), "A [MASK].", "fill_mask: The SavedModel does not predict masked tokens"),
    ):
        assert fill_mask.main(["--saved_model", str(saved_model), sentence]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    # Without the ops of tensorflow_text the model for text cannot even be loaded.
    command = [sys.executable, fill_mask.__file__, "--saved_model", str(text), "A [MASK]."]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert result.returncode == 2 and "does not predict masked tokens from ids" in result.stderr
