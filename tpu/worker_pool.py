"""Runs a function on many tasks in several processes that end with this one, whatever ends it."""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from typing import Any

from tqdm import tqdm


class WorkerDied(RuntimeError):
    """A process of the pool was killed. The message is one sentence fit for a terminal."""


class WorkerPool:
    """This process and others, which are started when first needed.

    As a context manager it ends them, at once if the block ends with an error or is interrupted. Ctrl-C reaches this
    process alone, and the others end even if this one is killed.

    Args:
        processes: How many at most, >= 1, this one among them.
    """

    def __init__(self, processes: int):
        self._processes = processes
        self._executor = None
        self._other_children = set()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, error_type, *_) -> None:
        if self._executor is None:
            return
        with _interrupts_wait():
            if error_type is not None:
                for child in set(multiprocessing.active_children()) - self._other_children:
                    child.terminate()
            self._executor.shutdown(wait=True, cancel_futures=True)

    def run(self, function: Callable[[Any], Any], tasks: Sequence[Any], label: str, unit: str) -> list[Any]:
        """Calls the function on each task, with a progress bar.

        Args:
            function: One of a module, so that other processes can import it.
            tasks: Its arguments, to be taken in this order.
            label: What the progress bar says.
            unit: What it counts.

        Returns:
            The results in the order of the tasks.

        Raises:
            WorkerDied: A process ended without a result.
            Exception: What the function raised first.
        """
        with tqdm(total=len(tasks), desc=label, unit=f" {unit}", disable=None) as progress:
            if self._processes == 1 or len(tasks) <= 1:
                return [function(task) for task in _counted(tasks, progress)]
            try:
                return self._share(function, tasks, progress)
            except concurrent.futures.process.BrokenProcessPool:
                raise WorkerDied(
                    f"A process was killed. Received: {self._processes} processes at work on {label}. "
                    "Expected memory for all of them; the same command continues, for example with fewer --processes."
                ) from None

    def _share(self, function, tasks, progress):
        """Gives tasks to the other processes from the front, and does some here from the back."""
        results, numbers = {}, {}  # of finished tasks; of tasks with others
        waiting = deque(range(len(tasks)))
        while waiting or numbers:
            # Two for each: one to do, and one to go on with while this process is busy.
            while waiting and len(numbers) < 2 * (self._processes - 1):
                number = waiting.popleft()
                numbers[self._submit(function, tasks[number])] = number
            if waiting:
                number = waiting.pop()
                results[number] = function(tasks[number])
                progress.update()
            patience_seconds = 0 if waiting else None
            done, _ = wait(numbers, patience_seconds, concurrent.futures.FIRST_COMPLETED)
            for future in done:
                results[numbers.pop(future)] = future.result()
                progress.update()
        return [results[number] for number in range(len(tasks))]

    def run_apart(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls the function once in another process, which keeps what it took of memory until the pool ends.

        Args:
            function: One of a module, so that the other process can import it.
            *arguments: Its arguments.

        Raises:
            WorkerDied: The process ended without a result.
            Exception: What the function raised.
        """
        try:
            return self._submit(function, *arguments).result()
        except concurrent.futures.process.BrokenProcessPool:
            raise WorkerDied(
                f"The process of {function.__name__} was killed, as Linux does when a machine has no memory left. "
                "Expected a machine with more memory, or fewer programs on it."
            ) from None

    def _submit(self, function, *arguments):
        # The executor starts its processes here, and they keep on blocking what is blocked now. It would also start the
        # tracker of semaphores, which unblocks interrupts.
        multiprocessing.resource_tracker.ensure_running()
        with _interrupts_wait():
            if self._executor is None:
                self._other_children = set(multiprocessing.active_children())
                self._executor = concurrent.futures.ProcessPoolExecutor(
                    self._processes - 1,
                    # Not a fork: TensorFlow's threads and locks do not survive it.
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=_end_with_parent,
                )
            return self._executor.submit(function, *arguments)


def _counted(tasks, progress):
    for task in tasks:
        yield task
        progress.update()


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Lets Ctrl-C take effect only at the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Ends this process when its parent has ended; else it would wait for work for ever."""

    def wait() -> None:
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
