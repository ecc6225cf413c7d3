"""Images to test on: scikit-learn's scanned digits and its two photographs, in folders, and prepared."""

import io

import numpy as np
from PIL import Image

import digits
import prepare_imagenet


def write_digits(folder, count):
    """Writes the first `count` training and a fifth as many validation digits, as `digits.write` does."""
    digits.write(folder)
    for split, kept in (("train", count), ("validation", count // 5)):
        for path in sorted(folder.glob(f"{split}/*/*.jpg"), key=lambda path: path.name)[kept:]:
            path.unlink()


def prepare(folder, output_dir, train_shards=4, validation_shards=3, **options):
    """Prepares the images of `write_digits`."""
    shards = {"train": train_shards, "validation": validation_shards}
    places = folder / "train", folder / "validation", output_dir
    return prepare_imagenet.prepare(*places, shards=shards, **{"processes": 1, **options})


def photograph():
    """The pixels of a photograph, uint8 `[427, 640, 3]`."""
    from sklearn.datasets import load_sample_image

    return load_sample_image("china.jpg")


def encoded(pixels, file_format="JPEG", **options):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    image.save(buffer, file_format, **options)
    return buffer.getvalue()
