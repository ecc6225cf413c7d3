"""Times what distribution adds to a step of tpu/train_bert.py: virtual replicas of one process, and two processes.

    python benchmarks/scaling.py [--json FILE]

The work of a replica stays the same, and all share the cores of this machine. A ratio is to one replica, of the time
of a step divided by the replicas: above 1 is what distribution costs; below 1, several replicas keep the cores busier.
"""

import argparse
import json
import socket
import statistics
import tempfile
import threading
from pathlib import Path

import cases
import trainings
from interleaved import OtherLoad, summarize

PACKAGES = ("tensorflow", "tf-models-official", "tf_keras")
BATCH, LOOPS = 16, 4
ONE = "1 replica"


def main():
    """Times all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="how many processes of each (default: 2)")
    cases.add_arguments(parser)
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    with tempfile.TemporaryDirectory() as folder, OtherLoad() as load:
        rows = measure(Path(folder), rounds)
    measured = [cases.make(f"step of train_bert.py for {BATCH} sequences of work", "seconds", rows, {}, load)]
    cases.finish("scaling", PACKAGES, measured, arguments)


def measure(folder, rounds):
    """The rows, of seconds a step divided by the number of replicas."""
    trainings.prepare("bert", folder)
    contenders = {
        ONE: lambda run: in_one_process(folder, run, 1),
        "2 virtual replicas": lambda run: in_one_process(folder, run, 2),
        "4 virtual replicas": lambda run: in_one_process(folder, run, 4),
        "1 process, MultiWorkerMirrored": lambda run: in_processes(folder, run, 1),
        "2 processes, MultiWorkerMirrored": lambda run: in_processes(folder, run, 2),
    }
    seconds = {name: [] for name in contenders}
    for number in range(rounds):
        for place, (name, train) in enumerate(contenders.items()):
            seconds[name].append(train(folder / f"run_{place}_{number}"))
    return summarize(seconds, ONE)


def in_one_process(folder, model_dir, replicas):
    """The seconds of a step of so many virtual replicas, for each of them."""
    strategy = ("--strategy", "mirrored", "--cpu_replicas", str(replicas))
    return statistics.median(train(folder, model_dir, replicas, *strategy)) / replicas


def in_processes(folder, model_dir, count):
    """The same of so many processes."""
    workers = [f"localhost:{port}" for port in free_ports(count)]
    seconds = []

    def run(index):
        place = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        environment = {"TF_CONFIG": json.dumps(place)}
        found = train(folder, model_dir, count, "--strategy", "multi_worker", environment=environment)
        if index == 0:
            seconds.extend(found)

    others = [threading.Thread(target=run, args=(index,)) for index in range(1, count)]
    for other in others:
        other.start()
    run(0)
    for other in others:
        other.join()
    return statistics.median(seconds) / count


def train(folder, model_dir, replicas, *options, environment=None):
    """The seconds of the steps of a training."""
    config = trainings.write_config(
        "bert", folder, trainings.STEPS_PER_LOOP * LOOPS, global_batch_size=BATCH * replicas
    )
    return trainings.train_ours("bert", folder, model_dir, config, *options, environment=environment)


def free_ports(count):
    """Ports of this machine that nobody listens at."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


if __name__ == "__main__":
    cases.run(main)
