"""Kills a training command again and again, and lets it go on, until it ends by itself."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from pathlib import Path


class KilledRun:
    """A run of one or more processes that is killed at random steps and within writes of checkpoints.

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
        """Runs until the command ends by itself, with at least so many kills of either kind.

        Returns:
            The output of the last process.
        """
        draw = random.Random(seed)
        # Uniform over the run: a kill at a step that is already behind comes at the next restart's end of tracing.
        targets = sorted(draw.randrange(1, self._total_steps) for _ in range(kills))
        writes = [draw.randrange(1, self._total_steps - 1) for _ in range(kills_in_writes)]
        while True:
            running = self._start()
            try:
                if self.kills < len(targets):
                    killed = self._kill_when(running, lambda: self._step() >= targets[self.kills])
                    self.kills += killed
                elif self.kills_in_writes < len(writes):
                    killed = self._kill_when(running, self._is_writing)
                    self.kills_in_writes += killed and self._is_writing()
                else:
                    outputs = [process.communicate(timeout=600)[0] for process in running]
                    assert all(process.returncode == 0 for process in running), "\n".join(outputs)
                    self._note_restored(outputs[0])
                    return outputs[0]
            finally:
                for process in running:
                    if process.poll() is None:
                        process.kill()
                        process.wait()
            assert killed, "The run ended before it could be killed."
            self._note_restored(running[0].stdout.read())

    def executed_steps(self):
        """How many device loops of one step all processes together have reported, a lower bound of the steps made."""
        return len(re.findall(r"train \| step:", (self._model_dir / "orbit.log").read_text(encoding="utf-8")))

    def _start(self):
        ports = [_free_port() for _ in range(self._processes)]
        running = []
        for index in range(self._processes):
            environment = dict(self._environment)
            if self._processes > 1:
                cluster = {"worker": [f"localhost:{port}" for port in ports]}
                environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
            running.append(
                subprocess.Popen(
                    self._command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
            )
        return running

    def _kill_when(self, running, condition):
        deadline = time.monotonic() + 600
        while all(process.poll() is None for process in running):
            assert time.monotonic() < deadline, "The run does not get on."
            if condition():
                for process in running:
                    os.kill(process.pid, signal.SIGKILL)
                for process in running:
                    process.wait()
                return True
            time.sleep(0.0005)
        raise AssertionError(running[0].stdout.read())

    def _step(self):
        try:
            last = (self._model_dir / "history.csv").read_text(encoding="utf-8").rstrip("\n").rsplit("\n", 1)[-1]
            return int(last.split(",")[0])
        except (FileNotFoundError, ValueError):
            return 0

    def _is_writing(self):
        return any(self._model_dir.glob("checkpoints/ckpt-*_temp"))

    def _note_restored(self, output):
        found = re.search(r"step (\d+) of \d+, restored from ckpt-(\d+)", output)
        if found:
            assert found[1] == found[2]
            self.restored_steps.append(int(found[1]))


def _free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]
