"""Two processes under MultiWorkerMirroredStrategy are one replica on the same global batch."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import multi_worker
import numpy as np
import pytest
import tensorflow as tf
from tolerances import REPLICAS, distance

FLOAT32 = REPLICAS["float32", "cpu"]
WORKERS = 2
# Longer than the longest stage of a worker on a busy machine, which is its imports.
SILENCE_SECONDS = 100


def run_workers(command, folder, silence_seconds=SILENCE_SECONDS):
    """Runs a command as each worker of a cluster on this machine, until all end.

    Args:
        command: For a worker's index, what to run.
        folder: Where the outputs of the workers go.
        silence_seconds: How long all workers may print nothing.

    Raises:
        RuntimeError: A worker failed, or all fell silent. None is left running.
    """
    addresses = [f"localhost:{port}" for port in free_ports()]
    logs = [folder / f"worker{index}.log" for index in range(WORKERS)]
    workers = []
    try:
        for index, log in enumerate(logs):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            paths = os.pathsep.join(filter(None, sys.path))
            environment = {**os.environ, "TF_CONFIG": json.dumps(task), "PYTHONPATH": paths}
            with log.open("w") as output:
                process = subprocess.Popen(command(index), env=environment, stdout=output, stderr=subprocess.STDOUT)
            workers.append(process)
        wait(workers, logs, silence_seconds)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def wait(workers, logs, silence_seconds):
    printed, since = 0, time.monotonic()
    while any(worker.poll() is None for worker in workers):
        now = sum(log.stat().st_size for log in logs)
        if now > printed:
            printed, since = now, time.monotonic()
        what = None
        if any(worker.poll() for worker in workers):
            what = "A worker failed."
        elif time.monotonic() - since > silence_seconds:
            what = f"The workers were silent for {silence_seconds} seconds."
        if what:
            raise RuntimeError("\n".join([what, *(log.read_text()[-3000:] for log in logs)]))
        time.sleep(0.1)
    if any(worker.returncode for worker in workers):
        raise RuntimeError("\n".join(["A worker failed.", *(log.read_text()[-3000:] for log in logs)]))


def free_ports():
    sockets = [socket.socket() for _ in range(WORKERS)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """For each worker what it wrote."""
    folder = tmp_path_factory.mktemp("workers")
    script = Path(multi_worker.__file__)
    run_workers(lambda index: [sys.executable, str(script), str(folder / f"{index}.npz")], folder)
    return [dict(np.load(folder / f"{index}.npz")) for index in range(WORKERS)]


def values(results, prefix):
    """What the first worker wrote under names with a prefix."""
    return [value for name, value in results[0].items() if name.startswith(prefix + " ")]


@pytest.mark.slow
@pytest.mark.parametrize("case", multi_worker.CASES)
def test_two_workers_are_one_replica(face, case, results):
    one = multi_worker.train(face, case)
    weights = values(results, f"{face} {case}")[: len(one.variables)]
    assert distance(weights, one.weights()) < FLOAT32
    counters = [name for name in one.state() if "iteration" in name or "skipped_steps" in name]
    assert counters
    for name in counters:
        assert results[0][f"{face} {case} {name}"] == one.state()[name][0]


@pytest.mark.slow
def test_fit_on_two_workers_is_fit_on_one(results):
    one = multi_worker.fit(tf.distribute.get_strategy())
    assert distance(values(results, "fit"), one) < FLOAT32


@pytest.mark.slow
def test_the_workers_agree(results):
    assert results[0].keys() == results[1].keys()
    assert all(results[0][name].tobytes() == results[1][name].tobytes() for name in results[0])


@pytest.mark.slow
def test_clipping_before_the_sum_differs(results):
    one = multi_worker.train("keras", "clipping")
    assert distance(values(results, "keras mutant")[: len(one.variables)], one.weights()) > 10 * FLOAT32


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import time; print('begun', flush=True); time.sleep(600)", "silent for 2 seconds"),
        ("1 / 0", "A worker failed"),
    ],
)
def test_a_worker_that_hangs_or_fails_ends_the_run(code, message, tmp_path):
    """Here the other worker waits for it."""
    waiting = "import time; time.sleep(600)"
    begun = time.monotonic()
    with pytest.raises(RuntimeError, match=message):
        run_workers(lambda index: [sys.executable, "-c", code if index else waiting], tmp_path, silence_seconds=2)
    assert time.monotonic() - begun < 60
