"""The config of a SQuAD fine-tuning run: what configs/squad/*.yaml may say."""

from pydantic import Field, model_validator

from bert_config import ModelConfig
from config import Section
from run_config import OptimizerConfig, RunConfig
from stages import StageConfig


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


class SquadPredictionConfig(Section):
    """How logits become answers."""

    global_batch_size: int = Field(32, gt=0, description="the features of one prediction step, over all replicas.")
    n_best_size: int = Field(20, gt=0, description="the candidates to keep of each question.")
    max_answer_length: int = Field(30, gt=0, description="the most WordPiece tokens of an answer.")
    null_score_diff_threshold: float = Field(
        0.0, description="SQuAD 2.0: no answer is given where its score is above the best answer's by more than this."
    )


class SquadConfig(Section):
    """A whole run."""

    data: SquadDataConfig
    model: ModelConfig
    optimizer: OptimizerConfig
    training: StageConfig
    prediction: SquadPredictionConfig = SquadPredictionConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _positions_suffice(self):
        if self.data.seq_length > self.model.max_positions:
            raise ValueError(
                "model.max_positions must cover data.seq_length. "
                f"Received: max_positions={self.model.max_positions}, seq_length={self.data.seq_length}"
            )
        return self
