"""Where the time of a training step goes, by TensorFlow's profiler: ours and tf-models-official's train library.

    python benchmarks/step_profile.py [--json FILE]

The trainings of whole_step.py, each profiled for some seconds once it runs. A value is the sum of the times of single
operations in one step; as two may run at the same time, a step takes less. A ratio is to the same part of Model
Garden's step.
"""

import argparse
import collections
import importlib
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import cases
import child
import trainings
from interleaved import OtherLoad
from machine import ROOT

PACKAGES = ("tensorflow", "tf-models-official", "tf_keras")
SECONDS, LOOPS = 5.0, 4
PARTS = ("forward, loss and metrics", "backward", "optimizer", "all")
# What is in the name of an operation; the first that fits counts.
SIGNS = (
    ("backward", ("/gradient_tape/", "/AddN")),
    ("optimizer", ("/StatefulPartitionedCall/", "/LAMB/", "/clip_by_global_norm/", "/global_norm/")),
    ("forward, loss and metrics", ("",)),
)


def main():
    """Profiles both trainings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    cases.add_arguments(parser)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tpu"))
    if arguments.one:
        whose, name, folder = arguments.one
        print(json.dumps(profile(whose, name, Path(folder))))
        return
    measured = []
    for name in ("bert",) if arguments.quick else trainings.TRAININGS:
        with tempfile.TemporaryDirectory() as folder, OtherLoad() as load:
            trainings.prepare(name, Path(folder))
            theirs, ours = (child.ask(__file__, "--one", whose, name, folder) for whose in ("theirs", "ours"))
        rows = [
            {"name": f"{part}, {whose}", "value": parts[part], "spread": 0.0, "ratio": parts[part] / theirs[part]}
            for part in PARTS
            for whose, parts in (("Model Garden", theirs), ("ours", ours))
        ]
        measured.append(cases.make(f"parts of a step of {trainings.TRAININGS[name][0]}", "ms", rows, {}, load))
    cases.finish("step_profile", PACKAGES, measured, arguments)


def profile(whose, name, folder):
    """The milliseconds of the parts of a step; see the module."""
    run = folder / whose
    config = trainings.write_config(name, folder, trainings.STEPS_PER_LOOP * LOOPS)
    places = run / trainings.SUMMARIES[whose], run / "profile"
    watcher = threading.Thread(target=record, args=places, daemon=True)
    watcher.start()
    if whose == "ours":
        script = importlib.import_module(trainings.TRAININGS[name][0].removesuffix(".py"))
        files = ["--config_file", str(config), "--data_dir", str(folder / "data"), "--model_dir", str(run)]
        script.main([*files, "--strategy", "one_device"])
    else:
        trainings.train_model_garden(name, folder / "data", run, config)
    watcher.join()
    (file,) = (run / "profile").rglob("*.xplane.pb")
    return parts_of(file.read_bytes())


def record(summaries, folder):
    """Profiles this process once the second loop is over."""
    import tensorflow as tf

    while not (summaries.exists() and trainings.seconds_per_step(summaries)):
        time.sleep(0.5)
    tf.profiler.experimental.start(str(folder))
    time.sleep(SECONDS)
    tf.profiler.experimental.stop()


def parts_of(content):
    """The milliseconds of the parts of a step in a profile, a serialized XSpace."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    milliseconds, counts = collections.Counter(), collections.Counter()
    for plane in xplane_pb2.XSpace.FromString(content).planes:
        for event in (event for line in plane.lines for event in line.events):
            name = plane.event_metadata[event.metadata_id].name
            if name.startswith("while/body/"):
                part = next(part for part, signs in SIGNS if any(sign in name for sign in signs))
                milliseconds[part] += event.duration_ps / 1e9
                counts[name] += 1
    steps = statistics.mode(counts.values())
    parts = {part: milliseconds[part] / steps for part in PARTS}
    return parts | {"all": sum(parts.values())}


if __name__ == "__main__":
    cases.run(main)
