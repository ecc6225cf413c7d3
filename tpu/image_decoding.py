"""JPEG bytes to what the model sees: crop, flip, resize and normalization, as the published ImageNet recipes have them.

The steps and numbers are those of Model Garden's `classification_input.Parser`; the random draws come from a seed, so
that they are the same whenever an image is read again in the same epoch.
"""

import tensorflow as tf
from official.vision.ops import preprocess_ops

ASPECT_RATIOS = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10
# What the seed of the flip has beyond that of the crop.
FLIP = (0, 2**62)


def training_image(encoded, seed, image_size, area_range, flip):
    """A random crop of an image (Szegedy et al. 2015, section 6), mirrored or not.

    Args:
        encoded: A JPEG, a string scalar.
        seed: int64 `[2]`, from 0 to 2**62 - 1.
        image_size: The height and width of the result.
        area_range: The least and the largest share of the image that the crop has.
        flip: Whether to mirror half of the images.

    Returns:
        float32 `[image_size, image_size, 3]`, with mean zero and variance one over ImageNet's pixels.
    """
    shape = tf.image.extract_jpeg_shape(encoded)
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed,
        min_object_covered=area_range[0],
        aspect_ratio_range=ASPECT_RATIOS,
        area_range=area_range,
        max_attempts=CROP_ATTEMPTS,
    )
    # Where no crop was found, the whole image was taken, whose middle is used.
    image = tf.cond(
        tf.reduce_all(size[:2] == shape[:2]),
        lambda: preprocess_ops.center_crop_image_v2(encoded, shape),
        lambda: tf.image.decode_and_crop_jpeg(encoded, tf.concat([begin[:2], size[:2]], axis=0), channels=3),
    )
    if flip:
        image = tf.image.stateless_random_flip_left_right(image, seed + FLIP)
    return _resized(image, image_size)


def evaluation_image(encoded, image_size, center_crop_fraction):
    """The middle of an image.

    Args:
        encoded: A JPEG, a string scalar.
        image_size: The height and width of the result.
        center_crop_fraction: The side of the crop, as a share of the image's shorter side.

    Returns:
        float32 `[image_size, image_size, 3]`, with mean zero and variance one over ImageNet's pixels.
    """
    shape = tf.image.extract_jpeg_shape(encoded)
    return _resized(preprocess_ops.center_crop_image_v2(encoded, shape, center_crop_fraction), image_size)


def _resized(image, image_size):
    image = tf.image.resize(image, [image_size, image_size])
    # Model Garden's `normalize_image`, bit for bit. Whole rows broadcast several times as fast as three channels.
    rows = tf.reshape(image, [image_size, image_size * 3])
    mean, deviation = (
        tf.tile(tf.constant(rgb), [image_size]) for rgb in (preprocess_ops.MEAN_RGB, preprocess_ops.STDDEV_RGB)
    )
    return tf.reshape((rows - mean) / deviation, [image_size, image_size, 3])
