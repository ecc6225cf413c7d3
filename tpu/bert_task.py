"""BERT pre-training: Model Garden's model, and a loss that is one mean over the global batch."""

import warnings

import tensorflow as tf
import tf_keras
from official.nlp.configs import bert, encoders
from official.nlp.tasks import masked_lm

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
    are sums over the global batch, divided once by global counts, so a batch gives the same gradients on any number
    of replicas.

    Args:
        shape: A `bert_config.ModelConfig`.
        vocab_size: The size of the vocabulary.
        baseline_token: The id that a predictor without a model would always guess.
    """

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
        return [tf_keras.metrics.Mean(name) for name in (*names, "unigram_accuracy")]

    def build_losses(self, labels, model_outputs, metrics, aux_losses=None):
        """One replica's share of the loss; the global loss is the sum over replicas.

        Args:
            labels: The features of a batch.
            model_outputs: The outputs of the model on them.
            metrics: The metrics of `build_metrics`, which are updated.
            aux_losses: Losses of the model itself, none in BERT.

        Returns:
            A float32 scalar.
        """
        metrics = {metric.name: metric for metric in metrics}
        lm_ids, lm_weights = labels["masked_lm_ids"], labels["masked_lm_weights"]
        ns_labels, ns_weights = labels["next_sentence_labels"], labels["example_weights"]
        lm_logits = tf.cast(model_outputs["mlm_logits"], tf.float32)
        ns_logits = tf.cast(model_outputs["next_sentence"], tf.float32)

        lm_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(lm_ids, lm_logits)
        ns_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(ns_labels, ns_logits)
        metrics["masked_lm_loss"].update_state(lm_losses, lm_weights)
        metrics["next_sentence_loss"].update_state(ns_losses, ns_weights)
        metrics["masked_lm_accuracy"].update_state(_hits(lm_logits, lm_ids), lm_weights)
        metrics["next_sentence_accuracy"].update_state(_hits(ns_logits, ns_labels), ns_weights)
        metrics["unigram_accuracy"].update_state(tf.equal(lm_ids, self._baseline_token), lm_weights)

        counts = [tf.reduce_sum(lm_weights), tf.reduce_sum(ns_weights)]
        lm_count, ns_count = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, counts)
        loss = tf.math.divide_no_nan(tf.reduce_sum(lm_losses * lm_weights), lm_count)
        loss += tf.math.divide_no_nan(tf.reduce_sum(ns_losses * ns_weights), ns_count)
        return tf.add_n([loss, *(aux_losses or [])])

    def train_step(self, inputs, model, optimizer, metrics):
        """One update, on one replica's share of the global batch."""
        with tf.GradientTape() as tape:
            outputs = model(_model_inputs(inputs), training=True)
            loss = self.build_losses(inputs, outputs, metrics)
        variables = model.trainable_variables
        # The optimizer sums the gradients over replicas: the losses are shares of one mean.
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    def validation_step(self, inputs, model, metrics):
        """Updates the metrics with one replica's share of a batch."""
        self.build_losses(inputs, model(_model_inputs(inputs), training=False), metrics)


def _model_inputs(features):
    return {name: value for name, value in features.items() if name not in IGNORED_BY_MODEL}


def _hits(logits, labels):
    return tf.equal(tf.argmax(logits, axis=-1, output_type=labels.dtype), labels)
