"""What other implementations of LAMB and LARS compute, expressed in the options of ours.

Each function returns a `tf_lamb.LAMB` or `tf_lamb.LARS` that follows one other implementation; the defaults that are
not given are those of that implementation. Keywords override them, and go to the optimizer as they are.

>>> from tf_lamb import dialects
>>> optimizer = dialects.deepspeed(0.002, weight_decay=0.01)
>>> optimizer.bias_correction, optimizer.epsilon
('step_size', 1e-08)

`options` gives the same options as a dictionary, for the optimizers of `tf_lamb.tf_keras`:

>>> sorted(dialects.options("nvlamb", 0.01).items())
[('exclude_from_layer_adaptation', ()), ('global_clipnorm', 1.0), ('learning_rate', 0.01), ('weight_decay', 0.01)]

Hyper-parameters do not carry over from one dialect to another: `docs/conversion.md` says what to change. Every dialect
is compared with the implementation itself, or a transcription of its formulas, in `tests/test_dialects.py`;
`docs/dialects.md` has the errors.
"""

import functools

from tf_lamb.lamb import LAMB
from tf_lamb.lars import LARS

LAMB_DIALECTS = {}
LARS_DIALECTS = {}
EVERY_VARIABLE = (".*",)
ARGUMENTS = """
    Args:
        learning_rate: A float or a learning-rate schedule.
        **overrides: Options of `tf_lamb.{0}` that replace those of the dialect.

    Returns:
        A `tf_lamb.{0}`.
    """


def options(dialect, learning_rate, **overrides):
    """The options of a dialect.

    Args:
        dialect: The name of a function of this module, for example `"nvlamb"`.
        learning_rate: A float or a learning-rate schedule.
        **overrides: Options of `tf_lamb.LAMB` or `tf_lamb.LARS` that replace those of the dialect.

    Returns:
        A dictionary of keyword arguments for `tf_lamb.LAMB` or `tf_lamb.LARS`, or the same class of
        `tf_lamb.tf_keras`.

    Raises:
        ValueError: There is no dialect of that name.
    """
    known = {**LAMB_DIALECTS, **LARS_DIALECTS}
    if dialect not in known:
        raise ValueError(
            f"There is no such dialect. Received: {dialect!r}. Expected one of {', '.join(sorted(known))}."
        )
    return {"learning_rate": learning_rate, **known[dialect](**overrides)}


def _dialect(optimizer_class, registry):
    """Makes a function from overrides to options into one that returns the optimizer, and keeps it in `registry`."""

    def decorate(make_options):
        name = make_options.__name__
        registry[name] = make_options

        @functools.wraps(make_options)
        def make_optimizer(learning_rate, **overrides):
            return optimizer_class(**options(name, learning_rate, **overrides))

        del make_optimizer.__wrapped__  # The signature to show is the one with the learning rate.
        if make_optimizer.__doc__:  # Python -OO has none.
            arguments = ARGUMENTS.format(optimizer_class.__name__)
            make_optimizer.__doc__ = f"{make_optimizer.__doc__.rstrip()}\n{arguments}"
        return make_optimizer

    return decorate


_lamb = _dialect(LAMB, LAMB_DIALECTS)
_lars = _dialect(LARS, LARS_DIALECTS)


def _empty_list_is_none(overrides):
    """`exclude_from_layer_adaptation=[]` as those read it who test `if the_list`: as the list for decay."""
    if overrides.get("exclude_from_layer_adaptation") == []:
        return {**overrides, "exclude_from_layer_adaptation": None}
    return overrides


@_lamb
def paper(**overrides):
    """LAMB as in the paper from version 4 on: algorithm 2, arXiv 1904.00962v5. The defaults of `tf_lamb.LAMB`."""
    return overrides


@_lamb
def tensorflow_addons(**overrides):
    """`tensorflow_addons.optimizers.LAMB` 0.23: the paper.

    `exclude_from_layer_adaptation=[]` means the list for decay, as it does there; `()` means that all variables adapt,
    which cannot be said there.

    Differs: under a multi-replica strategy Addons clips the gradients of each replica before it sums them. Ours clips
    the sum.
    """
    return _empty_list_is_none(overrides)


@_lamb
def model_garden(**overrides):
    """`official.modeling.optimization.lamb.LAMB` of tf-models-official: the paper, with the lists of TensorFlow Addons.

    Differs: in the clipping, as `tensorflow_addons`.
    """
    return _empty_list_is_none(overrides)


@_lamb
def optax(**overrides):
    """`optax.lamb`: the paper, with every variable adapted.

    `mask` of optax governs the decay alone, and marks what decays: `exclude_from_weight_decay` names the others.

    Differs: there is no `eps_root`.
    """
    return {"exclude_from_layer_adaptation": (), **overrides}


@_lamb
def paper_v3(**overrides):
    """LAMB as in the first three versions of the paper, and in the code behind them: no bias correction.

    That code (`albert`) clips the global norm of the gradients to 1; `global_clipnorm=None` turns this off.

    Differs: the first version, as others have written it, bounds the weight norm by 10. Say
    `weight_norm_bounds=(None, 10.0)` for that.
    """
    return {"bias_correction": False, "global_clipnorm": 1.0, **overrides}


