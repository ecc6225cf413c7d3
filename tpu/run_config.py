"""What every training config may say of its optimizer, its precision, and how the run goes on."""

import functools
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from config import Section


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    return text


Pattern = Annotated[str, AfterValidator(_regular_expression)]
MomentDtype = Literal["float32", "bfloat16"]


class _LayerwiseConfig(Section):
    """The options that all optimizers share; the rate belongs to the stages."""

    weight_decay: float = Field(0.01, ge=0)
    exclude_from_weight_decay: tuple[Pattern, ...] = ()
    exclude_from_layer_adaptation: tuple[Pattern, ...] | None = None
    global_clipnorm: float | None = Field(1.0, gt=0)


class LambConfig(_LayerwiseConfig):
    """LAMB, or AdamW: the same update with no layer adapted. Adam is AdamW with weight_decay=0."""

    name: Literal["lamb", "adamw"] = "lamb"
    beta_1: float = Field(0.9, ge=0, lt=1)
    beta_2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-6, gt=0)
    bias_correction: bool = True
    nesterov: Literal[False, "m", "mv"] = False
    moment_dtype: MomentDtype | tuple[MomentDtype, MomentDtype] = Field(
        "float32", description="in which the two moments are kept; bfloat16 takes half the memory."
    )


class LarsConfig(_LayerwiseConfig):
    """LARS, by default the form of algorithm 1 of the LAMB paper."""

    name: Literal["lars"]
    momentum: float = Field(0.9, ge=0, lt=1)
    dampening: float = Field(0.9, ge=0, lt=1)
    trust_coefficient: float = Field(1.0, gt=0)
    nesterov: bool = False
    ratio_position: Literal["before_momentum", "after_momentum"] = "after_momentum"
    denominator: Literal["sum_of_norms", "norm_of_sum"] = "sum_of_norms"


class MomentumConfig(_LayerwiseConfig):
    """Stochastic gradient descent with momentum: LARS with no layer adapted. Decay is added to the gradient."""

    name: Literal["momentum"]
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False


class AdagradConfig(_LayerwiseConfig):
    """AdaGrad. Decay is added to the gradient."""

    name: Literal["adagrad"]


def _named(value: Any) -> Any:
    # LAMB is meant where a config names no optimizer.
    return {"name": "lamb", **value} if isinstance(value, dict) else value


OptimizerConfig = Annotated[
    LambConfig | LarsConfig | MomentumConfig | AdagradConfig, Field(discriminator="name"), BeforeValidator(_named)
]


class RunConfig(Section):
    """How a run reports, saves and stops."""

    steps_per_loop: Annotated[int, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="the updates between two returns to the host; auto: as many as take about four seconds."
    )
    checkpoint_every_steps: int = Field(200, gt=0, description="the updates between two checkpoints.")
    mixed_precision: Literal["auto", "float32", "mixed_bfloat16"] = Field(
        "auto", description="the precision of the model; auto: mixed_bfloat16 on a TPU, else float32."
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        "stop", description="whether a loss that is not finite ends the run, or its step is left out."
    )
    seed: int = Field(12345, ge=0, description="the seed of initial weights, of dropout and of the order of examples.")


def make_optimizer(config: OptimizerConfig, run: RunConfig):
    """A function of a learning-rate schedule that makes the optimizer of a config."""
    from adagrad import Adagrad
    from tf_lamb.model_garden import LAMB, LARS

    classes = {"lamb": LAMB, "adamw": LAMB, "lars": LARS, "momentum": LARS, "adagrad": Adagrad}
    options = {"telemetry": True, "skip_nonfinite": run.on_nonfinite == "skip", **config.model_dump(exclude={"name"})}
    if config.name == "momentum":
        options["ratio_position"] = "after_momentum"  # which has the rate outside the momentum
    if config.name not in ("lamb", "lars"):
        options["exclude_from_layer_adaptation"] = (".*",)
    return functools.partial(classes[config.name], **options)
