"""Makes TFRecord files of images in the layout of ImageNet, with a manifest, from folders or tar files.

    python tpu/prepare_imagenet.py --train ILSVRC2012_img_train.tar --validation ILSVRC2012_img_val.tar \
        --validation_labels imagenet_2012_validation_synset_labels.txt --output_dir DATA
    python tpu/prepare_imagenet.py --index DATA

The first form reads tar files as they are distributed, or a folder with one folder of images for each class. An image
that is no JPEG in RGB or grey is stored as one. It continues where it was interrupted, and what it writes does not
depend on the number of processes. The second form writes the manifest of files that are there already: those of
TensorFlow's own ImageNet scripts, or of tensorflow_datasets.
"""

import argparse
import os
import sys
from pathlib import Path

import image_index
import image_shards
import image_sources
import work_folder
from config import ConfigError
from data_manifest import MANIFEST_NAME
from image_manifest import FORMAT_VERSION, STANDARD, Manifest, Settings
from paths import local_path
from worker_pool import WorkerDied, WorkerPool


def main(argv: list[str] | None = None) -> int:
    """Prepares what the command line says.

    Returns:
        The exit code: 0; 2 for input that cannot be used; 1 for a process that was killed; 130 when interrupted.
    """
    arguments = parse_arguments(argv)
    # This is no work for the machine's accelerators, which a training run may hold.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    try:
        if arguments.index:
            index(arguments.index, arguments.classes, arguments.processes)
        else:
            prepare(
                arguments.train,
                arguments.validation,
                arguments.output_dir,
                validation_labels=arguments.validation_labels,
                shards={"train": arguments.train_shards, "validation": arguments.validation_shards},
                seed=arguments.seed,
                overwrite=arguments.overwrite,
                processes=arguments.processes,
            )
    except (ConfigError, WorkerDied) as error:
        print(f"prepare_imagenet: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        print(
            f"prepare_imagenet: {error.strerror}. Received: {error.filename}. Expected files that can be read, and a "
            "folder to write to.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("\nprepare_imagenet: interrupted; the same command continues.", file=sys.stderr)
        return 130
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="prepare_imagenet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=local_path, help="the training images: a folder or a tar file")
    parser.add_argument("--validation", type=local_path, help="the validation images: a folder or a tar file")
    parser.add_argument(
        "--validation_labels", type=local_path, help="the class of each validation image, where no folder says it"
    )
    parser.add_argument("--output_dir", type=local_path, help="the folder of the prepared data")
    parser.add_argument("--train_shards", type=int, default=1024, help="the files of training images (default: 1024)")
    parser.add_argument("--validation_shards", type=int, default=128, help="those of validation images (default: 128)")
    parser.add_argument("--seed", type=int, default=12345, help="the seed of the images' order (default: 12345)")
    parser.add_argument("--index", type=local_path, metavar="DATA", help="write the manifest of files that are there")
    parser.add_argument("--classes", type=int, default=1000, help="how many classes DATA has (default: 1000)")
    parser.add_argument("--processes", type=int, default=None, help="how many to use (default: one a core)")
    parser.add_argument("--overwrite", action="store_true", help="replace data made with other settings")
    arguments = parser.parse_args(argv)
    given = [name for name in ("train", "validation", "output_dir") if getattr(arguments, name) is not None]
    if arguments.index and given:
        parser.error(f"--index takes files that are there; it goes without --{given[0]}")
    if not arguments.index and len(given) < 3:
        parser.error("--train, --validation and --output_dir are required, unless --index is given")
    for name in ("train_shards", "validation_shards", "classes", "processes"):
        number = getattr(arguments, name)
        if number is not None and number < 1:
            parser.error(f"there must be one at least. Received: --{name} {number}. Expected a number >= 1")
    return arguments


def prepare(
    train: Path,
    validation: Path,
    output_dir: Path,
    *,
    validation_labels: Path | None = None,
    shards: dict[str, int],
    seed: int = 12345,
    overwrite: bool = False,
    processes: int | None = None,
) -> Manifest:
    """Writes the files of both splits, unless they are there already, and returns their manifest.

    Args:
        train: The training images, see `image_sources.find`.
        validation: The validation images.
        output_dir: The folder to write to.
        validation_labels: The classes of the validation images.
        shards: The number of files of each split.
        seed: The seed of the order of the images.
        overwrite: Whether to replace data made with other settings.
        processes: How many to use; by default one for each core.

    Raises:
        ConfigError: Images are missing, cannot be decoded, or are of a class without training images; there are more
            files than images; or the folder holds other data.
        OSError: A file cannot be read or written.
        WorkerDied: A process was killed.
    """
    images = {
        "train": image_sources.find(train, None),
        "validation": image_sources.find(validation, validation_labels),
    }
    classes = image_sources.class_names(images["train"])
    strange = sorted(set(image_sources.class_names(images["validation"])) - set(classes))
    if strange:
        raise ConfigError(
            f"Validation images are of a class without training images. Received: {strange[0]} in {validation}. "
            f"Expected the {len(classes):,} classes of {train}."
        )
    settings = Settings(
        format_version=FORMAT_VERSION,
        layout=STANDARD,
        classes=classes,
        seed=seed,
        shards=shards,
        images_sha256={split: image_sources.digest(of_split) for split, of_split in images.items()},
    )
    output_dir.mkdir(parents=True, exist_ok=True)
    if manifest := work_folder.existing_data(output_dir, settings, Manifest, overwrite):
        print(f"{output_dir} is up to date")
        return manifest

    processes = processes or len(os.sched_getaffinity(0))
    with work_folder.claim(output_dir, settings, Manifest) as work, WorkerPool(processes) as pool:
        tasks = [
            task
            for split, of_split in images.items()
            for task in image_shards.plan(of_split, classes, split, shards[split], seed, output_dir, work)
        ]
        # The manifest comes last: where it is, all files are.
        files = pool.run(image_shards.write_shard, tasks, "images", "files")
        manifest = Manifest(settings=settings, record_files=tuple(files))
        manifest.write(output_dir)
    describe(manifest)
    return manifest


def index(folder: Path, classes: int, processes: int | None) -> Manifest:
    """Writes the manifest of files that are there already, and returns it.

    Raises:
        ConfigError: The folder has a manifest, or its files cannot be used, see `image_index.index`.
        OSError: A file cannot be read or written.
    """
    if (folder / MANIFEST_NAME).exists():
        raise ConfigError(f"The folder has a manifest already. Received: --index {folder}. Expected one without.")
    with WorkerPool(processes or len(os.sched_getaffinity(0))) as pool:
        manifest = image_index.index(folder, classes, pool)
    manifest.write(folder)
    describe(manifest)
    return manifest


def describe(manifest: Manifest) -> None:
    """Prints what there is."""
    for split, files in manifest.settings.shards.items():
        print(f"{split}: {manifest.count(split):,} images of {len(manifest.settings.classes):,} classes, {files} files")


if __name__ == "__main__":
    sys.exit(main())
