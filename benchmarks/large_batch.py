"""Trains the scanned digits with LAMB, LARS, Adam, AdamW and momentum, at batches from 32 to all images at once.

    .venv/bin/python benchmarks/large_batch.py --work_dir build/large_batch --json docs/figures/large_batch.json

Every run is one of tpu/train_resnet.py with configs/resnet50/digits_lamb.yaml and fields of that config set, the same
epochs, warmup, augmentation and linear decay of the rate for all. First each optimizer's rate and decay are chosen at
batch 32, among as many pairs as every other's, by images taken from the training ones. Then the rate follows the batch
by a rule, with no other choice, on all training images; the test images are read once by each of these runs, at its
end. A run has one core to itself. Interrupted, the same command goes on.
"""

import argparse
import csv
import json
import os
import queue
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from machine import ROOT, describe_machine

sys.path.insert(0, str(ROOT / "tpu"))
PACKAGES = ("tensorflow", "tf-models-official", "tf_keras", "scikit-learn", "numpy")
CONFIG = ROOT / "configs" / "resnet50" / "digits_lamb.yaml"
DEPTH, EPOCHS = 18, 12
BASE_BATCH, BATCHES, SEEDS = 32, (32, 128, 512, 1438), (0, 1, 2)
SEARCH_SEED = 100
# The statistics of batch norm look back on the same number of images at every batch.
STATISTICS_MOMENTUM = 0.9
ADAMS = ["optimizer.epsilon=1e-8"]
OPTIMIZERS = {
    "lamb": ["optimizer.name=lamb"],
    "lars": [
        "optimizer.name=lars",
        "optimizer.trust_coefficient=0.001",
        "optimizer.dampening=0",
        "optimizer.ratio_position=before_momentum",
    ],
    "adam": ["optimizer.name=adamw", *ADAMS],
    "adamw": ["optimizer.name=adamw", *ADAMS],
    "momentum": ["optimizer.name=momentum"],
}
# Eight pairs of a rate and a decay for each; Adam has no decay, and more rates.
GRIDS = {
    "lamb": [(rate, decay) for decay in (0.01, 0.1) for rate in (0.001, 0.003, 0.01, 0.03)],
    "lars": [(rate, decay) for decay in (1e-4, 1e-3) for rate in (0.3, 1.0, 3.0, 10.0)],
    "adam": [(rate, 0.0) for rate in (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1)],
    "adamw": [(rate, decay) for decay in (0.01, 0.1) for rate in (3e-4, 1e-3, 3e-3, 0.01)],
    "momentum": [(rate, decay) for decay in (1e-4, 1e-3) for rate in (0.01, 0.03, 0.1, 0.3)],
}
# The LARS paper names no formula: its rates grow more slowly than the batch, and faster than its root.
RULES = {
    "lamb": ("square_root",),
    "lars": ("square_root", "linear"),
    "adam": ("square_root",),
    "adamw": ("square_root",),
    "momentum": ("linear",),
}


@dataclass(frozen=True)
class Trial:
    """One run. `phase` is search or test; `rule` is how `rate` followed from the one at batch 32."""

    phase: str
    optimizer: str
    batch: int
    rate: float
    decay: float
    seed: int
    rule: str | None = None

    @property
    def name(self):
        """A name for its files."""
        parts = (self.phase, self.optimizer, self.batch, f"{self.rate:.6g}", f"{self.decay:g}", self.seed)
        return "-".join(map(str, parts))


def main():
    """Searches, trains, and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work_dir", type=Path, required=True, help="the folder of the data and of finished runs")
    parser.add_argument("--json", type=Path, required=True, help="where to write the figures")
    arguments = parser.parse_args()
    make_data(arguments.work_dir)
    searched = run_all([trial for name in GRIDS for trial in search_trials(name)], arguments.work_dir)
    chosen = {name: best([result for result in searched if result["optimizer"] == name]) for name in GRIDS}
    for name, result in chosen.items():
        print(f"{name}: rate {result['rate']:g}, decay {result['decay']:g}, error {result['error']:.2%}", flush=True)
    tested = run_all([trial for name in GRIDS for trial in test_trials(name, chosen[name])], arguments.work_dir)
    facts = describe_machine(len(os.sched_getaffinity(0)), PACKAGES)
    figures = {**facts, "depth": DEPTH, "epochs": EPOCHS, "search": searched, "test": tested}
    arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def make_data(work_dir):
    """Prepares the images to choose on and those to test on."""
    import digits
    import prepare_imagenet

    for phase, part in (("search", "train"), ("test", "all")):
        images = work_dir / f"{phase}_images"
        digits.write(images, part)
        shards = {"train": 8, "validation": 2}
        prepare_imagenet.prepare(images / "train", images / "validation", work_dir / phase, shards=shards)


def search_trials(optimizer):
    """The trials among which an optimizer's rate and decay are chosen."""
    return [Trial("search", optimizer, BASE_BATCH, *pair, SEARCH_SEED) for pair in GRIDS[optimizer]]


