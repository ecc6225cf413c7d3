"""Several processes give what one gives, and none is left over."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import worker_pool
from worker_pool import WorkerDied, WorkerPool

TPU = Path(worker_pool.__file__).parent
# Tasks must be functions of a module: this one is imported by the other processes.
TASKS = """
import multiprocessing, os, signal, sys, time

def square(number):
    return number * number

def is_first():
    return multiprocessing.parent_process() is None

def fail(number):
    if number == 1:
        raise ValueError(f"no {number}")
    time.sleep(1 if is_first() else 60)

def fail_here(number):
    if is_first():
        raise ValueError(f"no {number}")
    time.sleep(60)

def die(number):
    if not is_first():
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(1)

def who(number):
    time.sleep(0.01)
    return os.getpid()

def blocks_interrupts(number):
    time.sleep(0.05)
    return is_first() or signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

def sleep(path):
    open(f"{path}.{os.getpid()}", "w").close()
    time.sleep(300)
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "pool_tasks.py").write_text(TASKS)
    sys.path.insert(0, str(folder))
    import pool_tasks

    yield pool_tasks
    sys.path.remove(str(folder))


@pytest.mark.parametrize("processes", [1, 2])
def test_results_are_in_the_order_of_the_tasks(tasks, processes):
    with WorkerPool(processes) as pool:
        assert pool.run(tasks.square, range(20), "squares", "numbers") == [n * n for n in range(20)]
        assert pool.run(tasks.square, [], "squares", "numbers") == []
        assert pool.run(tasks.square, [3], "squares", "numbers") == [9]


def test_this_process_takes_part(tasks):
    with WorkerPool(3) as pool:
        workers = [pool.run(tasks.who, range(300), "waits", "waits") for _ in range(2)]
    assert {os.getpid()} < set(workers[0]) and len(set(workers[0] + workers[1])) <= 3


@pytest.mark.parametrize(("function", "message"), [("fail", "no 1"), ("fail_here", "no 9")])
def test_an_error_ends_the_others_at_once(tasks, function, message):
    begun = time.monotonic()
    with pytest.raises(ValueError, match=message), WorkerPool(3) as pool:
        pool.run(getattr(tasks, function), range(10), "failures", "numbers")
    assert time.monotonic() - begun < 50
    assert not multiprocessing.active_children()


def test_a_killed_process_is_told(tasks):
    with pytest.raises(WorkerDied, match=r"A process was killed\. Received: 2 processes at work on deaths\. Expected"):
        with WorkerPool(2) as pool:
            pool.run(tasks.die, range(9), "deaths", "numbers")


def test_no_worker_ever_sees_an_interrupt(tasks, tmp_path):
    """It would print a traceback, most of all while its interpreter starts."""
    program = (
        "import pool_tasks, worker_pool\n"
        "if __name__ == '__main__':\n"
        "    with worker_pool.WorkerPool(3) as pool:\n"
        "        print(all(pool.run(pool_tasks.blocks_interrupts, range(60), 'masks', 'masks')))\n"
    )
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": f"{TPU}:{Path(tasks.__file__).parent}"}
    command = [sys.executable, tmp_path / "program.py"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("True\n", "", 0)


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
@pytest.mark.parametrize("how", ["SIGINT to all", "SIGINT", "SIGTERM", "SIGKILL"])
def test_no_process_is_left(tasks, tmp_path, how):
    """Whether a terminal interrupts the whole group, or this process alone is interrupted, ended or killed."""
    program = (
        "import sys, pool_tasks, worker_pool\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        with worker_pool.WorkerPool(2) as pool:\n"
        "            pool.run(pool_tasks.sleep, [sys.argv[1]] * 4, 'naps', 'naps')\n"
        "    except KeyboardInterrupt:\n"
        "        sys.exit(130)\n"
    )
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": f"{TPU}:{Path(tasks.__file__).parent}"}
    process = subprocess.Popen(
        [sys.executable, tmp_path / "program.py", tmp_path / "pid"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 100
    while len(pids := [int(path.suffix[1:]) for path in tmp_path.glob("pid.*")]) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(pids) == 2 and all(map(is_alive, pids))
    if how == "SIGINT to all":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(getattr(signal, how))
    _, errors = process.communicate(timeout=100)
    expected = 130 if "SIGINT" in how else -getattr(signal, how)
    assert process.returncode == expected
    assert "Traceback" not in errors
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))
