"""The installation on a TPU VM: its steps, their order and what stops it, with a Python that only notes its calls."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tpu" / "setup_tpu_vm.sh"
# Notes its arguments, and does what the environment says of its version and of what fails.
FAKE_PYTHON = """#!/bin/bash
if [ "$1" = -c ]; then echo "${FAKE_VERSION:-3.10}"; exit; fi
printf '%s\\n' "$*" >> "$FAKE_CALLS"
if [ "$1 $2" = "-m venv" ] && [ -z "$FAKE_NO_VENV" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi
if [ -n "$FAKE_WAITS_IN" ] && [[ "$*" == *"$FAKE_WAITS_IN"* ]]; then sleep 60; fi
if [ -z "$FAKE_FAILS_IN" ] || [[ "$*" != *"$FAKE_FAILS_IN"* ]]; then exit 0; fi
echo "ERROR: as asked" >&2
exit "${FAKE_CODE:-1}"
"""


class Installation:
    """Runs the script beside a fake Python."""

    def __init__(self, folder):
        self.venv, self.calls_file, self._programs = folder / "a venv", folder / "calls", folder / "programs"
        self._programs.mkdir()
        fake = self._programs / "python3"
        fake.write_text(FAKE_PYTHON, encoding="utf-8")
        fake.chmod(0o755)

    def start(self, *arguments, **environment):
        self.calls_file.unlink(missing_ok=True)
        path = f"{self._programs}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            ["bash", SCRIPT, "--venv", self.venv, *arguments],
            env={**os.environ, "PATH": path, "FAKE_CALLS": str(self.calls_file), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments, **environment):
        process = self.start(*arguments, **environment)
        stdout, stderr = process.communicate(timeout=60)
        return process.returncode, stdout, stderr

    def calls(self):
        return self.calls_file.read_text(encoding="utf-8").splitlines() if self.calls_file.exists() else []

    def pins(self):
        lines = (self.venv / "tpu_vm_constraints.txt").read_text(encoding="utf-8").splitlines()
        return [line.split("==") for line in lines if "==" in line]


@pytest.fixture
def installation(tmp_path):
    return Installation(tmp_path)


def steps(calls):
    """The calls in one word each."""
    kinds = {
        "-m venv ": "venv",
        "pip>=23.1": "pip",
        ".[models]": "models",
        " uninstall ": "uninstall",
        " tensorflow-tpu": "tensorflow-tpu",
        "doctor.py": "doctor",
    }
    return [next(kind for pattern, kind in kinds.items() if pattern in call) for call in calls]


ALL_STEPS = ["venv", "pip", "models", "uninstall", "tensorflow-tpu", "doctor"]


def test_bash_can_read_it():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    assert os.access(SCRIPT, os.X_OK)


def test_the_steps_in_their_order(installation):
    code, _, stderr = installation.run()
    assert (code, stderr) == (0, "")
    calls = installation.calls()
    assert steps(calls) == ALL_STEPS
    by_step = dict(zip(ALL_STEPS, calls, strict=True))
    assert by_step["venv"] == f"-m venv {installation.venv}"
    constraint = f"--constraint {installation.venv}/tpu_vm_constraints.txt"
    assert by_step["models"].endswith(f"{constraint} --editable .[models]")
    assert by_step["tensorflow-tpu"].endswith(f"{constraint} tensorflow-tpu")
    assert by_step["uninstall"].endswith("--yes tensorflow tensorflow-cpu tensorflow-tpu")
    assert by_step["doctor"] == "tpu/doctor.py --strategy tpu"


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12"])
def test_the_pins(version, installation):
    assert installation.run(FAKE_VERSION=version)[0] == 0
    names = [name for name, _ in installation.pins()]
    assert len(names) == len(set(names))
    pins = dict(installation.pins())
    assert pins["tensorflow-tpu"] == pins["tensorflow"] == pins["tf-models-official"] == "2.19.1"
    assert pins["libtpu"] == "0.0.10"
    assert int(pins["protobuf"].split(".")[0]) < 6
    assert [int(number) for number in pins["numpy"].split(".")][:2] < [2, 2]
    assert int(pins["setuptools"].split(".")[0]) < 82
    # What is pinned for this Python alone is still there.
    own = dict(re.findall(r"^(.+)==(.+)$", (ROOT / f"constraints/python{version}.txt").read_text(), re.MULTILINE))
    assert own.keys() <= pins.keys()
    assert (pins["pandas"], pins["tokenizers"]) == (own["pandas"], own["tokenizers"])


def test_what_the_doctor_expects_is_what_is_installed():
    import doctor_software

    text = (ROOT / "constraints" / "tpu_vm.txt").read_text(encoding="utf-8")
    libtpu = re.search(r"^libtpu==(.+)$", text, re.MULTILINE)[1]
    assert doctor_software.LIBTPU[2, 19] == (libtpu, libtpu)


@pytest.mark.parametrize(
    ("fails_in", "done", "named"),
    [
        ("pip>=23.1", 2, "a new pip"),
        (".[models]", 3, "tf-models-official"),
        ("uninstall", 4, "away with tensorflow"),
        (" tensorflow-tpu", 5, "tensorflow-tpu"),
    ],
)
def test_a_pip_that_fails_stops_it(fails_in, done, named, installation):
    # The uninstallation names tensorflow-tpu too, so the last case is told by what comes before its name.
    pattern = f".txt{fails_in}" if fails_in == " tensorflow-tpu" else fails_in
    code, _, stderr = installation.run(FAKE_FAILS_IN=pattern, FAKE_CODE="7")
    assert code == 1
    assert steps(installation.calls()) == ALL_STEPS[:done]
    first, last = stderr.splitlines()
    assert first == "ERROR: as asked"
    assert re.match(
        rf"setup_tpu_vm: this step failed: {named}.*\. Received: .*\. Expected .*; the same command goes on\.", last
    )


def test_without_venv_its_package_is_named(installation):
    code, _, stderr = installation.run(FAKE_FAILS_IN="-m venv", FAKE_NO_VENV="1")
    assert code == 1
    assert steps(installation.calls()) == ["venv"]
    assert stderr.splitlines()[-1].endswith(
        "Expected a Python with venv; on Ubuntu: sudo apt-get install python3.10-venv."
    )


@pytest.mark.parametrize("code", [1, 2, 130])
def test_the_doctors_exit_code_is_its_own(code, installation):
    assert installation.run(FAKE_FAILS_IN="doctor.py", FAKE_CODE=str(code))[0] == code
    assert steps(installation.calls()) == ALL_STEPS


def test_a_machine_without_a_tpu(installation):
    assert installation.run("--without_tpu")[0] == 0
    assert installation.calls()[-1] == "tpu/doctor.py --strategy auto"


def test_it_may_run_again(installation):
    assert installation.run(FAKE_FAILS_IN=".[models]")[0] == 1
    for _ in range(2):
        assert installation.run()[0] == 0
        assert steps(installation.calls()) == ALL_STEPS


def test_an_environment_of_another_python_is_left_alone(installation):
    assert installation.run()[0] == 0
    (installation.venv / "bin" / "python").write_text("#!/bin/bash\necho 3.12\n", encoding="utf-8")
    code, _, stderr = installation.run()
    assert (code, installation.calls()) == (2, [])
    assert (
        "with 3.12, and python3 with 3.10. Expected the same; remove the folder, or name another by --venv." in stderr
    )


@pytest.mark.parametrize("version", ["3.9", "3.13", "3.1", "2.7", "13.10"])
def test_another_python_is_refused(version, installation):
    code, _, stderr = installation.run(FAKE_VERSION=version)
    assert (code, installation.calls(), installation.venv.exists()) == (2, [], False)
    assert stderr == (
        "setup_tpu_vm: tensorflow-tpu 2.19.1 has releases for Python 3.10 to 3.12. "
        f"Received: python3 is {version}. Expected for example --python python3.10.\n"
    )


def test_a_python_that_is_not_there(installation):
    code, _, stderr = installation.run("--python", "python9")
    assert (code, installation.calls()) == (2, [])
    assert "Received: python9 is nothing that runs. Expected for example --python python3.10." in stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--pyton", "x"],
            "an unknown argument. Received: --pyton. Expected --python, --venv, --without_tpu or --help.",
        ),
        (["--python"], "--python needs a value. Received: none. Expected for example --python python3.10."),
        (["--venv", ""], "--venv needs a value. Received: none. Expected for example --venv .venv."),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message, installation):
    code, _, stderr = installation.run(*arguments)
    assert (code, stderr, installation.calls()) == (2, f"setup_tpu_vm: {message}\n", [])


def test_help(installation):
    code, stdout, stderr = installation.run("--help")
    assert (code, stderr, installation.calls()) == (0, "", [])
    for option in ("--python", "--venv", "--without_tpu"):
        assert option in stdout
    assert installation.run("-h")[1] == stdout


def test_relative_places_are_those_of_the_caller(tmp_path, monkeypatch):
    installation = Installation(tmp_path)
    monkeypatch.chdir(tmp_path)
    installation.venv = Path("here/venv")
    assert installation.run("--python", "programs/python3")[0] == 0
    assert (tmp_path / "here" / "venv" / "bin" / "python").exists()
    assert installation.calls()[0] == f"-m venv {tmp_path / 'here' / 'venv'}"


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "stopped")]
)
def test_a_signal_ends_it_in_one_line(number, code, word, installation):
    process = installation.start(FAKE_WAITS_IN=".[models]")
    deadline = time.monotonic() + 30
    while not any(".[models]" in call for call in installation.calls()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, number)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, steps(installation.calls())) == (code, ALL_STEPS[:3])
    assert stderr.splitlines()[-1] == f"setup_tpu_vm: {word}; the same command goes on."


def test_no_step_is_known_to_the_fake_only():
    """The real Python says its version as the fake does."""
    script = SCRIPT.read_text(encoding="utf-8")
    expression = re.search(r"-c '(import sys; .+)'", script)[1]
    output = subprocess.run([sys.executable, "-c", expression], capture_output=True, text=True, check=True).stdout
    assert output == f"{sys.version_info.major}.{sys.version_info.minor}\n"
