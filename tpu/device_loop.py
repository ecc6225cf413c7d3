"""The edges of the device loop, where the host has the run in its hands: how far apart they are, and stopping there."""

import os
import signal
import sys
import time

from tqdm import tqdm

# A stop that is asked for has to come within ten seconds, with time left to save.
SECONDS_PER_LOOP = 4.0
LARGEST_LOOP = 1000


def leave(exit_code):
    """Ends the process at once: TensorFlow's iterators can take minutes to wind down, or never do."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


class Stopped(Exception):
    """The run was asked to stop, and has saved its state.

    Attributes:
        exit_code: What the process should exit with.
    """

    def __init__(self, exit_code):
        super().__init__(f"stopped with exit code {exit_code}")
        self.exit_code = exit_code


class DeviceLoop:
    """Decides how many steps lie between two edges, and turns a signal into a checkpoint and a stop at the next.

    A context, and the last of Orbit's train actions. SIGINT (Ctrl-C) and SIGTERM (a preemption) are held back until the
    edge; the second signal acts at once. Elsewhere an interrupt may be lost: Python drops one in a destructor.

    Args:
        checkpoints: The `checkpoints.Checkpoints`; there is an edge at each step at which one is due.
        step: The variable that counts steps.
        workers: The `workers.Workers`.
        steps_per_loop: An integer, or "auto": as many as take about `SECONDS_PER_LOOP`.
        before_saving: A function to call before a checkpoint is saved.
    """

    EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75}

    def __init__(self, checkpoints, step, workers, steps_per_loop="auto", before_saving=lambda: None):
        self._checkpoints, self._step, self._workers = checkpoints, step, workers
        self._fixed = None if steps_per_loop == "auto" else steps_per_loop
        self._before_saving = before_saving
        self._length, self._begin = 1, None
        self._exit_code = None

    def __enter__(self):
        """Takes over the signals."""
        self._previous = {number: signal.signal(number, self._request) for number in self.EXIT_CODES}
        return self

    def __exit__(self, *_):
        """Gives the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number, _):
        self._exit_code = self.EXIT_CODES[number]
        for other in self.EXIT_CODES:
            signal.signal(other, signal.default_int_handler if other == signal.SIGINT else signal.SIG_DFL)
        tqdm.write(
            f"{signal.Signals(number).name}: stopping after this loop; once more to stop at once", file=sys.stderr
        )

    def begin_stage(self):
        """Forgets how long a step takes: the next one is compiled anew."""
        self._length, self._begin = 1, None

    def steps(self, current_step):
        """How many steps to make from `current_step` to the next edge, for Orbit's `steps_per_loop`."""
        self._begin = int(current_step), time.monotonic()
        every = self._checkpoints.every_steps
        return min(self._fixed or self._length, every - int(current_step) % every)

    def __call__(self, output):
        """Saves if that is due; raises `Stopped`, with a checkpoint saved, if a stop was asked for.

        Args:
            output: What the loop returned; not used.
        """
        exit_code, self._length = self._workers.agree(self._exit_code or 0, self._next_length())
        if self._checkpoints.is_due or exit_code:
            self._before_saving()
            self._checkpoints.save()
        if exit_code:
            raise Stopped(exit_code)

    def _next_length(self):
        step, begin = self._begin
        seconds_per_step = (time.monotonic() - begin) / max(int(self._step.numpy()) - step, 1)
        fitting = int(SECONDS_PER_LOOP / max(seconds_per_step, 1e-6))
        # The first loop of a stage includes compiling, so a loop grows by steps.
        return max(1, min(fitting, 4 * self._length, LARGEST_LOOP))
