"""A run that is killed, interrupted or out of space, and started again, ends with the bytes of an undisturbed one."""

import os
import resource
import signal
import subprocess
import time

import prepared as commands
import pytest
from prepared import contents

SHARDS = ("--shards", "12", "--set", "data.dupe_factor=40")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return commands.write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def expected(inputs, tmp_path_factory):
    """What an undisturbed run leaves."""
    folder = tmp_path_factory.mktemp("expected")
    assert commands.run(inputs, folder, *SHARDS) == 0
    return contents(folder)


def start(inputs, folder, processes, *more, **options):
    command, environment = commands.command(inputs, folder, *SHARDS, "--processes", processes, *more)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes, **options)


def finished_files(folder):
    """The inodes of the finished files, which change when a file is written again."""
    names = [path.stem for path in (folder / ".work").glob("*.tfrecord.json")]
    return {name: (folder / name).stat().st_ino for name in names}


def wait_for(process, condition):
    deadline = time.monotonic() + 100
    while process.poll() is None and not condition() and time.monotonic() < deadline:
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_many_moments(inputs, expected, tmp_path, processes):
    """While the vocabulary is learned, while text is tokenized, and after every few finished files."""
    moments = [
        lambda: (tmp_path / ".work" / "settings.json").exists(),
        lambda: (tmp_path / ".work" / "vocab.txt.json").exists(),
        lambda: list((tmp_path / ".work").glob("train/*.npz")),
        lambda: (tmp_path / ".work" / "held_out" / "tokens.npy").exists(),
        *((lambda count=count: len(finished_files(tmp_path)) >= count) for count in (1, 2, 5, 9, 14, 20, 25)),
    ]
    killed = 0
    for moment in moments:
        kept = finished_files(tmp_path)
        process = start(inputs, tmp_path, processes)
        wait_for(process, moment)
        process.kill()  # this process alone: the others must end by themselves
        killed += process.wait() == -signal.SIGKILL
        assert not (tmp_path / "manifest.json").exists() or process.returncode == 0
        # Whatever was finished before is still the same file.
        for name, inode in kept.items():
            assert (tmp_path / name).stat().st_ino == inode
        process.communicate()
    assert killed >= len(moments) - 3
    process = start(inputs, tmp_path, processes)
    _, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (0, "")
    assert contents(tmp_path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_interrupted(inputs, expected, tmp_path, processes):
    process = start(inputs, tmp_path, processes)
    wait_for(process, lambda: len(finished_files(tmp_path)) >= 3)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, "It was done before it could be interrupted."
    assert errors == "\nprepare_bert_data: interrupted; the same command continues.\n" and output == ""
    assert not list(tmp_path.rglob(".*.unfinished"))
    kept = finished_files(tmp_path)
    assert len(kept) >= 3
    assert start(inputs, tmp_path, processes).wait(timeout=100) == 0
    assert {name: (tmp_path / name).stat().st_ino for name in kept} == kept
    assert contents(tmp_path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("most_bytes", [20_000, 150_000], ids=["tokens", "examples"])
def test_no_room(inputs, expected, tmp_path, processes, most_bytes):
    """A limit on the size of a file stands for a full disk: the system refuses to write more."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    assert max(map(len, expected.values())) > 150_000
    process = start(inputs, tmp_path, processes, preexec_fn=limit)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 2
    assert errors == (
        f"prepare_bert_data: File too large. Received: {tmp_path}. Expected room; the same command continues.\n"
    )
    assert output == ""
    for name, content in contents(tmp_path).items():
        assert name.startswith(".work/") or content == expected[name]
    assert not list(tmp_path.rglob(".*.unfinished"))
    assert start(inputs, tmp_path, processes).wait(timeout=100) == 0
    assert contents(tmp_path) == expected


@pytest.mark.slow
def test_unfinished_data_of_other_settings(inputs, expected, tmp_path):
    """Refused, or replaced without a trace."""
    process = start(inputs, tmp_path, 1, "--shards", "9")
    wait_for(process, lambda: len(finished_files(tmp_path)) >= 2)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    assert (tmp_path / "train_32-00000-of-00009.tfrecord").exists()
    process = start(inputs, tmp_path, 1)
    _, errors = process.communicate(timeout=100)
    assert errors == (
        f"prepare_bert_data: {tmp_path} holds other, unfinished data. Received: shards=12. Expected 9, with which that "
        "data was made. Choose another --output_dir or pass --overwrite.\n"
    )
    assert start(inputs, tmp_path, 1, "--overwrite").wait(timeout=100) == 0
    assert contents(tmp_path) == expected
