"""The config of a BERT pre-training run: what configs/bert/*.yaml may say."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from config import Section

Probability = Annotated[float, Field(ge=0, le=1)]


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    return text


Pattern = Annotated[str, AfterValidator(_regular_expression)]


class DataConfig(Section):
    """How text becomes examples (Devlin et al. 2018, section 3.1 and appendix A)."""

    vocab_size: int = Field(gt=5, description="the size of the WordPiece vocabulary, special tokens included.")
    dupe_factor: int = Field(gt=0, description="how many times each document is masked anew.")
    masked_lm_probability: Probability = Field(0.15, description="the share of tokens to predict.")
    whole_word_masking: bool = Field(False, description="whether all pieces of a word are predicted together.")
    short_sequence_probability: Probability = Field(0.1, description="the share of pairs made shorter at random.")
    lower_case: bool = Field(True, description="whether to lower-case the text and to strip its accents.")
    seed: int = Field(12345, ge=0, description="the seed of pairing and masking.")


class ModelConfig(Section):
    """The shape of the encoder (Devlin et al. 2018, section 3)."""

    layers: int = Field(gt=0, description="the number of Transformer blocks.")
    hidden_size: int = Field(gt=0, description="the width of a token's representation.")
    attention_heads: int = Field(gt=0, description="the number of attention heads; it divides hidden_size.")
    intermediate_size: int = Field(gt=0, description="the width of the feed-forward layer.")
    dropout_rate: Probability = Field(0.1, description="the dropout of hidden layers and attention.")
    max_positions: int = Field(512, gt=0, description="the number of position embeddings.")

    @model_validator(mode="after")
    def _heads_divide(self):
        if self.hidden_size % self.attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of attention_heads. "
                f"Received: hidden_size={self.hidden_size}, attention_heads={self.attention_heads}"
            )
        return self


class OptimizerConfig(Section):
    """The options of `tf_lamb.model_garden.LAMB` that a run sets; the rate belongs to the stages."""

    beta_1: float = Field(0.9, ge=0, lt=1)
    beta_2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-6, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    exclude_from_weight_decay: tuple[Pattern, ...] = ()
    exclude_from_layer_adaptation: tuple[Pattern, ...] | None = None
    global_clipnorm: float | None = Field(1.0, gt=0)


class StageConfig(Section):
    """One stage of training: linear warmup from zero, then polynomial decay to zero."""

    seq_length: int = Field(gt=8, description="the tokens of an example.")
    max_predictions: int = Field(gt=0, description="the most masked positions of an example.")
    global_batch_size: int = Field(gt=0, description="the sequences of one update, over all replicas.")
    steps: int = Field(gt=0, description="the number of updates.")
    learning_rate: float = Field(gt=0, description="the rate at the end of the warmup.")
    warmup_steps: int = Field(ge=0, description="the updates over which the rate grows from zero.")
    decay_power: float = Field(1.0, gt=0, description="the power of the decay.")

    @model_validator(mode="after")
    def _warmup_fits(self):
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps must be at most steps. Received: warmup_steps={self.warmup_steps}, steps={self.steps}"
            )
        return self


class RunConfig(Section):
    """How often a run reports and saves."""

    steps_per_loop: int = Field(20, gt=0, description="the updates between two returns to the host.")
    checkpoint_every_steps: int = Field(200, gt=0, description="the updates between two checkpoints.")
    eval_global_batch_size: int = Field(128, gt=0, description="the sequences of one evaluation step.")
    seed: int = Field(12345, ge=0, description="the seed of initial weights and of the order of examples.")


class PretrainConfig(Section):
    """A whole run."""

    data: DataConfig
    model: ModelConfig
    optimizer: OptimizerConfig
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _positions_suffice(self):
        longest = max(stage.seq_length for stage in self.stages)
        if longest > self.model.max_positions:
            raise ValueError(
                f"model.max_positions must cover every stage. "
                f"Received: max_positions={self.model.max_positions}, longest seq_length={longest}"
            )
        return self
