"""The doctor as a process, beside packages that are missing, raise, crash or hang."""

import ast
import glob
import json
import os
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

import data_files
from image_manifest import FORMAT_VERSION, STANDARD, ImageFile, Manifest, Settings

ROOT = Path(__file__).parents[2]
DOCTOR = ROOT / "tpu" / "doctor.py"
OF_DOCTOR = [*sorted((ROOT / "tpu").glob("doctor*.py")), ROOT / "tpu" / "host_facts.py"]


def start(*arguments, python=sys.executable, packages=None, **environment):
    """Starts the doctor; `packages` is a folder that comes before the installed ones."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT), **environment}
    if packages is not None:
        environment["PYTHONPATH"] += f"{os.pathsep}{packages}"
    return subprocess.Popen(
        [python, DOCTOR, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def run(*arguments, **options):
    """Returns the exit code, what was printed, and the errors."""
    process = start(*arguments, **options)
    stdout, stderr = process.communicate(timeout=300)
    return process.returncode, stdout, stderr


def line(stdout, name):
    """The one line of the table about something."""
    lines = [line for line in stdout.splitlines() if line[9:].startswith(f"{name} ")]
    assert len(lines) == 1, stdout
    return lines[0]


def package(folder, name, code):
    """A package that does `code` when it is imported; returns the folder it is in."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code, encoding="utf-8")
    return folder


@pytest.fixture
def no_tensorflow(tmp_path):
    """A folder of packages with a TensorFlow that is not there, so that nothing takes long."""
    return package(
        tmp_path / "packages", "tensorflow", "raise ModuleNotFoundError('No tensorflow.', name='tensorflow')\n"
    )


@pytest.fixture
def images(tmp_path):
    """Prepared data: a file of seven images."""
    folder = tmp_path / "images"
    folder.mkdir()
    file = folder / "train-00000-of-00001"
    file.write_bytes(b"seven images")
    record_file = ImageFile(split="train", examples=7, **data_files.describe(file))
    settings = Settings(
        format_version=FORMAT_VERSION, layout=STANDARD, classes=["a"], seed=0, shards={"train": 1}, images_sha256={}
    )
    Manifest(settings=settings, record_files=[record_file]).write(folder)
    return folder


@pytest.mark.slow
def test_this_environment_is_healthy(tmp_path, images):
    model_dir = tmp_path / "run"
    model_dir.mkdir()
    code, stdout, stderr = run("--model_dir", model_dir, "--data_dir", images, "--json")
    report = json.loads(stdout)
    assert (code, stderr, report["healthy"]) == (0, "", True), stdout
    found = {finding["name"]: finding["found"] for finding in report["findings"]}
    assert found["strategy"] == "mirrored with 2 replicas"
    assert found["data"] == f"{images}: 7 examples of images in 1 files, all there and of the right size"
    assert found["Keras"].endswith(" on tensorflow")
    assert "with tf_keras" in found["tf-models-official"]
    assert not list(model_dir.iterdir())


@pytest.mark.slow
def test_a_tpu_is_asked_for_where_there_is_none(tmp_path):
    # Model Garden takes the longest to import.
    packages = package(tmp_path, "orbit", "raise ImportError('out of order')\n")
    code, stdout, _ = run("--strategy", "tpu", packages=packages, KERAS_BACKEND="jax")
    assert code == 1
    assert line(stdout, "strategy").startswith("problem  ")
    assert line(stdout, "TPU support").endswith("Fix: run tpu/setup_tpu_vm.sh")
    assert line(stdout, "Keras").endswith("Fix: `export KERAS_BACKEND=tensorflow`")
    assert "cannot be imported: ImportError: out of order. Fix: " in line(stdout, "tf-models-official")
    assert stdout.splitlines()[-1] == "not healthy: 3 to mend, from the top"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unknown"], "unrecognized arguments: --unknown"),
        (["--strategy", "parameter_server"], "invalid choice: 'parameter_server'"),
        (["--cpu_replicas", "0"], "a number above 0 is needed. Received: 0. Expected for example 2."),
        (["--timeout_seconds", "soon"], "a number above 0 is needed. Received: soon. Expected for example 2."),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message):
    code, stdout, stderr = run(*arguments)
    assert (code, stdout) == (2, "")
    assert message in stderr


