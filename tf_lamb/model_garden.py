"""LAMB and LARS in experiments of tf-models-official: the optimizers, their configs, and their registration.

Importing this module makes the keys `tf_lamb` and `tf_lamb_lars` known to Model Garden's optimizer factory; its own
`lamb` and `lars` stay as they are.

An experiment selects it through a config that has the key:

    config.trainer.optimizer_config = tf_lamb.model_garden.OptimizationConfig(
        {"optimizer": {"type": "tf_lamb", "tf_lamb": {"weight_decay": 0.01}}, "learning_rate": ...}
    )
"""

import dataclasses

from tf_lamb.tf_keras import LAMB, LARS

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

__all__ = ["LAMB", "LARS", "LAMBConfig", "LARSConfig", "OptimizationConfig", "OptimizerConfig"]

OPTIMIZERS = {"tf_lamb": LAMB, "tf_lamb_lars": LARS}


@dataclasses.dataclass
class LayerwiseConfig(optimizer_config.BaseOptimizerConfig):
    """The options of `tf_lamb.layerwise.LayerwiseOptimizer`, which documents them, and Model Garden's clipping."""

    weight_decay: float = 0.0
    exclude_from_weight_decay: list[str] | None = None
    exclude_from_layer_adaptation: list[str] | None = None
    layer_axes: dict | None = None
    norm: str = "l2"
    weight_norm_bounds: list[float] | None = None
    trust_ratio_bounds: list[float] | None = None
    master_weights: bool = False
    moment_dtype: str | list[str] | None = None
    skip_nonfinite: bool = False
    dynamic_loss_scale: bool = False
    initial_scale: float = 2.0**15
    dynamic_growth_steps: int = 2000
    gradient_accumulation_steps: int | None = None
    telemetry: bool = False
    telemetry_every_steps: int = 100
    use_ema: bool = False
    ema_momentum: float = 0.99
    ema_overwrite_frequency: int | None = None
    jit_compile: str | bool = "auto"


@dataclasses.dataclass
class LAMBConfig(LayerwiseConfig):
    """The arguments of `tf_lamb.tf_keras.LAMB`."""

    name: str = "LAMB"
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-6
    bias_correction: str | bool = True
    nesterov: str | bool = False
    decay_inside_ratio: bool = True


@dataclasses.dataclass
class LARSConfig(LayerwiseConfig):
    """The arguments of `tf_lamb.tf_keras.LARS`."""

    name: str = "LARS"
    momentum: float = 0.9
    trust_coefficient: float = 0.001
    epsilon: float = 0.0
    nesterov: bool = False
    dampening: float = 0.0
    ratio_position: str = "before_momentum"
    denominator: str = "sum_of_norms"


@dataclasses.dataclass
class OptimizerConfig(optimization_config.OptimizerConfig):
    """Model Garden's choice of optimizers, with `tf_lamb` and `tf_lamb_lars` among them."""

    tf_lamb: LAMBConfig = dataclasses.field(default_factory=LAMBConfig)
    tf_lamb_lars: LARSConfig = dataclasses.field(default_factory=LARSConfig)


@dataclasses.dataclass
class OptimizationConfig(optimization_config.OptimizationConfig):
    """Model Garden's optimization config, whose optimizer may be of type `tf_lamb` or `tf_lamb_lars`."""

    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)


for key, optimizer_class in OPTIMIZERS.items():
    if key not in optimizer_factory.LEGACY_OPTIMIZERS_CLS:
        # Model Garden's tasks look a key up in this table whatever the class; both tables take a tf_keras optimizer.
        optimizer_factory.register_optimizer_cls(key, optimizer_class, use_legacy_optimizer=True)
        optimizer_factory.register_optimizer_cls(key, optimizer_class, use_legacy_optimizer=False)
