"""Training steps compiled for slices of TPUs that are not there: what is counted, what is printed, what is refused."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("official", reason="needs tf-models-official")
pytest.importorskip("libtpu", reason="needs the extra [aot]")

import tensorflow as tf  # noqa: E402

import aot  # noqa: E402
import recipe as recipes  # noqa: E402
import slice_plan  # noqa: E402
from config import ConfigError, RunError, load  # noqa: E402
from slice_compiler import Compiled  # noqa: E402
from step_lowering import Lowered, lower_step  # noqa: E402
from tpu_chips import parse_topology  # noqa: E402

pytestmark = [pytest.mark.aot, pytest.mark.model_garden, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "bert" / "tiny.yaml"
# Layers, width, intermediate width, words, tokens and masked positions of an example.
SHAPE = {"layers": 2, "width": 128, "intermediate": 512, "words": 8000, "tokens": 64, "masked": 10}
PER_CORE, PARTS = 8, 4
RUNS = {
    "v3, accumulated": ("v3:4x4", f"stages.0.max_per_replica_batch_size={PER_CORE}", "optimizer.global_clipnorm=null"),
    "v5e, clipped": ("v5e:4x4", "optimizer.global_clipnorm=1.0"),
}


def sized(topology):
    """The override that gives every replica of a slice `PER_CORE * PARTS` examples."""
    replicas = parse_topology(topology).replicas
    return [f"stages.{number}.global_batch_size={PER_CORE * PARTS * replicas}" for number in (0, 1)]


@pytest.fixture(scope="module", params=RUNS)
def planned(request, tmp_path_factory):
    """A run of the command on the first stage: its name, exit code, output and figures."""
    topology, *overrides = RUNS[request.param]
    path = tmp_path_factory.mktemp("aot") / "figures.json"
    command = ["--config_file", str(TINY), "--topology", topology, "--stage", "1", "--json", str(path)]
    command = [sys.executable, "tpu/aot.py", *command, "--set", *sized(topology), *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert path.exists(), done.stderr
    return request.param, done, json.loads(path.read_text())


def closed_form_flops():
    """6 x each matrix weight x the positions it sees, and 12 x layers x length x width a token, of a replica."""
    s, examples = SHAPE, PER_CORE * PARTS
    tokens, masked = s["tokens"] * examples, s["masked"] * examples
    encoder = s["layers"] * (4 * s["width"] ** 2 + 2 * s["width"] * s["intermediate"])
    head = s["width"] ** 2 + s["width"] * s["words"]
    pooler = s["width"] ** 2 + 2 * s["width"]
    attention = 12 * s["layers"] * s["tokens"] * s["width"] * tokens
    return 6 * (encoder * tokens + head * masked + pooler * examples) + attention


def test_the_command_succeeds(planned):
    name, done, figures = planned
    assert done.returncode == 0 and figures["fits"]
    for word in (
        "fits        yes",
        "matrix FLOPs",
        "all-reduce",
        "bound by",
        "words of memory traffic",
        "stage 1 alone",
    ):
        assert word in done.stdout, done.stdout
    assert "nothing was run on a TPU" in done.stdout
    stage = figures["stages"][0]
    parts = PARTS if "accumulated" in name else 1
    assert (stage["per_replica_batch_size"], stage["micro_batches"]) == (PER_CORE * PARTS // parts, parts)


def test_flops_are_the_closed_form(planned):
    _, _, figures = planned
    assert figures["stages"][0]["costs"]["matrix_flops"] == pytest.approx(closed_form_flops(), rel=0.05)


def test_all_reduces_carry_the_parameters_once(planned):
    _, _, figures = planned
    stage = figures["stages"][0]
    lowered, costs = stage["lowered"], stage["costs"]
    # And the two denominators of the loss.
    assert lowered["all_reduces"] == costs["all_reduce_tensors"] == lowered["variables"] + 2
    assert lowered["all_reduce_bytes"] == costs["all_reduce_bytes"] == 4 * (lowered["parameters"] + 2)
    assert costs["all_reduces"] <= 4
    assert (costs["host_transfers"], costs["dynamic_shapes"], costs["unknown_loops"]) == (0, 0, 0)


def test_the_update_is_near_the_floor_of_ten_words(planned):
    name, _, figures = planned
    if name.startswith("v3"):
        assert 10 <= figures["words_per_parameter"] <= 10.2
    else:
        # Clipping reads the gradients once more; this chip keeps small variables on itself, which saves some.
        assert figures["words_per_parameter"] <= 11.2


def test_memory_holds_the_state(planned):
    _, _, figures = planned
    stage = figures["stages"][0]
    compiled, lowered = stage["compiled"], stage["lowered"]
    # Weights and both moments; tiles are padded.
    assert lowered["state_bytes"] >= 12 * lowered["parameters"]
    assert compiled["aliased_bytes"] == pytest.approx(lowered["state_bytes"], rel=0.05)
    assert compiled["argument_bytes"] == pytest.approx(lowered["state_bytes"] + lowered["feature_bytes"], rel=0.05)
    assert compiled["needed_bytes"] < compiled["available_bytes"]


def test_times_follow_from_the_costs(planned):
    name, _, figures = planned
    stage, run = figures["stages"][0], figures["run"]
    time, costs = stage["time"], stage["costs"]
    chips, flops, bandwidth = (16, 61.5e12, 450e9) if name.startswith("v3") else (16, 197e12, 819e9)
    moved = costs["hbm_read_bytes"] + costs["hbm_written_bytes"]
    assert time["matrix_seconds"] == pytest.approx(costs["matrix_flops"] / flops)
    assert time["memory_seconds"] == pytest.approx(moved / bandwidth)
    seconds = max(time["matrix_seconds"], time["memory_seconds"], time["all_reduce_seconds"])
    assert run["hours"] == pytest.approx(2500 * seconds / 3600) and run["chip_hours"] == pytest.approx(
        chips * run["hours"]
    )


def recipe_and_stage(*overrides, topology="v3:2x2"):
    recipe = recipes.Recipe(load(TINY, recipes.schema_of, [*sized(topology), *overrides]))
    return recipe, recipe.stages(parse_topology(topology).replicas)[0]


def test_what_does_not_fit_has_its_exit_code(monkeypatch, tmp_path, capsys):
    """The compiler's answer is given here: a step that is too large takes minutes."""
    lowered = Lowered(1, 1, 12, 0, 1, 4)
    too_large = Compiled(fits=False, needed_bytes=2**35, available_bytes=2**34)
    monkeypatch.setattr(slice_plan, "plan_stage", lambda _, stage, __: slice_plan.StagePlan(stage, lowered, too_large))
    monkeypatch.setattr(slice_plan, "plan_update", lambda *_: None)
    path = tmp_path / "new" / "figures.json"
    command = ["--config_file", str(TINY), "--topology", "v3:2x2", "--json", str(path), "--set", *sized("v3:2x2")]
    assert aot.main([*command, "--sweep"]) == 1
    printed = capsys.readouterr().out
    assert "not even one example of a replica fits" in printed and "whole run: does not fit" in printed
    assert aot.main(command) == 1
    printed = capsys.readouterr().out
    assert "fits        no: 32.00 of 16.00 GiB a core" in printed and "--sweep finds one" in printed
    figures = json.loads(path.read_text())
    assert (figures["fits"], figures["run"], figures["stages"][0]["costs"]) == (False, None, None)


