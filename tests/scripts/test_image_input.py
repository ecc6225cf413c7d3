"""What the model sees of an image, and in which batch: against Model Garden's input, and on any number of replicas."""

import itertools
import shutil
from pathlib import Path
from types import SimpleNamespace

import made_images
import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("official", reason="needs tf-models-official")

from official.vision.dataloaders import classification_input  # noqa: E402

import image_decoding  # noqa: E402
import image_input  # noqa: E402
from config import ConfigError, RunError  # noqa: E402
from image_config import ImageDataConfig  # noqa: E402
from image_manifest import Manifest  # noqa: E402

pytestmark = [pytest.mark.model_garden]

DATA = ImageDataConfig(image_size=24, crop_area=(0.3, 1.0))
ONE = tf.distribute.OneDeviceStrategy("CPU:0")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    made_images.write_digits(folder, 100)
    return folder / "out", made_images.prepare(folder, folder / "out")


def stage_of(global_batch_size, replicas=1, number=1):
    numbers = {"global_batch_size": global_batch_size, "number": number, "replicas": replicas, "first_step": 0}
    return SimpleNamespace(**numbers, seed=lambda seed: seed + number)


def images_of(strategy, prepared, data=DATA, seed=3, dtype=tf.float32):
    return image_input.Images(strategy, prepared[1].settings.layout, data, seed, 50, dtype)


def batches_of(dataset, count):
    return [
        {name: value.numpy() for name, value in features.items()} for features in itertools.islice(iter(dataset), count)
    ]


def examples(batches):
    """The label and the pixels of every image of weight one."""
    return [
        (int(label), image.tobytes())
        for batch in batches
        for label, image, weight in zip(batch["label"], batch["image"], batch["weight"], strict=True)
        if weight
    ]


@pytest.mark.parametrize("size", [(32, 32), (427, 640)])
def test_training_images_equal_model_gardens(size, monkeypatch):
    """The same bytes and draws; the whole image is among the crops, for which both take its middle."""
    pixels = made_images.photograph()[: size[0], : size[1]]
    encoded = tf.constant(made_images.encoded(pixels))
    parser = classification_input.Parser([48, 48], 1000, aug_rand_hflip=True, crop_area_range=(0.08, 1.0))
    whole, flipped = 0, 0
    for draw in range(12):
        image_seed = tf.constant([5, draw], tf.int64)

        def sample(shape, boxes, seed=None, image_seed=image_seed, draw=draw, **options):
            del seed
            if draw == 11:
                return tf.zeros([3], tf.int32), tf.constant([*size, -1]), boxes
            return tf.image.stateless_sample_distorted_bounding_box(shape, boxes, image_seed, **options)

        def stateless(shape, boxes, seed, draw=draw, original=tf.image.stateless_sample_distorted_bounding_box, **more):
            if draw == 11:
                return tf.zeros([3], tf.int32), tf.constant([*size, -1]), boxes
            return original(shape, boxes, seed, **more)

        def flip(image, image_seed=image_seed):
            return tf.image.stateless_random_flip_left_right(image, image_seed + image_decoding.FLIP)

        with monkeypatch.context() as patch:
            patch.setattr(tf.image, "sample_distorted_bounding_box", sample)
            patch.setattr(tf.image, "random_flip_left_right", flip)
            theirs = parser._parse_train_image({"image/encoded": encoded}).numpy()
            patch.setattr(tf.image, "stateless_sample_distorted_bounding_box", stateless)
            ours = image_decoding.training_image(encoded, image_seed, 48, (0.08, 1.0), True).numpy()
        np.testing.assert_array_equal(ours, theirs)
        whole += draw == 11
        unflipped = image_decoding.training_image(encoded, image_seed, 48, (0.08, 1.0), False).numpy()
        flipped += draw < 11 and not np.array_equal(ours, unflipped)
    assert whole == 1 and 2 < flipped < 10


@pytest.mark.parametrize("fraction", [0.875, 1.0])
def test_evaluation_images_equal_model_gardens(fraction):
    encoded = tf.constant(made_images.encoded(made_images.photograph()))
    parser = classification_input.Parser([48, 48], 1000, center_crop_fraction=fraction)
    theirs = parser._parse_eval_image({"image/encoded": encoded}).numpy()
    np.testing.assert_array_equal(image_decoding.evaluation_image(encoded, 48, fraction).numpy(), theirs)


