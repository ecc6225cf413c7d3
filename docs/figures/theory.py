"""Measures theorems 2 and 3 of the LAMB paper on two problems, and draws `theory.png`; `docs/theory.md` explains it.

    python docs/figures/theory.py              # the tables of the page, and the figure beside this file
    python docs/figures/theory.py --seeds 4    # other settings; the figure of the page has 8 seeds

Batch = number of steps = T: one point of the figure is one training run of its own.
"""

import argparse
import dataclasses
import math
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parents[2]))
import tf_lamb

RUN_STEPS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
LAYER_SIZE = 16
# phi(||w||) is the weight norm moved into this interval, [alpha_l, alpha_u]; the minimum has norms in between.
PHI_BOUNDS = (1.0, 2.0)
MINIMUM_NORM = 1.5
BETA_2 = 0.99
# The theorems have no epsilon. This one only keeps 0 / 0 away.
EPSILON = 1e-30
CHUNK_STEPS = 256


@dataclasses.dataclass(frozen=True)
class Problem:
    """f(x) = sum_i L_i sum_j (1 - cos(x_ij - z_ij)) over layers i and their coordinates j, minimal and 0 at z.

    Its second derivatives are L_i cos(x_ij - z_ij), so f is not convex and layer i is smooth with exactly L_i. The
    gradient of one example is that of f with plus or minus sigma_i / sqrt(LAYER_SIZE) on every coordinate.

    Attributes:
        name: What the problem is an instance of.
        smoothness: L_i.
        start: |x_ij - z_ij| at the first step, the same for all coordinates of layer i; the sign is random.
        noise_share: The share of layer i in the variance; that of all layers, ||sigma||^2, is 2 Delta L_inf.
    """

    name: str
    smoothness: np.ndarray
    start: np.ndarray
    noise_share: np.ndarray

    @property
    def delta(self):
        """f(x_1) - f(x*)."""
        return LAYER_SIZE * np.sum(self.smoothness * (1 - np.cos(self.start)))

    @property
    def sigma(self):
        """The standard deviation of an example's gradient, per layer."""
        return np.sqrt(2 * self.delta * self.smoothness.max() * self.noise_share)

    @property
    def coordinate_sigma(self):
        """The same per coordinate of each layer."""
        return self.sigma / math.sqrt(LAYER_SIZE)

    @property
    def gradient_bound(self):
        """G: no coordinate of an example's gradient is larger."""
        return np.max(self.smoothness + self.coordinate_sigma)


def problems(layers=32):
    """The two problems: gradients denser, and sparser, than curvature and noise."""
    first, rest = np.eye(layers)[0], 1.0 - np.eye(layers)[0]
    # All layers begin with about the same gradient; one has nearly all the curvature, and all the noise.
    flat = 1 / layers
    dense = Problem("denser", first + flat * rest, math.asin(flat) * first + 1.5 * rest, first)
    # One layer begins away from the minimum; all have the same curvature and the same noise.
    sparse = Problem("sparser", np.ones(layers), 2.0 * first, np.ones(layers) / layers)
    return dense, sparse


def layerwise_rate(problem, steps):
    """The learning rate of both theorems, sqrt(2 Delta / (alpha_u^2 ||L||_1 T))."""
    return math.sqrt(2 * problem.delta / (PHI_BOUNDS[1] ** 2 * problem.smoothness.sum() * steps))


def sgd_rate(problem, steps):
    """The learning rate of the bound of SGD, 1 / L_inf, the same for every T."""
    return 1 / problem.smoothness.max()


# Each row of the one variable is a layer.
LAYERWISE = {"layer_axes": {".*": 0}, "weight_norm_bounds": PHI_BOUNDS}
METHODS = {
    "SGD": (keras.optimizers.SGD, {}, sgd_rate),
    "LARS": (tf_lamb.LARS, {"momentum": 0.0, "trust_coefficient": 1.0, **LAYERWISE}, layerwise_rate),
    "LAMB": (tf_lamb.LAMB, {"beta_1": 0.0, "beta_2": 0.0, "epsilon": EPSILON, **LAYERWISE}, layerwise_rate),
    "LAMB, beta_2 > 0": (
        tf_lamb.LAMB,
        {"beta_1": 0.0, "beta_2": BETA_2, "epsilon": EPSILON, "bias_correction": False, **LAYERWISE},
        layerwise_rate,
    ),
}


