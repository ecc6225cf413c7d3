"""AlexNet in one tower, and AlexNet-BN, as the paper of LARS trains them (arXiv 1708.03888, section 3)."""

import tf_keras

# Filters, kernel, stride, padding of each convolution, and whether a pooling follows.
CONVOLUTIONS = (
    (96, 11, 4, "valid", True),
    (256, 5, 1, "same", True),
    (384, 3, 1, "same", False),
    (384, 3, 1, "same", False),
    (256, 3, 1, "same", True),
)
UNITS = 4096


def build(image_size, classes, batch_norm, dropout_rate, norm_momentum, norm_epsilon, synchronized):
    """The network, whose outputs are logits.

    Args:
        image_size: The height and width of images; 227 in the paper.
        classes: The number of classes.
        batch_norm: Whether each layer but the last is normalized (AlexNet-BN), in the place of local response
            normalization after the first two.
        dropout_rate: Of the two large layers.
        norm_momentum: Of the moving statistics.
        norm_epsilon: What is added to variances.
        synchronized: Whether batch norm sees the examples of all replicas.

    Returns:
        A functional tf_keras model of float32 `[batch, image_size, image_size, 3]` to float32 `[batch, classes]`.
    """
    layers = tf_keras.layers

    def activated(x):
        if batch_norm:
            x = layers.BatchNormalization(momentum=norm_momentum, epsilon=norm_epsilon, synchronized=synchronized)(x)
        return layers.ReLU()(x)

    inputs = x = tf_keras.Input([image_size, image_size, 3])
    for number, (filters, kernel, stride, padding, pools) in enumerate(CONVOLUTIONS):
        x = activated(layers.Conv2D(filters, kernel, stride, padding, use_bias=not batch_norm)(x))
        if number < 2 and not batch_norm:
            x = LocalResponseNormalization()(x)
        if pools:
            x = layers.MaxPool2D(3, 2, "valid" if image_size >= 67 else "same")(x)
    x = layers.Flatten()(x)
    for _ in range(2):
        x = activated(layers.Dense(UNITS, use_bias=not batch_norm)(x))
        x = layers.Dropout(dropout_rate)(x)
    outputs = layers.Activation("linear", dtype="float32")(layers.Dense(classes)(x))
    return tf_keras.Model(inputs, outputs, name="alexnet_bn" if batch_norm else "alexnet")


class LocalResponseNormalization(tf_keras.layers.Layer):
    """Divides by the activity of near channels (Krizhevsky et al. 2012, section 3.3): x / (2 + 1e-4 sum x^2)^0.75."""

    def call(self, inputs):
        """Normalizes float `[batch, height, width, channels]` over five channels."""
        import tensorflow as tf

        wide = tf.cast(inputs, tf.float32)
        return tf.cast(tf.nn.local_response_normalization(wide, 2, bias=2.0, alpha=1e-4, beta=0.75), inputs.dtype)
