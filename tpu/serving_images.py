"""What an exported image model serves: classes of JPEG files."""

import tensorflow as tf

from image_decoding import evaluation_image


def of_jpeg(model, classes, data):
    """A module whose `serve` takes JPEG files.

    Args:
        model: The model of `image_task.ImageTask`.
        classes: The names of the classes, in the order of the model's logits.
        data: The `image_config.ImageDataConfig` of the run.

    Returns:
        A `tf.Module` with `serve`: string `[batch]` `image_bytes` to float32 `[batch, classes]` `probabilities`, and to
        the names and probabilities of the classes, most likely first: string `[batch, classes]` `classes` and float32
        `[batch, classes]` `scores`.
    """
    module = tf.Module()
    module.model = model
    names = tf.constant(classes)

    def image(encoded):
        return evaluation_image(encoded, data.image_size, data.center_crop_fraction)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def serve(image_bytes):
        shape = tf.TensorSpec([data.image_size, data.image_size, 3], tf.float32)
        images = tf.map_fn(image, image_bytes, fn_output_signature=shape)
        probabilities = tf.nn.softmax(tf.cast(model(images, training=False), tf.float32))
        scores, order = tf.math.top_k(probabilities, len(classes))
        return {"probabilities": probabilities, "scores": scores, "classes": tf.gather(names, order)}

    module.serve = serve
    return module
