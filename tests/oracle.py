"""The layer-wise optimizers in NumPy float64: what surrounds every update, and LAMB.

LAMB is written from the equations of the paper (arXiv 1904.00962v5, algorithm 2), its Nesterov forms from its appendix
and Dozat's look-ahead. `oracle_lars` holds LARS and normalised SGD. Nothing of ours is imported.
"""

import numpy as np

NORMS = {
    "l2": lambda x, axes: np.sqrt(np.sum(x**2, axis=axes, keepdims=True)),
    "l1": lambda x, axes: np.sum(np.abs(x), axis=axes, keepdims=True),
    "linf": lambda x, axes: np.max(np.abs(x), axis=axes, keepdims=True),
}


class Layerwise:
    """Follows a list of arrays; a subclass computes the update of one of them.

    Args:
        weights: The initial values.
        decays: For each array, whether weight decay applies.
        adapts: For each array, whether the trust ratio applies.
        weight_decay: The coefficient of decay.
        norm: "l2", "l1" or "linf".
        weight_norm_bounds: (lower, upper) of phi, each a number or None.
        trust_ratio_bounds: (lower, upper) of the ratio, each a number or None.
        layer_axes: For each array, the axis whose slices are layers of their own, or None; by default None for all.
        clipnorm: The largest L2 norm of one gradient.
        clipvalue: The largest absolute value of an element of a gradient.
        global_clipnorm: The largest L2 norm of all gradients together.
        gradient_accumulation_steps: How many calls of `step` make one update, with the mean of their gradients.
        skip_nonfinite: Whether a cycle of calls with a value that is not finite leaves everything alone.
        use_ema: Whether `averages` follows the weights.
        ema_momentum: The share that an average keeps. The first average is the first new weight itself, as in Keras 3.
        ema_overwrite_frequency: After every how many updates the weights become their averages.
        ema_from_initial: Whether the averages start at the initial weights instead, as in tf_keras.
    """

    def __init__(
        self,
        weights,
        decays,
        adapts,
        weight_decay=0.0,
        *,
        norm="l2",
        weight_norm_bounds=None,
        trust_ratio_bounds=None,
        layer_axes=None,
        clipnorm=None,
        clipvalue=None,
        global_clipnorm=None,
        gradient_accumulation_steps=1,
        skip_nonfinite=False,
        use_ema=False,
        ema_momentum=0.99,
        ema_overwrite_frequency=None,
        ema_from_initial=False,
    ):
        self.weights = [np.asarray(w, np.float64) for w in weights]
        self.decays, self.adapts, self.weight_decay = decays, adapts, weight_decay
        self.norm, self.layer_axes = NORMS[norm], layer_axes or [None] * len(self.weights)
        self.weight_norm_bounds, self.trust_ratio_bounds = weight_norm_bounds, trust_ratio_bounds
        self.clipnorm, self.clipvalue, self.global_clipnorm = clipnorm, clipvalue, global_clipnorm
        self.accumulation_steps, self.skip_nonfinite = gradient_accumulation_steps, skip_nonfinite
        self.use_ema, self.ema_momentum, self.overwrite_every = use_ema, ema_momentum, ema_overwrite_frequency
        self.averages = list(self.weights) if ema_from_initial else None
        self.t = 0
        self.skipped_steps = self.clipped_steps = 0
        self.cycle = []
        # Of the last update: the norm of all gradients before clipping, and for each variable an array of layers.
        self.gradient_norm = 0.0
        self.trust_ratio = [None] * len(self.weights)
        self.weight_norm = [None] * len(self.weights)
        self.update_norm = [None] * len(self.weights)

    def step(self, replica_gradients, learning_rate):
        """One micro-step with the sum over replicas of their lists of gradients. None leaves a variable alone."""
        self.cycle.append([sum_or_none(column) for column in zip(*replica_gradients, strict=True)])
        if len(self.cycle) < self.accumulation_steps:
            return
        cycle, self.cycle = self.cycle, []
        if self.skip_nonfinite and not all(np.all(np.isfinite(g)) for step in cycle for g in step if g is not None):
            self.skipped_steps += 1
            return
        sums = [sum_or_none(column) for column in zip(*cycle, strict=True)]
        self.t += 1
        means = [None if g is None else g / self.accumulation_steps for g in sums]
        clipped = self.clip(means)
        self.gradient_norm = l2([g for g in means if g is not None])
        self.clipped_steps += any(np.any(a != b) for a, b in zip(means, clipped, strict=True) if a is not None)
        for i, g in enumerate(clipped):
            if g is not None:
                self.weights[i] = self.updated(i, g, learning_rate)
        if self.use_ema:
            self.average()

    def updated(self, i, g, learning_rate):
        """The new value of variable i; moments are replaced on the way."""
        raise NotImplementedError

    def clip(self, gradients):
        if self.clipvalue is not None:
            return [None if g is None else np.clip(g, -self.clipvalue, self.clipvalue) for g in gradients]
        if self.clipnorm is not None:
            return [None if g is None else g * shrink(l2([g]), self.clipnorm) for g in gradients]
        if self.global_clipnorm is not None:
            factor = shrink(l2([g for g in gradients if g is not None]), self.global_clipnorm)
            return [None if g is None else g * factor for g in gradients]
        return gradients

    def average(self):
        if self.averages is None:
            self.averages = list(self.weights)
        else:
            keep = self.ema_momentum
            self.averages = [keep * a + (1 - keep) * w for a, w in zip(self.averages, self.weights, strict=True)]
        if self.overwrite_every and self.t % self.overwrite_every == 0:
            self.weights = list(self.averages)

    def decay(self, i):
        return self.weight_decay if self.decays[i] else 0.0

    def layer_norms(self, i, x):
        """One norm for each layer in variable i, with dimensions kept."""
        own = self.layer_axes[i]
        return self.norm(x, tuple(axis for axis in range(x.ndim) if own is None or axis != own % x.ndim))

    def ratio(self, i, weight_norm, denominator, nonzero, coefficient=1.0):
        """coefficient*phi(weight_norm)/denominator, bounded; exactly 1 where a norm is 0 or i is not adapted."""
        if not self.adapts[i]:
            return np.ones_like(weight_norm)
        defined = (weight_norm > 0) & (nonzero > 0)
        ratio = coefficient * bounded(weight_norm, self.weight_norm_bounds) / np.where(defined, denominator, 1.0)
        return np.where(defined, bounded(ratio, self.trust_ratio_bounds), 1.0)

    def record(self, i, trust_ratio, weight_norm, update_norm):
        self.trust_ratio[i], self.weight_norm[i], self.update_norm[i] = trust_ratio, weight_norm, update_norm


