"""The config of a SQuAD fine-tuning run: what configs/squad/*.yaml may say."""

from typing import Literal

from pydantic import Field, model_validator

from bert_config import ModelConfig, Pattern, Probability
from config import Section


class SquadDataConfig(Section):
    """How questions and contexts become features (Devlin et al. 2018, section 4.2)."""

    version_2_with_negative: bool = Field(description="whether the files are SQuAD 2.0, with unanswerable questions.")
    seq_length: int = Field(384, gt=8, description="the tokens of a feature: question, window of the context, markers.")
    doc_stride: int = Field(128, gt=0, description="the tokens between the beginnings of two windows of a context.")
    max_query_length: int = Field(64, gt=0, description="the tokens after which a question is cut off.")

    @model_validator(mode="after")
    def _windows_cover_the_context(self):
        room = self.seq_length - self.max_query_length - 3
        if self.doc_stride > room:
            raise ValueError(
                "doc_stride must be at most the room for the context, seq_length - max_query_length - 3, or tokens "
                f"between two windows are in none. Received: doc_stride={self.doc_stride}, room={room}"
            )
        return self


class SquadOptimizerConfig(Section):
    """The options of `tf_lamb.model_garden.LAMB` that a run sets; the rate belongs to the training."""

    name: Literal["adamw", "lamb"] = Field(
        "adamw", description="lamb, or adamw: the same update with no layer adapted, the published fine-tuning."
    )
    beta_1: float = Field(0.9, ge=0, lt=1)
    beta_2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-6, gt=0)
    bias_correction: bool = Field(True, description="whether the moments are corrected for their zero start.")
    weight_decay: float = Field(0.01, ge=0)
    exclude_from_weight_decay: tuple[Pattern, ...] = ()
    global_clipnorm: float | None = Field(1.0, gt=0)

    def arguments(self) -> dict:
        """The keyword arguments of `tf_lamb.model_garden.LAMB`, without the learning rate."""
        options = self.model_dump(exclude={"name"})
        # Without its layer-wise ratio LAMB is AdamW.
        return options | ({"exclude_from_layer_adaptation": (".*",)} if self.name == "adamw" else {})


class SquadTrainingConfig(Section):
    """Linear warmup from zero, then polynomial decay to zero."""

    global_batch_size: int = Field(gt=0, description="the features of one update, over all replicas.")
    epochs: float = Field(gt=0, description="how often each feature is read.")
    learning_rate: float = Field(gt=0, description="the rate at the end of the warmup.")
    warmup_ratio: Probability = Field(0.1, description="the share of the updates over which the rate grows from zero.")
    decay_power: float = Field(1.0, gt=0, description="the power of the decay.")
    decay_start: Literal["warmup_end", "step_zero"] = Field(
        "warmup_end", description="where the decay begins to count; the published code of BERT has step_zero."
    )

    def steps(self, features: int) -> int:
        """The number of updates on so many features, rounded down, at least one."""
        return max(1, int(self.epochs * features / self.global_batch_size))

    def warmup_steps(self, features: int) -> int:
        """The updates over which the rate grows, rounded down."""
        return int(self.warmup_ratio * self.steps(features))


class SquadPredictionConfig(Section):
    """How logits become answers."""

    global_batch_size: int = Field(32, gt=0, description="the features of one prediction step, over all replicas.")
    n_best_size: int = Field(20, gt=0, description="the candidates to keep of each question.")
    max_answer_length: int = Field(30, gt=0, description="the most WordPiece tokens of an answer.")
    null_score_diff_threshold: float = Field(
        0.0, description="SQuAD 2.0: no answer is given where its score is above the best answer's by more than this."
    )


class SquadRunConfig(Section):
    """How often a run reports and saves."""

    steps_per_loop: int = Field(50, gt=0, description="the updates between two returns to the host.")
    checkpoint_every_steps: int = Field(500, gt=0, description="the updates between two checkpoints.")
    seed: int = Field(12345, ge=0, description="the seed of initial weights and of the order of features.")


class SquadConfig(Section):
    """A whole run."""

    data: SquadDataConfig
    model: ModelConfig
    optimizer: SquadOptimizerConfig = SquadOptimizerConfig()
    training: SquadTrainingConfig
    prediction: SquadPredictionConfig = SquadPredictionConfig()
    run: SquadRunConfig = SquadRunConfig()

    @model_validator(mode="after")
    def _positions_suffice(self):
        if self.data.seq_length > self.model.max_positions:
            raise ValueError(
                "model.max_positions must cover data.seq_length. "
                f"Received: max_positions={self.model.max_positions}, seq_length={self.data.seq_length}"
            )
        return self