class Runs:
    """Runs of one method on one problem, all seeds side by side: no layer sees another, so no run does."""

    def __init__(self, problem, method, seeds, rate=None):
        self.problem, self.seeds = problem, seeds
        optimizer_class, options, own_rate = METHODS[method]
        self.rate = rate or own_rate
        self.shape = (seeds * len(problem.smoothness), LAYER_SIZE)
        # x - z is not kept but x itself: the trust ratio sees its norm.
        self.x = keras.Variable(np.zeros(self.shape), dtype="float64", name="x")
        self.z = tf.Variable(np.zeros(self.shape))
        self.smoothness = np.tile(problem.smoothness, seeds)[:, None]
        self.optimizer = optimizer_class(1.0, **options)
        self.optimizer.build([self.x])
        noise_of_any_length = tf.TensorSpec((None, *self.shape), tf.float64)
        totals = tf.TensorSpec((4, seeds), tf.float64)
        self.train = tf.function(self._steps, input_signature=(noise_of_any_length, totals))
        self.fresh_state = [variable.numpy() for variable in self.optimizer.variables]

    def gradient_norms(self, steps, seed=0):
        """The gradient norms of a run of each seed with T = `steps`, as means over the T iterates x_1 to x_T.

        Those means are the expectations over the iterate x_a of the theorems, which is drawn evenly from the T.

        Args:
            steps: T, the number of steps and of examples in a batch.
            seed: The seed of the minima, the starting points and the noise; the same for every method.

        Returns:
            A dictionary of vectors, one entry a run: `squared`, the mean of ||grad f||^2; `l2`, of ||grad f||;
            `layers`, of the sum of ||grad_i f||; and `l1`, of ||grad f||_1.
        """
        rng = np.random.default_rng([seed, steps])
        z, start = self.start(rng)
        self.z.assign(z)
        for variable, value in zip(self.optimizer.variables, self.fresh_state, strict=True):
            variable.assign(value)
        self.x.assign(start)
        self.optimizer.learning_rate = self.rate(self.problem, steps)
        totals = tf.zeros((4, self.seeds), tf.float64)
        for begin in range(0, steps, CHUNK_STEPS):
            noise = self.noise(rng, steps, min(CHUNK_STEPS, steps - begin))
            totals = self.train(tf.constant(noise), totals)
        return dict(zip(("squared", "l2", "layers", "l1"), totals.numpy() / steps, strict=True))

    def start(self, rng):
        """The minima z and the starting points x_1, a row for each layer of each run."""
        z = rng.normal(size=self.shape)
        z *= MINIMUM_NORM / np.linalg.norm(z, axis=1, keepdims=True)
        signs = rng.choice([-1.0, 1.0], size=self.shape)
        return z, z + signs * np.tile(self.problem.start, self.seeds)[:, None]

    def noise(self, rng, batch, count):
        """The noise of `count` batches. The mean of `batch` signs is drawn as a binomial, not sign by sign."""
        noisy = np.flatnonzero(self.problem.sigma)
        noise = np.zeros((count, self.seeds, len(self.problem.sigma), LAYER_SIZE))
        signs = 2 * rng.binomial(batch, 0.5, size=(count, self.seeds, len(noisy), LAYER_SIZE)) - batch
        noise[:, :, noisy] = self.problem.coordinate_sigma[noisy, None] * signs / batch
        return noise.reshape(count, *self.shape)

    def _steps(self, noise, totals):
        for batch_noise in noise:
            gradient = self.smoothness * tf.sin(self.x.value - self.z)
            totals += self._norms(gradient)
            self.optimizer.apply([gradient + batch_noise], [self.x])
        return totals

    def _norms(self, gradient):
        layers = tf.reshape(gradient, (self.seeds, -1, LAYER_SIZE))
        squared = tf.reduce_sum(layers**2, (1, 2))
        by_layer = tf.reduce_sum(tf.norm(layers, axis=2), 1)
        return tf.stack([squared, tf.sqrt(squared), by_layer, tf.reduce_sum(tf.abs(layers), (1, 2))])


