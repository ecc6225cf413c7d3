"""SQuAD as a span of the context: Model Garden's model, and a loss that is one mean over the global batch."""

import tensorflow as tf
from official.nlp.configs import encoders
from official.nlp.data.question_answering_dataloader import QADataConfig
from official.nlp.tasks import question_answering

import bert_task
from weighted_means import WeightedMean

LABELS = ("start_positions", "end_positions", "unique_ids")


class SquadTask(question_answering.QuestionAnsweringTask):
    """The first and the last token of the answer (Devlin et al. 2018, section 4.2).

    Model Garden's task takes a mean over each replica's share of the batch. Here the losses are sums over the global
    batch, divided once by its size, so a batch gives the same gradients however it is divided.

    Args:
        config: The `squad_config.SquadConfig`.
        vocab_size: The size of the vocabulary.
    """

    shown = {"loss": "loss", "start": "start_accuracy", "end": "end_accuracy", "lr": "learning_rate"}

    def __init__(self, config, vocab_size):
        encoder: encoders.EncoderConfig = bert_task.model_config(config.model, vocab_size).encoder
        super().__init__(
            question_answering.QuestionAnsweringConfig(
                model=question_answering.ModelConfig(encoder=encoder),
                n_best_size=config.prediction.n_best_size,
                max_answer_length=config.prediction.max_answer_length,
                null_score_diff_threshold=config.prediction.null_score_diff_threshold,
                validation_data=QADataConfig(version_2_with_negative=config.data.version_2_with_negative),
            )
        )

    def build_model(self):
        """Makes the model with all its variables."""
        model = super().build_model()
        # The spans are read from the sequence output; nothing reads the pooler's, so it has no gradient.
        encoder_of(model).get_layer("pooler_transform").trainable = False
        return model

    def build_metrics(self, training=None):
        """Makes the metrics, each a mean over features."""
        del training
        return [WeightedMean(name) for name in ("loss", "start_accuracy", "end_accuracy")]

    def loss_weights(self, features):
        """The count of features, the denominator of the loss."""
        return [tf.cast(tf.shape(features["start_positions"])[0], tf.float32)]

    def losses(self, features, outputs, totals, metrics):
        """A share of the loss; the loss is the sum of all shares of a global batch.

        Args:
            features: Some features of the batch, with int32 `start_positions` and `end_positions` of shape `[batch]`.
            outputs: The logits of starts and ends, each `[batch, seq_length]`.
            totals: The sum of `loss_weights` over the whole batch.
            metrics: The metrics of `build_metrics`, which are updated.

        Returns:
            A float32 scalar.
        """
        metrics = {metric.name: metric for metric in metrics}
        losses = []
        for name, logits in zip(("start", "end"), outputs, strict=True):
            logits, positions = tf.cast(logits, tf.float32), features[f"{name}_positions"]
            losses.append(tf.nn.sparse_softmax_cross_entropy_with_logits(positions, logits))
            hits = tf.equal(tf.argmax(logits, axis=-1, output_type=positions.dtype), positions)
            metrics[f"{name}_accuracy"].update_state(hits)
        loss = tf.add_n(losses) / 2
        metrics["loss"].update_state(loss)
        return tf.reduce_sum(loss) / totals[0]

    def model_inputs(self, features):
        """The features that the model reads."""
        return {name: value for name, value in features.items() if name not in LABELS}

    def validation_step(self, inputs, model, metrics=None):
        """The logits of one replica's share of a batch, float32, with the ids of its features."""
        del metrics
        start_logits, end_logits = model(self.model_inputs(inputs), training=False)
        return {
            "unique_ids": inputs["unique_ids"],
            "start_logits": tf.cast(start_logits, tf.float32),
            "end_logits": tf.cast(end_logits, tf.float32),
        }


def encoder_of(model):
    """The encoder of a model of `SquadTask`."""
    return model.checkpoint_items["encoder"]
