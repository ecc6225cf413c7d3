"""A BERT run that is killed at any moment, and started again, ends with the bits of one that nothing stopped."""

import pytest
from kill_run import OF_RUN, ROOT, expect_same_end, ways

pytest.importorskip("official", reason="needs tf-models-official")

import prepare_bert_data  # noqa: E402
import train_bert  # noqa: E402
from bert_config import PretrainConfig  # noqa: E402
from config import load  # noqa: E402

pytestmark = [pytest.mark.model_garden, pytest.mark.slow]

TINY = ROOT / "configs" / "bert" / "tiny.yaml"
SETTINGS = [
    "data.vocab_size=400",
    "model.layers=1",
    "model.hidden_size=16",
    "model.intermediate_size=32",
    "model.dropout_rate=0.1",
    "stages.0.steps=24",
    "stages.0.warmup_steps=4",
    "stages.0.global_batch_size=16",
    "stages.0.max_per_replica_batch_size=4",
    "stages.1.steps=12",
    "stages.1.warmup_steps=2",
    "stages.1.global_batch_size=8",
    *OF_RUN,
]


@pytest.fixture(scope="module")
def text_dir(tmp_path_factory):
    """A small data set: documents of the words that numbers are made of."""
    folder = tmp_path_factory.mktemp("text")
    for split, documents in (("train", range(40)), ("held_out", range(40, 46))):
        texts = [
            "\n".join(f"Document {n} says that line {i} is {i * n}. It goes on with {n - i} words." for i in range(6))
            for n in documents
        ]
        (folder / f"{split}.txt").write_text("\n\n".join(texts) + "\n")
    config = load(TINY, PretrainConfig, SETTINGS)
    prepare_bert_data.prepare(config, folder / "train.txt", folder / "held_out.txt", folder / "data", 2, False)
    return folder / "data"


@pytest.mark.parametrize("way", ways())
def test_a_killed_run_ends_with_the_same_bits(way, text_dir, tmp_path):
    """Weights, moments and counters, with dropout, in two stages."""
    expect_same_end([train_bert.__file__, "--config_file", TINY, "--data_dir", text_dir], SETTINGS, way, tmp_path)
    whole, again = ((tmp_path / name / "held_out.json").read_text() for name in ("whole", "killed"))
    assert whole == again
