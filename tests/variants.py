"""Every option of every optimizer, the neighbours it could be confused with, and the gradients that tell them apart.

A neighbour is a set of options that replaces some of the variant's, for the oracle alone. Two keys are not options:
`oracle` is a class to compute with, and `gradients` a function that changes the gradients first.
"""

from dataclasses import dataclass, field

import numpy as np
import problem
import runner
from oracle import Lamb, Layerwise
from oracle_lars import Lars

LISTS = {"exclude_from_weight_decay": ["bias", "gamma"], "exclude_from_layer_adaptation": ["bias", "plain"]}
SHARED = {"weight_decay": 0.3, "global_clipnorm": 2.5, **LISTS}
BASES = {
    "LAMB": {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-6, **SHARED},
    # The default coefficient, 0.001, would hide every fault in a step that is a thousandth of a tensor.
    "LARS": {"momentum": 0.8, "trust_coefficient": 0.4, **SHARED},
    "NormalizedSGD": SHARED,
}
AXES = {"dense_kernel": 1, "conv": -1, "embedding": 0}


@dataclass(frozen=True)
class Variant:
    """One case of a test.

    Attributes:
        optimizer: The class.
        changes: The options that differ from the base's.
        neighbours: What must not be computed instead, by name.
        spoiled: The micro-steps, from 0, at which one element of the last replica's gradients is not finite.
    """

    optimizer: str
    changes: dict
    neighbours: dict
    spoiled: dict = field(default_factory=dict)

    @property
    def options(self):
        return {**BASES[self.optimizer], **self.changes}

    def gradients(self, replicas=1):
        """Those of the problem for twelve updates or more, with one element spoiled where the variant says so."""
        micro_steps = (problem.STEPS + len(self.spoiled)) * self.changes.get("gradient_accumulation_steps", 1)
        gradients = problem.gradients(replicas, micro_steps)
        for step, bad in self.spoiled.items():
            gradients[step][-1][problem.NAMES.index("conv_kernel")][0, 1, 0, 2] = bad
        return gradients

    def oracle(self, replicas=1, neighbour=None):
        """The oracle after all steps, or a neighbour of it."""
        changes = {**self.options, **self.neighbours.get(neighbour, {})}
        oracle_class, change = changes.pop("oracle", None), changes.pop("gradients", lambda gradients: gradients)
        return runner.expected(self.optimizer, changes, change(self.gradients(replicas)), oracle_class)


class BoundsZeroNorms(Lamb):
    """Phi lifts a norm of 0, and the ratio's bounds hold for layers without a ratio."""

    def ratio(self, i, weight_norm, denominator, nonzero, coefficient=1.0):
        weight_norm, denominator = np.maximum(weight_norm, 1e-30), np.maximum(denominator, 1e-30)
        ratio = super().ratio(i, weight_norm, denominator, denominator)
        return np.clip(ratio, *self.trust_ratio_bounds) if self.trust_ratio_bounds else ratio


class CountsSkippedSteps(Lamb):
    """The bias correction and the rate go on while steps are skipped."""

    def step(self, replica_gradients, learning_rate):
        before = self.skipped_steps
        super().step(replica_gradients, learning_rate)
        self.t += self.skipped_steps - before


class AveragesEveryMicroStep(Lamb):
    def step(self, replica_gradients, learning_rate):
        before = self.t
        super().step(replica_gradients, learning_rate)
        if self.t == before and self.averages:
            self.average()


class ScalesOnes(Lars):
    """The coefficient also where there is no ratio."""

    def ratio(self, i, weight_norm, denominator, nonzero, coefficient=1.0):
        defined = (weight_norm > 0) & (nonzero > 0) & self.adapts[i]
        ratio = super().ratio(i, weight_norm, denominator, nonzero, coefficient)
        return np.where(defined, ratio, coefficient)


class CoefficientAfterBounds(Lars):
    def ratio(self, i, weight_norm, denominator, nonzero, coefficient=1.0):
        ratio = super().ratio(i, weight_norm, denominator, nonzero)
        return np.where(ratio == 1.0, 1.0, coefficient * ratio)


def zero_bad_elements(gradients):
    return [[[np.where(np.isfinite(g), g, 0.0) for g in own] for own in step] for step in gradients]


