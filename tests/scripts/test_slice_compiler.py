"""The TPU compiler in its own process: what it says of a module, and one sentence for whatever may go wrong."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tensorflow as tf
from compiled_hlo import compile_all

import slice_compiler
from config import ConfigError, RunError
from slice_compiler import compile_for
from tpu_chips import CHIPS, Topology, parse_topology

SLICE = parse_topology("v3:2x2")
MIB = 2**20
aot = pytest.mark.aot


@pytest.fixture
def compile_text(tmp_path):
    """Compiles StableHLO given as text."""
    pytest.importorskip("jax")
    pytest.importorskip("libtpu")

    def compile_module(text, topology=SLICE):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.mlir"
        path.write_text(text)
        return compile_for(path, topology, path.with_suffix(".hlo"))

    return compile_module


def main(body, arguments="%a: tensor<4xf32>", results="tensor<4xf32>"):
    return f"func.func @main({arguments}) -> ({results}) {{\n{body}\n}}"


@pytest.fixture(scope="module")
def update_path(tmp_path_factory):
    """A step of TensorFlow's that updates a matrix of 4 MiB and a counter of 64 bits in place."""
    weights, counter = tf.Variable(tf.zeros([1024, 1024])), tf.Variable(0, dtype=tf.int64)

    @tf.function(jit_compile=True)
    def step(x):
        weights.assign_sub(tf.matmul(x, tf.tanh(x @ weights), transpose_a=True))
        counter.assign_add(1)
        return tf.reduce_sum(x)

    path = tmp_path_factory.mktemp("step") / "step.bin"
    path.write_bytes(step.experimental_get_compiler_ir(tf.ones([256, 1024]))(stage="stablehlo_serialized"))
    return path


@aot
def test_variables_are_updated_in_place(update_path, tmp_path):
    """Arguments: the batch of 1 MiB, the variables; results: the sum, the variables."""
    pytest.importorskip("libtpu")
    compiled = compile_for(update_path, SLICE, tmp_path / "step.hlo")
    assert compiled.fits
    assert compiled.argument_bytes == pytest.approx(5 * MIB, abs=8192)
    assert compiled.output_bytes == pytest.approx(4 * MIB, abs=8192)
    assert compiled.aliased_bytes == pytest.approx(4 * MIB, abs=8192)
    assert 2 * 2 * 256 * 1024 * 1024 <= compiled.xla_flops < 1.01 * 2 * 2 * 256 * 1024 * 1024
    assert compiled.available_bytes == SLICE.chip.usable_hbm_bytes_per_core
    assert compiled.compile_seconds > 0 and compiled.peak_host_bytes > 100 * MIB
    assert compiled.generated_code_bytes > 0 and compiled.xla_bytes_accessed > 9 * MIB
    text = (tmp_path / "step.hlo").read_text()
    assert "is_scheduled=true" in text and "replica_count=8" in text
    assert "{1}: (1, {}" in text and "{2}: (2, {}" in text


@aot
def test_a_module_that_does_not_fit(compile_text):
    """Three arrays of 7 GiB, two of which would fit; of v4, a core has the memory of all."""
    kind = "tensor<7x16384x16384xf32>"
    text = main(f"%0 = stablehlo.tanh %a : {kind}\n%1 = stablehlo.sine %a : {kind}\nreturn %0, %1 : {kind}, {kind}",
                f"%a: {kind}", f"{kind}, {kind}")  # fmt: skip
    small = compile_text(text)
    assert not small.fits
    assert small.needed_bytes == pytest.approx(21 * 2**30, rel=0.01)
    assert small.available_bytes == CHIPS["v3"].usable_hbm_bytes_per_core
    assert small.compile_seconds > 0
    large = compile_text(text, parse_topology("v4:2x2x1"))
    assert large.fits and large.needed_bytes == pytest.approx(21 * 2**30, rel=0.01)
    # One of the results may take over the argument.
    in_place = compile_text(text.replace(f"%a: {kind}", f"%a: {kind} {{tf.aliasing_output = 0 : i32}}"))
    assert in_place.fits and in_place.needed_bytes == pytest.approx(14 * 2**30, rel=0.01)


