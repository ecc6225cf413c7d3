"""What a folder of prepared images holds."""

import re
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import Self

from config import Section
from data_files import DataFile
from data_manifest import DataManifest
from paths import as_path

# Goes up when the same settings and images start to give other files.
FORMAT_VERSION = 1
# Of the training set of ILSVRC 2012.
IMAGENET_CLASSES = 1000
IMAGENET_IMAGES = 1_281_167
Split = Literal["train", "validation"]


class ImageLayout(Section):
    """Under which names, and from which number on, the records hold images and labels."""

    image_key: str = "image/encoded"
    label_key: str = "image/class/label"
    first_label: int = Field(1, description="the label of the first class.")

    def labels(self, classes: int) -> range:
        """The labels of so many classes."""
        return range(self.first_label, self.first_label + classes)


# The layout of tensorflow/models' ImageNet scripts, and that of tensorflow_datasets.
STANDARD = ImageLayout()
SYNSET_KEY = "image/class/synset"
TFDS = ImageLayout(image_key="image", label_key="label", first_label=0)


class Settings(Section):
    """All that the content of the files follows from."""

    format_version: int
    layout: ImageLayout
    classes: tuple[str, ...] = Field(description="the names of the classes, in the order of their labels.")
    seed: int | None = Field(description="of the order of the images; None if the files were there before.")
    shards: dict[Split, int]
    images_sha256: dict[Split, str] = Field(description="of the names, classes and sizes of the images, or of files.")


class ImageFile(DataFile):
    """A file of serialized `tf.train.Example`."""

    split: Split
    examples: int


class Manifest(DataManifest):
    """The manifest of images."""

    made_by: ClassVar[str] = "tpu/prepare_imagenet.py"
    # To read 150 GB on every host would take minutes at every start; records have checksums of their own.
    reads_all: ClassVar[bool] = False
    record_file: ClassVar[re.Pattern] = re.compile(r"(train|validation)-\d+-of-\d+")
    settings: Settings
    record_files: tuple[ImageFile, ...]

    @classmethod
    def of_random_images(cls) -> Self:
        """What binds a run to random images of ImageNet's number of classes, instead of to data."""
        names = tuple(map(str, range(IMAGENET_CLASSES)))
        settings = Settings(
            format_version=FORMAT_VERSION, layout=STANDARD, classes=names, seed=None, shards={}, images_sha256={}
        )
        return cls(settings=settings, record_files=())

    @property
    def files(self) -> tuple[DataFile, ...]:
        """Every file of the folder but manifest.json."""
        return self.record_files

    def count(self, split: Split) -> int:
        """The images of a split."""
        return sum(file.examples for file in self.record_files if file.split == split)

    def records(self, data_dir: str | Path, split: Split) -> dict[str, int]:
        """The paths of a split's files, in order of their names, and how many images each holds."""
        return {str(as_path(data_dir) / file.name): file.examples for file in self.record_files if file.split == split}
