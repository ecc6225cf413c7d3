"""The tool for images: where it finds them, what it writes, and what it says of what it cannot use."""

import io
import json
import resource
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import made_images
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

pytest.importorskip("official", reason="needs tf-models-official")

from official.vision.dataloaders.classification_input import Decoder  # noqa: E402

import image_index  # noqa: E402
import image_shards  # noqa: E402
import image_sources  # noqa: E402
import prepare_imagenet  # noqa: E402
from config import ConfigError  # noqa: E402
from image_manifest import Manifest  # noqa: E402

pytestmark = [pytest.mark.model_garden]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    made_images.write_digits(folder, 60)
    return folder


@pytest.fixture(scope="module")
def prepared(images, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("prepared")
    return output_dir, made_images.prepare(images, output_dir)


def records(output_dir, manifest, split):
    files = list(manifest.records(output_dir, split))
    return [Decoder().decode(record) for record in tf.data.TFRecordDataset(files)]


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_model_garden_reads_every_image_once(images, prepared):
    output_dir, manifest = prepared
    for split, count in (("train", 60), ("validation", 12)):
        found = records(output_dir, manifest, split)
        pairs = sorted((int(r["image/class/label"]), r["image/encoded"].numpy()) for r in found)
        expected = sorted((int(p.parent.name) + 1, p.read_bytes()) for p in images.glob(f"{split}/*/*.jpg"))
        assert pairs == expected and len(pairs) == manifest.count(split) == count
    assert manifest.settings.classes == tuple("0123456789")
    assert {file.name for file in manifest.record_files} == {
        *(f"train-{n:05d}-of-00004" for n in range(4)),
        *(f"validation-{n:05d}-of-00003" for n in range(3)),
    }
    assert {file.examples for file in manifest.record_files if file.split == "train"} == {15}


def test_a_record_has_the_fields_of_the_standard_layout(images, prepared):
    output_dir, manifest = prepared
    record = next(iter(tf.data.TFRecordDataset(next(iter(manifest.records(output_dir, "train")))).as_numpy_iterator()))
    features = tf.train.Example.FromString(record).features.feature
    assert [features[f"image/{name}"].int64_list.value[0] for name in ("height", "width", "channels")] == [32, 32, 3]
    assert features["image/format"].bytes_list.value[0] == b"JPEG"
    synset, name = (features[f"image/{key}"].bytes_list.value[0].decode() for key in ("class/synset", "filename"))
    assert (images / "train" / synset / name).read_bytes() == features["image/encoded"].bytes_list.value[0]


def test_the_order_is_mixed(prepared):
    labels = [int(record["image/class/label"]) for record in records(*prepared, "train")]
    assert labels != sorted(labels) and len(set(labels[:15])) > 4


def test_the_output_does_not_depend_on_the_processes(images, prepared, tmp_path):
    made_images.prepare(images, tmp_path, processes=3)
    assert contents(tmp_path) == contents(prepared[0])


def test_tar_files_as_imagenet_has_them(images, prepared, tmp_path):
    """A tar file of a tar file a class for training, a flat one with a file of labels for validation."""
    with tarfile.open(tmp_path / "train.tar", "w") as outer:
        for folder in sorted((images / "train").iterdir()):
            inner_path = tmp_path / f"{folder.name}.tar"
            with tarfile.open(inner_path, "w") as inner:
                for path in sorted(folder.iterdir()):
                    inner.add(path, path.name)
            outer.add(inner_path, inner_path.name)
    validation = sorted((images / "validation").glob("*/*.jpg"), key=lambda path: path.name)
    with tarfile.open(tmp_path / "validation.tar", "w") as tar:
        for path in reversed(validation):
            tar.add(path, path.name)
    (tmp_path / "labels.txt").write_text("".join(f"{path.parent.name}\n" for path in validation))
    command = ["--train", "train.tar", "--validation", "validation.tar", "--validation_labels", "labels.txt"]
    command = [part if part.startswith("--") else str(tmp_path / part) for part in command]
    more = ["--output_dir", str(tmp_path / "out"), "--train_shards", "4", "--validation_shards", "3"]
    assert prepare_imagenet.main([*command, *more, "--processes", "1"]) == 0
    assert contents(tmp_path / "out") == contents(prepared[0])


def test_an_interrupted_run_goes_on(images, prepared, tmp_path, monkeypatch):
    original, written = image_shards.write_shard, []

    def interrupted(task):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(task.path.name)
        return original(task)

    monkeypatch.setattr(image_shards, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made_images.prepare(images, tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "manifest.json").exists()
    times = {name: (tmp_path / name).stat().st_mtime_ns for name in written}
    made_images.prepare(images, tmp_path)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in written} == times
    assert contents(tmp_path) == contents(prepared[0])


def test_what_is_done_is_not_done_again(images, prepared, tmp_path, capsys):
    shutil.copytree(prepared[0], tmp_path / "out")
    before = contents(tmp_path / "out")
    made_images.prepare(images, tmp_path / "out")
    assert "is up to date" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"holds other data\. Received: seed=1\. Expected 12345"):
        made_images.prepare(images, tmp_path / "out", seed=1)
    assert contents(tmp_path / "out") == before
    made_images.prepare(images, tmp_path / "out", seed=1, overwrite=True)
    assert contents(tmp_path / "out").keys() == before.keys() and contents(tmp_path / "out") != before