def best(results):
    """The result with the least error, and among equals the least loss."""
    learned = [result for result in results if result["error"] is not None]
    return min(learned, key=lambda result: (result["error"], result["loss"]))


def test_trials(optimizer, chosen):
    """The trials at every batch, with each rule and seed. At the smallest, all rules are the same."""
    exponents = {"square_root": 0.5, "linear": 1.0}
    return [
        Trial(
            "test",
            optimizer,
            batch,
            chosen["rate"] * (batch / BASE_BATCH) ** exponents[rule],
            chosen["decay"],
            seed,
            rule,
        )
        for rule in RULES[optimizer]
        for batch in BATCHES
        for seed in SEEDS
    ]


def run_all(trials, work_dir):
    """Runs the trials that have no result yet, one on each core, and returns the results of all."""
    cores = queue.Queue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)
    count = cores.qsize()
    progress = tqdm(total=len(trials), unit="run")

    def run_on_a_core(trial):
        core = cores.get()
        try:
            os.sched_setaffinity(0, {core})  # of this thread, and of what it starts
            return result_of(trial, work_dir)
        finally:
            cores.put(core)
            progress.update()

    with ThreadPoolExecutor(count) as pool, progress:
        return list(pool.map(run_on_a_core, trials))


def result_of(trial, work_dir):
    """The result of a trial, from its file or by running it."""
    from atomic_file import atomic_path

    file = work_dir / "results" / f"{trial.name}.json"
    if not file.exists():
        result = run(trial, work_dir)
        file.parent.mkdir(exist_ok=True)
        with atomic_path(file) as unfinished:
            unfinished.write_text(json.dumps(result))
    return {**json.loads(file.read_text()), **asdict(trial)}


def run(trial, work_dir):
    """Trains and evaluates.

    Returns:
        The error and the loss on the held-out images, None if the run ended with a loss that is not finite; `steps`,
        and for every row of history.csv `step`, the mean training `loss` and training `error` since the row before.
    """
    model_dir = work_dir / "runs" / trial.name
    shutil.rmtree(model_dir, ignore_errors=True)
    command = [sys.executable, ROOT / "tpu" / "train_resnet.py", "--config_file", CONFIG, "--model_dir", model_dir]
    command += ["--data_dir", work_dir / trial.phase, "--strategy", "one_device", "--set", *settings(trial)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    is_finite = "Training diverged" not in done.stderr
    if done.returncode and is_finite:
        raise RuntimeError(f"{trial.name} failed:\n{done.stderr}")
    history = model_dir / "history.csv"  # which a run that diverges at once does not have
    rows = list(csv.DictReader(history.read_text().splitlines())) if history.exists() else []
    held_out = json.loads((model_dir / "validation.json").read_text()) if is_finite else None
    shutil.rmtree(model_dir)
    return {
        "error": 1 - held_out["top_1_accuracy"] if held_out else None,
        "loss": held_out["loss"] if held_out else None,
        "curve": {
            "step": [int(row["step"]) for row in rows],
            "loss": [round(float(row["loss"]), 4) for row in rows],
            "error": [round(1 - float(row["top_1_accuracy"]), 4) for row in rows],
        },
    }


def settings(trial):
    """The fields that a trial sets in the config."""
    momentum = STATISTICS_MOMENTUM ** (trial.batch / BASE_BATCH)
    return [
        f"model.depth={DEPTH}",
        f"model.batch_norm_momentum={momentum:.6g}",
        *OPTIMIZERS[trial.optimizer],
        f"optimizer.weight_decay={trial.decay:g}",
        "optimizer.exclude_from_weight_decay=[batch_normalization|bias]",
        "optimizer.global_clipnorm=null",
        f"stages.0.global_batch_size={trial.batch}",
        f"stages.0.epochs={EPOCHS}",
        f"stages.0.learning_rate={trial.rate:.6g}",
        "run.checkpoint_every_steps=1000000",
        # A row of the history for each epoch, about.
        f"run.steps_per_loop={max(1, BATCHES[-1] // trial.batch)}",
        f"run.seed={trial.seed}",
    ]


if __name__ == "__main__":
    main()
