"""The config of a BERT pre-training run: what configs/bert/*.yaml may say."""

from typing import Annotated

from pydantic import Field, model_validator

from config import Section
from run_config import OptimizerConfig, RunConfig
from stages import StageConfig

Probability = Annotated[float, Field(ge=0, le=1)]


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


class BertStageConfig(StageConfig):
    """One stage of pre-training."""

    seq_length: int = Field(gt=8, description="the tokens of an example.")
    max_predictions: int = Field(gt=0, description="the most masked positions of an example.")


class PretrainRunConfig(RunConfig):
    """How a pre-training run goes on."""

    eval_global_batch_size: int = Field(128, gt=0, description="the sequences of one evaluation step.")
    dynamic_masking: bool = Field(False, description="whether every epoch masks the examples anew.")


class PretrainConfig(Section):
    """A whole run."""

    data: DataConfig
    model: ModelConfig
    optimizer: OptimizerConfig
    stages: tuple[BertStageConfig, ...] = Field(min_length=1)
    run: PretrainRunConfig = PretrainRunConfig()

    @model_validator(mode="after")
    def _positions_suffice(self):
        longest = max(stage.seq_length for stage in self.stages)
        if longest > self.model.max_positions:
            raise ValueError(
                f"model.max_positions must cover every stage. "
                f"Received: max_positions={self.model.max_positions}, longest seq_length={longest}"
            )
        return self
