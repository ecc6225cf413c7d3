"""Times whole training steps: tpu/train_bert.py and tpu/train_resnet.py against tf-models-official's train library.

    python benchmarks/whole_step.py [--json FILE]

Both train the same model on the same files with the same batch and LAMB, on one device, in processes of their own that
take turns; see trainings.py. Input, loss, metrics, clipping and summaries count. A ratio is to Model Garden.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import cases
import child
import trainings
from interleaved import OtherLoad, summarize
from machine import ROOT

PACKAGES = ("tensorflow", "tf-models-official", "tf_keras")
THEIRS = "train_lib of Model Garden"
LOOPS = {"bert": 5, "resnet": 3}
# As many processes of each; one of them may be some hundredths faster than another.
ROUNDS = {"bert": 3, "resnet": 2}


def main():
    """Times both trainings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_garden", nargs=4, help=argparse.SUPPRESS)
    cases.add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.model_garden:
        sys.path.insert(0, str(ROOT / "tpu"))
        name, *paths = arguments.model_garden
        trainings.train_model_garden(name, *map(Path, paths))
        return
    measured = []
    for name in ("bert",) if arguments.quick else trainings.TRAININGS:
        with tempfile.TemporaryDirectory() as folder, OtherLoad() as load:
            rows = measure(name, Path(folder), 1 if arguments.quick else ROUNDS[name])
        measured.append(cases.make(f"step of {trainings.TRAININGS[name][0]}", "seconds", rows, {}, load))
    cases.finish("whole_step", PACKAGES, measured, arguments)


def measure(name, folder, rounds):
    """The rows of ours and theirs."""
    trainings.prepare(name, folder)
    config = trainings.write_config(name, folder, trainings.STEPS_PER_LOOP * LOOPS[name])

    def ours(model_dir):
        return trainings.train_ours(name, folder, model_dir, config, "--strategy", "one_device")

    def theirs(model_dir):
        child.run(__file__, "--model_garden", name, folder / "data", model_dir, config)
        return trainings.seconds_per_step(model_dir / trainings.SUMMARIES["theirs"])

    seconds = {THEIRS: [], f"tpu/{trainings.TRAININGS[name][0]}": []}
    for number in range(rounds):
        for row, train in zip(seconds, (theirs, ours), strict=True):
            seconds[row].append(statistics.median(train(folder / f"{train.__name__}_{number}")))
    return summarize(seconds, THEIRS)


if __name__ == "__main__":
    cases.run(main)
