"""Trains ResNet-50 or AlexNet on ImageNet, or on images in its layout, from a YAML config.

    python tpu/train_resnet.py --config_file configs/resnet50/lamb_16384.yaml --data_dir DATA --model_dir RUN

DATA is a folder that prepare_imagenet.py wrote or indexed. RUN receives the resolved config, checkpoints, TensorBoard
summaries and the results on the validation images. The same command continues a run that was interrupted.
--synthetic trains on random images, to measure how fast the model is without its input.
"""

import command
import strategy as strategies
from config import ConfigError, claim_folder, load
from device_loop import leave
from image_config import ImageConfig
from image_manifest import IMAGENET_CLASSES, IMAGENET_IMAGES, Manifest
from paths import any_path
from stages import resolve, split

# The panels of the report.
CURVES = {
    "loss": ["loss"],
    "accuracy": ["top_1_accuracy", "top_5_accuracy"],
    "rate": ["learning_rate"],
    "gradient norm": ["gradient_norm"],
    "images/s": ["examples_per_second"],
}


def main(argv=None):
    """Trains, then evaluates on the validation images; returns the exit code of `command.exit_code_of`."""
    return command.exit_code_of("train_resnet", train, parse_arguments(argv))


def parse_arguments(argv):
    """Reads the command line."""
    parser = command.make_parser(__doc__, "two updates a stage of a small model on random images")
    parser.add_argument("--data_dir", type=any_path, help="the images; not needed for --smoke and --synthetic")
    parser.add_argument(
        "--synthetic",
        action="store_true",
        help="train on random images of ImageNet's number and classes; no evaluation",
    )
    arguments = parser.parse_args(argv)
    given = [name for name in ("data_dir", "smoke", "synthetic") if getattr(arguments, name)]
    if len(given) != 1:
        received = ", ".join(f"--{name}" for name in given) or "none"
        parser.error(f"one of --data_dir, --smoke and --synthetic is needed. Received: {received}")
    return arguments


def train(arguments):
    """Does what the command line says.

    Raises:
        ConfigError: Its input cannot be used.
        RunError: The run cannot go on.
    """
    config = load(arguments.config_file, ImageConfig, arguments.overrides)
    strategies.prepare(arguments, arguments.data_dir, arguments.model_dir)
    manifest = Manifest.load(arguments.data_dir) if arguments.data_dir else Manifest.of_random_images()
    strategy = strategies.make(arguments.strategy, arguments.cpu_replicas, arguments.tpu)
    if arguments.smoke:
        smoke(config, strategy, arguments.model_dir)
        return
    images = IMAGENET_IMAGES if arguments.synthetic else manifest.count("train")
    stages = resolve_stages(config, images, strategy.num_replicas_in_sync)
    if config.model.sync_batch_norm and arguments.strategy != "tpu" and strategy.num_replicas_in_sync > 1:
        check_undivided(stages)
    claim_folder(arguments.model_dir, config, arguments.allow_config_change)
    manifest.claim_run(arguments.model_dir)
    for stage in stages:
        print(stage.describe())
        print(describe_epochs(stage, images))
    if arguments.synthetic:
        run_synthetic(config, stages, strategy, arguments.model_dir)
    else:
        run(config, manifest, stages, strategy, arguments.data_dir, arguments.model_dir)


def smoke(config, strategy, model_dir):
    """Makes two updates of each stage of a config, with small images that are random; says what it shrank.

    Args:
        config: The `ImageConfig`.
        strategy: A `tf.distribute.Strategy`.
        model_dir: The `Path` of the trial run, not that of a real one.
    """
    import tensorflow as tf

    import smoke
    from image_task import ImageTask

    def make_example(small, _, integers):
        size = small.data.image_size
        return {
            "image": tf.reshape(tf.cast(integers(size * size * 3, 256), tf.float32), [size, size, 3]) / 128 - 1,
            "label": integers(1, smoke.CLASSES)[0],
            # Replicas and parts have unequal counts of images.
            "weight": tf.cast(integers(1, 4)[0] > 0, tf.float32),
            "is_corrupt": 0.0,
        }

    smoke.run(
        config,
        [("stages", number) for number in range(len(config.stages))],
        smoke.SMALL_IMAGES,
        strategy,
        model_dir,
        lambda small: ImageTask(small, smoke.CLASSES),
        make_example,
    )


