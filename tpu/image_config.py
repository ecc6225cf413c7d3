"""The config of an image classification run: what configs/resnet50/*.yaml and configs/alexnet/*.yaml may say."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from config import Section
from run_config import OptimizerConfig, RunConfig
from stages import StageConfig


def _are_shares(values: tuple[float, float]) -> tuple[float, float]:
    if not 0 < values[0] <= values[1] <= 1:
        raise ValueError(f"expected 0 < least <= largest <= 1. Received: {values}")
    return values


class ImageDataConfig(Section):
    """How images become examples."""

    image_size: int = Field(224, gt=0, description="the height and width that the model sees.")
    crop_area: Annotated[tuple[float, float], AfterValidator(_are_shares)] = Field(
        (0.08, 1.0), description="the least and the largest share of an image that a crop for training has."
    )
    flip: bool = Field(True, description="whether an image for training is mirrored at random.")
    center_crop_fraction: float = Field(
        0.875, gt=0, le=1, description="the crop for evaluation, as a share of the image's shorter side."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="the share of a label that all classes divide.")
    on_corrupt: Literal["stop", "skip"] = Field(
        "stop", description="whether an image that cannot be decoded ends the run, or is left out and counted."
    )


class ImageModelConfig(Section):
    """The network."""

    name: Literal["resnet", "alexnet", "alexnet_bn"] = "resnet"
    depth: Literal[10, 18, 26, 34, 50, 101, 152] = Field(50, description="ResNet: the number of its layers.")
    batch_norm_momentum: float = Field(0.9, ge=0, lt=1, description="of the moving statistics.")
    batch_norm_epsilon: float = Field(1e-5, gt=0)
    sync_batch_norm: bool = Field(False, description="whether batch norm sees the examples of all replicas at once.")
    zero_last_gamma: bool = Field(
        False,
        description="ResNet: whether each residual block begins as the identity (Goyal et al. 2017, section 5.1).",
    )
    dropout_rate: float = Field(0.5, ge=0, lt=1, description="AlexNet: of its two large layers.")


class ImageRunConfig(RunConfig):
    """How an image classification run goes on."""

    eval_global_batch_size: int = Field(1024, gt=0, description="the images of one evaluation step.")
    shuffle_images: int = Field(16_384, gt=0, description="from how many images a host draws the next one.")


class ImageConfig(Section):
    """A whole run."""

    data: ImageDataConfig = ImageDataConfig()
    model: ImageModelConfig = ImageModelConfig()
    optimizer: OptimizerConfig
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    run: ImageRunConfig = ImageRunConfig()
