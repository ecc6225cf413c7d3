"""Trains with float32 and with bfloat16 moments: what half the memory for them costs in accuracy.

    python benchmarks/moments.py [--json FILE]

A small BERT on CPython's documentation and a ResNet-10 on scikit-learn's digits, by the scripts in tpu/, with the same
seeds for each kind of moments, two trainings at a time. Values are on held-out data, the means over the seeds; a spread
is that of the seeds, and a ratio is to float32.
"""

import argparse
import json
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cases
import trainings
from interleaved import OtherLoad, compare

PACKAGES = ("tensorflow", "tf-models-official", "tf_keras")
SEEDS = (0, 1, 2)
DTYPES = ("float32", "bfloat16")
# For each training: fields of its stage, settings, the file of the results and what is read from it.
TRAININGS = {
    "bert": (
        # So long that it beats the frequencies of words.
        {"seq_length": 64, "max_predictions": 10, "steps": 1000, "learning_rate": 0.01, "warmup_steps": 100},
        ("model.dropout_rate=0.0", "run.steps_per_loop=auto"),
        "held_out.json",
        {"masked-LM loss": lambda results: results["masked_lm_loss"]},
    ),
    "resnet": (
        {"steps": 270, "learning_rate": 0.01, "warmup_steps": 45},
        ("model.depth=10", "data.image_size=16", "run.steps_per_loop=auto"),
        "validation.json",
        {"loss": lambda results: results["loss"], "accuracy": lambda results: results["top_1_accuracy"]},
    ),
}


def main():
    """Trains with every seed and kind of moments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases.add_arguments(parser)
    arguments = parser.parse_args()
    measured = []
    for name, (_, _, _, quantities) in TRAININGS.items():
        with tempfile.TemporaryDirectory() as folder, OtherLoad() as load:
            results = train_all(name, Path(folder), arguments.quick)
        for quantity, read in quantities.items():
            values = {moments: list(map(read, of_seeds)) for moments, of_seeds in results.items()}
            rows = compare(values, statistics.mean)
            title = f"held-out {quantity} of {trainings.TRAININGS[name][0]}"
            measured.append(cases.make(title, quantity.split()[-1], rows, {}, load))
    cases.finish("moments", PACKAGES, measured, arguments)


def train_all(name, folder, quick):
    """A dictionary of the kinds of moments to the results of each seed."""
    of_stage, settings, file, _ = TRAININGS[name]
    if quick:
        of_stage = of_stage | {"steps": 20, "warmup_steps": 2}
    trainings.prepare(name, folder, **of_stage)
    config = trainings.write_config(name, folder, **of_stage)

    def train(dtype, seed):
        run = Path(tempfile.mkdtemp(dir=folder), "run")
        options = ("--set", *settings, f"run.seed={seed}", f"optimizer.moment_dtype={dtype}")
        trainings.train_ours(name, folder, run, config, "--strategy", "one_device", *options)
        return json.loads((run / file).read_text())

    seeds = SEEDS[: 1 if quick else None]
    with ThreadPoolExecutor(2) as pool:
        results = {f"{dtype} moments": [pool.submit(train, dtype, seed) for seed in seeds] for dtype in DTYPES}
        return {moments: [each.result() for each in of_seeds] for moments, of_seeds in results.items()}


if __name__ == "__main__":
    cases.run(main)
