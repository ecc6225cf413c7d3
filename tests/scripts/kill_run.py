"""Kills a training command again and again, and lets it go on, until it ends by itself, with the same bits.

`KILLS=20 KILLS_IN_WRITES=5` makes a test of it that takes an hour; by default there are two kills, of ResNet in two
processes.
"""

import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

ROOT = Path(__file__).parents[2]
KILLS, KILLS_IN_WRITES = int(os.environ.get("KILLS", "1")), int(os.environ.get("KILLS_IN_WRITES", "1"))
INTERVAL, STEPS = 3, 36
OF_RUN = ["run.steps_per_loop=1", f"run.checkpoint_every_steps={INTERVAL}", "run.eval_global_batch_size=8"]
WAYS = {"one process": (["--cpu_replicas", "2"], 1), "two processes": (["--strategy", "multi_worker"], 2)}


def ways(default=None):
    """The parameters of a test of each of `WAYS`: the default one, if any, and with KILLS set the others."""
    reason = "takes some minutes; KILLS=1 runs it"
    unless_asked = pytest.mark.skipif("KILLS" not in os.environ, reason=reason)
    return [pytest.param(way, marks=() if way == default else unless_asked) for way in WAYS]


def expect_same_end(command, settings, way, folder):
    """Runs a command to its end in folder/whole, and with kills in folder/killed; returns the values they end with."""
    options, processes = WAYS[way]

    def killed_run(model_dir):
        parts = [sys.executable, *map(str, command), "--model_dir", str(model_dir), *options, "--set", *settings]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        return KilledRun(parts, model_dir, environment, STEPS, processes)

    killed_run(folder / "whole").run(0, 0)
    killed = killed_run(folder / "killed")
    killed.run(KILLS, KILLS_IN_WRITES)
    assert (killed.kills, killed.kills_in_writes) == (KILLS, KILLS_IN_WRITES)
    print(f"{way}: {killed.kills} kills, {killed.kills_in_writes} in writes; restored {killed.restored_steps}")
    restarts = len(killed.restored_steps) - 1
    assert restarts >= KILLS + KILLS_IN_WRITES
    assert all(step % INTERVAL == 0 for step in killed.restored_steps)
    assert killed.executed_steps() <= STEPS + restarts * INTERVAL

    expected, resumed = checkpoint_values(folder / "whole"), checkpoint_values(folder / "killed")
    assert expected.keys() == resumed.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    return expected


def checkpoint_values(model_dir):
    """The values of a run's last checkpoint, with TensorFlow's own counter of saves."""
    reader = tf.train.load_checkpoint(str(model_dir / "checkpoints" / f"ckpt-{STEPS}"))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if "OBJECT_GRAPH" not in name}


class KilledRun:
    """A run of one or more processes that is killed at random steps and within writes of checkpoints.

    A process is killed at the earliest when it has said from which step it goes on.

    Args:
        command: The command line; every process gets the same.
        model_dir: The `Path` of the run.
        environment: Its environment variables.
        total_steps: The steps of the run.
        processes: How many processes; more than one get a TF_CONFIG.
    """

    def __init__(self, command, model_dir, environment, total_steps, processes=1):
        self._command, self._model_dir, self._environment = command, Path(model_dir), environment
        self._total_steps, self._processes = total_steps, processes
        self.kills = self.kills_in_writes = 0
        self.restored_steps = []

    def run(self, kills, kills_in_writes, seed=0):
        """Runs until the command ends by itself, with so many kills of either kind."""
        draw = random.Random(seed)
        # Uniform over the run: where the step is already behind, as soon as the next process has restored.
        targets = [(draw.randrange(1, self._total_steps), False) for _ in range(kills)]
        targets += [(draw.randrange(self._total_steps - 1), True) for _ in range(kills_in_writes)]
        for step, in_write in sorted(targets):
            while not self._killed(step, in_write):
                pass
        running = self._start()
        try:
            codes = [process.wait(timeout=600) for process in running]
        finally:
            _kill(running)
        assert not any(codes), self._output()
        self.restored_steps.append(self._restored_step())

    def _killed(self, step, in_write):
        """Runs until it is killed at a step; returns False if that was to be in a write, which was over before."""
        running = self._start()
        try:
            self._wait(running, lambda: self._step() >= step and (not in_write or self._is_writing()))
        finally:
            _kill(running)
        self.restored_steps.append(self._restored_step())
        if in_write and not self._is_writing():
            return False
        self.kills += not in_write
        self.kills_in_writes += in_write
        return True

    def executed_steps(self):
        """How many device loops of one step all processes together have reported, a lower bound of the steps made."""
        return len(re.findall(r"train \| step:", (self._model_dir / "orbit.log").read_text(encoding="utf-8")))

    def _start(self):
        ports = [_free_port() for _ in range(self._processes)]
        running = []
        for index in range(self._processes):
            environment = {**self._environment, "PYTHONUNBUFFERED": "1"}
            if self._processes > 1:
                cluster = {"worker": [f"localhost:{port}" for port in ports]}
                environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
            with self._output_path(index).open("w") as output:
                running.append(
                    subprocess.Popen(self._command, env=environment, stdout=output, stderr=subprocess.STDOUT)
                )
        return running

    def _wait(self, running, condition):
        deadline = time.monotonic() + 600
        while self._restored_step() is None or not condition():
            assert all(process.poll() is None for process in running), self._output()
            assert time.monotonic() < deadline, "The run does not get on."
            time.sleep(0.0005)

    def _step(self):
        try:
            last = (self._model_dir / "history.csv").read_text(encoding="utf-8").rstrip("\n").rsplit("\n", 1)[-1]
            return int(last.split(",")[0])
        except (FileNotFoundError, ValueError):
            return 0

    def _is_writing(self):
        return any(self._model_dir.glob("checkpoints/ckpt-*_temp"))

    def _output_path(self, index):
        return self._model_dir.with_name(f"{self._model_dir.name}_output_{index}.txt")

    def _output(self):
        return self._output_path(0).read_text(encoding="utf-8")

    def _restored_step(self):
        """The step that the present process has said to go on from; None before."""
        found = re.search(r"; step (\d+) of \d+(?:, restored from ckpt-(\d+))?\n", self._output())
        if not found:
            return None
        assert found[1] == (found[2] or "0")
        return int(found[1])


def _kill(running):
    for process in running:
        process.kill()
    for process in running:
        process.wait()


def _free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]
