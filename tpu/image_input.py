"""TFRecords of images as distributed batches, in the order of `record_order`.

Every host reads files of its own: no host could read the images of a whole pod.
"""

import contextlib

import tensorflow as tf

from config import ConfigError, RunError
from image_decoding import evaluation_image, training_image
from record_order import eval_records, train_records
from stages import split


class Images:
    """Batches of images, the same for training and evaluation but for the crop.

    A batch is a dictionary of features: `image` `[share, image_size, image_size, 3]` of `dtype`, int32 `[share]`
    `label`, from 0, float32 `[share]` `weight`, 0 where an image could not be decoded or only fills up the batch, and
    `is_corrupt`, 1 for the former. `share` is a replica's part of the global batch.

    Args:
        strategy: The `tf.distribute.Strategy` of the run.
        layout: The `image_manifest.ImageLayout` of the files.
        data: The `image_config.ImageDataConfig`.
        seed: An integer, of the order, the crops and the flips.
        shuffle_images: From how many images a host draws the next one.
        dtype: Of the images, tf.float32 or tf.bfloat16.
    """

    def __init__(self, strategy, layout, data, seed, shuffle_images, dtype):
        self._strategy, self._layout, self._data = strategy, layout, data
        self._seed, self._shuffle_images, self._dtype = seed, shuffle_images, dtype
        self._contexts = []

    def train_batches(self, files, stage, skip_steps):
        """The endless batches of one stage of training, a distributed dataset.

        Args:
            files: A dictionary of the paths of TFRecord files to the number of their images.
            stage: The `stages.Stage`.
            skip_steps: How many batches to leave out at the beginning.
        """
        data, seed = self._data, stage.seed(self._seed) % 2**30
        self._contexts = []

        def decode(encoded, image_seed):
            return training_image(encoded, image_seed, data.image_size, data.crop_area, data.flip)

        def batches(context):
            def seeded(records, keys):
                # Two integers of 64 bits seed an image's draws: seed and epoch, file and place in the file. The file's
                # number is that among the files of all hosts, see `files_of_hosts`.
                epochs, numbers, places = tf.unstack(keys, axis=1)
                numbers = numbers * context.num_input_pipelines + context.input_pipeline_id
                seeds = tf.stack([seed * 2**32 + epochs, numbers * 2**40 + places], axis=1)
                return records, seeds, tf.ones_like(epochs, tf.bool)

            self._contexts.append(context)
            return self._decoded(self._train_records(context, files, stage, skip_steps).map(seeded), decode)

        return self._strategy.distribute_datasets_from_function(batches)

    def eval_batches(self, files, global_batch_size):
        """Batches in which every image counts once; the last are filled up with images of weight zero.

        Args:
            files: As in `train_batches`.
            global_batch_size: The images of a batch, over all replicas.

        Returns:
            A distributed dataset, and the number of its global batches.
        """
        per_replica, _ = split(global_batch_size, self._strategy.num_replicas_in_sync, None)
        steps, self._contexts = 0, []

        def decode(encoded, _):
            return evaluation_image(encoded, self._data.image_size, self._data.center_crop_fraction)

        def batches(context):
            nonlocal steps
            self._contexts.append(context)
            own, narrow = of_this_host(files, context)
            # As many as the host with the most images needs.
            hosts = files_of_hosts(files, context.num_input_pipelines)
            steps = max(-(-sum(of_host.values()) // (per_replica * narrow.num_replicas_in_sync)) for of_host in hosts)
            return self._decoded(eval_records(narrow, list(own), sum(own.values()), per_replica, steps), decode)

        dataset = self._strategy.distribute_datasets_from_function(batches)
        return dataset, steps

    @contextlib.contextmanager
    def damage_is_named(self, training, files):
        """Makes TensorFlow's error of an image or a file that cannot be read a `RunError` that names it.

        Args:
            training: The `training_loop.Run`, for the step and the stage that it is in.
            files: As in `train_batches`.
        """
        try:
            yield
        except tf.errors.DataLossError:
            for path in files:
                count = 0
                try:
                    for _ in tf.data.TFRecordDataset(path):
                        count += 1
                except tf.errors.DataLossError:
                    raise RunError(
                        f"A file of images is damaged. Received: {path}, after {count:,} records. Expected a whole "
                        "TFRecord file; prepare the data again."
                    ) from None
            raise
        except tf.errors.InvalidArgumentError:
            step = int(training.step.numpy())
            stage = next((stage for stage in training.stages if step < stage.last_step), None)
            for context in self._contexts:
                own, _ = of_this_host(files, context)
                if stage is None:  # the evaluation
                    count = sum(own.values())
                    records = eval_records(tf.distribute.InputContext(), list(own), count, 1, count)
                    records = records.map(lambda records, keys, _: (records, keys))
                else:
                    records = self._train_records(context, files, stage, step - stage.first_step)
                    records = records.take(2 * stage.replicas)
                if found := self._first_corrupt(records):
                    number, place = found
                    raise RunError(
                        f"An image cannot be decoded. Received: record {place:,} of {sorted(own)[number]}. Expected a "
                        "whole JPEG; data.on_corrupt=skip leaves such images out and counts them."
                    ) from None
            raise

    def _train_records(self, context, files, stage, skip_steps):
        own, narrow = of_this_host(files, context)
        per_replica = stage.global_batch_size // context.num_replicas_in_sync
        return train_records(
            narrow, list(own), sum(own.values()), per_replica, stage.seed(self._seed), skip_steps, self._shuffle_images
        )

    def _first_corrupt(self, records):
        """The number of the file and the place in it of the first image that cannot be decoded; None if all can."""
        for record, (_, number, place) in records.unbatch().as_numpy_iterator():
            encoded = tf.io.parse_single_example(record, self._description())[self._layout.image_key]
            try:
                tf.image.extract_jpeg_shape(encoded)  # which knows JPEG only
                tf.io.decode_jpeg(encoded)
            except tf.errors.InvalidArgumentError:
                return int(number), int(place)
        return None

    def _description(self):
        return {
            self._layout.image_key: tf.io.FixedLenFeature([], tf.string),
            self._layout.label_key: tf.io.FixedLenFeature([], tf.int64),
        }

    def _decoded(self, records, decode):
        """Batches of features from batches of records, what `decode` takes with each image, and whether it counts."""
        size, layout = self._data.image_size, self._layout

        def parsed(records, key, is_real):
            values = tf.io.parse_example(records, self._description())
            label = tf.cast(values[layout.label_key], tf.int32) - layout.first_label
            return values[layout.image_key], label, key, tf.cast(is_real, tf.float32)

        def example(encoded, label, key, weight):
            image = tf.cast(decode(encoded, key), self._dtype)
            return {"image": image, "label": label, "weight": weight, "is_corrupt": tf.zeros_like(weight)}

        def placeholder(_, label, key, weight):
            image = tf.zeros([size, size, 3], self._dtype)
            return {"image": image, "label": label, "weight": tf.zeros_like(weight), "is_corrupt": weight}

        def example_or_placeholder(*element):
            # The only way around an error in a dataset: the second is taken where the first has none.
            one = tf.data.Dataset.from_tensors(element)
            return one.map(example).ignore_errors().concatenate(one.map(placeholder)).take(1)

        images, per_replica = records.map(parsed).unbatch(), records.element_spec[0].shape[0]
        if self._data.on_corrupt == "skip":
            images = images.interleave(example_or_placeholder, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        else:
            images = images.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return images.batch(per_replica, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def synthetic_batches(strategy, data, classes, stage, dtype):
    """Random images, the same in every batch, with the features of `Images`.

    Args:
        strategy: The `tf.distribute.Strategy` of the run.
        data: The `image_config.ImageDataConfig`.
        classes: The number of classes.
        stage: The `stages.Stage`.
        dtype: Of the images.

    Returns:
        A distributed dataset.
    """
    per_replica, size = stage.global_batch_size // strategy.num_replicas_in_sync, data.image_size

    def batches(_):
        batch = {
            "image": tf.cast(tf.random.stateless_normal([per_replica, size, size, 3], [0, 0]), dtype),
            "label": tf.random.stateless_uniform([per_replica], [0, 1], 0, classes, tf.int32),
            "weight": tf.ones([per_replica]),
            "is_corrupt": tf.zeros([per_replica]),
        }
        return tf.data.Dataset.from_tensors(batch).repeat()

    return strategy.distribute_datasets_from_function(batches)


def files_of_hosts(files, hosts):
    """The files that each host reads, as a list of dicts.

    Raises:
        ConfigError: There are fewer files than hosts.
    """
    if len(files) < hosts:
        raise ConfigError(
            f"Every host reads files of its own. Received: {len(files)} files, {hosts} hosts. Expected as many at "
            "least; tpu/prepare_imagenet.py makes as many as it is told."
        )
    names = sorted(files)
    return [{name: files[name] for name in names[host::hosts]} for host in range(hosts)]


def of_this_host(files, context):
    """The files of an input pipeline, and the context of a pipeline that feeds the replicas of this host only."""
    pipelines = context.num_input_pipelines
    own = files_of_hosts(files, pipelines)[context.input_pipeline_id]
    return own, tf.distribute.InputContext(1, 0, context.num_replicas_in_sync // pipelines)
