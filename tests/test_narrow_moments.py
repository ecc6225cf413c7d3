"""With narrow moments a step uses them as stored; on a TPU it reads them back from memory, to the same effect."""

import keras
import numpy as np
import problem
import pytest
import runner
from tolerances import RELATIVE_L2, distance, state_distance
from variants import BASES, VARIANTS

from tf_lamb import tpu_memory

FLOAT32 = RELATIVE_L2["float32", "cpu"]
MOMENT_DTYPES = ["bfloat16", ("bfloat16", "float32")]
ADAPTED = sum(not runner.matches(BASES["LAMB"]["exclude_from_layer_adaptation"], name) for name in problem.NAMES)
TARGETS = ["any"] if keras.backend.backend() == "torch" else ["any", "tpu"]


@pytest.fixture
def read_back(monkeypatch):
    """Compiles as if for a TPU; a list that grows by each variable whose moments are read back."""
    if keras.backend.backend() == "torch":
        pytest.skip("XLA compiles for TensorFlow and JAX alone.")
    made, original = [], tpu_memory.after

    def counted(first, values):
        made.append(values)
        return original(first, values)

    monkeypatch.setattr(tpu_memory, "is_target", lambda: True)
    monkeypatch.setattr(tpu_memory, "after", counted)
    return made


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("moment_dtype", MOMENT_DTYPES)
@pytest.mark.parametrize("face", runner.FACES)
def test_the_step_uses_the_moments_as_stored(face, moment_dtype, target, request):
    """The oracle computes each step again, with old moments from which the stored ones follow exactly."""
    made = request.getfixturevalue("read_back") if target == "tpu" else None
    b1, b2, options = 0.9, 0.99, {**VARIANTS["LAMB_base"].options, "global_clipnorm": None}
    stored, unrounded = (runner.expected("LAMB", options, gradients=[]) for _ in range(2))
    optimizer = runner.make(face, "LAMB", {**options, "moment_dtype": moment_dtype, "jit_compile": target == "tpu"})
    variables = runner.make_variables(face)
    optimizer.build(variables)
    misses = []
    for step, replicas in enumerate(VARIANTS["LAMB_base"].gradients()):
        rate, old = problem.learning_rate(step), runner.slots(optimizer)
        weights = runner.values(variables)
        runner.apply(face, optimizer, replicas[0], variables)
        (m, v), after = runner.slots(optimizer), runner.values(variables)
        for each in (stored, unrounded):
            each.weights, each.t = list(weights), step
        stored.m = [(x - (1 - b1) * np.float64(g)) / b1 for x, g in zip(m, replicas[0], strict=True)]
        stored.v = [(x - (1 - b2) * np.float64(g) ** 2) / b2 for x, g in zip(v, replicas[0], strict=True)]
        unrounded.m, unrounded.v = (list(x) for x in old)
        stored.step(replicas, rate)
        unrounded.step(replicas, rate)
        assert distance(after, stored.weights) < FLOAT32
        misses.append(distance(after, unrounded.weights))
        # bfloat16 has 8 bits: rounding to the nearest is off by up to 2^-8, a random one by up to 2^-7.
        for actual, exact, largest in zip((m, v), (unrounded.m, unrounded.v), (2**-8, 2**-7), strict=True):
            for x, y in zip(actual, exact, strict=True):
                assert np.all(np.abs(x - y) <= largest * np.abs(y) * (1 + 1e-5))
    assert max(misses) > 10 * FLOAT32
    assert made is None or len(made) % ADAPTED == 0 < len(made)


def state_after(face, name, **options):
    """The weights and the moments after all steps of a variant."""
    options = {**VARIANTS[name].options, "moment_dtype": "bfloat16", "jit_compile": True, **options}
    optimizer, variables = runner.run(face, "LAMB", options, VARIANTS[name].gradients())
    return runner.values(variables), *runner.slots(optimizer)


READ_BACK = ["base", "corrected_in_the_step", "decay_outside", "full"]


@pytest.mark.parametrize("name", [f"LAMB_{name}" for name in READ_BACK])
@pytest.mark.parametrize("face", runner.FACES)
def test_reading_back_follows_the_plain_path(face, name, read_back, monkeypatch):
    ours = state_after(face, name)
    assert read_back
    monkeypatch.setattr(tpu_memory, "after", lambda first, values: [2 * value for value in values])
    of_others = state_after(face, name)
    monkeypatch.setattr(tpu_memory, "is_target", lambda: False)
    plain = state_after(face, name, jit_compile=False)
    assert state_distance(ours, plain) < FLOAT32
    assert state_distance(of_others, plain) > 10 * FLOAT32


@pytest.mark.parametrize(
    "options", [{"moment_dtype": None}, {"nesterov": "m"}, {"exclude_from_layer_adaptation": [""]}], ids=str
)
def test_nothing_is_read_back_where_that_saves_nothing(options, read_back):
    """Wide moments, a step ahead of the moments, or no norm to wait for."""
    state_after("keras", "LAMB_base", **options)
    assert not read_back


def test_a_cpu_is_no_target():
    assert not tpu_memory.is_target()