def zero_bad_micro_steps(gradients):
    """So that a cycle goes on with its other micro-steps."""

    def finite(step):
        return all(np.isfinite(g).all() for own in step for g in own)

    return [step if finite(step) else [[np.zeros_like(g) for g in own] for own in step] for step in gradients]


def times(factor):
    return lambda gradients: [[[factor * g for g in own] for own in step] for step in gradients]


def clip_parts(**clipping):
    """The gradients of every replica and micro-step clipped alone, as if that came before the sum."""

    def change(gradients):
        clipper = Layerwise([], [], [], **clipping)
        return [[clipper.clip(own) for own in step] for step in gradients]

    return change


def others(option, *values):
    return {f"{option}={value}": {option: value} for value in values}


NO_CLIP = {"global_clipnorm": None}
CLIPPING = {
    "clipnorm": {**NO_CLIP, "clipnorm": 0.4},
    "clipvalue": {**NO_CLIP, "clipvalue": 0.2},
    "global_clipnorm": {"global_clipnorm": 1.0},
}
EMA = {"use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": 3}
ACCUMULATION = {"gradient_accumulation_steps": 3}
# In cycles of three: in the middle of one, at the beginning of another and at the end of a third.
BAD = {1: np.nan, 6: np.inf, 11: -np.inf}
FULL = {"norm": "l1", "layer_axes": AXES, "skip_nonfinite": True, **ACCUMULATION, **EMA}
SKIPS = {
    "zero_bad_elements": {"gradients": zero_bad_elements},
    "zero_bad_micro_steps": {"gradients": zero_bad_micro_steps},
}


def layerwise(optimizer, weight_bounds, ratio_bounds):
    """The options that all optimizers share, with bounds that are active on some layers only."""
    (lower, upper), (low, high) = weight_bounds, ratio_bounds
    w_bounds, r_bounds = "weight_norm_bounds", "trust_ratio_bounds"
    lists = ("exclude_from_weight_decay", "exclude_from_layer_adaptation")
    full = {**FULL, w_bounds: weight_bounds, r_bounds: ratio_bounds}
    cases = {
        "base": ({}, {"no_decay": {"weight_decay": 0.0}}),
        "l1": ({"norm": "l1"}, others("norm", "l2", "linf")),
        "linf": ({"norm": "linf"}, others("norm", "l2", "l1")),
        "weight_norm_lower": ({w_bounds: (lower, None)}, others(w_bounds, None, (None, lower))),
        "weight_norm_upper": ({w_bounds: (None, upper)}, others(w_bounds, None, (upper, None))),
        "weight_norm_bounds": (
            {w_bounds: weight_bounds},
            others(w_bounds, None, (lower, None), (None, upper)) | {"ratio": {w_bounds: None, r_bounds: weight_bounds}},
        ),
        "trust_ratio_lower": ({r_bounds: (low, None)}, others(r_bounds, None, (None, low))),
        "trust_ratio_upper": ({r_bounds: (None, high)}, others(r_bounds, None, (high, None))),
        "trust_ratio_bounds": (
            {r_bounds: ratio_bounds},
            others(r_bounds, None, (low, None), (None, high)) | {"norm": {r_bounds: None, w_bounds: ratio_bounds}},
        ),
        "layer_axes": (
            {"layer_axes": AXES},
            others("layer_axes", None, {**AXES, "dense_kernel": 0}, {**AXES, "conv": 0}, {**AXES, "embedding": 1}),
        ),
        "one_list": ({lists[1]: None}, others(lists[1], (), LISTS[lists[1]])),
        "adapts_all": ({lists[1]: ()}, others(lists[1], None, LISTS[lists[1]])),
        "decays_all": ({lists[0]: None}, others(lists[0], LISTS[lists[0]])),
        "accumulation": (
            ACCUMULATION,
            others("gradient_accumulation_steps", 1)
            | {
                "sum": {"gradients": times(3)},
                "clips_parts": {"gradients": clip_parts(global_clipnorm=2.5), **NO_CLIP},
            },
        ),
        "skip": ({"skip_nonfinite": True}, SKIPS),
        "accumulation_skip": ({"skip_nonfinite": True, **ACCUMULATION}, SKIPS),
        "ema": (
            EMA,
            others("ema_overwrite_frequency", None, 2) | others("ema_momentum", 0.9) | others("ema_from_initial", True),
        ),
        "full": (
            full,
            {**SKIPS, "norm": {"norm": "l2"}}
            | {key: {key: None} for key in (w_bounds, r_bounds, "layer_axes", "ema_overwrite_frequency")},
        ),
    }
    for name, options in CLIPPING.items():
        off = {key: None for key in CLIPPING}
        cases[name] = (options, {"off": off} | {key: {**off, **CLIPPING[key]} for key in CLIPPING if key != name})
    return {
        f"{optimizer}_{name}": Variant(optimizer, *case, spoiled=BAD if case[0].get("skip_nonfinite") else {})
        for name, case in cases.items()
    }


