"""LAMB in experiments of tf-models-official: the optimizer, its config, and its registration.

Importing this module makes the key `tf_lamb` known to Model Garden's optimizer factory; its own `lamb` stays as it is.

An experiment selects it through a config that has the key:

    config.trainer.optimizer_config = tf_lamb.model_garden.OptimizationConfig(
        {"optimizer": {"type": "tf_lamb", "tf_lamb": {"weight_decay": 0.01}}, "learning_rate": ...}
    )
"""

import dataclasses

from tf_lamb.tf_keras import LAMB

try:
    from official.modeling.optimization import optimizer_factory
    from official.modeling.optimization.configs import optimization_config, optimizer_config
except ModuleNotFoundError as error:
    if error.name.partition(".")[0] != "official":
        raise
    raise ImportError(
        "tf_lamb.model_garden needs tf-models-official. Install it with `pip install tf-lamb[models]`, "
        "or import `tf_lamb.tf_keras` for tf_keras alone."
    ) from None

__all__ = ["LAMB", "LAMBConfig", "OptimizationConfig", "OptimizerConfig"]

KEY = "tf_lamb"


@dataclasses.dataclass
class LAMBConfig(optimizer_config.BaseOptimizerConfig):
    """The arguments of `tf_lamb.model_garden.LAMB`, which documents them, and Model Garden's clipping fields."""

    name: str = "LAMB"
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.0
    exclude_from_weight_decay: list[str] | None = None
    exclude_from_layer_adaptation: list[str] | None = None
    jit_compile: str | bool = "auto"


@dataclasses.dataclass
class OptimizerConfig(optimization_config.OptimizerConfig):
    """Model Garden's choice of optimizers, with `tf_lamb` among them."""

    tf_lamb: LAMBConfig = dataclasses.field(default_factory=LAMBConfig)


@dataclasses.dataclass
class OptimizationConfig(optimization_config.OptimizationConfig):
    """Model Garden's optimization config, whose optimizer may be of type `tf_lamb`."""

    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)


if KEY not in optimizer_factory.LEGACY_OPTIMIZERS_CLS:
    # Model Garden's tasks look a key up in this table whatever the class; both tables take a tf_keras optimizer.
    optimizer_factory.register_optimizer_cls(KEY, LAMB, use_legacy_optimizer=True)
    optimizer_factory.register_optimizer_cls(KEY, LAMB, use_legacy_optimizer=False)
