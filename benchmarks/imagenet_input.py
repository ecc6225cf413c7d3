"""Times the input of tpu/train_resnet.py against tf-models-official's own ImageNet input, on the same files.

    python benchmarks/imagenet_input.py [--data_dir DATA] [--rounds 3] [--json FILE]

What is timed, for both: batches of 64 images out of the training dataset, decoded, cropped, mirrored, resized to 224
and normalized, one dataset at a time. Model Garden's is `ImageClassificationTask.build_inputs` with the
options of its ResNet experiment for ImageNet, and as large a buffer to shuffle as ours. Ours keeps the draws a function
of seed, epoch and image, so that a run can go on where it was; Model Garden's draws anew.

The default images are crops of scikit-learn's two photographs, with the sizes and the quality that ImageNet's have on
average (some 500 x 375 pixels, 110 kB). A ratio is to Model Garden.
"""

import argparse
import io
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cases
from interleaved import OtherLoad, summarize
from machine import ROOT

sys.path.insert(0, str(ROOT / "tpu"))
PACKAGES = ("tensorflow", "tf-models-official", "numpy")
OURS, OURS_SKIP, THEIRS = "train_resnet", "train_resnet, on_corrupt: skip", "build_inputs of Model Garden"
BATCH, SIZE, SHUFFLE = 64, 224, 1000
WARMUP_BATCHES = 20
IMAGES, SHARDS, QUALITY = 1000, 8, 98


def main():
    """Makes the images, and times rounds of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, help="a folder of prepare_imagenet.py (default: made images)")
    parser.add_argument("--rounds", type=int, default=3, help="how many rounds (default: 3)")
    parser.add_argument("--batches", type=int, default=60, help="the batches of a round (default: 60)")
    cases.add_arguments(parser)
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    with tempfile.TemporaryDirectory() as folder, OtherLoad() as load:
        data_dir = arguments.data_dir or make_images(Path(folder))
        seconds = {name: [] for name in MAKERS}
        for _ in range(rounds):
            for name, make in MAKERS.items():
                seconds[name].append(seconds_per_batch(make(data_dir), arguments.batches))
        note = describe_images(data_dir)
    measured = [cases.make(f"batch of {BATCH} images", "seconds", summarize(seconds, THEIRS), {}, load, note)]
    cases.finish("imagenet_input", PACKAGES, measured, arguments)


def make_images(folder):
    """Prepares crops of the two photographs in as many classes."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    import prepare_imagenet

    draw = np.random.default_rng(0)
    photographs = [Image.fromarray(pixels).resize((1280, 854)) for pixels in load_sample_images().images]
    for split, count in (("train", IMAGES), ("validation", 8)):
        for number in range(count):
            width, height = (int(round(side * draw.uniform(0.8, 1.2))) for side in (500, 375))
            left, top = draw.integers(1280 - width), draw.integers(854 - height)
            image = photographs[number % 2].crop((left, top, left + width, top + height))
            path = folder / split / str(number % 2) / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, quality=QUALITY)
    shards = {"train": SHARDS, "validation": 1}
    prepare_imagenet.prepare(folder / "train", folder / "validation", folder / "data", shards=shards)
    return folder / "data"


def describe_images(data_dir):
    """How many images there are, and of which size, in words."""
    import tensorflow as tf
    from PIL import Image

    from image_manifest import Manifest

    manifest = Manifest.read(data_dir)
    key = manifest.settings.layout.image_key
    records = tf.data.TFRecordDataset(list(manifest.records(data_dir, "train"))).take(200).as_numpy_iterator()
    images = [tf.train.Example.FromString(record).features.feature[key].bytes_list.value[0] for record in records]
    sizes = [Image.open(io.BytesIO(image)).size for image in images]
    kilobytes = statistics.mean(map(len, images)) / 1e3
    pixels = statistics.mean(width * height for width, height in sizes) / 1e3
    return f"{manifest.count('train'):,} images of {kilobytes:.0f} kB and {pixels:.0f} thousand pixels on average."


def ours(data_dir, on_corrupt="stop"):
    """The dataset that tpu/train_resnet.py trains on."""
    from types import SimpleNamespace

    import tensorflow as tf

    import image_input
    from image_config import ImageDataConfig
    from image_manifest import Manifest

    manifest = Manifest.read(data_dir)
    data = ImageDataConfig(image_size=SIZE, on_corrupt=on_corrupt)
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    images = image_input.Images(strategy, manifest.settings.layout, data, 0, SHUFFLE, tf.float32)
    stage = SimpleNamespace(global_batch_size=BATCH, seed=lambda seed: seed)
    return images.train_batches(manifest.records(data_dir, "train"), stage, 0)


def theirs(data_dir):
    """The dataset of Model Garden's task for ImageNet."""
    from official.vision.configs import image_classification as configs
    from official.vision.tasks.image_classification import ImageClassificationTask

    config = configs.ImageClassificationTask(
        model=configs.ImageClassificationModel(num_classes=1001, input_size=[SIZE, SIZE, 3]),
        train_data=configs.DataConfig(
            input_path=str(data_dir / "train-*"),
            is_training=True,
            global_batch_size=BATCH,
            shuffle_buffer_size=SHUFFLE,
            dtype="float32",
        ),
    )
    return ImageClassificationTask(config).build_inputs(config.train_data)


MAKERS = {OURS: ours, OURS_SKIP: lambda data_dir: ours(data_dir, "skip"), THEIRS: theirs}


def seconds_per_batch(dataset, batches):
    """The time between two batches of a dataset once its buffers are full; nothing else reads meanwhile."""
    iterator = iter(dataset)
    for _ in range(WARMUP_BATCHES):
        next(iterator)
    begun = time.perf_counter()
    for _ in range(batches):
        next(iterator)
    return (time.perf_counter() - begun) / batches


if __name__ == "__main__":
    cases.run(main)