def own_norm(method, norms):
    """The left side of the method's theorem as a gradient norm, the mean over seeds: the root where it is squared."""
    if method in ("SGD", "LAMB, beta_2 > 0"):
        return math.sqrt(norms["squared"].mean())
    return norms["layers" if method == "LARS" else "l1"].mean()


def bound(problem, method, steps):
    """What the method's theorem allows `own_norm` to be, with the constants that `docs/theory.md` derives."""
    lower, upper = PHI_BOUNDS
    travel = math.sqrt(2 * problem.delta * problem.smoothness.sum() / steps)
    coordinate_noise = LAYER_SIZE * problem.coordinate_sigma.sum() / math.sqrt(steps)
    if method == "SGD":
        return math.sqrt((2 * problem.delta * problem.smoothness.max() + np.sum(problem.sigma**2)) / steps)
    if method == "LARS":
        return upper / lower * (travel + 2 * problem.sigma.sum() / math.sqrt(steps))
    if method == "LAMB":
        return upper / lower * (math.sqrt(LAYER_SIZE) * travel + 2 * coordinate_noise)
    scale = problem.gradient_bound * math.sqrt(LAYER_SIZE / (1 - BETA_2))
    return math.sqrt(scale * upper / lower * (travel + coordinate_noise))


def exponent(run_steps, values):
    """The slope of a straight line through the values over T, both in logarithms."""
    return np.polyfit(np.log(run_steps), np.log(values), 1)[0]


def density(problem, norms):
    """(sum ||grad_i f||)^2 / (h ||grad f||^2), of the means: 1 where all layers have the same gradient, 1/h for one."""
    return (norms["layers"].mean() / norms["l2"].mean()) ** 2 / len(problem.smoothness)


def measure(problem, run_steps=RUN_STEPS, seeds=8, methods=METHODS):
    """For each method a list of `Runs.gradient_norms`, one for each T."""
    measured = {}
    for method in methods:
        runs = Runs(problem, method, seeds)
        measured[method] = [runs.gradient_norms(steps) for steps in run_steps]
    return measured


def report(problem, measured, run_steps):
    """Prints the tables of `docs/theory.md` as Markdown."""
    layers, smoothness, sigma = len(problem.smoothness), problem.smoothness, problem.sigma
    print(f"\n### Gradients {problem.name} than curvature and noise\n")
    print(
        f"Delta {problem.delta:.2f}, ||L||_1 {smoothness.sum():.3f}, L_inf {smoothness.max():g}, "
        f"||sigma|| {np.linalg.norm(sigma):.2f}, ||sigma||_1 {sigma.sum():.2f}, G {problem.gradient_bound:.2f}; "
        f"density of L {smoothness.sum() / layers / smoothness.max():.3f}, "
        f"of sigma {sigma.sum() ** 2 / layers / np.sum(sigma**2):.3f}, of the gradient along LARS's runs "
        f"{min(density(problem, norms) for norms in measured['LARS']):.3f} to "
        f"{max(density(problem, norms) for norms in measured['LARS']):.3f}\n"
    )
    last = run_steps[-1]
    print(f"| | exponent of T, own norm | own norm at T = {last:,} | bound there | exponent, L2 | L2 norm there |")
    print("|---|---|---|---|---|---|")
    for method, rows in measured.items():
        own, l2 = [own_norm(method, norms) for norms in rows], [norms["l2"].mean() for norms in rows]
        print(
            f"| {method} | {exponent(run_steps, own):.2f} | {own[-1]:.3g} | {bound(problem, method, last):.3g} "
            f"| {exponent(run_steps, l2):.2f} | {l2[-1]:.3g} |"
        )


