"""The stages of a training run: what a config may say of them, and the numbers that follow from it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, PositiveFloat, model_validator

from config import ConfigError, Section


class ScaledRate(Section):
    """A learning rate that is known at one batch size, and follows the global batch by a rule."""

    rule: Literal["square_root", "linear"]
    base_learning_rate: float = Field(gt=0)
    base_global_batch_size: int = Field(gt=0)


class StageConfig(Section):
    """One stage of training: linear warmup, then polynomial decay."""

    global_batch_size: int = Field(gt=0, description="the examples of one update, over all replicas.")
    max_per_replica_batch_size: int | None = Field(
        None, gt=0, description="the most examples that a replica holds at once; more are accumulated."
    )
    steps: int | None = Field(None, gt=0, description="the number of updates; or epochs.")
    epochs: float | None = Field(None, gt=0, description="the passes over the training examples; or steps.")
    learning_rate: PositiveFloat | ScaledRate | None = Field(
        None, description="the rate at the end of the warmup, or a rule."
    )
    warmup_steps: int | None = Field(None, ge=0, description="the updates over which the rate grows from zero.")
    warmup_ratio: float | None = Field(None, ge=0, le=1, description="the same, as a share of the schedule's updates.")
    warmup_epochs: float | None = Field(None, ge=0, description="the same, as passes over the training examples.")
    warmup_offset_steps: int = Field(0, ge=0, description="the updates of the warmup that lie before the first.")
    decay_power: float = Field(1.0, ge=0, description="the power of the decay.")
    decay_start: Literal["warmup_end", "step_zero"] = "warmup_end"
    end_learning_rate: float = Field(0.0, ge=0, description="the rate at the end of the schedule.")
    continues_schedule: bool = Field(False, description="whether the schedule of the stage before spans this one too.")
    moments: Literal["keep", "reset"] = Field("keep", description="the optimizer's state at the stage's beginning.")

    @model_validator(mode="after")
    def _says_each_thing_once(self):
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"give either steps or epochs. Received: steps={self.steps}, epochs={self.epochs}")
        warmups = ("warmup_steps", "warmup_ratio", "warmup_epochs")
        of_schedule = ("learning_rate", *warmups, "warmup_offset_steps", "decay_power")
        of_schedule += ("decay_start", "end_learning_rate")
        fields = type(self).model_fields
        given = [name for name in of_schedule if getattr(self, name) != fields[name].default]
        if self.continues_schedule:
            if given or self.moments == "reset":
                raise ValueError(
                    "a stage with continues_schedule has no schedule and no moments of its own. "
                    f"Received: {', '.join([*given, *['moments=reset'] * (self.moments == 'reset')])}"
                )
        elif self.learning_rate is None or sum(getattr(self, name) is not None for name in warmups) != 1:
            received = ", ".join(f"{name}={getattr(self, name)}" for name in ("learning_rate", *warmups))
            raise ValueError(f"give learning_rate, and one of {', '.join(warmups)}. Received: {received}")
        return self


@dataclass(frozen=True)
class Stage:
    """A stage of a run with all its numbers.

    Attributes:
        number: Its place among the stages, from 1.
        config: The `StageConfig` that it follows.
        first_step: How many updates the stages before it make.
        steps: How many updates it makes.
        replicas: Over how many replicas its batches are divided.
        micro_batches: In how many parts a replica works through its share of a batch, one after the other.
        per_replica_batch_size: The examples of one such part.
        schedule_number: The number of the stage whose schedule it follows.
        schedule_steps: The updates of that schedule.
        learning_rate: The rate at the end of that schedule's warmup.
        warmup_steps: The updates of that warmup.
    """

    number: int
    config: Any
    first_step: int
    steps: int
    replicas: int
    micro_batches: int
    per_replica_batch_size: int
    schedule_number: int
    schedule_steps: int
    learning_rate: float
    warmup_steps: int

    @property
    def last_step(self) -> int:
        """The count of updates at its end."""
        return self.first_step + self.steps

    @property
    def global_batch_size(self) -> int:
        """The examples of one update."""
        return self.config.global_batch_size

    def seed(self, seed: int) -> int:
        """The seed of its examples' order, in a run of such a seed."""
        return seed + 1_000_000 * self.number

    def describe(self) -> str:
        """The stage's arithmetic, in a line."""
        return (
            f"stage {self.number}: {self.steps:,} steps of {self.global_batch_size:,} = {self.replicas:,} replicas x "
            f"{self.per_replica_batch_size:,} x {self.micro_batches:,} accumulated; rate {self.learning_rate:.6g} "
            f"after {self.warmup_steps:,} of {self.schedule_steps:,} steps"
        )