def test_crops_are_of_the_asked_area_and_shape():
    encoded = tf.constant(made_images.encoded(np.zeros([100, 100, 3], np.uint8)))
    areas = []
    for draw in range(200):
        _, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(encoded),
            tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            tf.constant([7, draw], tf.int64),
            min_object_covered=0.2,
            aspect_ratio_range=image_decoding.ASPECT_RATIOS,
            area_range=(0.2, 0.5),
            max_attempts=10,
        )
        areas.append(float(size[0] * size[1]) / 1e4)
    assert 0.19 <= min(areas) and max(areas) <= 0.51 and np.ptp(areas) > 0.25


@pytest.mark.parametrize("skip_steps", [1, 4, 9, 23])
def test_skipped_batches_are_those_that_were_read_before(prepared, skip_steps):
    """Batches of 12 of 100 images; 9 and 23 are in later epochs."""
    files = prepared[1].records(prepared[0], "train")
    images = images_of(ONE, prepared)
    whole = batches_of(images.train_batches(files, stage_of(12), 0), skip_steps + 3)
    rest = batches_of(images.train_batches(files, stage_of(12), skip_steps), 3)
    for ours, theirs in zip(rest, whole[skip_steps:], strict=True):
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_an_epoch_has_every_image_and_the_next_one_other_crops(prepared):
    files = prepared[1].records(prepared[0], "train")
    images = images_of(ONE, prepared)
    first, second = np.split(np.array(batches_of(images.train_batches(files, stage_of(10), 0), 20), dtype=object), 2)
    labels = [sorted(label for label, _ in examples(epoch)) for epoch in (first, second)]
    assert labels[0] == labels[1] and len(labels[0]) == 100
    assert not {pixels for _, pixels in examples(first)} & {pixels for _, pixels in examples(second)}
    other_seed = batches_of(images_of(ONE, prepared, seed=4).train_batches(files, stage_of(10), 0), 10)
    assert not {pixels for _, pixels in examples(first)} & {pixels for _, pixels in examples(other_seed)}


class Pipelines:
    """The input of hosts with two replicas each, as `MultiWorkerMirroredStrategy` makes it."""

    def __init__(self, hosts):
        self._hosts, self.num_replicas_in_sync = hosts, 2 * hosts

    def distribute_datasets_from_function(self, function):
        """The pipelines, as a list."""
        contexts = [tf.distribute.InputContext(self._hosts, host, 2 * self._hosts) for host in range(self._hosts)]
        return [function(context) for context in contexts]


