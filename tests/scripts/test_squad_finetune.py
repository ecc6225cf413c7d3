"""The SQuAD script on made files over real text: it overfits, resumes, predicts as published, and names bad input."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("official", reason="needs tf-models-official")

import squad_evaluation  # noqa: E402
import squad_file  # noqa: E402
from official.nlp.data import squad_lib  # noqa: E402
from official.nlp.tools import tokenization  # noqa: E402
from ram_path import copy_to  # noqa: E402
from stopped_run import expect_same_bits, interrupt_at, saved_updates  # noqa: E402

import finetune_squad  # noqa: E402
import squad_features  # noqa: E402
import squad_predict  # noqa: E402
from bert_task import PretrainTask  # noqa: E402
from config import load  # noqa: E402
from run_folder import checkpoint_of_run  # noqa: E402
from squad_config import SquadConfig  # noqa: E402
from squad_task import SquadTask  # noqa: E402
from train_state import build_model  # noqa: E402
from vocabulary import read as read_vocabulary  # noqa: E402

pytestmark = [pytest.mark.model_garden, pytest.mark.slow]

CONFIGS = Path(__file__).parents[2] / "configs" / "squad"
TINY = CONFIGS / "tiny.yaml"
SMALL = [
    "model.layers=1",
    "model.hidden_size=16",
    "model.intermediate_size=32",
    "data.seq_length=64",
    "data.doc_stride=24",
    "training.global_batch_size=8",
    "training.epochs=1",
    "training.learning_rate=1e-3",
    "optimizer.name=adamw",
    "prediction.global_batch_size=24",
    "run.steps_per_loop=2",
    "run.checkpoint_every_steps=2",
]


@pytest.fixture(scope="module", params=[False, True], ids=["v1", "v2"])
def files(request, tmp_path_factory):
    """A folder with a SQuAD file to train on, one to predict, and their vocabulary, and the version."""
    folder = tmp_path_factory.mktemp("v2" if request.param else "v1")
    squad_file.write(folder, request.param, count=40)
    return folder, request.param


def arguments(files, run_dir, *more, **changes):
    folder, version_2 = files
    values = {
        "config_file": TINY,
        "train_file": folder / "train.json",
        "predict_file": folder / "dev.json",
        "vocab_file": folder / "vocab.txt",
        "model_dir": run_dir,
        **changes,
    }
    flags = [part for name, value in values.items() if value for part in (f"--{name}", str(value))]
    return [*flags, "--set", *SMALL, f"data.version_2_with_negative={str(version_2).lower()}", *more]


def run(files, strategy, model_dir, *more, **changes):
    """The script's run within this process, whose devices are those of the tests."""
    parsed = finetune_squad.parse_arguments(arguments(files, model_dir, *more, **changes))
    config = load(parsed.config_file, SquadConfig, parsed.overrides)
    vocabulary = read_vocabulary(parsed.vocab_file)
    return config, finetune_squad.run(config, vocabulary, strategy, parsed)


def written(model_dir, name):
    return json.loads((model_dir / name).read_text())


def questions_of(folder):
    return [question for _, question in squad_file.questions(json.loads((folder / "dev.json").read_text()))]


@pytest.fixture(scope="module")
def finished(files, two_replicas, tmp_path_factory):
    """The folder of a run that nothing interrupted, and its config."""
    model_dir = tmp_path_factory.mktemp("finished")
    return model_dir, run(files, two_replicas, model_dir)[0]


def test_the_tiny_model_overfits(two_replicas, tmp_path):
    """From the weights of a checkpoint of ours, with the config as it stands, on 120 questions."""
    content = squad_file.write(tmp_path)
    config = load(TINY, SquadConfig)
    vocab_size = len(read_vocabulary(tmp_path / "vocab.txt"))
    task = PretrainTask(config.model, vocab_size, baseline_token=1)
    model = build_model(task, two_replicas, config.run.seed)
    tf.train.Checkpoint(model=model).save(str(tmp_path / "pretrained" / "checkpoints" / "ckpt"))
    command = arguments((tmp_path, False), tmp_path / "run", init_checkpoint=tmp_path / "pretrained")
    parsed = finetune_squad.parse_arguments(command[: command.index("--set")])
    scores = finetune_squad.run(config, read_vocabulary(parsed.vocab_file), two_replicas, parsed)
    assert scores["f1"] > 90 and scores["total"] == 120
    questions = [question for _, question in squad_file.questions(content)]
    expected = squad_evaluation.evaluate(questions, written(tmp_path / "run", "predictions.json"))
    assert (scores["exact_match"], scores["f1"]) == pytest.approx(expected, abs=1e-9)