def resolve_stages(config, images, replicas):
    """The config's `stages.Stage`s on so many replicas, with so many training images."""
    split(config.run.eval_global_batch_size, replicas, None)
    return resolve(config.stages, replicas, lambda _: images)


def check_undivided(stages):
    """Raises a `ConfigError` if a stage accumulates parts: on GPUs, their loop cannot ask other replicas for a sum."""
    for stage in stages:
        if stage.micro_batches > 1:
            raise ConfigError(
                f"Synchronised batch norm needs batches that are not divided, but on a TPU. Received: stage "
                f"{stage.number} with {stage.micro_batches:,} accumulated parts of {stage.per_replica_batch_size:,}. "
                "Expected a larger max_per_replica_batch_size, or model.sync_batch_norm=false."
            )


def describe_epochs(stage, images):
    """How a stage reaches its epochs, in a line."""
    examples = stage.steps * stage.global_batch_size
    return (
        f"stage {stage.number}: {stage.steps:,} steps x {stage.global_batch_size:,} = {examples:,} images = "
        f"{examples / images:.3f} epochs of {images:,}"
    )


def run(config, manifest, stages, strategy, data_dir, model_dir):
    """Trains a run to its end from wherever it stands, and writes `validation.json`.

    Args:
        config: The `ImageConfig`.
        manifest: The `image_manifest.Manifest` of the data.
        stages: The `stages.Stage`s of the config on this strategy.
        strategy: A `tf.distribute.Strategy`.
        data_dir: The `Path` of the data.
        model_dir: The `Path` of the run.

    Returns:
        The metrics on the validation images, as a dict of floats.
    """
    # TensorFlow is imported this late because the strategy sets up its devices and environment first.
    import image_input
    import training_loop
    from image_task import ImageTask

    with strategies.precision(config.run.mixed_precision, strategy) as dtype:
        task = ImageTask(config, len(manifest.settings.classes))
        training = training_loop.make(task, config, stages, strategy, model_dir)
        images = image_input.Images(
            strategy, manifest.settings.layout, config.data, config.run.seed, config.run.shuffle_images, dtype
        )
        files, held_out = (manifest.records(data_dir, split) for split in ("train", "validation"))
        # Made before training, which finds out whether there are files for every host.
        held_out_batches = images.eval_batches(held_out, config.run.eval_global_batch_size)
        with images.damage_is_named(training, files):
            training.train(lambda stage, skip_steps: images.train_batches(files, stage, skip_steps))
        with images.damage_is_named(training, held_out):
            results = training.evaluate(*held_out_batches)
    if training.workers.is_chief:
        training.finish("validation.json", "Image classification", results, CURVES)
        print_results(results, training.model_dir)
    return results


def print_results(results, model_dir):
    """Prints the results on the validation images."""
    print(
        f"validation: top-1 {results['top_1_accuracy']:.2%}, top-5 {results['top_5_accuracy']:.2%}, "
        f"loss {results['loss']:.3f}\nreport: {model_dir / 'report.md'}"
    )


def run_synthetic(config, stages, strategy, model_dir):
    """Trains on random images, without an evaluation.

    Args:
        config: The `ImageConfig`.
        stages: The `stages.Stage`s of the config on this strategy.
        strategy: A `tf.distribute.Strategy`.
        model_dir: The `Path` of the run.
    """
    import image_input
    import training_loop
    from image_task import ImageTask

    with strategies.precision(config.run.mixed_precision, strategy) as dtype:
        task = ImageTask(config, IMAGENET_CLASSES)
        training = training_loop.make(task, config, stages, strategy, model_dir)
        training.train(
            lambda stage, _: image_input.synthetic_batches(strategy, config.data, IMAGENET_CLASSES, stage, dtype)
        )


if __name__ == "__main__":
    leave(main())
