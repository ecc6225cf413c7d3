"""What doctor.py looks at: packages, the machine, places, and what doctor_probe.py answers in processes of its own.

Every import of what may be broken is made there. Here is only the standard library, of any Python from 3.8 on.
"""

import glob
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from host_facts import free_memory_bytes, package_version

PROBE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "doctor_probe.py")
ANSWER = "doctor_probe:"
PACKAGES = (
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-tpu",
    "libtpu",
    "tf-models-official",
    "numpy",
    "protobuf",
    "jax",
)
# What the scripts import besides tf-models-official, and the package that has it.
MODULES = {
    "tf_lamb": "tf-lamb",
    "pydantic": "pydantic",
    "ruamel.yaml": "ruamel.yaml",
    "etils": "etils[epath]",
    "tokenizers": "tokenizers",
    "tqdm": "tqdm",
    "PIL": "pillow",
    "typing_extensions": "typing_extensions",
    "pkg_resources": "setuptools<82",
}
ENVIRONMENT = ("PJRT_DEVICE", "TF_CONFIG", "KERAS_BACKEND")
# The PCI ids of Google, and of its TPUs: v3 and older, v4, v5p, v5e, v6e, 7x.
GOOGLE, TPUS = "0x1ae0", ("0x0027", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")
LAST_WORDS = 200


def gather(options):
    """All but the answers of the probe, as a dict of plain values.

    Args:
        options: The command line of the doctor.
    """
    place = options.model_dir or os.getcwd()
    return {
        "options": vars(options),
        "python": list(sys.version_info[:3]),
        "packages": {name: version for name in PACKAGES for version in [package_version(name)] if version},
        "missing_modules": [name for name in MODULES if not is_importable(name)],
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        "tpu_chips": tpu_chips(),
        "memory_bytes": free_memory_bytes(),
        "model_dir": None if is_address(place) else local_place(place),
        "answers": {},
    }


def is_address(place):
    """Whether a place has a scheme, as gs://bucket has."""
    return "://" in place


def is_importable(name):
    """Whether a module is there; it is not imported, so it may still be broken."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, AttributeError, ValueError):
        return False


def tpu_chips(folder="/sys/bus/pci/devices", accelerators="/dev/accel[0-9]*"):
    """How many TPU chips this machine has: on the PCI bus, or of a kind that is not known here, as devices."""

    def read(path):
        try:
            with open(path, encoding="ascii") as file:
                return file.read().strip()
        except OSError:
            return ""

    devices = glob.glob(os.path.join(folder, "*"))
    ids = [(read(os.path.join(device, "vendor")), read(os.path.join(device, "device"))) for device in devices]
    return sum(vendor == GOOGLE and device in TPUS for vendor, device in ids) or len(glob.glob(accelerators))


def local_place(folder):
    """Whether a folder, or the nearest above it, can be written, and how much space is free there.

    The file that is written has no name where the file system can do that, so that nothing is left behind.
    """
    nearest = os.path.abspath(folder)
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest)
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(b"doctor")
            file.flush()
            os.fsync(file.fileno())
        error = None
    except OSError as failure:
        error = failure.strerror or str(failure)
    try:
        free_bytes = shutil.disk_usage(nearest).free
    except OSError:
        free_bytes = None
    return {"nearest": nearest, "error": error, "free_bytes": free_bytes}


def ask(questions, options, strategy, tpu_chips):
    """Asks the probe several questions at once.

    Args:
        questions: Names of functions of doctor_probe.py.
        options: The command line of the doctor.
        strategy: The strategy to make, if that is asked.
        tpu_chips: How many are on this machine.

    Returns:
        For each question a dict: `answer` with a dict, or `error` with a line, `how` it came to it ("raised", "died",
        "hung") and, if a module is missing, its name as `missing`.
    """
    arguments = ["--strategy", strategy, "--cpu_replicas", str(options.cpu_replicas), "--tpu", options.tpu]
    for name in ("model_dir", "data_dir"):
        if getattr(options, name):
            arguments += ["--" + name, getattr(options, name)]
    deadline = time.monotonic() + options.timeout_seconds
    running = {}
    try:
        for question in questions:
            environment = dict(os.environ)
            if question != "strategy" or strategy != "tpu":
                # Else a TensorFlow for TPUs takes hold of the TPU, which only one process can.
                environment["TPU_LOAD_LIBRARY"] = "0"
            elif options.tpu == "local" and not tpu_chips and not os.path.exists("/dev/vfio"):
                # Else libtpu asks the network for minutes which TPU this is.
                environment["TPU_SKIP_MDS_QUERY"] = "1"
            running[question] = _Process(question, arguments, environment)
        return {name: process.result(deadline, options.timeout_seconds) for name, process in running.items()}
    finally:
        for process in running.values():
            process.kill()


class _Process:
    """The probe with one question. Its output goes to files, which it cannot fill as it could a pipe."""

    def __init__(self, question, arguments, environment):
        self._stdout, self._stderr = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        # A session of its own: Ctrl-C is for the doctor, and whatever the probe starts ends with it.
        self._process = subprocess.Popen(
            [sys.executable, PROBE, question, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._stdout,
            stderr=self._stderr,
            start_new_session=True,
        )

    def result(self, deadline, timeout_seconds):
        try:
            code = self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return {"error": f"it gave no answer within {timeout_seconds:g} s", "how": "hung"}
        lines = [line[len(ANSWER) :] for line in _lines(self._stdout) if line.startswith(ANSWER)]
        if code == 0 and lines:
            result = json.loads(lines[-1])
            return result if "answer" in result else {**result, "how": "raised"}
        words = (_lines(self._stderr) or ["nothing"])[-1][:LAST_WORDS]
        return {"error": f"it {_how_it_died(code)}; its last words: {words}", "how": "died"}

    def kill(self):
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._stdout.close()
        self._stderr.close()


def _lines(file):
    file.seek(0)
    return [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]


def _how_it_died(code):
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