@pytest.mark.parametrize(
    ("message", "sizes"),
    [
        ("the total memory required for HLO temporaries (55.93G) exceeds available HBM (15.48G).", (55.93, 15.48)),
        ("Ran out of memory in memory space hbm. Used 17.50G of 15.48G hbm. Exceeded", (17.5, 15.48)),
        ("Ran out of memory in memory space hbm. Used 512.0M of 0.25G hbm. Exceeded", (0.5, 0.25)),
    ],
)
def test_sizes_in_the_compilers_words(message, sizes):
    assert slice_compiler._sizes(message, SLICE) == tuple(round(size * 2**30) for size in sizes)


def test_another_memory_than_the_main_one():
    with pytest.raises(ConfigError, match="other than its main one"):
        slice_compiler._sizes("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem.", SLICE)


REFUSED = {
    main('%0 = stablehlo.custom_call @PyFunc(%a) : (tensor<4xf32>) -> tensor<4xf32> loc("f/Log"("step.py":12:3))\n'
         "return %0 : tensor<4xf32>"):
        ["compiler for v3:2x2", "Received: the operation PyFunc from step.py:12:3 [f/Log]."],
    main("%0 = stablehlo.custom_call @PyFunc(%a) : (tensor<4xf32>) -> tensor<4xf32>\nreturn %0 : tensor<4xf32>"):
        ["Received: the operation PyFunc."],
    main("%0 = stablehlo.fft %a, type = FFT, length = [4] : (tensor<4xcomplex<f64>>) -> tensor<4xcomplex<f64>> "
         'loc("f/FFT"("step.py":7:1))\nreturn %0 : tensor<4xcomplex<f64>>',
         "%a: tensor<4xcomplex<f64>>", "tensor<4xcomplex<f64>>"):
        ["from step.py:7:1 [f/FFT]", "Unexpected operand type for FFT: c128[4]"],
    "func.func @main() { nonsense }": ["cannot read the module", "Expected StableHLO"],
    main("return %a : tensor<4xf32>").replace("@main", "@other"): ["MLIR module must have a main function"],
}  # fmt: skip


@aot
def test_modules_that_cannot_be_compiled(tmp_path):
    pytest.importorskip("libtpu")
    answers = compile_all({text: (text, SLICE.name) for text in REFUSED}, tmp_path)
    for text, messages in REFUSED.items():
        assert answers[text].pop("hlo") is None
        with pytest.raises(ConfigError) as error:
            slice_compiler._judge(answers[text], SLICE)
        assert all(message in str(error.value) for message in messages), str(error.value)
        assert "\n" not in str(error.value) and str(error.value).endswith(".")


@aot
def test_a_slice_that_libtpu_does_not_have(compile_text):
    with pytest.raises(ConfigError, match=r"libtpu does not know this slice. Received: v3:3x3, .*not divisible"):
        compile_text(main("return %a : tensor<4xf32>"), Topology(CHIPS["v3"], (3, 3)))


