"""A manifest for files of images that are there already, in TensorFlow's ImageNet layout or tensorflow_datasets'."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import data_files
from config import ConfigError
from image_manifest import FORMAT_VERSION, STANDARD, SYNSET_KEY, TFDS, ImageFile, ImageLayout, Manifest, Settings, Split
from worker_pool import WorkerPool

_NAME = re.compile(r"(?:[\w.]+-)?(?P<split>train|validation|test)(?:\.tfrecord)?-\d+-of-(?P<shards>\d+)")


class IndexTask(NamedTuple):
    """A file to look into.

    Attributes:
        path: Where it is.
        split: Of which split it is.
        layout: How its records are laid out.
        classes: How many classes there are.
    """

    path: Path
    split: Split
    layout: ImageLayout
    classes: int


def index(folder: Path, classes: int, pool: WorkerPool) -> Manifest:
    """Counts and checks the files of a folder.

    Args:
        folder: The folder; each split's files are named train-00000-of-01024 or as tensorflow_datasets names them.
        classes: How many classes there are.
        pool: The processes to use.

    Raises:
        ConfigError: Files are missing, damaged, or hold no images, or images of other classes.
        OSError: A file cannot be read.
    """
    found, shards = [], {}
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match and match["split"] != "test":
            found.append((path, match["split"]))
            shards[match["split"]] = int(match["shards"])
    for split in ("train", "validation"):
        count = sum(of_split == split for _, of_split in found)
        if count != shards.get(split, -1):
            raise ConfigError(
                f"Files of images are missing. Received: {count} of {split} in {folder}. "
                f"Expected {shards.get(split, 'some')}, named such as {split}-00000-of-01024."
            )
    layout = layout_of(found[0][0])
    tasks = [IndexTask(*place, layout, classes) for place in found]
    described = pool.run(describe, tasks, "index", "files")
    files = [file for file, _ in described]
    names = {label: name for _, of_file in described for label, name in of_file.items()}
    return Manifest(
        settings=Settings(
            format_version=FORMAT_VERSION,
            layout=layout,
            classes=tuple(names.get(label, str(label)) for label in layout.labels(classes)),
            seed=None,
            shards=shards,
            images_sha256={split: _digest([file for file in files if file.split == split]) for split in shards},
        ),
        record_files=tuple(files),
    )


def describe(task: IndexTask) -> tuple[ImageFile, dict[int, str]]:
    """What a file holds, every record of which is read once, and the names of the classes in it by their labels.

    Raises:
        ConfigError: It is damaged, or has other labels.
    """
    import tensorflow as tf

    count, names, labels = 0, {}, task.layout.labels(task.classes)
    try:
        for record in tf.data.TFRecordDataset(str(task.path)).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            label = next(iter(features[task.layout.label_key].int64_list.value), None)
            if label not in labels:
                raise ConfigError(
                    f"The label of an image is none of the classes. Received: {label}, in record {count:,} of "
                    f"{task.path}. Expected {labels[0]} to {labels[-1]}; --classes says how many there are."
                )
            if name := b"".join(features[SYNSET_KEY].bytes_list.value):
                names[label] = name.decode()
            count += 1
    except tf.errors.DataLossError:
        raise ConfigError(
            f"A file of images is damaged. Received: {task.path}, after {count:,} records. Expected a whole TFRecord "
            "file."
        ) from None
    return ImageFile(**data_files.describe(task.path), split=task.split, examples=count), names


def layout_of(path: Path) -> ImageLayout:
    """The layout of a file, by its first record."""
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
