"""BERT pre-training: Model Garden's model, and a loss that is one mean over the global batch."""

import warnings

import tensorflow as tf
from official.nlp.configs import bert, encoders
from official.nlp.tasks import masked_lm

from weighted_means import WeightedMean

# Model Garden's pretrainer gives its encoder the positions too, of which the encoder complains.
warnings.filterwarnings("ignore", message=r"Input dict contained keys \['masked_lm_positions'\]")

IGNORED_BY_MODEL = ("masked_lm_ids", "masked_lm_weights", "next_sentence_labels", "example_weights")


def model_config(shape, vocab_size):
    """Model Garden's config of the model.

    Args:
        shape: A `bert_config.ModelConfig`.
        vocab_size: The size of the vocabulary.
    """
    return bert.PretrainerConfig(
        encoder=encoders.EncoderConfig(
            type="bert",
            bert=encoders.BertEncoderConfig(
                vocab_size=vocab_size,
                hidden_size=shape.hidden_size,
                num_layers=shape.layers,
                num_attention_heads=shape.attention_heads,
                intermediate_size=shape.intermediate_size,
                dropout_rate=shape.dropout_rate,
                attention_dropout_rate=shape.dropout_rate,
                max_position_embeddings=shape.max_positions,
            ),
        ),
        cls_heads=[
            bert.ClsHeadConfig(
                inner_dim=shape.hidden_size,
                num_classes=2,
                dropout_rate=shape.dropout_rate,
                name="next_sentence",
            )
        ],
    )


class PretrainTask(masked_lm.MaskedLMTask):
    """Masked-LM and next-sentence prediction (Devlin et al. 2018, section 3.1).

    Model Garden's task divides the masked-LM loss by each replica's own count of masked positions. Here the losses
    are sums over the global batch, divided once by global counts, so a batch gives the same gradients however it is
    divided into replicas and micro-batches.

    Args:
        shape: A `bert_config.ModelConfig`.
        vocab_size: The size of the vocabulary.
        baseline_token: The id that a predictor without a model would always guess.
    """

    shown = {
        "loss": "masked_lm_loss",
        "acc": "masked_lm_accuracy",
        "lr": "learning_rate",
        "seq/s": "examples_per_second",
    }

    def __init__(self, shape, vocab_size, baseline_token):
        super().__init__(masked_lm.MaskedLMConfig(model=model_config(shape, vocab_size)))
        self._baseline_token = baseline_token

    def build_model(self, params=None):
        """Makes the model with all its variables, those of the heads too."""
        model = super().build_model(params)
        # The heads read the sequence output; nothing reads the pooler's, so it has no gradient.
        model.encoder_network.get_layer("pooler_transform").trainable = False
        names = ("input_word_ids", "input_mask", "input_type_ids", "masked_lm_positions")
        model({name: tf.zeros([1, 1], tf.int32) for name in names})
        return model

    def build_metrics(self, training=None):
        """Makes the metrics, each a mean over masked positions or over examples."""
        del training
        names = ("masked_lm_loss", "masked_lm_accuracy", "next_sentence_loss", "next_sentence_accuracy")
        return [WeightedMean(name) for name in (*names, "unigram_accuracy")]

    def loss_weights(self, features):
        """The counts of masked positions and of examples, the denominators of the two losses."""
        return [tf.reduce_sum(features["masked_lm_weights"]), tf.reduce_sum(features["example_weights"])]

    def losses(self, features, outputs, totals, metrics):
        """A share of the loss; the loss is the sum of all shares of a global batch.

        Args:
            features: Some examples of the batch.
            outputs: The outputs of the model on them.
            totals: The sums of `loss_weights` over the whole batch.
            metrics: The metrics of `build_metrics`, which are updated.

        Returns:
            A scalar, float32 or float64.
        """
        metrics = {metric.name: metric for metric in metrics}
        lm_ids, lm_weights = features["masked_lm_ids"], features["masked_lm_weights"]
        ns_labels, ns_weights = features["next_sentence_labels"], features["example_weights"]
        lm_logits, ns_logits = _wide(outputs["mlm_logits"]), _wide(outputs["next_sentence"])

        lm_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(lm_ids, lm_logits)
        ns_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(ns_labels, ns_logits)
        metrics["masked_lm_loss"].update_state(lm_losses, lm_weights)
        metrics["next_sentence_loss"].update_state(ns_losses, ns_weights)
        metrics["masked_lm_accuracy"].update_state(_hits(lm_logits, lm_ids), lm_weights)
        metrics["next_sentence_accuracy"].update_state(_hits(ns_logits, ns_labels), ns_weights)
        metrics["unigram_accuracy"].update_state(tf.equal(lm_ids, self._baseline_token), lm_weights)

        pairs = ((lm_losses, lm_weights, totals[0]), (ns_losses, ns_weights, totals[1]))
        shares = [
            tf.math.divide_no_nan(tf.reduce_sum(losses * tf.cast(weights, losses.dtype)), tf.cast(total, losses.dtype))
            for losses, weights, total in pairs
        ]
        return tf.add_n(shares)

    def model_inputs(self, features):
        """The features that the model reads."""
        return {name: value for name, value in features.items() if name not in IGNORED_BY_MODEL}

    def validation_step(self, inputs, model, metrics):
        """Updates the metrics with one replica's share of a batch."""
        outputs = model(self.model_inputs(inputs), training=False)
        self.losses(inputs, outputs, self.loss_weights(inputs), metrics)


def _wide(logits):
    return logits if logits.dtype == tf.float64 else tf.cast(logits, tf.float32)


def _hits(logits, labels):
    return tf.equal(tf.argmax(logits, axis=-1, output_type=labels.dtype), labels)