def test_the_draws_of_an_image_do_not_depend_on_the_hosts(prepared):
    """Nor do two hosts draw the same."""
    files = prepared[1].records(prepared[0], "train")
    seen = []
    for hosts in (1, 2, 4):
        pipelines = images_of(Pipelines(hosts), prepared).train_batches(files, stage_of(2 * hosts), 0)
        epoch = [list(pipeline.take(100 // hosts).as_numpy_iterator()) for pipeline in pipelines]
        seen.append(sorted(example for of_host in epoch for example in examples(of_host)))
    assert len(seen[0]) == 100 and seen[1] == seen[0] and seen[2] == seen[0]


@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_hosts_divide_the_files(prepared, hosts):
    files = prepared[1].records(prepared[0], "validation")

    pipelines, steps = images_of(Pipelines(hosts), prepared).eval_batches(files, 2 * hosts)
    batches = [list(pipeline.as_numpy_iterator()) for pipeline in pipelines]
    # Every host makes a batch for each of its replicas at each step.
    assert [len(of_host) for of_host in batches] == [2 * steps] * hosts
    seen = [example for of_host in batches for example in examples(of_host)]
    alone, _ = images_of(ONE, prepared).eval_batches(files, 5)
    assert sorted(seen) == sorted(examples(batches_of(alone, 10))) and len(seen) == 20
    with pytest.raises(ConfigError, match=r"files of its own\. Received: 3 files, 4 hosts\. Expected as many at least"):
        image_input.files_of_hosts(files, 4)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 3])
def test_evaluation_counts_1003_images(tmp_path_factory, replicas, request):
    folder = tmp_path_factory.mktemp("many")
    made_images.digits.write(folder)
    for path in sorted(folder.glob("train/*/*.jpg"), key=lambda path: path.name)[1003:]:
        path.unlink()
    manifest = made_images.prepare(folder, folder / "out")
    strategy = request.getfixturevalue({2: "two_replicas", 3: "three_replicas"}[replicas])
    images = images_of(strategy, (folder / "out", manifest))
    dataset, steps = images.eval_batches(manifest.records(folder / "out", "train"), 16 * replicas)
    count, labels, iterator = 0.0, [], iter(dataset)
    for _ in range(steps):
        features = next(iterator)
        for part in range(replicas):
            weight = strategy.experimental_local_results(features["weight"])[part].numpy()
            labels += strategy.experimental_local_results(features["label"])[part].numpy()[weight > 0].tolist()
            count += weight.sum()
    assert count == 1003 == manifest.count("train")
    expected = [int(path.parent.name) for path in folder.glob("train/*/*.jpg")]
    assert sorted(labels) == sorted(expected)


def test_the_dtype_of_a_tpu(prepared):
    files = prepared[1].records(prepared[0], "train")
    narrow = next(iter(images_of(ONE, prepared, dtype=tf.bfloat16).train_batches(files, stage_of(4), 0)))["image"]
    wide = next(iter(images_of(ONE, prepared).train_batches(files, stage_of(4), 0)))["image"]
    np.testing.assert_array_equal(narrow.numpy(), tf.cast(wide, tf.bfloat16).numpy())


def damage(prepared, folder, broken, replacement=None):
    """A copy of the training files in which some images, by their number in a file, are cut off or replaced."""
    shutil.copytree(prepared[0], folder)
    path = sorted(Manifest.read(folder).records(folder, "train"))[2]
    records = [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(path)]
    with tf.io.TFRecordWriter(path) as writer:
        for number, example in enumerate(records):
            value = example.features.feature["image/encoded"].bytes_list.value
            if number in broken:
                value[0] = replacement or value[0][: len(value[0]) // 2]
            writer.write(example.SerializeToString())
    return path


def test_corrupt_images_are_left_out_and_counted(prepared, tmp_path):
    damage(prepared, tmp_path / "out", {3, 7})
    files = prepared[1].records(tmp_path / "out", "train")
    data = DATA.model_copy(update={"on_corrupt": "skip"})
    ours = batches_of(images_of(ONE, prepared, data).train_batches(files, stage_of(10), 0), 10)
    whole = batches_of(
        images_of(ONE, prepared).train_batches(prepared[1].records(prepared[0], "train"), stage_of(10), 0), 10
    )
    assert sum(batch["is_corrupt"].sum() for batch in ours) == 2
    assert sum(batch["weight"].sum() for batch in ours) == 98
    for batch, expected in zip(ours, whole, strict=True):
        kept = batch["weight"] == 1
        np.testing.assert_array_equal(batch["image"][kept], expected["image"][kept])
        np.testing.assert_array_equal(batch["label"], expected["label"])
        assert not batch["image"][~kept].any()


@pytest.mark.parametrize("replacement", [None, made_images.encoded(made_images.photograph(), "PNG")])
@pytest.mark.parametrize("evaluating", [False, True])
def test_a_corrupt_image_is_named(prepared, tmp_path, evaluating, replacement):
    """So is one of another kind, which TensorFlow could decode, but not crop."""
    path = damage(prepared, tmp_path / "out", {3}, replacement)
    files = prepared[1].records(tmp_path / "out", "train")
    images = images_of(ONE, prepared)
    stage = stage_of(10)
    stage.last_step = 20
    step = tf.Variable(20 if evaluating else 0)
    training = SimpleNamespace(step=step, stages=[stage])
    with pytest.raises(RunError, match=rf"cannot be decoded\. Received: record 3 of {path}\. Expected a whole JPEG"):
        with images.damage_is_named(training, files):
            if evaluating:
                list(images.eval_batches(files, 10)[0])
            else:
                for _ in images.train_batches(files, stage, 0):
                    step.assign_add(1)
    whole = prepared[1].records(prepared[0], "train")
    with pytest.raises(tf.errors.InvalidArgumentError, match="another"), images.damage_is_named(training, whole):
        raise tf.errors.InvalidArgumentError(None, None, "another")


def test_a_damaged_file_is_named(prepared, tmp_path):
    shutil.copytree(prepared[0], tmp_path / "out")
    files = prepared[1].records(tmp_path / "out", "train")
    path = Path(sorted(files)[1])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    Manifest.load(tmp_path / "out")  # which looks at the sizes only
    images, stage = images_of(ONE, prepared), stage_of(10)
    with pytest.raises(RunError, match=rf"A file of images is damaged\. Received: {path}, after \d+ records\."):
        with images.damage_is_named(SimpleNamespace(step=tf.Variable(0), stages=[stage]), files):
            batches_of(images.train_batches(files, stage, 0), 20)


@pytest.mark.parametrize("area", [(0.5, 0.2), (0, 1), (0.1, 1.5)])
def test_the_area_of_a_crop_is_a_share(area):
    with pytest.raises(ValueError, match="expected 0 < least <= largest <= 1. Received: "):
        ImageDataConfig(crop_area=area)