# Colour, marker, its size and filling, label. LARS is drawn as rings, since other lines run through its points.
LOOKS = {
    "SGD": ("#4d4d4d", "s", 5, "full", "SGD"),
    "LARS": ("#0072b2", "o", 9, "none", "LARS"),
    "LAMB": ("#d55e00", "^", 6, "full", r"LAMB, $\beta_2 = 0$"),
    "LAMB, beta_2 > 0": ("#b0509b", "D", 4, "full", rf"LAMB, $\beta_2 = {BETA_2}$"),
}
OWN_NORMS = {
    "SGD": r"$(E\,\|\nabla f\|_2^2)^{1/2}$",
    "LARS": r"$E\,\Sigma_i \|\nabla_i f\|_2$",
    "LAMB": r"$E\,\|\nabla f\|_1$",
    "LAMB, beta_2 > 0": r"$(E\,\|\nabla f\|_2^2)^{1/2}$",
}


def draw(results, run_steps, path):
    """Draws a column of two panels for each of the `results`, pairs of a problem and what `measure` gave of it."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(11, 9.4), layout="constrained")
    axes = figure.subplots(2, len(results), sharex=True, sharey="row")
    handles = []
    for column, (problem, measured) in enumerate(results):
        own, common = axes[:, column]
        own.set_title(f"Gradients {problem.name} than curvature and noise", fontweight="bold", pad=12)
        for method, rows in measured.items():
            color, marker, size, fill, label = LOOKS[method]
            line = {"color": color, "marker": marker, "markersize": size, "fillstyle": fill, "linewidth": 1.6}
            values = [own_norm(method, norms) for norms in rows]
            (handle,) = own.plot(run_steps, values, **line, label=f"{label}: {OWN_NORMS[method]}")
            if column == 0:
                handles.append(handle)
            if method != "LAMB, beta_2 > 0":
                bounds = [bound(problem, method, steps) for steps in run_steps]
                own.plot(run_steps, bounds, "--", color=color, linewidth=1.2, alpha=0.8)
            l2 = np.array([norms["l2"] for norms in rows])
            common.plot(run_steps, l2.mean(axis=1), **line)
            common.fill_between(run_steps, l2.min(axis=1), l2.max(axis=1), color=color, alpha=0.15, linewidth=0)
        lars, sgd = (measured[method][-1]["l2"].mean() for method in ("LARS", "SGD"))
        ratio = f"at T = {run_steps[-1]:,}: LARS / SGD = {lars / sgd:.2f}"
        common.text(0.97, 0.95, ratio, transform=common.transAxes, ha="right", va="top")
        for axis, begin, slopes in ((own, 0.32, ("-1/2", "-1/4")), (common, 0.42, ("-1/2",))):
            for slope in slopes:
                _draw_slope(axis, run_steps[0], begin, slope)
    for axis in axes.flat:
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(run_steps[::2], [f"{steps:,}" for steps in run_steps[::2]])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    for axis in axes[1]:
        axis.set_xlabel("T: steps of the run, and examples in each of its batches")
    axes[0, 0].set_ylabel("mean gradient norm of a run,\neach method in the norm of its theorem")
    axes[1, 0].set_ylabel(r"mean gradient norm of a run, $E\,\|\nabla f\|_2$:" + "\none norm for all methods")
    handles.append(Line2D([], [], color="black", linestyle="--", linewidth=1.2, label="bound"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, columnspacing=1.4)
    figure.savefig(path, dpi=150)


def _draw_slope(axis, first_steps, value, slope):
    """A thin line of the theorem's slope through (first_steps, value), over a factor 8 of T."""
    numerator, denominator = slope.split("/")
    last_value = value * 8 ** (int(numerator) / int(denominator))
    axis.plot((first_steps, 8 * first_steps), (value, last_value), color="black", linewidth=0.9)
    axis.annotate(f"$T^{{{slope}}}$", (8 * first_steps, last_value), (4, -2), textcoords="offset points", fontsize=11)


def main():
    """Measures, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"))
    arguments = parser.parse_args()
    results = [(problem, measure(problem, seeds=arguments.seeds)) for problem in problems()]
    for problem, measured in results:
        report(problem, measured, RUN_STEPS)
    draw(results, RUN_STEPS, arguments.output)


if __name__ == "__main__":
    main()
