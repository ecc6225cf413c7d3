"""Image classification: the models, and a loss that is one mean over the global batch."""

import tensorflow as tf
import tf_keras
from official.vision.configs import backbones, common, image_classification
from official.vision.modeling import factory
from official.vision.modeling.layers.nn_blocks import BottleneckBlock, ResidualBlock

import alexnet
from weighted_means import WeightedMean, WeightedSum

TOP = 5


class ImageTask:
    """Classification of images into classes.

    Args:
        config: The `image_config.ImageConfig`.
        classes: The number of classes.
    """

    shown = {"loss": "loss", "acc": "top_1_accuracy", "lr": "learning_rate", "img/s": "examples_per_second"}

    def __init__(self, config, classes):
        self._config, self._classes = config, classes

    def build_model(self):
        """Makes the model with all its variables."""
        size, model = self._config.data.image_size, self._config.model
        if model.name.startswith("alexnet"):
            return alexnet.build(
                size,
                self._classes,
                model.name == "alexnet_bn",
                model.dropout_rate,
                model.batch_norm_momentum,
                model.batch_norm_epsilon,
                model.sync_batch_norm,
            )
        built = factory.build_classification_model(
            tf_keras.layers.InputSpec(shape=[None, size, size, 3]),
            image_classification.ImageClassificationModel(
                num_classes=self._classes,
                input_size=[size, size, 3],
                backbone=backbones.Backbone(type="resnet", resnet=backbones.ResNet(model_id=model.depth)),
                norm_activation=common.NormActivation(
                    activation="relu",
                    norm_momentum=model.batch_norm_momentum,
                    norm_epsilon=model.batch_norm_epsilon,
                    use_sync_bn=model.sync_batch_norm,
                ),
            ),
        )
        if model.zero_last_gamma:
            blocks = [part for part in built.submodules if isinstance(part, (BottleneckBlock, ResidualBlock))]
            for block in blocks:
                last = block._norm3 if isinstance(block, BottleneckBlock) else block._norm2
                last.gamma.assign(tf.zeros_like(last.gamma))
        return built

    def build_metrics(self):
        """Makes the metrics: means over images, and the count of those that could not be decoded."""
        means = [WeightedMean(name) for name in ("loss", "top_1_accuracy", "top_5_accuracy")]
        return [*means, WeightedSum("corrupt_images")]

    def loss_weights(self, features):
        """The count of images, the denominator of the loss."""
        return [tf.reduce_sum(features["weight"])]

    def losses(self, features, outputs, totals, metrics):
        """A share of the loss; the loss is the sum of all shares of a global batch.

        Args:
            features: Some images of the batch, see `image_input.Images`.
            outputs: Their logits, `[batch, classes]`.
            totals: The sum of `loss_weights` over the whole batch.
            metrics: The metrics of `build_metrics`, which are updated.

        Returns:
            A scalar, float32 or float64.
        """
        logits = outputs if outputs.dtype == tf.float64 else tf.cast(outputs, tf.float32)
        label, weight = features["label"], features["weight"]
        smoothing = self._config.data.label_smoothing
        targets = tf.one_hot(label, self._classes, dtype=logits.dtype) * (1 - smoothing) + smoothing / self._classes
        losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
        named = {metric.name: metric for metric in metrics}
        named["loss"].update_state(losses, weight)
        in_top = [tf.math.in_top_k(label, tf.cast(logits, tf.float32), top) for top in (1, TOP)]
        # Classes that share the highest logit are all among the top one; only the first of them is the answer.
        in_top[0] &= tf.argmax(logits, axis=-1, output_type=label.dtype) == label
        for top, hits in zip((1, TOP), in_top, strict=True):
            named[f"top_{top}_accuracy"].update_state(hits, weight)
        named["corrupt_images"].update_state(features["is_corrupt"])
        weighted = tf.reduce_sum(losses * tf.cast(weight, losses.dtype))
        return tf.math.divide_no_nan(weighted, tf.cast(totals[0], losses.dtype))

    def model_inputs(self, features):
        """The features that the model reads."""
        return features["image"]

    def validation_step(self, inputs, model, metrics):
        """Updates the metrics with one replica's share of a batch."""
        outputs = model(self.model_inputs(inputs), training=False)
        self.losses(inputs, outputs, self.loss_weights(inputs), metrics)
