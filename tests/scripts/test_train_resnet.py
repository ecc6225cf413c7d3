"""The script for images on a few digits: a run, exact resume with batch norm, export, and its errors."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import made_images
import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("official", reason="needs tf-models-official")

from stopped_run import checkpoint_values, expect_same_bits, interrupt_at, saved_updates  # noqa: E402

import alexnet  # noqa: E402
import export  # noqa: E402
import train_resnet  # noqa: E402
from config import ConfigError, RunError, claim_folder, load  # noqa: E402
from image_config import ImageConfig  # noqa: E402
from image_task import ImageTask  # noqa: E402

pytestmark = [pytest.mark.model_garden, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "configs" / "resnet50" / "digits_lamb.yaml"
SMALL = [
    "model.depth=10",
    "stages.0.epochs=2",
    "stages.0.global_batch_size=16",
    "stages.0.max_per_replica_batch_size=4",
    "stages.0.warmup_epochs=0.5",
    "run.steps_per_loop=1",
    "run.checkpoint_every_steps=4",
    "run.eval_global_batch_size=8",
    "run.shuffle_images=40",
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """53 training and 10 validation images: not a whole number of batches."""
    folder = tmp_path_factory.mktemp("images")
    made_images.write_digits(folder, 53)
    return folder / "out", made_images.prepare(folder, folder / "out")


def run(prepared, strategy, model_dir, *more):
    config = load(DIGITS, ImageConfig, [*SMALL, *more])
    data_dir, manifest = prepared
    stages = train_resnet.resolve_stages(config, manifest.count("train"), strategy.num_replicas_in_sync)
    claim_folder(model_dir, config)
    manifest.claim_run(model_dir)
    return train_resnet.run(config, manifest, stages, strategy, data_dir, model_dir)


@pytest.fixture(scope="module")
def finished(prepared, two_replicas, tmp_path_factory):
    model_dir = tmp_path_factory.mktemp("finished")
    return model_dir, run(prepared, two_replicas, model_dir)


def test_a_run_leaves_what_it_promises(finished):
    model_dir, results = finished
    assert saved_updates(model_dir) == 7  # 2 x 53 / 16 = 6.6
    assert all(np.all(np.isfinite(value)) for value in checkpoint_values(model_dir).values())
    assert json.loads((model_dir / "validation.json").read_text()) == results
    assert set(results) == {"loss", "top_1_accuracy", "top_5_accuracy", "corrupt_images"}
    assert 0 <= results["top_1_accuracy"] <= results["top_5_accuracy"] <= 1
    report = (model_dir / "report.md").read_text()
    assert "| 1 | 7 | 16 | 2 x 4 x 2 |" in report and "top 5 accuracy" in report
    plan = (model_dir / "plan.txt").read_text()
    assert "batch_normalization" in plan
    saved = json.loads((model_dir / "manifest.json").read_text())
    assert saved["settings"]["layout"]["image_key"] == "image/encoded"


def test_an_interrupted_run_ends_with_the_same_bits(finished, prepared, two_replicas, tmp_path, monkeypatch):
    """Weights, moments and the moving statistics of batch norm; stopped where no checkpoint is due."""
    for stop_at in (3, 6):
        interrupt_at(stop_at, lambda: run(prepared, two_replicas, tmp_path / "run"), monkeypatch)
    run(prepared, two_replicas, tmp_path / "run")
    expect_same_bits(tmp_path / "run", finished[0])
    assert any("moving_variance" in name for name in checkpoint_values(finished[0]))
    assert json.loads((tmp_path / "run" / "validation.json").read_text()) == finished[1]


def test_replicas_share_their_statistics(prepared, two_replicas, tmp_path):
    """They have seen other images, and have the mean of both: what a checkpoint holds."""
    from train_state import build_model

    config = load(DIGITS, ImageConfig, SMALL)
    model = build_model(ImageTask(config, 10), two_replicas, 0)
    (first,) = [v for v in model.non_trainable_variables if "moving_mean" in v.name][:1]
    from train_step import share_statistics

    def step(scale):
        context = tf.distribute.get_replica_context()
        own = tf.cast(context.replica_id_in_sync_group, tf.float32)
        before = tf.identity(first)
        first.assign(tf.fill(first.shape, scale * (1 + 2 * own)))
        share_statistics(context, [first], [before])

    for scale in (1.0, np.inf):  # what is not finite changes nothing
        two_replicas.run(tf.function(step), args=(tf.constant(scale),))
        for copy in two_replicas.experimental_local_results(first):
            np.testing.assert_array_equal(copy, 2.0)


def test_a_skipped_update_leaves_the_statistics(prepared, two_replicas, tmp_path, monkeypatch):
    """With an image that is not finite in one batch; the evaluation works."""
    import image_decoding

    original = image_decoding.training_image

    def training_image(encoded, seed, *options):
        image = original(encoded, seed, *options)
        return tf.where(tf.reduce_all(seed % 2**40 == [0, 3]), np.inf, image)

    monkeypatch.setattr("image_input.training_image", training_image)
    results = run(prepared, two_replicas, tmp_path / "run", "run.on_nonfinite=skip")
    assert np.isfinite(results["loss"])


@pytest.mark.parametrize("synchronized", [False, True])
def test_synchronised_batch_norm_sees_all_replicas(two_replicas, synchronized):
    """Two replicas with half a batch each are one with the whole batch, if and only if they are synchronised."""
    config = load(DIGITS, ImageConfig, [*SMALL, f"model.sync_batch_norm={str(synchronized).lower()}"])
    images = tf.random.stateless_normal([8, 32, 32, 3], [1, 2]) * tf.reshape(tf.range(1.0, 9.0), [8, 1, 1, 1])
    from train_state import build_model

    alone = build_model(ImageTask(config, 10), tf.distribute.OneDeviceStrategy("CPU:0"), 0)
    expected = alone(images, training=True)
    model = build_model(ImageTask(config, 10), two_replicas, 0)

    @tf.function
    def outputs():
        def on_replica():
            part = tf.distribute.get_replica_context().replica_id_in_sync_group
            return model(tf.gather(tf.reshape(images, [2, 4, 32, 32, 3]), part), training=True)

        return two_replicas.run(on_replica)

    halves = tf.concat(two_replicas.experimental_local_results(outputs()), axis=0)
    difference = float(tf.reduce_max(tf.abs(halves - expected)) / tf.reduce_max(tf.abs(expected)))
    assert difference < 1e-4 if synchronized else difference > 1e-2


def test_the_loss_is_one_mean_over_the_images(two_replicas):
    """Smoothed labels in NumPy; one image does not count."""
    config = load(DIGITS, ImageConfig, [*SMALL, "data.label_smoothing=0.2"])
    task = ImageTask(config, 10)
    draw = np.random.default_rng(0)
    logits, label = draw.normal(size=(6, 10)).astype(np.float32), np.array([0, 1, 2, 3, 4, 9], np.int32)
    weight = np.array([1, 1, 0, 1, 1, 1], np.float32)
    features = {"label": tf.constant(label), "weight": tf.constant(weight), "is_corrupt": tf.constant(1 - weight)}
    metrics = task.build_metrics()
    totals = task.loss_weights(features)
    loss = float(task.losses(features, tf.constant(logits), totals, metrics))
    targets = 0.8 * np.eye(10)[label] + 0.02
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -(targets * log_p).sum(axis=1)
    assert loss == pytest.approx((expected * weight).sum() / 5, rel=1e-6)
    values = {metric.name: float(metric.result()) for metric in metrics}
    hits = logits.argmax(axis=1) == label
    ranks = (logits > logits[np.arange(6), label][:, None]).sum(axis=1)
    assert values["top_1_accuracy"] == pytest.approx((hits * weight).sum() / 5)
    assert values["top_5_accuracy"] == pytest.approx(((ranks < 5) * weight).sum() / 5)
    assert values["corrupt_images"] == 1


def test_of_equal_logits_one_is_the_answer():
    """As in Model Garden's top-1; `in_top_k` would take each of them."""
    task = ImageTask(load(DIGITS, ImageConfig), 10)
    metrics = task.build_metrics()
    features = {"label": tf.range(10), "weight": tf.ones(10), "is_corrupt": tf.zeros(10)}
    task.losses(features, tf.zeros([10, 10]), task.loss_weights(features), metrics)
    assert float({metric.name: metric for metric in metrics}["top_1_accuracy"].result()) == pytest.approx(0.1)