@pytest.mark.parametrize("kind", ["png", "cmyk", "grey"])
def test_images_of_other_kinds(kind):
    photograph = Image.fromarray(made_images.photograph())
    if kind == "grey":
        content = made_images.encoded(photograph.convert("L"))
        assert image_shards.as_jpeg(content) == (content, 427, 640)
        return
    content = (
        made_images.encoded(photograph, "PNG") if kind == "png" else made_images.encoded(photograph.convert("CMYK"))
    )
    stored, height, width = image_shards.as_jpeg(content)
    assert tf.io.decode_jpeg(stored).shape == (height, width, 3) == (427, 640, 3)
    pixels = np.asarray(Image.open(io.BytesIO(stored)), float)
    assert np.abs(pixels - made_images.photograph()).mean() < (1 if kind == "png" else 8)


def test_an_index_of_files_that_are_there(prepared, tmp_path, capsys):
    for path in prepared[0].glob("*-of-*"):
        shutil.copy(path, tmp_path)
    assert prepare_imagenet.main(["--index", str(tmp_path), "--classes", "10", "--processes", "1"]) == 0
    assert "train: 60 images of 10 classes, 4 files" in capsys.readouterr().out
    manifest = Manifest.load(tmp_path)
    described = {(file.name, file.sha256, file.examples) for file in manifest.record_files}
    assert described == {(file.name, file.sha256, file.examples) for file in prepared[1].record_files}
    assert manifest.settings.layout == prepared[1].settings.layout
    assert manifest.settings.classes == tuple("0123456789")  # their names, not their labels from 1
    assert prepare_imagenet.main(["--index", str(tmp_path)]) == 2
    assert "has a manifest already" in capsys.readouterr().err


def test_an_index_of_tensorflow_datasets(tmp_path):
    def write(name, count):
        with tf.io.TFRecordWriter(str(tmp_path / name)) as writer:
            for label in range(count):
                features = {
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"JPEG"])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())

    for split, counts in (("train", (3, 4)), ("validation", (2,)), ("test", (1,))):
        for number, count in enumerate(counts):
            write(f"imagenet2012-{split}.tfrecord-{number:05d}-of-{len(counts):05d}", count)
    manifest = prepare_imagenet.index(tmp_path, 1000, 1)
    assert (manifest.count("train"), manifest.count("validation")) == (7, 2)
    layout = manifest.settings.layout
    assert (layout.image_key, layout.label_key, layout.first_label) == ("image", "label", 0)