class Lamb(Layerwise):
    """LAMB. `m` and `v` are the moments.

    Args:
        weights, decays, adapts, weight_decay, **surroundings: See `Layerwise`.
        beta_1, beta_2, epsilon: Of the paper.
        global_clipnorm: See `Layerwise`.
        bias_correction: True; False; or "step_size", for a factor sqrt(1-b2^t)/(1-b1^t) on the step.
        nesterov: False; "m" for N-LAMB; "mv" for NN-LAMB.
        decay_inside_ratio: Whether decay is part of the update; otherwise w shrinks by lr*wd*w before anything else.
    """

    def __init__(
        self,
        weights,
        decays,
        adapts,
        beta_1,
        beta_2,
        epsilon,
        weight_decay,
        global_clipnorm=None,
        *,
        bias_correction=True,
        nesterov=False,
        decay_inside_ratio=True,
        **surroundings,
    ):
        super().__init__(weights, decays, adapts, weight_decay, global_clipnorm=global_clipnorm, **surroundings)
        self.m = [np.zeros_like(w) for w in self.weights]
        self.v = [np.zeros_like(w) for w in self.weights]
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.bias_correction, self.nesterov, self.decay_inside_ratio = bias_correction, nesterov, decay_inside_ratio

    @property
    def slots(self):
        return [self.m, self.v]

    def updated(self, i, g, learning_rate):
        w = self.weights[i]
        if not self.decay_inside_ratio:
            w = w - learning_rate * self.decay(i) * w
        self.m[i] = self.beta_1 * self.m[i] + (1 - self.beta_1) * g
        self.v[i] = self.beta_2 * self.v[i] + (1 - self.beta_2) * g**2
        m_hat = self.estimate(self.m[i], g, self.beta_1, look_ahead=self.nesterov in ("m", "mv"))
        v_hat = self.estimate(self.v[i], g**2, self.beta_2, look_ahead=self.nesterov == "mv")
        update = m_hat / (np.sqrt(v_hat) + self.epsilon)
        if self.decay_inside_ratio:
            update = update + self.decay(i) * w
        weight_norm, update_norm = self.layer_norms(i, w), self.layer_norms(i, update)
        trust_ratio = self.ratio(i, weight_norm, update_norm, nonzero=update_norm)
        self.record(i, trust_ratio, weight_norm, update_norm)
        if self.bias_correction == "step_size":
            learning_rate = learning_rate * np.sqrt(1 - self.beta_2**self.t) / (1 - self.beta_1**self.t)
        return w - learning_rate * trust_ratio * update

    def estimate(self, moment, new, beta, look_ahead):
        """m_hat or v_hat, from the moment and the newest value that went into it."""
        corrected = self.bias_correction is True
        now = 1 - beta**self.t if corrected else 1.0
        if not look_ahead:
            return moment / now
        following = 1 - beta ** (self.t + 1) if corrected else 1.0
        return beta * moment / following + (1 - beta) * new / now


def bounded(x, bounds):
    lower, upper = bounds or (None, None)
    x = x if lower is None else np.maximum(x, lower)
    return x if upper is None else np.minimum(x, upper)


def l2(arrays):
    return np.sqrt(sum(np.sum(x**2) for x in arrays))


def shrink(norm, largest):
    """The factor, at most 1, that brings a norm down to the largest that is allowed."""
    return largest / norm if norm > largest else 1.0


def sum_or_none(gradients):
    present = [np.asarray(g, np.float64) for g in gradients if g is not None]
    return sum(present) if present else None