@pytest.mark.parametrize("limit, expected", [(8, (8, 4)), (32, (32, 1)), (31, (16, 2)), (1, (1, 32)), (0, None)])
def test_the_largest_batch_is_found(limit, expected, monkeypatch):
    """Where up to 8 examples fit, a share of 32 is worked through in 4 parts."""
    recipe, stage = recipe_and_stage()
    tried = []

    def plan_stage(recipe, stage, topology):
        tried.append(stage.per_replica_batch_size)
        assert stage.per_replica_batch_size * stage.micro_batches == PER_CORE * PARTS
        fits = type("Compiled", (), {"fits": stage.per_replica_batch_size <= limit})
        return slice_plan.StagePlan(stage, None, fits)

    monkeypatch.setattr(slice_plan, "plan_stage", plan_stage)
    found = slice_plan.largest_batch(recipe, stage, None, lambda plan: None)
    assert (found and (found.stage.per_replica_batch_size, found.stage.micro_batches)) == expected
    # Of the six sizes that divide 32.
    assert len(tried) <= 3


def planted(monkeypatch, tmp_path, extra):
    """Lowers the tiny config with something more in its loss; returns the refusal."""
    import bert_task

    own = bert_task.PretrainTask.losses

    def losses(self, features, outputs, totals, metrics):
        return own(self, features, outputs, totals, metrics) + 0.0 * extra(
            tf.cast(outputs["next_sentence"], tf.float32)
        )

    monkeypatch.setattr(bert_task.PretrainTask, "losses", losses)
    recipe, stage = recipe_and_stage("model.layers=1")
    with pytest.raises(ConfigError) as error:
        lower_step(recipe, stage, tmp_path / "module")
    assert not list(tmp_path.iterdir())
    message = str(error.value)
    assert "\n" not in message and "test_aot.py:" in message
    return message