def test_errors_of_an_index(prepared, tmp_path):
    with pytest.raises(ConfigError, match=r"Files of images are missing\. Received: 0 of train in .* Expected some"):
        prepare_imagenet.index(tmp_path, 10, 1)
    for path in prepared[0].glob("*-of-*"):
        shutil.copy(path, tmp_path)
    damaged = tmp_path / "train-00001-of-00004"
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match=r"is damaged\. Received: .*train-00001-of-00004, after \d+ records"):
        prepare_imagenet.index(tmp_path, 10, 1)
    damaged.write_bytes(content)
    with pytest.raises(ConfigError, match=r"none of the classes\. Received: 10, in record \d+ of .* Expected 1 to 9;"):
        prepare_imagenet.index(tmp_path, 9, 1)
    damaged.unlink()
    with pytest.raises(ConfigError, match=r"Received: 3 of train in .* Expected 4"):
        prepare_imagenet.index(tmp_path, 10, 1)
    record = tf.train.Example().SerializeToString()
    with tf.io.TFRecordWriter(str(tmp_path / "train-00000-of-00001")) as writer:
        writer.write(record)
    with pytest.raises(ConfigError, match="The records are no images. Received: .* with no features"):
        image_index.layout_of(tmp_path / "train-00000-of-00001")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "train"), r"No images found\. Received: .*train, which is not there"),
        (lambda folder: [p.unlink() for p in folder.glob("train/*/*")], r"No images found\. Received: .*train\. Expec"),
        (
            lambda folder: (folder / "train" / "x.jpg").write_bytes(b"x"),
            r"An image has no class\. Received: x\.jpg in .*train",
        ),
        (
            lambda folder: shutil.rmtree(folder / "train" / "3"),
            r"without training images\. Received: 3 in .*validation",
        ),
        (
            lambda folder: next(folder.glob("train/5/*")).write_bytes(b"\xff\xd8\xff no image"),
            r"cannot be decoded: .*Received: \d+\.jpg of 5 in .*train/5/",
        ),
        (
            lambda folder: [p.write_bytes(p.read_bytes()[:600]) for p in list(folder.glob("train/5/*"))[:1]],
            r"cannot be decoded: .*[Tt]runcated.*Received: \d+\.jpg of 5 in",
        ),
    ],
)
def test_errors_of_images(images, tmp_path, break_it, message):
    shutil.copytree(images, tmp_path / "images")
    break_it(tmp_path / "images")
    with pytest.raises(ConfigError, match=message):
        made_images.prepare(tmp_path / "images", tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_errors_of_tar_files_and_labels(images, tmp_path):
    (tmp_path / "no.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ConfigError, match=r"The tar file cannot be read\. Received: .*no\.tar"):
        image_sources.find(tmp_path / "no.tar", None)
    (tmp_path / "labels.txt").write_text("1\n2\n")
    with pytest.raises(ConfigError, match=r"a label for each image\. Received: 2 in .*labels\.txt\. Expected 12"):
        image_sources.find(images / "validation", tmp_path / "labels.txt")
    with pytest.raises(ConfigError, match="The labels cannot be read: .*no_labels.txt"):
        image_sources.find(images / "validation", tmp_path / "no_labels.txt")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--index", "x", "--train", "y"], "--index takes files that are there; it goes without --train"),
        (["--train", "x", "--validation", "y"], "--train, --validation and --output_dir are required"),
        (["--index", "x", "--classes", "0"], "there must be one at least. Received: --classes 0"),
    ],
)
def test_errors_of_the_command_line(flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        prepare_imagenet.main(flags)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_files_of_another_are_not_replaced(images, prepared, tmp_path):
    for path in prepared[0].glob("train-*"):
        shutil.copy(path, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(
        ConfigError, match=r"files that something else made\. Received: train-00000-of-00004\. Expected"
    ):
        made_images.prepare(images, tmp_path)
    assert contents(tmp_path) == before
    assert made_images.prepare(images, tmp_path, overwrite=True) == prepared[1]


def test_no_room(images, prepared, tmp_path):
    """A limit on the size of a file stands for a full disk: the system refuses to write more."""
    flags = {"--train": images / "train", "--validation": images / "validation", "--output_dir": tmp_path}
    flags |= {"--train_shards": 4, "--validation_shards": 3, "--processes": 1}
    command = [sys.executable, prepare_imagenet.__file__, *(str(part) for pair in flags.items() for part in pair)]

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit)
    # TensorFlow 2.19 has something to say of CUDA before.
    errors = [line for line in done.stderr.splitlines() if line.startswith("prepare_imagenet: ")]
    assert done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr
    assert done.stderr.endswith(f"{errors[0]}\n")
    assert "File too large. Received: " in errors[0] and not list(tmp_path.rglob(".*.unfinished"))
    assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 0
    assert contents(tmp_path) == contents(prepared[0])


def test_more_files_than_images(images, tmp_path, capsys):
    flags = {"--train": images / "train", "--validation": images / "validation", "--output_dir": tmp_path / "out"}
    command = [str(part) for pair in flags.items() for part in pair]
    assert prepare_imagenet.main([*command, "--processes", "1"]) == 2
    assert "Too few images for the files of train. Received: --train_shards 1024. Expected at most 60." in (
        capsys.readouterr().err
    )


def test_the_digits(tmp_path):
    command = [sys.executable, Path(made_images.digits.__file__), "--output_dir", tmp_path / "digits"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "train: 1,438 images, validation: 359 images\n"
    from sklearn.datasets import load_digits

    path = tmp_path / "digits" / "validation" / str(load_digits().target[4]) / "0004.jpg"
    small = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("L").resize((8, 8), Image.Resampling.BOX))
    assert np.corrcoef(small.ravel(), load_digits().images[4].ravel())[0, 1] > 0.95
    assert json.dumps(sorted(p.name for p in (tmp_path / "digits").iterdir())) == '["train", "validation"]'
    again = subprocess.run([*command, "--part", "train"], capture_output=True, text=True, check=False)
    assert again.returncode == 2 and "The folder holds other images. Received: " in again.stderr


def test_the_digits_to_choose_by_are_none_of_the_held_out(tmp_path):
    digits = made_images.digits
    assert digits.write(tmp_path / "all") == {"train": 1438, "validation": 359}
    assert digits.write(tmp_path / "part", "train") == {"train": 1151, "validation": 287}
    names = {path.name for path in (tmp_path / "all" / "train").glob("*/*")}
    assert {path.name for path in (tmp_path / "part").glob("*/*/*")} == names