def resolve(
    configs: Sequence[StageConfig], replicas: int, count_examples: Callable[[StageConfig], int]
) -> tuple[Stage, ...]:
    """The stages of a run on so many replicas.

    Args:
        configs: The stages' configs.
        replicas: The replicas of the strategy.
        count_examples: Gives the number of training examples of a stage; asked for stages with epochs only.

    Raises:
        ConfigError: A global batch cannot be divided, a warmup is longer than its schedule, or the first stage
            continues a schedule.
    """
    from tf_lamb.schedules import linear_scaling, square_root_scaling

    rules = {"linear": linear_scaling, "square_root": square_root_scaling}
    if configs[0].continues_schedule:
        raise ConfigError("The first stage has no schedule to continue. Received: stages.0.continues_schedule=True.")
    steps = [
        stage.steps or math.ceil(stage.epochs * count_examples(stage) / stage.global_batch_size) for stage in configs
    ]
    owners = [max(i for i in range(index + 1) if not configs[i].continues_schedule) for index in range(len(configs))]
    stages = []
    for index, (stage, owner) in enumerate(zip(configs, owners, strict=True)):
        leader = configs[owner]
        schedule_steps = sum(count for count, other in zip(steps, owners, strict=True) if other == owner)
        rate = leader.learning_rate
        if isinstance(rate, ScaledRate):
            scale = rules[rate.rule]
            rate = scale(rate.base_learning_rate, rate.base_global_batch_size, leader.global_batch_size)
        warmup_steps = leader.warmup_steps
        if leader.warmup_ratio is not None:
            warmup_steps = round(leader.warmup_ratio * schedule_steps)
        elif leader.warmup_epochs is not None:
            warmup_steps = round(leader.warmup_epochs * count_examples(leader) / leader.global_batch_size)
        if not warmup_steps <= schedule_steps + leader.warmup_offset_steps:
            raise ConfigError(
                f"The warmup of stages.{owner} must end within its schedule. Received: warmup_steps={warmup_steps:,}, "
                f"{schedule_steps:,} steps. Expected at most {schedule_steps + leader.warmup_offset_steps:,}."
            )
        per_replica, micro_batches = split(stage.global_batch_size, replicas, stage.max_per_replica_batch_size)
        stages.append(
            Stage(
                number=index + 1,
                config=stage,
                first_step=sum(steps[:index]),
                steps=steps[index],
                replicas=replicas,
                micro_batches=micro_batches,
                per_replica_batch_size=per_replica,
                schedule_number=owner + 1,
                schedule_steps=schedule_steps,
                learning_rate=rate,
                warmup_steps=warmup_steps,
            )
        )
    return tuple(stages)


def split(global_batch_size: int, replicas: int, max_per_replica_batch_size: int | None) -> tuple[int, int]:
    """Divides a global batch among replicas, and each share into the fewest equal parts that a replica can hold.

    Returns:
        The examples of a part, and the number of parts: global batch = replicas x examples x parts.

    Raises:
        ConfigError: The replicas do not divide the batch.

    Example:
        >>> split(65_536, 8, 64)
        (64, 128)
        >>> split(65_536, 2_048, 64)
        (32, 1)
    """
    share, rest = divmod(global_batch_size, replicas)
    if rest:
        raise ConfigError(
            f"A global batch must be a multiple of the replicas. Received: {global_batch_size:,} examples = "
            f"{replicas:,} replicas x {share:,} + {rest:,}. Expected for example {(share + 1) * replicas:,}."
        )
    limit = max_per_replica_batch_size or share
    parts = next(parts for parts in range(-(-share // limit), share + 1) if share % parts == 0)
    return share // parts, parts


def schedule(stages: Sequence[Stage]):
    """The learning rate over consecutive stages, a `tf_lamb.schedules.Stages` that counts from the first of them."""
    from tf_lamb.schedules import Stages, WarmupPolynomialDecay

    schedules, steps = [], []
    for stage in stages:
        if stage.schedule_number != stage.number:
            continue
        leader = stage.config
        schedules.append(
            WarmupPolynomialDecay(
                stage.learning_rate,
                stage.schedule_steps,
                stage.warmup_steps,
                leader.decay_power,
                leader.end_learning_rate,
                leader.decay_start,
                leader.warmup_offset_steps,
            )
        )
        steps.append(stage.schedule_steps)
    return Stages(schedules, steps)


def eras(stages: Sequence[Stage]) -> list[tuple[Stage, ...]]:
    """The stages in groups that share one optimizer: a stage that resets the moments begins a new one."""
    groups = []
    for stage in stages:
        if not groups or stage.config.moments == "reset":
            groups.append(())
        groups[-1] += (stage,)
    return groups
