"""The optimizers of other packages, each run as its users run it, with its own defaults.

All take the arguments that `transcriptions` describes, compute in float64 as far as the package lets them, and return
the list of weights after every step. `**options` are the package's own. A package that is not installed raises
ModuleNotFoundError.
"""

import contextlib
import importlib
import importlib.util
import pathlib
import sys
import types

import keras
import numpy as np


def keras_lamb(weights, gradients, learning_rates, weight_decay, decays):
    """`keras.optimizers.Lamb`, on the backend at hand. It adapts every variable."""
    with backend_float64():
        variables = [keras.Variable(w, dtype="float64", name=f"v{i}") for i, w in enumerate(weights)]
        optimizer = keras.optimizers.Lamb(0.0, weight_decay=weight_decay)
        optimizer.exclude_from_weight_decay([v for v, decay in zip(variables, decays, strict=True) if not decay])
        trajectory = []
        for step, rate in zip(gradients, learning_rates, strict=True):
            optimizer.learning_rate = rate
            optimizer.apply([keras.ops.convert_to_tensor(g, "float64") for g in step], variables)
            trajectory.append([np.array(keras.ops.convert_to_numpy(v)) for v in variables])
    return trajectory


def backend_float64():
    """A context in which Keras's backend has float64: JAX has it only on request."""
    return jax_float64() if keras.backend.backend() == "jax" else contextlib.nullcontext()


def jax_float64():
    """A context in which JAX has float64."""
    import jax
    import jax.experimental

    # Older versions have only the second.
    return (jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64)(True)


def model_garden_lamb(weights, gradients, learning_rates, weight_decay, decays, adapts=None):
    """`LAMB` of official.modeling.optimization.lamb in tf-models-official."""
    from official.modeling.optimization import lamb

    return _model_garden(lamb.LAMB, weights, gradients, learning_rates, weight_decay, decays, adapts)


def model_garden_lars(weights, gradients, learning_rates, weight_decay, decays, adapts=None, **options):
    """`LARS` of official.modeling.optimization.lars in tf-models-official."""
    from official.modeling.optimization import lars

    return _model_garden(lars.LARS, weights, gradients, learning_rates, weight_decay, decays, adapts, **options)


def _model_garden(optimizer_class, weights, gradients, learning_rates, weight_decay, decays, adapts, **options):
    import tensorflow as tf

    def excluded(keeps):
        if keeps is None:
            return None
        # An empty list would be taken for None.
        return [f"^v{i}_" for i, keep in enumerate(keeps) if not keep] or ["^no variable"]

    variables = [tf.Variable(w, dtype="float64", name=f"v{i}_") for i, w in enumerate(weights)]
    optimizer = optimizer_class(
        0.0,
        weight_decay_rate=weight_decay,
        exclude_from_weight_decay=excluded(decays),
        exclude_from_layer_adaptation=excluded(adapts),
        **options,
    )
    trajectory = []
    for step, rate in zip(gradients, learning_rates, strict=True):
        optimizer.learning_rate = rate
        optimizer.apply_gradients([(tf.constant(g, "float64"), v) for g, v in zip(step, variables, strict=True)])
        trajectory.append([v.numpy() for v in variables])
    return trajectory


def optax_lamb(weights, gradients, learning_rates, weight_decay, decays):
    """`optax.lamb`, whose mask governs the decay only."""
    import optax

    def transformation(schedule):
        return optax.lamb(schedule, weight_decay=weight_decay, mask=list(decays))

    return _optax(transformation, weights, gradients, learning_rates)


def optax_lars(weights, gradients, learning_rates, weight_decay, decays, adapts=None, **options):
    """`optax.lars`, which has a mask for the decay and one for the trust ratio: by default it adapts every tensor."""
    import optax

    if adapts is not None:
        options["trust_ratio_mask"] = list(adapts)

    def transformation(schedule):
        return optax.lars(schedule, weight_decay=weight_decay, weight_decay_mask=list(decays), **options)

    return _optax(transformation, weights, gradients, learning_rates)