def test_a_dynamic_shape_is_one_sentence(monkeypatch, tmp_path):
    def masked_away(logits):
        return tf.reduce_sum(tf.boolean_mask(logits, logits > 0))

    message = planted(monkeypatch, tmp_path, masked_away)
    assert message.startswith("The step has a shape that depends on values. Received: Where (")


def test_a_call_of_the_host_is_one_sentence(monkeypatch, tmp_path):
    def printed(logits):
        tf.print(logits)
        return tf.reduce_sum(logits)

    assert "calls the host" in planted(monkeypatch, tmp_path, printed)


def killed(*_):
    """In the place of the lowering, on a machine without memory left."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_machine_without_memory_is_one_sentence(monkeypatch):
    monkeypatch.setattr(slice_plan, "lower_step", killed)
    with pytest.raises(RunError, match=r"killed, as Linux does when a machine has no memory left.*more memory"):
        slice_plan.plan_stage(*recipe_and_stage(), parse_topology("v3:2x2"))


WRONG = {
    "an unknown chip": (["--topology", "v9:4x4"], "No such TPU is known. Received: 'v9'"),
    "a shape": (["--topology", "v4:4x4"], "v4 is wired in 3 dimensions"),
    "a batch": (
        ["--topology", "v3:4x4", "--set", "stages.0.global_batch_size=33"],
        "33 examples = 32 replicas x 1 + 1",
    ),
    "a stage": (["--topology", "v3:2x2", "--stage", "3", "--set", *sized("v3:2x2")], "--stage 3. Expected 1 to 2"),
    "a file": (["--topology", "v3:2x2", "--config_file", "none.yaml"], "Config file not found. Received: none.yaml"),
    "a field": (["--topology", "v3:2x2", "--set", "stages.0.epoch=1"], "unknown field 'stages.0.epoch'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_sentence(case, capsys):
    arguments, message = WRONG[case]
    assert aot.main(["--config_file", str(TINY), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("aot: ") and len(error.splitlines()) == 1


def test_steps_of_epochs_need_examples():
    overrides = ["stages.0.steps=null", "stages.0.epochs=2", "stages.0.warmup_steps=1"]
    recipe = recipes.Recipe(load(TINY, recipes.schema_of, [*sized("v3:2x2"), *overrides]))
    topology = parse_topology("v3:2x2")
    with pytest.raises(ConfigError, match=r"no --examples\. Expected for example --examples"):
        slice_plan.stages_on(recipe, topology, None, None)
    per_step = PER_CORE * PARTS * topology.replicas
    assert slice_plan.stages_on(recipe, topology, 5 * per_step, None)[0].steps == 10


def test_public_data_has_known_sizes():
    config = ROOT / "configs" / "resnet50" / "lamb_16384.yaml"
    recipe = recipes.Recipe(load(config, recipes.schema_of))
    assert slice_plan.stages_on(recipe, parse_topology("v3:16x16"), None, None)[0].steps == math.ceil(
        90 * 1_281_167 / 16_384
    )
