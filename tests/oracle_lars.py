"""LARS and normalised SGD in NumPy float64, on what surrounds every update in `oracle`.

LARS is written from arXiv 1708.03888 (the ratio comes before the momentum) and from algorithm 1 of arXiv 1904.00962
(after it). Nothing of ours is imported.
"""

import numpy as np
from oracle import Layerwise


class Lars(Layerwise):
    """LARS. `buffers` is the momentum.

    Args:
        weights, decays, adapts, weight_decay, **surroundings: See `Layerwise`.
        momentum, trust_coefficient, epsilon: mu, eta, and what is added to the denominator of the ratio.
        nesterov: Whether the step looks ahead by one more momentum.
        dampening: The share of a new term that does not enter the momentum.
        ratio_position: "before_momentum" or "after_momentum".
        denominator: Before momentum, "sum_of_norms" for ||g|| + wd*||w||, or "norm_of_sum" for ||g + wd*w||.
    """

    def __init__(
        self,
        weights,
        decays,
        adapts,
        weight_decay=0.0,
        *,
        momentum=0.9,
        trust_coefficient=0.001,
        epsilon=0.0,
        nesterov=False,
        dampening=0.0,
        ratio_position="before_momentum",
        denominator="sum_of_norms",
        **surroundings,
    ):
        super().__init__(weights, decays, adapts, weight_decay, **surroundings)
        self.buffers = [np.zeros_like(w) for w in self.weights]
        self.momentum, self.dampening, self.nesterov = momentum, dampening, nesterov
        self.trust_coefficient, self.epsilon = trust_coefficient, epsilon
        self.updated = {"before_momentum": self.ratio_first, "after_momentum": self.momentum_first}[ratio_position]
        self.denominator = {"sum_of_norms": self.sum_of_norms, "norm_of_sum": self.norm_of_sum}[denominator]

    @property
    def slots(self):
        return [self.buffers]

    def ratio_first(self, i, g, learning_rate):
        w = self.weights[i]
        direction = g + self.decay(i) * w
        weight_norm = self.layer_norms(i, w)
        denominator, nonzero = self.denominator(i, g, weight_norm, direction)
        local = self.local(i, weight_norm, denominator, nonzero)
        return w - self.with_momentum(i, learning_rate * local * direction)

    def momentum_first(self, i, g, learning_rate):
        w = self.weights[i]
        update = self.with_momentum(i, g + self.decay(i) * w)
        update_norm = self.layer_norms(i, update)
        local = self.local(i, self.layer_norms(i, w), update_norm, update_norm)
        return w - learning_rate * local * update

    def with_momentum(self, i, new):
        new = (1 - self.dampening) * new
        self.buffers[i] = self.momentum * self.buffers[i] + new
        return self.momentum * self.buffers[i] + new if self.nesterov else self.buffers[i]

    def sum_of_norms(self, i, g, weight_norm, direction):
        gradient_norm = self.layer_norms(i, g)
        return gradient_norm + self.decay(i) * weight_norm, gradient_norm

    def norm_of_sum(self, i, g, weight_norm, direction):
        norm = self.layer_norms(i, direction)
        return norm, norm

    def local(self, i, weight_norm, denominator, nonzero):
        local = self.ratio(i, weight_norm, denominator + self.epsilon, nonzero, self.trust_coefficient)
        self.record(i, local, weight_norm, denominator)
        return local


class NormalizedSgd(Layerwise):
    """Gradient descent, each layer's update rescaled to the norm of its weights."""

    slots = ()

    def updated(self, i, g, learning_rate):
        w = self.weights[i]
        update = g + self.decay(i) * w
        weight_norm, update_norm = self.layer_norms(i, w), self.layer_norms(i, update)
        trust_ratio = self.ratio(i, weight_norm, update_norm, nonzero=update_norm)
        self.record(i, trust_ratio, weight_norm, update_norm)
        return w - learning_rate * trust_ratio * update