def _optax(transformation, weights, gradients, learning_rates):
    import jax
    import jax.numpy as jnp
    import optax

    with jax_float64():
        rates = jnp.asarray(learning_rates, jnp.float64)
        optimizer = transformation(lambda count: rates[count])
        w = [jnp.asarray(x, jnp.float64) for x in weights]
        state = optimizer.init(w)
        update = jax.jit(optimizer.update)
        trajectory = []
        for step in gradients:
            updates, state = update([jnp.asarray(g, jnp.float64) for g in step], state, w)
            w = optax.apply_updates(w, updates)
            trajectory.append([np.array(x) for x in w])
    return trajectory


def timm_lamb(weights, gradients, learning_rates, weight_decay, decays, **options):
    """`timm.optim.Lamb`, a port of apex's FusedLAMB: without `always_adapt=True` only decayed tensors adapt."""
    return _torch(_timm("lamb").Lamb, weights, gradients, learning_rates, weight_decay, decays, **options)


def timm_lars(weights, gradients, learning_rates, weight_decay, decays, **options):
    """`timm.optim.Lars`, whose rate is outside the momentum buffer: only decayed tensors adapt."""
    return _torch(_timm("lars").Lars, weights, gradients, learning_rates, weight_decay, decays, **options)


def _timm(module):
    """A file of timm.optim alone: the packages around it import torchvision, which the optimizers do not need."""
    spec = importlib.util.find_spec("timm")
    if spec is None:
        raise ModuleNotFoundError("No module named 'timm'", name="timm")
    package = types.ModuleType("timm_optim")
    package.__path__ = [str(pathlib.Path(spec.origin).parent / "optim")]
    sys.modules.setdefault("timm_optim", package)
    return importlib.import_module(f"timm_optim.{module}")


def torch_optimizer_lamb(weights, gradients, learning_rates, weight_decay, decays, **options):
    """`torch_optimizer.Lamb`, of the package torch-optimizer."""
    import torch_optimizer

    return _torch(torch_optimizer.Lamb, weights, gradients, learning_rates, weight_decay, decays, **options)


def torch_optimizer_lars(weights, gradients, learning_rates, weight_decay, decays, **options):
    """`torch_optimizer.LARS`, whose rate is outside the momentum buffer: only decayed tensors adapt."""
    import torch_optimizer

    return _torch(torch_optimizer.LARS, weights, gradients, learning_rates, weight_decay, decays, **options)


def pytorch_optimizer_lamb(weights, gradients, learning_rates, weight_decay, decays, **options):
    """`pytorch_optimizer.Lamb`, of the package pytorch_optimizer."""
    import pytorch_optimizer

    return _torch(pytorch_optimizer.Lamb, weights, gradients, learning_rates, weight_decay, decays, **options)


def pytorch_optimizer_lars(weights, gradients, learning_rates, weight_decay, decays, **options):
    """`pytorch_optimizer.LARS`, whose rate is outside the momentum buffer.

    It decays and adapts tensors of two or more dimensions, whatever the groups say.
    """
    import pytorch_optimizer

    return _torch(pytorch_optimizer.LARS, weights, gradients, learning_rates, weight_decay, decays, **options)


def _torch(optimizer_class, weights, gradients, learning_rates, weight_decay, decays, **options):
    import torch

    parameters = [torch.nn.Parameter(torch.tensor(np.asarray(w), dtype=torch.float64)) for w in weights]
    groups = [
        {"params": [p for p, decay in zip(parameters, decays, strict=True) if decay], "weight_decay": weight_decay},
        {"params": [p for p, decay in zip(parameters, decays, strict=True) if not decay], "weight_decay": 0.0},
    ]
    optimizer = optimizer_class(groups, **options)
    trajectory = []
    for step, rate in zip(gradients, learning_rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for parameter, g in zip(parameters, step, strict=True):
            parameter.grad = torch.tensor(np.asarray(g), dtype=torch.float64)
        optimizer.step()
        trajectory.append([p.detach().numpy().copy() for p in parameters])
    return trajectory
