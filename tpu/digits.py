"""Writes scikit-learn's scanned digits as JPEG files, in one folder for each class: a small data set of real images.

    python tpu/digits.py --output_dir IMAGES

They are 1,797 handwritten digits (Alpaydin and Kaynak 1998, the test part), 8 x 8 pixels each, here 32 x 32. Every
fifth is held out in IMAGES/validation.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from paths import local_path

SIZE, QUALITY = 32, 95
HELD_OUT_EVERY = 5


def write(output_dir: Path) -> dict[str, int]:
    """Writes the images.

    Returns:
        How many there are of each split.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    counts = {"train": 0, "validation": 0}
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "validation" if number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else "train"
        folder = output_dir / split / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        # The scans have 17 shades.
        image = Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8))
        image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGB")
        image.save(folder / f"{number:04d}.jpg", quality=QUALITY)
        counts[split] += 1
    return counts


def main(argv: list[str] | None = None) -> int:
    """Writes them and prints how many there are.

    Returns:
        The exit code: 0, or 2 after one sentence on stderr about a folder that cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="digits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=local_path, required=True, help="the folder of train and validation")
    arguments = parser.parse_args(argv)
    try:
        counts = write(arguments.output_dir)
    except OSError as error:
        print(f"digits: {error.strerror}. Received: {error.filename}. Expected a folder to write to.", file=sys.stderr)
        return 2
    print(", ".join(f"{split}: {count:,} images" for split, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
