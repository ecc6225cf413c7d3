"""Files of images in the layout of ImageNet, written by as many processes as there are."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image as PillowImage

import data_files
from atomic_file import atomic_path
from config import ConfigError
from image_manifest import STANDARD, SYNSET_KEY, ImageFile, Split
from image_sources import Image
from paths import os_errors
from work_folder import record_path

# What an image is stored with that was no JPEG in RGB or grey; ImageNet has some twenty of them.
CONVERTED_QUALITY = 100


class ShardTask(NamedTuple):
    """A file to write.

    Attributes:
        path: Where.
        record_path: Where the note goes that it is finished.
        split: Of which split it is.
        images: What goes into it, in this order.
        labels: The label of each.
    """

    path: Path
    record_path: Path
    split: Split
    images: tuple[Image, ...]
    labels: tuple[int, ...]


def plan(
    images: Sequence[Image], classes: Sequence[str], split: Split, shards: int, seed: int, output_dir: Path, work: Path
) -> list[ShardTask]:
    """The files of a split, each with as many images as the others or one more, in random order.

    Raises:
        ConfigError: There are fewer images than files.
    """
    if len(images) < shards:
        raise ConfigError(
            f"Too few images for the files of {split}. Received: --{split}_shards {shards}. "
            f"Expected at most {len(images):,}."
        )
    order = np.random.default_rng([seed, split == "validation"]).permutation(len(images))
    label_of = {name: index + STANDARD.first_label for index, name in enumerate(classes)}
    tasks = []
    for number, part in enumerate(np.array_split(order, shards)):
        name = f"{split}-{number:05d}-of-{shards:05d}"
        chosen = tuple(images[index] for index in part)
        labels = tuple(label_of[image.class_name] for image in chosen)
        tasks.append(ShardTask(output_dir / name, record_path(work, name), split, chosen, labels))
    return tasks


def write_shard(task: ShardTask) -> ImageFile:
    """Writes a file, unless it is there, and a note that it is finished.

    Raises:
        ConfigError: An image cannot be decoded.
        OSError: A file cannot be read or written.
    """
    if done := data_files.finished(task.record_path, task.path.parent, ImageFile):
        return done
    import tensorflow as tf

    with os_errors(task.path), atomic_path(task.path) as unfinished:
        with tf.io.TFRecordWriter(str(unfinished)) as writer:
            for image, label in zip(task.images, task.labels, strict=True):
                writer.write(_example(tf, image, label).SerializeToString(deterministic=True))
        described = {**data_files.describe(unfinished), "name": task.path.name}
    done = ImageFile(**described, split=task.split, examples=len(task.images))
    data_files.write_record(done, task.record_path)
    return done


def as_jpeg(content: bytes) -> tuple[bytes, int, int]:
    """An image as a JPEG in RGB or grey, which it is left as if it is one, with its height and width.

    Raises:
        OSError: It cannot be decoded.
    """
    with PillowImage.open(io.BytesIO(content)) as image:
        image.load()
        if image.format != "JPEG" or image.mode not in ("RGB", "L"):
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "JPEG", quality=CONVERTED_QUALITY, subsampling=0)
            content = buffer.getvalue()
        return content, image.height, image.width


def _example(tf, image, label):
    try:
        encoded, height, width = as_jpeg(image.read())
    except (PIL.UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ConfigError(
            f"An image cannot be decoded: {error}. Received: {image.name} of {image.class_name} in {image.path}. "
            "Expected a whole JPEG or PNG; remove it or replace it."
        ) from None

    def integers(*values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    def text(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {
        STANDARD.image_key: text(encoded),
        STANDARD.label_key: integers(label),
        SYNSET_KEY: text(image.class_name.encode()),
        "image/filename": text(image.name.encode()),
        "image/format": text(b"JPEG"),
        "image/colorspace": text(b"RGB"),
        "image/channels": integers(3),
        "image/height": integers(height),
        "image/width": integers(width),
    }
    return tf.train.Example(features=tf.train.Features(feature=features))