def lamb():
    corrections = {value: {"bias_correction": value} for value in (True, False, "step_size")}
    look_ahead = {value: {"nesterov": value} for value in (False, "m", "mv")}

    def but(table, *own):
        return {f"{next(iter(change))}={key}": change for key, change in table.items() if key not in own}

    cases = {
        "epsilon": ({"epsilon": 0.1}, others("epsilon", 1e-6)),
        "betas": ({"beta_1": 0.5, "beta_2": 0.9}, others("beta_1", 0.9) | others("beta_2", 0.99)),
        "uncorrected": (corrections[False], but(corrections, False)),
        "corrected_in_the_step": (corrections["step_size"], but(corrections, "step_size")),
        "decay_outside": (
            {"decay_inside_ratio": False},
            others("decay_inside_ratio", True) | {"all": {"exclude_from_weight_decay": None}},
        ),
        "bounds_and_zero_norms": (
            {"weight_norm_bounds": (1.5, None), "trust_ratio_bounds": (0.3, 0.8)},
            {"bounded": {"oracle": BoundsZeroNorms}},
        ),
        "skipped_steps_do_not_count": ({"skip_nonfinite": True}, {"counts": {"oracle": CountsSkippedSteps}}),
        "ema_once_a_cycle": ({**ACCUMULATION, **EMA}, {"micro": {"oracle": AveragesEveryMicroStep}}),
    }
    for value in ("m", "mv"):
        cases[f"nesterov_{value}"] = (look_ahead[value], but(look_ahead, value))
        cases[f"nesterov_{value}_uncorrected"] = (
            {**look_ahead[value], **corrections[False]},
            but(look_ahead, value) | but(corrections, False, "step_size"),
        )
    return {
        f"LAMB_{name}": Variant("LAMB", *case, spoiled=BAD if case[0].get("skip_nonfinite") else {})
        for name, case in cases.items()
    }


def lars():
    after = {"ratio_position": "after_momentum"}
    norm_of_sum = {"denominator": "norm_of_sum"}
    cases = {
        "coefficient": ({"trust_coefficient": 0.1}, others("trust_coefficient", 0.4) | {"all": {"oracle": ScalesOnes}}),
        "after_momentum": (after, others("ratio_position", "before_momentum") | {"all": {"oracle": ScalesOnes}}),
        "norm_of_sum": (norm_of_sum, others("denominator", "sum_of_norms") | {"all": {"oracle": ScalesOnes}}),
        "no_momentum": ({"momentum": 0.0}, others("momentum", 0.8)),
        "bounds_the_whole_ratio": (
            {"trust_ratio_bounds": (0.1, 0.3)},
            {"without_coefficient": {"oracle": CoefficientAfterBounds}},
        ),
    }
    for name, position in (("before", {}), ("after", after), ("norm_of_sum", norm_of_sum)):
        for option, value, off in (("epsilon", 0.5, 0.0), ("nesterov", True, False), ("dampening", 0.6, 0.0)):
            cases[f"{option}_{name}"] = ({**position, option: value}, others(option, off))
        cases[f"nesterov_and_dampening_{name}"] = (
            {**position, "nesterov": True, "dampening": 0.6},
            others("nesterov", False) | others("dampening", 0.0),
        )
    return {f"LARS_{name}": Variant("LARS", *case) for name, case in cases.items()}


VARIANTS = {
    **layerwise("LAMB", weight_bounds=(1.5, 3.0), ratio_bounds=(0.3, 0.8)),
    **layerwise("LARS", weight_bounds=(1.5, 3.0), ratio_bounds=(0.3, 0.8)),
    **layerwise("NormalizedSGD", weight_bounds=(1.0, 3.0), ratio_bounds=(0.5, 2.0)),
    **lamb(),
    **lars(),
}
PAIRS = [(name, neighbour) for name, variant in VARIANTS.items() for neighbour in variant.neighbours]