@_lamb
def albert(**overrides):
    """`LAMBOptimizer` of google-research/albert, with the options and the clipping of its `create_optimizer`.

    No bias correction, a decay of 0.01, the global norm clipped to 1. Without a list for adaptation, or with `[]`, only
    the variables outside the list for decay adapt. The list there is `["LayerNorm", "layer_norm", "bias"]`; it is not
    set here, since Keras names its variables otherwise.
    """
    defaults = {"bias_correction": False, "weight_decay": 0.01, "global_clipnorm": 1.0}
    return {**defaults, **_empty_list_is_none(overrides)}


@_lamb
def nvlamb(**overrides):
    """NVIDIA's LAMB: `FusedLAMB(use_nvlamb=True)` of apex. Every variable adapts.

    The gradients are scaled to a global norm of at most 1 before the moments see them; a decay of 0.01.

    Differs: NVLAMB as first published divides by the global norm always, not only above 1 (recalled, not verified).
    """
    return {"weight_decay": 0.01, "global_clipnorm": 1.0, "exclude_from_layer_adaptation": (), **overrides}


@_lamb
def apex(**overrides):
    """`FusedLAMB` of apex: as `nvlamb`, but only variables that decay adapt.

    With `weight_decay=0` no variable adapts at all, as there, and what is left is Adam.

    Differs: `max_grad_norm=0` of apex sets every gradient to 0. Here `global_clipnorm=None` means no clipping.
    """
    overrides = {"weight_decay": 0.01, "global_clipnorm": 1.0, **overrides}
    if not overrides["weight_decay"] and overrides.get("exclude_from_layer_adaptation") is None:
        overrides["exclude_from_layer_adaptation"] = EVERY_VARIABLE
    return overrides


@_lamb
def deepspeed(**overrides):
    """`FusedLamb` of DeepSpeed, up to 0.19.8. Every variable adapts, and the ratio stays within [0.01, 10].

    The bias correction is a factor of the step, sqrt(1 - beta_2^t) / (1 - beta_1^t), outside the norm: at the default
    betas 0.32 at the first update, 0.15 at the tenth, 0.80 at the thousandth. The sources after 0.19.8 correct the
    moments instead: `bias_correction=True`.

    Differs: `eps_inside_sqrt` and `max_grad_norm` are not there. The engine clips by itself: set `global_clipnorm`.
    """
    defaults = {"bias_correction": "step_size", "epsilon": 1e-8, "trust_ratio_bounds": (0.01, 10.0)}
    return {**defaults, "exclude_from_layer_adaptation": (), **overrides}


@_lamb
def lambc(**overrides):
    """LAMBC: the ratio is at most 1, and every variable adapts.

    As `timm.optim.Lamb(trust_clip=True, always_adapt=True, max_grad_norm=None)`; timm's default `max_grad_norm=1.0` is
    `global_clipnorm=1.0`.
    """
    defaults = {"weight_decay": 0.01, "trust_ratio_bounds": (None, 1.0), "exclude_from_layer_adaptation": ()}
    return {**defaults, **overrides}


@_lamb
def keras(**overrides):
    """`keras.optimizers.Lamb` of Keras 3: the decay is outside the ratio, and every variable adapts.

    `w -= learning_rate * weight_decay * w` comes first, and both norms are taken after it.

    Differs: under a multi-replica strategy Keras clips the gradients of each replica before it sums them. Ours clips
    the sum, so the two agree on one replica.
    """
    return {"epsilon": 1e-7, "decay_inside_ratio": False, "exclude_from_layer_adaptation": (), **overrides}


@_lars
def lars_paper(**overrides):
    """LARS as in its paper, arXiv 1708.03888, algorithm 1. The defaults of `tf_lamb.LARS`.

    The local rate is 0.001 * ||w|| / (||g|| + weight_decay * ||w||), taken before the momentum.
    """
    return overrides


@_lars
def lars_lamb_paper(**overrides):
    """LARS as in the LAMB paper, arXiv 1904.00962v5, algorithm 1.

    m = beta * m + (1 - beta) * (g + weight_decay * w), w -= learning_rate * ||w|| / ||m|| * m. Beta is `momentum`, and
    `dampening` the same number unless it is given.
    """
    defaults = {"trust_coefficient": 1.0, "ratio_position": "after_momentum"}
    return {**defaults, "dampening": overrides.get("momentum", 0.9), **overrides}


@_lars
def lars_mlperf(**overrides):
    """`LARSOptimizer` of the MLPerf training reference: as the paper, with an epsilon in the denominator.

    Its default epsilon of 0 becomes Keras's 1e-7. Its `skip_list` is `exclude_from_weight_decay`, and excludes from
    both; its entries are parts of names, not regular expressions.
    """
    return {"weight_decay": 1e-4, "epsilon": 1e-7, **overrides}


@_lars
def lars_model_garden(**overrides):
    """`official.modeling.optimization.lars.LARS` of tf-models-official: the norm of g + weight_decay * w divides.

    `classic_momentum=False` there is `ratio_position="after_momentum"`. `exclude_from_layer_adaptation=[]` means the
    list for decay, as it does there.
    """
    return {"denominator": "norm_of_sum", **_empty_list_is_none(overrides)}


@_lars
def lars_optax(**overrides):
    """`optax.lars`: the norm of g + weight_decay * w divides, and every variable adapts.

    The two masks of optax mark what decays and what adapts: our two lists name the others.
    """
    return {"denominator": "norm_of_sum", "exclude_from_layer_adaptation": (), **overrides}
