"""The plan of a run on a slice, in words and as figures."""

import dataclasses

import roofline

GIB = 2**30


def of_stage(plan, topology):
    """The lines of a stage.

    Args:
        plan: Its `slice_plan.StagePlan`.
        topology: The `tpu_chips.Topology`.
    """
    compiled, lowered = plan.compiled, plan.lowered
    if not compiled.fits:
        yield f"  fits        no: {_memory(compiled)} a core"
        yield "              a smaller max_per_replica_batch_size means more accumulated parts; --sweep finds one"
        return
    costs, time = plan.costs, plan.time
    yield (
        f"  fits        yes: {_memory(compiled)} a core: arguments {compiled.argument_bytes / GIB:.2f}, temporaries "
        f"{compiled.temporary_bytes / GIB:.2f}, program {compiled.generated_code_bytes / GIB:.2f}"
    )
    yield (
        f"  one update  {costs.matrix_flops:.4g} matrix FLOPs and {costs.hbm_bytes:.4g} bytes of memory traffic a core"
    )
    yield (
        f"  all-reduce  {lowered.all_reduces:,} tensors of {costs.all_reduce_bytes:.4g} bytes in {costs.all_reduces}; "
        f"{lowered.parameters:,} parameters in {lowered.variables:,} variables"
    )
    shares = (
        ("matrix units", time.matrix_seconds),
        ("memory", time.memory_seconds),
        ("all-reduce", time.all_reduce_seconds),
    )
    parts = ", ".join(f"{name} {seconds * 1e3:.4g} ms" for name, seconds in shares)
    yield f"  time        at least {time.step_seconds * 1e3:.4g} ms an update, bound by {time.bound}: {parts}"
    examples = plan.stage.global_batch_size / time.step_seconds
    yield (
        f"  stage       at least {plan.run.hours:.4g} hours, {plan.run.chip_hours:.4g} chip-hours; at most "
        f"{examples:,.0f} examples/s on {topology.chips:,} chips"
    )
    if costs.unknown_loops:
        yield f"  incomplete  {costs.unknown_loops} loops have no known number of rounds, and count once"


def of_run(recipe, stage_number, update, total):
    """The lines below the stages.

    Args:
        recipe: The `recipe.Recipe`.
        stage_number: Of the only stage that was planned; None where all were.
        update: The `slice_plan.UpdatePlan`, or None if it does not fit.
        total: The `roofline.RunCost` of the stages, or None if one does not fit.
    """
    yield ""
    if update is not None:
        is_lamb = recipe.config.optimizer.name == "lamb"
        least = " (LAMB needs 10 for what is too large to stay on the chip)" if is_lamb else ""
        yield f"update: {update.words_per_parameter:.2f} words of memory traffic per parameter{least}"
    what = f"stage {stage_number} alone" if stage_number else "whole run"
    if total is None:
        yield f"{what}: does not fit"
    else:
        yield f"{what}: {total.steps:,} steps, at least {total.hours:.4g} hours, {total.chip_hours:,.4g} chip-hours"
    yield "A lower bound, by these assumptions; nothing was run on a TPU:"
    yield from (f"- {assumption}" for assumption in roofline.ASSUMPTIONS)


def trial(plan):
    """A line on one division of a batch that was tried."""
    stage = plan.stage
    return (
        f"  tried       {stage.per_replica_batch_size:,} x {stage.micro_batches:,} accumulated: "
        f"{'fits' if plan.compiled.fits else 'does not fit'}, {_memory(plan.compiled)}"
    )


def largest(stage, found):
    """A line on the largest batch of a replica that fits; `found` is its plan, or None."""
    if found is None:
        return "  largest     none: not even one example of a replica fits"
    best, share = found.stage, stage.per_replica_batch_size * stage.micro_batches
    whole = ", its whole share of the batch" if best.per_replica_batch_size == share else ""
    return f"  largest     {best.per_replica_batch_size:,} a replica{whole}, {best.micro_batches:,} accumulated"


def figures(plan):
    """A stage as a dictionary for JSON."""
    stage = plan.stage
    return {
        "number": stage.number,
        "global_batch_size": stage.global_batch_size,
        "per_replica_batch_size": stage.per_replica_batch_size,
        "micro_batches": stage.micro_batches,
        "lowered": dataclasses.asdict(plan.lowered),
        "compiled": dataclasses.asdict(plan.compiled),
        "costs": plan.costs and dataclasses.asdict(plan.costs),
        "time": plan.time and dataclasses.asdict(plan.time) | {"bound": plan.time.bound},
        "run": plan.run and dataclasses.asdict(plan.run),
    }


def _memory(compiled):
    return f"{compiled.needed_bytes / GIB:.2f} of {compiled.available_bytes / GIB:.2f} GiB"