def test_the_exported_model_takes_jpeg_files(finished, prepared, tmp_path):
    """In a process that knows nothing of ours; the accuracy is that of the run, whatever the size of a batch."""
    shutil.copytree(finished[0], tmp_path / "run")
    saved_model = export.export(tmp_path / "run")
    paths = sorted((prepared[0].parent / "validation").glob("*/*.jpg"))
    code = """
import json, sys
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
outputs = serve(image_bytes=tf.constant([open(path, "rb").read() for path in sys.argv[2:]]))
assert not {"official", "tf_keras", "image_task"} & set(sys.modules)
print(json.dumps({name: value.numpy().astype(str).tolist() for name, value in outputs.items()}))
"""
    command = [sys.executable, "-c", code, saved_model, *paths]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    outputs = json.loads(done.stdout.splitlines()[-1])
    hits = [classes[0] == path.parent.name for classes, path in zip(outputs["classes"], paths, strict=True)]
    assert np.mean(hits) == pytest.approx(finished[1]["top_1_accuracy"])
    probabilities = np.array(outputs["probabilities"], float)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    scores = np.array(outputs["scores"], float)
    np.testing.assert_allclose(np.sort(probabilities, axis=1)[:, ::-1], scores, rtol=1e-6)
    with pytest.raises(ConfigError, match="A model of images takes no text"):
        export.export(tmp_path / "run", text=True)


