"""LAMB in NumPy float64, written from the equations of the paper (arXiv 1904.00962v5, algorithm 2).

It imports nothing of ours.
"""

import numpy as np


class Lamb:
    """Follows a list of arrays. Lists of booleans say which of them decay and adapt."""

    def __init__(self, weights, decays, adapts, beta_1, beta_2, epsilon, weight_decay, global_clipnorm=None):
        self.weights = [np.asarray(w, np.float64) for w in weights]
        self.m = [np.zeros_like(w) for w in self.weights]
        self.v = [np.zeros_like(w) for w in self.weights]
        self.decays, self.adapts = decays, adapts
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.weight_decay, self.global_clipnorm = weight_decay, global_clipnorm
        self.t = 0

    def step(self, replica_gradients, learning_rate):
        """One update with the sum over replicas of their lists of gradients. None leaves a variable alone."""
        gradients = [sum_or_none(column) for column in zip(*replica_gradients, strict=True)]
        if self.global_clipnorm:
            norm = np.sqrt(sum(np.sum(g**2) for g in gradients if g is not None))
            factor = min(1.0, self.global_clipnorm / norm) if norm > 0 else 1.0
            gradients = [None if g is None else g * factor for g in gradients]
        self.t += 1
        for i, g in enumerate(gradients):
            if g is None:
                continue
            self.m[i] = self.beta_1 * self.m[i] + (1 - self.beta_1) * g
            self.v[i] = self.beta_2 * self.v[i] + (1 - self.beta_2) * g**2
            m_hat = self.m[i] / (1 - self.beta_1**self.t)
            v_hat = self.v[i] / (1 - self.beta_2**self.t)
            update = m_hat / (np.sqrt(v_hat) + self.epsilon)
            if self.decays[i]:
                update = update + self.weight_decay * self.weights[i]
            weight_norm, update_norm = np.sqrt(np.sum(self.weights[i] ** 2)), np.sqrt(np.sum(update**2))
            trust_ratio = 1.0
            if self.adapts[i] and weight_norm > 0 and update_norm > 0:
                trust_ratio = weight_norm / update_norm
            self.weights[i] = self.weights[i] - learning_rate * trust_ratio * update


def sum_or_none(gradients):
    present = [np.asarray(g, np.float64) for g in gradients if g is not None]
    return sum(present) if present else None
