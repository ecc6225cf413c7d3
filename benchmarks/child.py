"""Python programs in processes of their own, for what must not share one: memory, start-up, strategies."""

import json
import os
import subprocess
import sys


def run(*command, environment=None):
    """Runs a program to its end, on CPUs.

    Args:
        *command: The path of the program and its arguments.
        environment: What differs in its environment.

    Returns:
        What it printed.

    Raises:
        RuntimeError: It failed; with its last words.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", **(environment or {})}
    command = [sys.executable, *map(str, command)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise RuntimeError(f"{command[1]} ended with exit code {done.returncode}: {lines[-1][:500]}")
    return done.stdout


def ask(*command, environment=None):
    """The JSON that a program prints in its last line; see `run`."""
    return json.loads(run(*command, environment=environment).splitlines()[-1])
