"""Writes scikit-learn's scanned digits as JPEG files, in one folder for each class: a small data set of real images.

    python tpu/digits.py --output_dir IMAGES

They are 1,797 handwritten digits (Alpaydin and Kaynak 1998, the test part), 8 x 8 pixels each, here 32 x 32. Every
fifth is held out in IMAGES/validation; with --part train that fifth is left out, and every fifth of the others held
out instead, to choose hyperparameters by.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from config import ConfigError
from paths import local_path

SIZE, QUALITY = 32, 95
HELD_OUT_EVERY = 5
PARTS = ("all", "train")


def write(output_dir: Path, part: str = "all") -> dict[str, int]:
    """Writes the images.

    Args:
        output_dir: The folder for `train` and `validation`.
        part: "all" images, or those of "train" only, divided in turn.

    Returns:
        How many there are of each split.

    Raises:
        ConfigError: The folder holds other images.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    numbers = range(len(digits.images))
    if part == "train":
        numbers = [number for number in numbers if not _is_held_out(number)]
    paths = {}
    for place, number in enumerate(numbers):
        split = "validation" if _is_held_out(place) else "train"
        paths[output_dir / split / str(digits.target[number]) / f"{number:04d}.jpg"] = number
    if others := sorted(set(output_dir.glob("*/*/*.jpg")) - set(paths)):
        raise ConfigError(f"The folder holds other images. Received: {others[0]}. Expected an empty --output_dir.")
    for path, number in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        # The scans have 17 shades.
        image = Image.fromarray(np.round(digits.images[number] * (255 / 16)).astype(np.uint8))
        image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGB")
        image.save(path, quality=QUALITY)
    return {split: sum(path.parents[1].name == split for path in paths) for split in ("train", "validation")}


def _is_held_out(place: int) -> bool:
    return place % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


def main(argv: list[str] | None = None) -> int:
    """Writes them and prints how many there are.

    Returns:
        The exit code: 0, or 2 after one sentence on stderr about a folder that cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="digits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=local_path, required=True, help="the folder of train and validation")
    parser.add_argument("--part", choices=PARTS, default="all", help="which images to write (default: all)")
    arguments = parser.parse_args(argv)
    try:
        counts = write(arguments.output_dir, arguments.part)
    except ConfigError as error:
        print(f"digits: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"digits: {error.strerror}. Received: {error.filename}. Expected a folder to write to.", file=sys.stderr)
        return 2
    print(", ".join(f"{split}: {count:,} images" for split, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
