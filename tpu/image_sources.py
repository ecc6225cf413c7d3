"""Images before they are prepared: in a folder tree, or in tar files, as ImageNet is distributed.

An image is read from where it lies: a tar file is not unpacked, since its members can be read at their places.
"""

import hashlib
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from config import ConfigError

SUFFIXES = {".jpeg", ".jpg", ".png"}


class Image(NamedTuple):
    """Where an image lies, and of which class it is.

    Attributes:
        name: Its file name.
        class_name: The name of its class, a WordNet id in ImageNet.
        path: The file that holds it.
        offset: Where in the file it begins.
        size_bytes: How long it is.
    """

    name: str
    class_name: str
    path: Path
    offset: int
    size_bytes: int

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            OSError: The file cannot be read.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size_bytes)


def find(place: Path, labels: Path | None) -> list[Image]:
    """The images of a split, in order of their classes and names.

    Args:
        place: A folder with one folder of images for each class; a tar file of that; a tar file of tar files, one for
            each class and named by it, as ImageNet's training set is; or, with `labels`, a folder or a tar file of
            images.
        labels: A text file with a class a line, for the images in order of their names, as
            imagenet_2012_validation_synset_labels.txt is.

    Raises:
        ConfigError: There is no such place, it holds no images, or not as many as labels.
        OSError: A file cannot be read.
    """
    if not place.exists():
        raise ConfigError(f"No images found. Received: {place}, which is not there. Expected a folder or a tar file.")
    images = sorted(_of_folder(place) if place.is_dir() else _of_tar(place), key=lambda image: image.name)
    if labels is not None:
        images = _labelled(images, labels)
    nameless = next((image.name for image in images if not image.class_name), None)
    if nameless:
        raise ConfigError(
            f"An image has no class. Received: {nameless} in {place}. Expected it in a folder or tar file that is "
            "named by its class, or a file of labels."
        )
    if not images:
        raise ConfigError(
            f"No images found. Received: {place}. Expected files {', '.join(sorted(SUFFIXES))} in folders or tar files "
            "that are named by their classes."
        )
    return sorted(images, key=lambda image: (image.class_name, image.name))


def class_names(images: Iterable[Image]) -> tuple[str, ...]:
    """The classes of images, in the order of their labels."""
    return tuple(sorted({image.class_name for image in images}))


def digest(images: Sequence[Image]) -> str:
    """The SHA-256 of the names, classes and sizes of images."""
    lines = (f"{image.class_name}/{image.name} {image.size_bytes}\n" for image in images)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _of_folder(folder: Path) -> Iterator[Image]:
    for path in folder.rglob("*"):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            class_name = path.parent.name if path.parent != folder else ""
            yield Image(path.name, class_name, path, 0, path.stat().st_size)


def _of_tar(path: Path) -> Iterator[Image]:
    try:
        with tarfile.open(path, "r:") as outer:
            for member in outer:
                name = Path(member.name)
                if member.isfile() and name.suffix == ".tar":
                    with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as inner:
                        yield from _members(inner, path, member.offset_data, name.stem)
                elif member.isfile() and name.suffix.lower() in SUFFIXES:
                    yield Image(name.name, name.parent.name, path, member.offset_data, member.size)
    except tarfile.TarError as error:
        raise ConfigError(
            f"The tar file cannot be read. Received: {path} ({error}). Expected a whole one, not compressed."
        ) from None


def _members(tar: tarfile.TarFile, path: Path, offset: int, class_name: str) -> Iterator[Image]:
    for member in tar:
        if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
            yield Image(Path(member.name).name, class_name, path, offset + member.offset_data, member.size)


def _labelled(images: Sequence[Image], labels: Path) -> list[Image]:
    try:
        names = labels.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The labels cannot be read: {error}. Expected a text file with a class a line.") from None
    if len(names) != len(images):
        raise ConfigError(
            f"There must be a label for each image. Received: {len(names):,} in {labels}. Expected {len(images):,}."
        )
    return [image._replace(class_name=name) for image, name in zip(images, names, strict=True)]