@aot
def test_two_at_once(compile_text):
    """libtpu would lock out a second process that uses a TPU."""
    answers = []
    text = main("%0 = stablehlo.tanh %a : tensor<4xf32>\nreturn %0 : tensor<4xf32>")
    threads = [threading.Thread(target=lambda: answers.append(compile_text(text))) for _ in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    assert [answer.fits for answer in answers] == [True, True]


def fake_package(folder, name, text, monkeypatch):
    """Makes the child import another package of this name."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))


MISSING = "raise ModuleNotFoundError(\"No module named '{0}'\", name='{0}')"


@pytest.mark.parametrize(
    ("packages", "messages"),
    [
        ({"jax": MISSING.format("jax")}, ["needs jax and libtpu. Received: No module named 'jax'", "tf-lamb[aot]"]),
        ({"jax": "", "libtpu": MISSING.format("libtpu")}, ["Received: No module named 'libtpu'", "tf-lamb[aot]"]),
        ({"jax": "__version__ = '0.1'", "libtpu": ""}, ["is not one that", "jax 0.1, ", "tf-lamb[aot]"]),
        ({"jax": "raise MemoryError"}, ["too little memory to compile for v3:2x2"]),
        ({"jax": "import os; os.kill(os.getpid(), 9)"}, ["was killed while it compiled for v3:2x2", "memory"]),
        ({"jax": "import os; os.abort()"}, ["ended without an answer for v3:2x2. Received: signal 6"]),
        ({"jax": "raise SystemError('odd')"}, ["Received: exit code 1, 'SystemError: odd'"]),
        (
            {"jax": "raise SystemError('The TPU is already in use; see /tmp/libtpu_lockfile')"},
            ["libtpu is locked by another process", "/tmp/libtpu_lockfile"],
        ),
    ],
)
def test_what_may_be_wrong_with_the_machine(tmp_path, monkeypatch, packages, messages):
    for name, text in packages.items():
        fake_package(tmp_path, name, text, monkeypatch)
    with pytest.raises(RunError) as error:
        compile_for(tmp_path / "module", SLICE, tmp_path / "hlo")
    assert all(message in str(error.value) for message in messages), str(error.value)
    assert "\n" not in str(error.value)


def test_too_little_memory_to_start(tmp_path, monkeypatch):
    monkeypatch.setattr(slice_compiler, "LEAST_HOST_BYTES", 2**60)
    with pytest.raises(RunError, match=r"too little free memory for the TPU compiler. Received: [\d.]+ GiB. Expected"):
        compile_for(tmp_path / "module", SLICE, tmp_path / "hlo")


def test_the_environment_of_the_compiler(tmp_path):
    environment = slice_compiler._environment(SLICE, str(tmp_path))
    assert environment["TPU_SKIP_MDS_QUERY"] == "1"
    assert environment["TPU_WORKER_HOSTNAMES"] == "localhost"
    assert environment["TPU_ACCELERATOR_TYPE"] == "v3-8"
    for name, kind in {"v5e:4x4": "v5litepod-16", "v6e:4x4": "v6e-16", "v4:2x2x2": "v4-16"}.items():
        assert slice_compiler._environment(parse_topology(name), "")["TPU_ACCELERATOR_TYPE"] == kind


PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
import slice_compiler
from tpu_chips import parse_topology
slice_compiler.compile_for("module", parse_topology("v3:2x2"), "hlo")
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_compiler_ends_with_its_parent(tmp_path, monkeypatch, end):
    """Only the parent receives the signal."""
    pid_path = tmp_path / "pid"
    waiting = f"import os, time; open({str(pid_path)!r} + '2', 'w').write(str(os.getpid())); "
    waiting += f"os.rename({str(pid_path)!r} + '2', {str(pid_path)!r}); time.sleep(120)"
    fake_package(tmp_path, "jax", waiting, monkeypatch)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(slice_compiler.CHILD.parent)], cwd=tmp_path, stderr=subprocess.PIPE
    )
    try:
        child = int(wait_for(lambda: pid_path.exists() and pid_path.read_text()))
        parent.send_signal(end)
        parent.wait(20)
        assert parent.returncode != 0
        wait_for(lambda: not is_running(child))
    finally:
        parent.kill()
        parent.communicate()


def wait_for(condition, seconds=30):
    """What a condition gives as soon as it holds."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value


def is_running(pid):
    """Whether a process is there that is not only waited for."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_no_process_is_left(tmp_path, monkeypatch):
    fake_package(tmp_path, "jax", MISSING.format("jax"), monkeypatch)
    before = children()
    with pytest.raises(RunError):
        compile_for(tmp_path / "module", SLICE, tmp_path / "hlo")
    assert children() <= before


def children():
    """The processes that this one has started and that are there, or have not been waited for."""
    return {number for task in Path("/proc/self/task").iterdir() for number in (task / "children").read_text().split()}
