"""A ResNet run that is killed at any moment, and started again, ends with the bits of one that nothing stopped."""

import made_images
import pytest
from kill_run import OF_RUN, ROOT, STEPS, expect_same_end, ways

pytest.importorskip("official", reason="needs tf-models-official")

import train_resnet  # noqa: E402

pytestmark = [pytest.mark.model_garden, pytest.mark.slow]

DIGITS = ROOT / "configs" / "resnet50" / "digits_lamb.yaml"
SETTINGS = [
    "model.depth=10",
    "stages.0.epochs=null",
    f"stages.0.steps={STEPS}",
    "stages.0.global_batch_size=16",
    "stages.0.max_per_replica_batch_size=4",
    "run.shuffle_images=40",
    *OF_RUN,
]


@pytest.fixture(scope="module")
def image_dir(tmp_path_factory):
    """A few digits, not a whole number of batches."""
    folder = tmp_path_factory.mktemp("images")
    made_images.write_digits(folder, 53)
    made_images.prepare(folder, folder / "data")
    return folder / "data"


@pytest.mark.parametrize("way", ways("two processes"))
def test_a_killed_run_ends_with_the_same_bits(way, image_dir, tmp_path):
    """The moving statistics of batch norm, too."""
    command = [train_resnet.__file__, "--config_file", DIGITS, "--data_dir", image_dir]
    values = expect_same_end(command, SETTINGS, way, tmp_path)
    assert any("moving_variance" in name for name in values)
    whole, again = ((tmp_path / name / "validation.json").read_text() for name in ("whole", "killed"))
    assert whole == again
