"""What a config trains, without its data: its task, its stages, and the features of an update."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from bert_config import PretrainConfig
from config import ConfigError, Section
from image_config import ImageConfig
from image_manifest import IMAGENET_CLASSES, IMAGENET_IMAGES
from squad_config import SquadConfig
from stages import Stage, resolve

# Of the vocabulary of BERT's public checkpoints.
PUBLIC_VOCAB_SIZE = 30_522
# Questions of the training files of SQuAD 1.1, and of 2.0; a few more features are made of them.
SQUAD_QUESTIONS = {False: 87_599, True: 130_319}


@dataclass(frozen=True)
class Recipe:
    """A config of one of the training commands.

    Attributes:
        config: The `PretrainConfig`, `SquadConfig` or `ImageConfig`.
    """

    config: Any

    def stages(self, replicas: int, examples: int | None = None) -> tuple[Stage, ...]:
        """The stages on so many replicas.

        Args:
            replicas: How many.
            examples: The training examples, of which stages with epochs make their steps; by default ImageNet's or
                SQuAD's.

        Raises:
            ConfigError: The replicas do not divide a batch, or the number of examples is needed.
        """

        def count(stage):
            known = examples or self.known_examples
            if known is None:
                raise ConfigError(
                    f"The steps of a stage with epochs follow from the number of examples. Received: epochs="
                    f"{stage.epochs} and no --examples. Expected for example --examples 1000000."
                )
            return known

        return resolve(self._stage_configs, replicas, count)

    @property
    def known_examples(self) -> int | None:
        """The training examples of the public data, if the config is for such."""
        if isinstance(self.config, ImageConfig):
            return IMAGENET_IMAGES
        if isinstance(self.config, SquadConfig):
            return SQUAD_QUESTIONS[self.config.data.version_2_with_negative]
        return None

    @property
    def _stage_configs(self):
        return [self.config.training] if isinstance(self.config, SquadConfig) else self.config.stages

    def make_task(self):
        """The task, as its training command makes it, with a vocabulary or classes of the public data's size."""
        config = self.config
        if isinstance(config, PretrainConfig):
            from bert_task import PretrainTask

            return PretrainTask(config.model, config.data.vocab_size, baseline_token=0)
        if isinstance(config, SquadConfig):
            from squad_task import SquadTask

            return SquadTask(config, PUBLIC_VOCAB_SIZE)
        from image_task import ImageTask

        return ImageTask(config, IMAGENET_CLASSES)

    def features(self, stage: Stage, dtype: tf.DType) -> dict[str, tf.TensorSpec]:
        """The features of a replica's share of a global batch.

        Args:
            stage: One of `stages`.
            dtype: In which the model computes.
        """
        config, share = self.config, stage.per_replica_batch_size * stage.micro_batches

        def spec(*shape, of=tf.int32):
            return tf.TensorSpec([share, *shape], of)

        if isinstance(config, ImageConfig):
            size = config.data.image_size
            return {
                "image": spec(size, size, 3, of=dtype),
                "label": spec(),
                "weight": spec(of=tf.float32),
                "is_corrupt": spec(of=tf.float32),
            }
        length = (config.data if isinstance(config, SquadConfig) else stage.config).seq_length
        tokens = {name: spec(length) for name in ("input_word_ids", "input_mask", "input_type_ids")}
        if isinstance(config, SquadConfig):
            return tokens | {"start_positions": spec(), "end_positions": spec()}
        predictions = stage.config.max_predictions
        return tokens | {
            "masked_lm_positions": spec(predictions),
            "masked_lm_ids": spec(predictions),
            "masked_lm_weights": spec(predictions, of=tf.float32),
            "next_sentence_labels": spec(),
            "example_weights": spec(of=tf.float32),
        }


def schema_of(tree: Any) -> type[Section]:
    """The schema of a YAML config of train_bert.py, finetune_squad.py or train_resnet.py, for `config.load`."""
    if not isinstance(tree, dict):
        return PretrainConfig
    if "training" in tree:
        return SquadConfig
    stages = tree.get("stages")
    first = stages[0] if isinstance(stages, list) and stages else {}
    return PretrainConfig if isinstance(first, dict) and "seq_length" in first else ImageConfig