def test_a_corrupt_image_ends_the_run_or_is_left_out(prepared, two_replicas, tmp_path):
    shutil.copytree(prepared[0], tmp_path / "out")
    path = sorted(prepared[1].records(tmp_path / "out", "train"))[1]
    records = [record.numpy() for record in tf.data.TFRecordDataset(path)]
    example = tf.train.Example.FromString(records[5])
    value = example.features.feature["image/encoded"].bytes_list.value
    value[0] = value[0][:300]
    with tf.io.TFRecordWriter(path) as writer:
        for number, record in enumerate(records):
            writer.write(example.SerializeToString() if number == 5 else record)
    damaged = tmp_path / "out", prepared[1]
    with pytest.raises(RunError, match=rf"cannot be decoded\. Received: record 5 of {path}\. Expected a whole JPEG"):
        run(damaged, two_replicas, tmp_path / "stopped")
    run(damaged, two_replicas, tmp_path / "skipped", "data.on_corrupt=skip")
    lines = (tmp_path / "skipped" / "history.csv").read_text().splitlines()
    column = lines[0].split(",").index("corrupt_images")
    assert sum(float(line.split(",")[column]) for line in lines[1:]) in (2, 3)  # epochs 1 and 2, perhaps the third


def test_synthetic_images(prepared, tmp_path, capsys):
    sets = ["model.depth=10", "data.image_size=32", "stages.0.epochs=0.00002", "stages.0.global_batch_size=8"]
    flags = ["--config_file", str(DIGITS), "--model_dir", str(tmp_path / "run"), "--strategy", "one_device"]
    assert train_resnet.main([*flags, "--synthetic", "--set", *sets, "stages.0.warmup_epochs=0"]) == 0
    assert "stage 1: 4 steps x 8 = 32 images = 0.000 epochs of 1,281,167" in capsys.readouterr().out
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) > 1
    flags += ["--data_dir", str(prepared[0]), "--set", *sets, "stages.0.warmup_epochs=0"]
    assert train_resnet.main(flags) == 2
    assert "The run was begun with other data" in capsys.readouterr().err


def test_what_cannot_be_trained_is_said_before(prepared, tmp_path):
    """Synchronised batch norm in the loop over accumulated parts."""
    flags = ["--config_file", DIGITS, "--model_dir", tmp_path / "run", "--data_dir", prepared[0], "--cpu_replicas", "2"]
    flags += ["--set", "model.sync_batch_norm=true", "stages.0.max_per_replica_batch_size=16"]
    command = [sys.executable, train_resnet.__file__, *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Received: stage 1 with 2 accumulated parts of 16. Expected a larger" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("batch_norm", [False, True])
def test_alexnet_has_its_published_size(batch_norm):
    """61 million parameters in one tower without groups: Krizhevsky et al. 2012 have 60 million in two."""
    model = alexnet.build(227, 1000, batch_norm, 0.5, 0.9, 1e-5, False)
    weights = [tuple(v.shape) for v in model.trainable_variables if len(v.shape) > 1]
    assert weights[:5] == [(11, 11, 3, 96), (5, 5, 96, 256), (3, 3, 256, 384), (3, 3, 384, 384), (3, 3, 384, 256)]
    assert weights[5:] == [(6 * 6 * 256, 4096), (4096, 4096), (4096, 1000)]
    outputs = model(tf.zeros([2, 227, 227, 3]))
    assert outputs.shape == (2, 1000) and outputs.dtype == tf.float32


def test_the_residual_blocks_may_begin_as_the_identity():
    config = load(DIGITS, ImageConfig, ["model.zero_last_gamma=true"])
    model = ImageTask(config, 10).build_model()
    zeros = [v for v in model.trainable_variables if "gamma" in v.name and not np.any(v)]
    assert len(zeros) == 16  # blocks of ResNet-50


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data_dir", "x", "--smoke"], "--synthetic is needed. Received: --data_dir, --smoke"),
        (["--smoke", "--synthetic"], "one of --data_dir, --smoke and --synthetic is needed. Received: --smoke, --syn"),
        ([], "one of --data_dir, --smoke and --synthetic is needed. Received: none"),
    ],
)
def test_errors_of_the_command_line(flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        train_resnet.main(["--config_file", str(DIGITS), "--model_dir", str(tmp_path / "run"), *flags])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_missing_data(tmp_path, capsys):
    flags = ["--config_file", str(DIGITS), "--model_dir", str(tmp_path / "run"), "--data_dir", str(tmp_path)]
    assert train_resnet.main(flags) == 2
    assert "No prepared data found. Received: " in capsys.readouterr().err and not (tmp_path / "run").exists()