def test_places_are_tried_and_left_as_they_were(tmp_path, no_tensorflow, images):
    code, stdout, _ = run("--model_dir", tmp_path / "a" / "b", "--data_dir", images, packages=no_tensorflow)
    assert code == 1
    assert line(stdout, "model_dir").startswith("ok ")
    assert line(stdout, "data").startswith("ok ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "packages"]
    assert len(list(images.iterdir())) == 2


def test_a_model_dir_that_cannot_be_written(tmp_path, no_tensorflow):
    (tmp_path / "file").touch()
    _, stdout, _ = run("--model_dir", tmp_path / "file" / "run", packages=no_tensorflow)
    found = line(stdout, "model_dir")
    assert found.startswith("problem  ")
    assert "Not a directory. Fix: name another folder by --model_dir" in found


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "No prepared data found."),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is not a manifest of this version."),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\x00"), "is not a manifest of this version."),
        (lambda folder: next(folder.glob("train*")).unlink(), "Prepared data is incomplete."),
        (lambda folder: next(folder.glob("train*")).write_bytes(b"six"), "Prepared data is damaged."),
    ],
)
def test_data_that_is_broken(damage, message, images, no_tensorflow):
    damage(images)
    code, stdout, _ = run("--data_dir", images, packages=no_tensorflow)
    found = line(stdout, "data")
    assert (code, found[:9]) == (1, "problem  ")
    assert message in found
    assert ". Fix: prepare it again by " in found


def test_nothing_but_python(tmp_path):
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    code, stdout, stderr = run("--data_dir", tmp_path, python=python, PYTHONPATH="")
    assert (code, stderr) == (1, "")
    assert line(stdout, "Python").startswith("ok ")
    assert "not installed. Fix: on a TPU VM run tpu/setup_tpu_vm.sh, elsewhere `python -m pip" in line(
        stdout, "TensorFlow"
    )
    assert "pydantic" in line(stdout, "packages")
    assert "not tried" in line(stdout, "data")


def old_pythons():
    """The interpreters of Python 3.8 and 3.9 of pyenv, if there are any."""
    root = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    for version in ("3.8", "3.9"):
        found = sorted(glob.glob(os.path.join(root, "versions", f"{version}.*", "bin", "python")))
        marks = [] if found else [pytest.mark.skip(reason=f"pyenv has no Python {version} here")]
        yield pytest.param(version, found[-1] if found else None, id=version, marks=marks)


@pytest.mark.parametrize(("version", "python"), list(old_pythons()))
def test_an_old_python(version, python, tmp_path):
    code, stdout, stderr = run("--data_dir", tmp_path, python=python, PYTHONPATH="")
    assert (code, stderr) == (1, "")
    found = line(stdout, "Python")
    assert found.startswith("problem  ")
    assert f" {version}." in found
    assert found.endswith("which is too old. Fix: install Python 3.10 to 3.13 and make a new virtual environment")


@pytest.mark.parametrize("path", OF_DOCTOR, ids=lambda path: path.stem)
def test_python_3_8_can_read_it_and_needs_no_package(path):
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    own = {module.stem for module in OF_DOCTOR}
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names | own


CRASHES = {
    "raises": ("raise ImportError('libfoo.so: cannot open\\nit')", "ImportError: libfoo.so: cannot open it"),
    "exits": ("raise SystemExit('no licence')", "SystemExit: no licence"),
    "aborts": (
        "import os, sys; print('fatal: bad plugin', file=sys.stderr, flush=True); os.abort()",
        "it was killed by SIGABRT; its last words: fatal: bad plugin",
    ),
    "segfaults": ("import os; os.kill(os.getpid(), 11)", "it was killed by SIGSEGV; its last words: nothing"),
    "leaves": ("import os; os._exit(3)", "it ended with exit code 3; its last words: nothing"),
    "hangs": ("import time; time.sleep(60)", "it gave no answer within 2 s"),
    "floods": ("import sys; sys.stderr.write('x' * 10**7); sys.stdout.write('y' * 10**7); 1 / 0", "ZeroDivisionError"),
    "lies": ("print('doctor_probe: {}'); import os; os._exit(1)", "it ended with exit code 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", CRASHES)
def test_a_tensorflow_whose_import_fails(case, tmp_path):
    code, message = CRASHES[case]
    begin = time.monotonic()
    exit_code, stdout, stderr = run(
        "--timeout_seconds", 2 if case == "hangs" else 60, packages=package(tmp_path, "tensorflow", code)
    )
    assert (exit_code, stderr) == (1, "")
    found = line(stdout, "TensorFlow")
    assert found.startswith("problem  ")
    assert f"it cannot be imported: {message}" in found
    assert ". Fix: " in found
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_doctor_and_its_probes(number, code, tmp_path):
    pid_file = tmp_path / "pid"
    hanging = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid()) + '.'); time.sleep(60)"
    process = start(packages=package(tmp_path / "packages", "tensorflow", hanging))
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text().endswith(".")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (code, "")
    assert len(stderr.strip().splitlines()) == (number == signal.SIGINT)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()[:-1]), 0)
