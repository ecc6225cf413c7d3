"""A manifest for files of images that are there already, in TensorFlow's ImageNet layout or tensorflow_datasets'."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import data_files
from config import ConfigError
from image_manifest import FORMAT_VERSION, STANDARD, TFDS, ImageFile, Manifest, Settings, Split
from worker_pool import WorkerPool

_NAME = re.compile(r"(?:[\w.]+-)?(?P<split>train|validation|test)(?:\.tfrecord)?-\d+-of-(?P<shards>\d+)")


class IndexTask(NamedTuple):
    """A file to look into.

    Attributes:
        path: Where it is.
        split: Of which split it is.
    """

    path: Path
    split: Split


def index(folder: Path, classes: int, pool: WorkerPool) -> Manifest:
    """Counts and checks the files of a folder.

    Args:
        folder: The folder; each split's files are named train-00000-of-01024 or as tensorflow_datasets names them.
        classes: How many classes there are.
        pool: The processes to use.

    Raises:
        ConfigError: Files are missing, damaged, or hold no images.
        OSError: A file cannot be read.
    """
    tasks, shards = [], {}
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match and match["split"] != "test":
            tasks.append(IndexTask(path, match["split"]))
            shards[match["split"]] = int(match["shards"])
    for split in ("train", "validation"):
        found = sum(task.split == split for task in tasks)
        if found != shards.get(split, -1):
            raise ConfigError(
                f"Files of images are missing. Received: {found} of {split} in {folder}. "
                f"Expected {shards.get(split, 'some')}, named such as {split}-00000-of-01024."
            )
    files = pool.run(describe, tasks, "index", "files")
    return Manifest(
        settings=Settings(
            format_version=FORMAT_VERSION,
            layout=layout_of(tasks[0].path),
            classes=tuple(str(number) for number in range(classes)),
            seed=None,
            shards=shards,
            images_sha256={split: _digest([file for file in files if file.split == split]) for split in shards},
        ),
        record_files=tuple(files),
    )


def describe(task: IndexTask) -> ImageFile:
    """What a file holds, every record of which is read once.

    Raises:
        ConfigError: It is damaged.
    """
    import tensorflow as tf

    count = 0
    try:
        for _ in tf.data.TFRecordDataset(str(task.path)):
            count += 1
    except tf.errors.DataLossError:
        raise ConfigError(
            f"A file of images is damaged. Received: {task.path}, after {count:,} records. Expected a whole TFRecord "
            "file."
        ) from None
    return ImageFile(**data_files.describe(task.path), split=task.split, examples=count)


def layout_of(path: Path):
    """The `ImageLayout` of a file, by its first record."""
    import tensorflow as tf

    record = next(iter(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()), b"")
    names = tf.train.Example.FromString(record).features.feature
    for layout in (STANDARD, TFDS):
        if layout.image_key in names and layout.label_key in names:
            return layout
    raise ConfigError(
        f"The records are no images. Received: {path} with {', '.join(sorted(names)) or 'no features'}. Expected "
        f"{STANDARD.image_key} and {STANDARD.label_key}, or {TFDS.image_key} and {TFDS.label_key}."
    )


def _digest(files: Sequence[ImageFile]) -> str:
    return hashlib.sha256("".join(f"{file.name} {file.sha256}\n" for file in files).encode()).hexdigest()