def test_a_run_leaves_what_it_promises(files, finished):
    model_dir, config = finished
    folder, version_2 = files
    scores, answers = written(model_dir, "results.json"), written(model_dir, "predictions.json")
    questions = questions_of(folder)
    expected = squad_evaluation.evaluate(questions, answers, version_2)
    assert (scores["exact" if version_2 else "exact_match"], scores["f1"]) == pytest.approx(expected, abs=1e-9)
    assert set(answers) == {question["id"] for question in questions}
    assert (model_dir / "null_odds.json").exists() == version_2
    assert load(model_dir / "config.yaml", SquadConfig) == config
    assert (model_dir / "vocab.txt").read_bytes() == (folder / "vocab.txt").read_bytes()
    assert "adapted: 0 of" in (model_dir / "plan.txt").read_text()
    manifest = written(model_dir, "train_features.json")
    assert saved_updates(model_dir) == -(-manifest["features"] // 8)
    scalars = set()
    for path in (model_dir / "summaries").rglob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            scalars |= {value.tag for value in event.summary.value}
    assert scalars >= {"learning_rate", "loss", "start_accuracy", "end_accuracy"}


def test_the_n_best_lists(files, finished):
    """The format of the published script, and its order, probabilities and rule of "no answer"."""
    model_dir, config = finished
    _, version_2 = files
    answers, n_best = written(model_dir, "predictions.json"), written(model_dir, "nbest_predictions.json")
    assert list(n_best) == list(answers)
    for name, entries in n_best.items():
        assert 1 <= len(entries) <= config.prediction.n_best_size + version_2
        assert all(list(entry) == ["text", "probability", "start_logit", "end_logit"] for entry in entries)
        texts = [entry["text"] for entry in entries]
        assert len(set(texts)) == len(texts)
        totals = np.array([entry["start_logit"] + entry["end_logit"] for entry in entries])
        probabilities = np.exp(totals - totals.max())
        np.testing.assert_allclose([e["probability"] for e in entries], probabilities / probabilities.sum(), rtol=1e-9)
        # "No answer" comes last where it is not among the best.
        assert list(totals[:-1]) == sorted(totals[:-1], reverse=True)
        if not version_2:
            assert answers[name] == texts[0]
        else:
            odds = written(model_dir, "null_odds.json")[name]
            best = next(entry for entry in entries if entry["text"])
            null = entries[texts.index("")]
            expected = null["start_logit"] + null["end_logit"] - best["start_logit"] - best["end_logit"]
            assert odds == pytest.approx(expected, abs=1e-6)
            assert answers[name] == ("" if odds > config.prediction.null_score_diff_threshold else best["text"])
    if version_2:
        assert any(answers.values()), "A threshold that nothing passes says nothing."


def test_the_best_answer_is_the_best_span(files, finished):
    """Against a search over all spans of Model Garden's own features, with logits of the model one by one."""
    model_dir, config = finished
    folder, version_2 = files
    task = SquadTask(config, len(read_vocabulary(folder / "vocab.txt")))
    model = task.build_model()
    tf.train.Checkpoint(model=model).read(checkpoint_of_run(model_dir)).expect_partial()
    features = []
    examples = squad_lib.read_squad_examples(str(folder / "dev.json"), False, version_2)
    squad_lib.convert_examples_to_features(
        examples,
        tokenization.FullTokenizer(str(folder / "vocab.txt"), do_lower_case=True),
        config.data.seq_length,
        config.data.doc_stride,
        config.data.max_query_length,
        False,
        lambda feature, is_padding: features.append(feature),
        batch_size=1,
    )
    rows = {"input_word_ids": "input_ids", "input_mask": "input_mask", "input_type_ids": "segment_ids"}
    inputs = {name: tf.constant([getattr(f, theirs) for f in features]) for name, theirs in rows.items()}
    starts, ends = (logits.numpy() for logits in model(inputs, training=False))
    best = [-math.inf] * len(examples)
    for feature, start_logits, end_logits in zip(features, starts, ends, strict=True):
        likely = [np.argsort(-logits)[: config.prediction.n_best_size] for logits in (start_logits, end_logits)]
        for start in likely[0]:
            for end in likely[1]:
                inside = start in feature.token_to_orig_map and end in feature.token_to_orig_map
                if inside and feature.token_is_max_context[start] and 0 <= end - start < 30:
                    total = start_logits[start] + end_logits[end]
                    best[feature.example_index] = max(best[feature.example_index], total)
    n_best = written(model_dir, "nbest_predictions.json")
    assert len(features) > len(examples)
    for example, expected in zip(examples, best, strict=True):
        entry = next(entry for entry in n_best[example.qas_id] if entry["text"])
        assert entry["start_logit"] + entry["end_logit"] == pytest.approx(expected, abs=1e-4)


def test_predictions_are_the_same_on_any_number_of_replicas(files, finished, two_replicas, three_replicas):
    model_dir, config = finished
    folder, version_2 = files
    vocabulary = read_vocabulary(folder / "vocab.txt")
    path, manifest = squad_features.prepare(
        folder / "dev.json", "predict", vocabulary, config.data, model_dir / "features"
    )
    answers = []
    for strategy in (tf.distribute.OneDeviceStrategy("CPU:0"), two_replicas, three_replicas):
        task = SquadTask(config, len(vocabulary))
        with strategy.scope():
            model = task.build_model()
            tf.train.Checkpoint(model=model).read(checkpoint_of_run(model_dir)).expect_partial()
        assert manifest.features % config.prediction.global_batch_size
        results = finetune_squad.predicted_logits(config, strategy, task, model, path, manifest.features)
        features = squad_features.read_features(path, vocabulary)
        assert [result.unique_id for result in results] == [feature.unique_id for feature in features]
        examples = squad_features.read_examples(folder / "dev.json", "predict", config.data)
        answers.append(squad_predict.answers(examples, features, results, config)["predictions.json"])
    assert answers[0] == answers[1] == answers[2] == written(model_dir, "predictions.json")


def test_the_loss_is_one_mean_over_unequal_replicas(two_replicas):
    """The replicas hold 1 and 3 features: the gradients must be those of the mean over 4."""
    random = np.random.default_rng(0)
    starts, ends = random.normal(size=(2, 4, 6))
    labels = {"start_positions": tf.constant([0, 2, 5, 1]), "end_positions": tf.constant([3, 2, 5, 4])}

    def cross_entropy(logits, label):
        return np.log(np.sum(np.exp(logits))) - logits[label]

    pairs = [(starts, labels["start_positions"]), (ends, labels["end_positions"])]
    expected = np.mean([cross_entropy(logits[row], positions[row]) for logits, positions in pairs for row in range(4)])

    task = SquadTask(load(TINY, SquadConfig), vocab_size=5)
    with two_replicas.scope():
        metrics = task.build_metrics()

    def loss():
        first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
        rows = tf.cond(first, lambda: tf.range(1), lambda: tf.range(1, 4))
        own = {name: tf.gather(value, rows) for name, value in labels.items()}
        outputs = [tf.gather(tf.constant(logits, tf.float32), rows) for logits in (starts, ends)]
        totals = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, task.loss_weights(own))
        return task.losses(own, outputs, totals, metrics)

    shares = two_replicas.experimental_local_results(two_replicas.run(loss))
    assert float(sum(shares)) == pytest.approx(expected, rel=1e-6)
    assert {metric.name: float(metric.result()) for metric in metrics}["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("files", [False], indirect=True)
def test_a_run_in_a_bucket_is_the_same_run(files, finished, two_replicas, bucket):
    """Files, features and run are remote; the same command again only predicts."""
    copy_to(files[0], bucket)
    places = {"train_file": bucket / "train.json", "predict_file": bucket / "dev.json"}
    for _ in range(2):
        run(files, two_replicas, bucket / "run", vocab_file=bucket / "vocab.txt", **places)
        expect_same_bits(bucket / "run", finished[0])
        for name in ("predictions.json", "nbest_predictions.json", "results.json", "train_features.json"):
            assert written(bucket / "run", name) == written(finished[0], name)
    assert {path.name for path in (bucket / "run").iterdir()} == {path.name for path in finished[0].iterdir()}


@pytest.mark.parametrize("files", [False], indirect=True)
def test_an_interrupted_run_ends_with_the_same_bits(files, finished, two_replicas, tmp_path, monkeypatch, capsys):
    for stop_at in (6, 10):
        interrupt_at(stop_at, lambda: run(files, two_replicas, tmp_path / "run"), monkeypatch)
        assert saved_updates(tmp_path / "run") == stop_at - 2
    run(files, two_replicas, tmp_path / "run")
    assert "the run goes on from its own checkpoint" in capsys.readouterr().out
    expect_same_bits(tmp_path / "run", finished[0])
    for name in ("predictions.json", "nbest_predictions.json", "results.json"):
        assert written(tmp_path / "run", name) == written(finished[0], name)


@pytest.mark.parametrize("files", [False], indirect=True)
def test_the_command_is_interrupted_and_goes_on(files, tmp_path):
    """One virtual replica in a process of its own; SIGINT after the first checkpoint."""
    command = [sys.executable, finetune_squad.__file__, "--cpu_replicas", "1"]
    more = ["training.epochs=60", "run.steps_per_loop=10", "run.checkpoint_every_steps=150"]
    command += arguments(files, tmp_path / "run", *more)
    environment = {**os.environ, "PYTHONPATH": str(CONFIGS.parents[1])}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    while process.poll() is None and not list((tmp_path / "run").glob("checkpoints/*.index")):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "interrupted; the same command continues from the newest checkpoint." in errors
    assert "Traceback" not in errors
    step = saved_updates(tmp_path / "run")
    assert step % 150, "A checkpoint of the interrupt itself."
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert finished.returncode == 0, finished.stderr
    assert f"step {step} of" in finished.stdout and "EM " in finished.stdout


def test_a_run_keeps_its_config_its_data_and_its_vocabulary(files, finished, tmp_path, capsys):
    model_dir, _ = finished
    folder, version_2 = files
    one_device = ["--strategy", "one_device"]
    assert finetune_squad.main([*one_device, *arguments(files, model_dir, "training.epochs=3")]) == 2
    assert "holds a run with another config. Received: training.epochs=3.0, there 1.0." in capsys.readouterr().err
    other = squad_file.with_one_answer(squad_file.make(version_2, 44))
    (tmp_path / "train.json").write_text(json.dumps(other))
    assert finetune_squad.main([*one_device, *arguments(files, model_dir, train_file=tmp_path / "train.json")]) == 2
    assert "The run was begun with other data." in capsys.readouterr().err
    (tmp_path / "vocab.txt").write_text((folder / "vocab.txt").read_text().replace("\nthe\n", "\nqqqqq\n"))
    assert finetune_squad.main([*one_device, *arguments(files, model_dir, vocab_file=tmp_path / "vocab.txt")]) == 2
    assert "The run was begun with another vocabulary." in capsys.readouterr().err


@pytest.mark.parametrize("files", [False], indirect=True)
@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"config_file": "nowhere.yaml"}, [], "Config file not found. Received: nowhere.yaml."),
        ({"train_file": "nowhere.json"}, [], "SQuAD file not found. Received: nowhere.json."),
        ({"predict_file": "nowhere.json"}, [], "SQuAD file not found. Received: nowhere.json."),
        (
            {"vocab_file": "nowhere.txt"},
            [],
            "The vocabulary cannot be read: No such file or directory. Received: nowhere.txt.",
        ),
        ({"vocab_file": TINY}, [], "tiny.yaml: A vocabulary needs the special tokens. Received: no [PAD], "),
        (
            {"vocab_file": None, "data_dir": "nowhere"},
            [],
            "The vocabulary cannot be read: No such file or directory. Received: nowhere/vocab.txt.",
        ),
        ({"train_file": TINY}, [], "is not JSON."),
        ({"init_checkpoint": "nowhere"}, [], "No checkpoint found. Received: nowhere."),
        ({"model_dir": TINY / "run"}, [], "The folder cannot be written"),
        ({}, ["model.width=5"], "unknown field 'model.width'."),
        ({}, ["data.doc_stride=100"], "doc_stride=100, room=29"),
        ({}, ["data.seq_length=256"], "max_positions=128, seq_length=256"),
        ({}, ["optimizer.name=sgd"], "'optimizer.name' is wrong. Received: 'sgd'."),
        ({}, ["data.version_2_with_negative=true"], "as in SQuAD 1.1, but the config is for 2.0."),
    ],
)
def test_errors_of_the_command_line(files, tmp_path, capsys, changes, more, message):
    command = ["--strategy", "one_device", *arguments(files, tmp_path / "run", *more, **changes)]
    assert finetune_squad.main(command) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("finetune_squad: ") and message in error[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("files", [True], indirect=True)
def test_a_v2_file_with_a_v1_config(files, tmp_path, capsys):
    more = ["data.version_2_with_negative=false"]
    assert finetune_squad.main(["--strategy", "one_device", *arguments(files, tmp_path / "run", *more)]) == 2
    assert "has no answer, as in SQuAD 2.0, but the config is for 1.1." in capsys.readouterr().err


@pytest.mark.parametrize("files", [False], indirect=True)
def test_a_checkpoint_of_another_width_or_vocabulary(files, finished, tmp_path, capsys):
    folder, _ = files
    one_device = ["--strategy", "one_device"]
    command = arguments(files, tmp_path / "run", "model.hidden_size=32", init_checkpoint=finished[0])
    assert finetune_squad.main([*one_device, *command]) == 2
    assert "[1500, 16]. Expected: [1500, 32], by the config and the vocabulary." in capsys.readouterr().err
    (tmp_path / "vocab.txt").write_text((folder / "vocab.txt").read_text() + "onemoretoken\n")
    command = arguments(files, tmp_path / "run", vocab_file=tmp_path / "vocab.txt", init_checkpoint=finished[0])
    assert finetune_squad.main([*one_device, *command]) == 2
    assert "[1500, 16]. Expected: [1501, 16], by the config and the vocabulary." in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
