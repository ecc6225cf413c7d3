"""What the figure of `docs/theory.md` claims, on fewer and shorter runs: rates, bounds, and who is ahead where."""

import importlib.util
import math
from pathlib import Path

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the figure's script trains in a tf.function"
)
SCRIPT = Path(__file__).parents[2] / "docs" / "figures" / "theory.py"
RUN_STEPS = (16, 64, 256, 1024)
SEEDS = 2
# The means over six pairs of seeds, which differ by 0.024 at most.
OWN_EXPONENTS = {
    "denser": {"SGD": -0.466, "LARS": -0.496, "LAMB": -0.497, "LAMB, beta_2 > 0": -0.422},
    "sparser": {"SGD": -0.494, "LARS": -0.467, "LAMB": -0.463, "LAMB, beta_2 > 0": -0.244},
}
BAND = 0.03


@pytest.fixture(scope="module")
def theory():
    spec = importlib.util.spec_from_file_location("theory_figure", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results(theory):
    return {problem.name: (problem, theory.measure(problem, RUN_STEPS, SEEDS)) for problem in theory.problems()}


@pytest.mark.parametrize("name", ["denser", "sparser"])
def test_each_method_has_the_rate_of_its_theorem(theory, results, name):
    _, measured = results[name]
    for method, rows in measured.items():
        slope = theory.exponent(RUN_STEPS, [theory.own_norm(method, norms) for norms in rows])
        assert slope == pytest.approx(OWN_EXPONENTS[name][method], abs=BAND), method


@pytest.mark.parametrize("name", ["denser", "sparser"])
def test_no_run_is_above_its_bound(theory, results, name):
    problem, measured = results[name]
    for method, rows in measured.items():
        for steps, norms in zip(RUN_STEPS, rows, strict=True):
            assert theory.own_norm(method, norms) <= theory.bound(problem, method, steps), (method, steps)


def test_the_bound_of_sgd_is_nearly_reached(theory, results):
    for problem, measured in results.values():
        assert theory.own_norm("SGD", measured["SGD"][-1]) > 0.8 * theory.bound(problem, "SGD", RUN_STEPS[-1])


def test_the_density_of_gradients_decides_who_is_ahead(theory, results):
    """In one norm for all, by a fifth at the least, at every T."""
    for name, (problem, measured) in results.items():
        spread = problem.smoothness.sum() / len(problem.smoothness) / problem.smoothness.max()
        for i in range(len(RUN_STEPS)):
            l2 = {method: rows[i]["l2"].mean() for method, rows in measured.items()}
            dense = theory.density(problem, measured["LARS"][i]) > spread
            assert dense == (name == "denser")
            for method in ("LARS", "LAMB", "LAMB, beta_2 > 0"):
                assert l2[method] < 0.8 * l2["SGD"] if dense else l2[method] > 1.25 * l2["SGD"], (name, method, i)


def test_without_the_rate_of_the_theorem_the_exponent_is_missed(theory):
    """The mutant: one learning rate for every T."""
    problem = theory.problems()[1]
    runs = theory.Runs(problem, "LARS", SEEDS, rate=lambda problem, steps: theory.layerwise_rate(problem, 64))
    norms = [theory.own_norm("LARS", runs.gradient_norms(steps)) for steps in RUN_STEPS]
    assert abs(theory.exponent(RUN_STEPS, norms) - OWN_EXPONENTS["sparser"]["LARS"]) > 2 * BAND


@pytest.mark.parametrize("method", ["SGD", "LARS", "LAMB", "LAMB, beta_2 > 0"])
def test_runs_follow_the_equations(theory, method):
    """Against NumPy, layer by layer, with beta_1, momentum and decay left out as in the theorems."""
    problem, steps = theory.problems()[1], 16
    runs = theory.Runs(problem, method, seeds=1)
    measured = runs.gradient_norms(steps, seed=3)
    rng = np.random.default_rng([3, steps])
    z, x = runs.start(rng)
    noise = runs.noise(rng, steps, steps)
    assert noise.std() == pytest.approx(problem.coordinate_sigma[0] / math.sqrt(steps), rel=0.02)
    lower, upper = theory.PHI_BOUNDS
    # Keras keeps a learning rate in float32.
    rate = float(np.float32(math.sqrt(2 * problem.delta / (upper**2 * problem.smoothness.sum() * steps))))
    v, totals = np.zeros_like(x), np.zeros(4)
    for t in range(steps):
        gradient = problem.smoothness[:, None] * np.sin(x - z)
        squared = np.sum(gradient**2)
        totals += squared, squared**0.5, np.sum(np.linalg.norm(gradient, axis=1)), np.sum(abs(gradient))
        g = gradient + noise[t]
        v = theory.BETA_2 * v + (1 - theory.BETA_2) * g**2
        for i in range(len(x)):
            if method == "SGD":
                x[i] -= g[i] / problem.smoothness.max()
                continue
            # A coordinate whose gradient has been 0 so far does not move.
            r = {"LARS": g[i], "LAMB": np.sign(g[i])}.get(method, g[i] / np.sqrt(np.where(v[i] > 0, v[i], 1.0)))
            phi = min(max(np.linalg.norm(x[i]), lower), upper)
            x[i] -= rate * phi * r / np.linalg.norm(r)
    for name, total in zip(("squared", "l2", "layers", "l1"), totals, strict=True):
        assert measured[name][0] == pytest.approx(total / steps, rel=1e-9), name


def test_the_problem_is_as_smooth_as_it_says(theory):
    """The largest second derivative of layer i is L_i; f starts Delta above its minimum, where the gradient is 0."""
    for problem in theory.problems():
        u = np.linspace(-4, 4, 8001)
        curvature = np.gradient(np.sin(u), u)[1:-1]
        assert np.abs(curvature).max() == pytest.approx(1, rel=1e-6)
        assert curvature.min() < -0.9  # not convex
        value = sum(
            L * np.sum(1 - np.cos(np.full(16, s))) for L, s in zip(problem.smoothness, problem.start, strict=True)
        )
        assert problem.delta == pytest.approx(value)
        assert np.sum(problem.sigma**2) == pytest.approx(2 * problem.delta * problem.smoothness.max())


def test_the_figure_is_there():
    assert SCRIPT.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
