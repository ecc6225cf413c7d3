"""What a stage of training costs on a slice: its step is lowered, compiled for all replicas, and counted."""

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

import hlo_text
import roofline
from config import ConfigError, RunError
from hlo_text import Costs
from recipe import Recipe
from roofline import Roofline, RunCost
from slice_compiler import Compiled, compile_for
from stages import Stage
from step_lowering import Lowered, lower_step, lower_update
from tpu_chips import Topology
from worker_pool import WorkerDied, WorkerPool


@dataclass(frozen=True)
class StagePlan:
    """What is known of a stage before it runs.

    Attributes:
        stage: The `stages.Stage`.
        lowered: Its step, see `step_lowering.Lowered`.
        compiled: What the compiler says of it, of one core.
        costs: Of one update, of one core; None where the step does not fit.
        time: The least time of an update; None where the step does not fit.
        run: The least cost of the stage; None where the step does not fit.
    """

    stage: Stage
    lowered: Lowered
    compiled: Compiled
    costs: Costs | None = None
    time: Roofline | None = None
    run: RunCost | None = None


@dataclass(frozen=True)
class UpdatePlan:
    """What the optimizer's update costs by itself.

    Attributes:
        hbm_bytes: Read and written by one update, of one core.
        parameters: The trainable weights.
    """

    hbm_bytes: float
    parameters: int

    @property
    def words_per_parameter(self) -> float:
        """Words of 4 bytes that the update reads and writes for each parameter."""
        return roofline.words_per_parameter(self.hbm_bytes, self.parameters)


def plan_stage(recipe: Recipe, stage: Stage, topology: Topology) -> StagePlan:
    """Compiles the step of a stage for a slice, and counts what it costs.

    Args:
        recipe: The `recipe.Recipe`.
        stage: One of its stages, for as many replicas as the slice has.
        topology: The slice.

    Raises:
        ConfigError: A TPU cannot run the step.
        RunError: This machine cannot compile it.
    """
    lowered, compiled, text = _compile(lower_step, recipe, stage, topology)
    if not compiled.fits:
        return StagePlan(stage, lowered, compiled)
    costs = hlo_text.summary(text)
    time = roofline.estimate(costs, topology)
    return StagePlan(stage, lowered, compiled, costs, time, roofline.run_cost(stage.steps, time.step_seconds, topology))


def plan_update(recipe: Recipe, stage: Stage, topology: Topology) -> UpdatePlan | None:
    """What the optimizer's update costs by itself, given the sums of the gradients; see `plan_stage`.

    Returns:
        An `UpdatePlan`, or None if it does not fit.
    """
    lowered, compiled, text = _compile(lower_update, recipe, stage, topology)
    return UpdatePlan(hlo_text.summary(text).hbm_bytes, lowered.parameters) if compiled.fits else None


def largest_batch(recipe: Recipe, stage: Stage, topology: Topology, report) -> StagePlan | None:
    """Finds the largest per-replica batch of a stage that fits, with the accumulation that it implies.

    Args:
        recipe: As in `plan_stage`.
        stage: As in `plan_stage`; its own division of the batch is not looked at.
        topology: As in `plan_stage`.
        report: Called with the plan of each division that is tried.

    Returns:
        The plan of the largest that fits, or None if not even one example does.
    """
    share = stage.per_replica_batch_size * stage.micro_batches
    sizes = [size for size in range(1, share + 1) if share % size == 0]
    best, low, high = None, 0, len(sizes)
    # All below `low` fit, none from `high` on; the middle is tried first, as a large step compiles slowly.
    while low < high:
        middle = (low + high) // 2
        size = sizes[middle]
        divided = dataclasses.replace(stage, per_replica_batch_size=size, micro_batches=share // size)
        plan = plan_stage(recipe, divided, topology)
        report(plan)
        if plan.compiled.fits:
            best, low = plan, middle + 1
        else:
            high = middle
    return best


def stages_on(recipe: Recipe, topology: Topology, examples: int | None, number: int | None) -> tuple[Stage, ...]:
    """The stages to plan.

    Args:
        recipe: The `recipe.Recipe`.
        topology: The slice.
        examples: As in `Recipe.stages`.
        number: Of the only stage to plan, from 1; None for all.

    Raises:
        ConfigError: The slice's replicas do not divide a batch, or there is no such stage.
    """
    try:
        stages = recipe.stages(topology.replicas, examples)
    except ConfigError as error:
        raise ConfigError(f"{error} ({topology.name} has {topology.replicas:,} replicas.)") from None
    if number is None:
        return stages
    if not 1 <= number <= len(stages):
        raise ConfigError(f"There is no such stage. Received: --stage {number}. Expected 1 to {len(stages)}.")
    return (stages[number - 1],)


def _compile(lower, recipe, stage, topology):
    with tempfile.TemporaryDirectory() as folder:
        module, hlo = Path(folder, "step.mlir"), Path(folder, "step.hlo")
        # TensorFlow never lets go of what was traced: the model would lie beside the compiler.
        with WorkerPool(2) as pool:
            try:
                lowered = pool.run_apart(lower, recipe, stage, module)
            except WorkerDied as error:
                raise RunError(str(error)) from None
        compiled = compile_for(module, topology, hlo)
        return lowered, compiled, hlo.read_text(encoding="utf-8") if compiled.fits else ""
