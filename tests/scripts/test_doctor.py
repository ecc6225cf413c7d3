"""What the doctor says of Python and its packages: a table of what may be wrong, with the fix that each must get."""

import json

import pytest
from doctor_cases import BASES, BROKEN, CPU, NO_TENSORFLOW, REMOTE, SETUP, all_findings, check

import doctor
import doctor_findings
import doctor_machine
import doctor_software
from doctor_findings import NOTE, OK, PROBLEM, WARNING, Finding

# For what is looked at: the machine, what is changed of it, and the status, the words and the fix that it must get.
CASES = {
    "Python": [
        ("cpu", {"python": [3, 8, 18]}, PROBLEM, "3.8.18, which is too old", "install Python 3.10 to 3.13"),
        ("cpu", {"python": [3, 9, 0]}, PROBLEM, "3.9.0, which is too old", "install Python 3.10"),
        ("cpu", {"python": [3, 10, 0]}, OK, "3.10.0", ""),
        ("cpu", {"python": [3, 13, 0]}, OK, "3.13.0", ""),
        ("cpu", {"python": [3, 14, 0]}, WARNING, "newer than tf-lamb's stack", "install Python 3.13"),
        ("tpu", {"python": [3, 12, 0]}, OK, "3.12.0", ""),
        ("tpu", {"python": [3, 13, 0]}, PROBLEM, "tensorflow-tpu 2.19.1", "install Python 3.12"),
    ],
    "TensorFlow": [
        ("cpu", {"answers.tensorflow": NO_TENSORFLOW}, PROBLEM, "not installed", SETUP),
        (
            "cpu",
            {"answers.tensorflow": {"error": "No module named 'absl'", "how": "raised", "missing": "absl.logging"}},
            PROBLEM,
            "cannot be imported: No module named 'absl'",
            "`python -m pip install absl`",
        ),
        ("cpu", BROKEN, PROBLEM, "killed by SIGABRT", "remove the virtual environment, then"),
        ("cpu", {"answers.tensorflow": {"error": "it was killed by SIGILL", "how": "died"}}, PROBLEM, "SIGILL", "AVX"),
        (
            "cpu",
            {"answers.tensorflow": {"error": "it gave no answer within 180 s", "how": "hung"}},
            PROBLEM,
            "no answer within 180 s",
            "--timeout_seconds",
        ),
        ("cpu", {"answers.tensorflow.answer.version": "2.18.1"}, PROBLEM, "2.19 is the oldest", "[models]"),
        (
            "cpu",
            {"answers.tensorflow.answer.version": "2.19.0", "packages": {"tf-models-official": "2.19.1"}},
            OK,
            "2.19.0",
            "",
        ),
        ("cpu", {"answers.tensorflow.answer.version": "2.21.0"}, PROBLEM, "no tf-models-official", "[models]"),
        (
            "tpu",
            {
                "answers.tensorflow.answer.version": "2.20.0",
                "packages.libtpu": "0.0.21",
                "packages.tf-models-official": "2.20.0",
            },
            WARNING,
            "2.20.0 for TPUs is experimental",
            f"{SETUP} for 2.19.1",
        ),
        (
            "tpu",
            {"packages.tensorflow": "2.19.1"},
            PROBLEM,
            "tensorflow and tensorflow-tpu are installed into the same folder",
            "`python -m pip uninstall tensorflow tensorflow-tpu`, then",
        ),
        ("cpu", {"packages.tensorflow-cpu": "2.20.0"}, WARNING, "tensorflow-cpu", "uninstall"),
        ("tpu", {**BROKEN, "packages.protobuf": "6.1"}, PROBLEM, "SIGABRT", "mend protobuf first"),
        (
            "tpu",
            {**BROKEN, "packages.tensorflow-tpu": "2.20.0", "packages.libtpu": "0.0.22"},
            PROBLEM,
            "SIGABRT",
            "mend libtpu first",
        ),
    ],
    "protobuf": [
        ("tpu", {"packages.protobuf": "6.0.0"}, PROBLEM, "6.0.0, which is too new for TensorFlow 2.19", "'protobuf<6'"),
    ],
    "numpy": [
        ("tpu", {"packages.numpy": "2.2.0"}, PROBLEM, "too new for TensorFlow 2.19", "'numpy<2.2'"),
    ],
    "libtpu": [
        ("tpu", {}, OK, "0.0.10, as TensorFlow 2.19 needs", ""),
        ("tpu", {"packages.libtpu": None}, PROBLEM, "not installed; TensorFlow 2.19 needs 0.0.10", "libtpu==0.0.10`"),
        ("tpu", {"packages.libtpu": "0.0.11"}, PROBLEM, "0.0.11; TensorFlow 2.19 needs 0.0.10", "libtpu==0.0.10`"),
        ("tpu", {"packages.libtpu": "0.0.9"}, PROBLEM, "0.0.9; TensorFlow 2.19", "libtpu==0.0.10`"),
        (
            "tpu",
            {**BROKEN, "packages.tensorflow-tpu": "2.20.0", "packages.libtpu": "0.0.22"},
            PROBLEM,
            "0.0.22; TensorFlow 2.20 needs 0.0.14 to 0.0.21",
            "libtpu==0.0.21`",
        ),
        (
            "tpu",
            {"answers.tensorflow.answer.version": "2.22.0", "packages.tf-models-official": "2.22.0"},
            WARNING,
            "which one TensorFlow 2.22 needs is not known",
            SETUP,
        ),
        (
            "tpu",
            {"answers.libtpu.answer.is_there": False},
            PROBLEM,
            "0.0.10 is broken",
            "--force-reinstall libtpu==0.0.10",
        ),
        (
            "tpu",
            {"answers.libtpu": {"error": "SIGSEGV", "how": "died"}},
            PROBLEM,
            "broken: SIGSEGV",
            "--force-reinstall",
        ),
    ],
    "TPU support": [
        ("tpu", {}, OK, "has the kernel TPUExecute", ""),
        ("tpu", {"tpu_chips": 0}, NOTE, "this machine has no TPU", "TPU_SKIP_MDS_QUERY=1"),
        ("cpu", {"options.strategy": "tpu"}, PROBLEM, "without the kernel TPUExecute", SETUP),
        ("cpu", {"tpu_chips": 4}, PROBLEM, "without the kernel", SETUP),
        ("cpu", {"options.tpu": "pod", **REMOTE}, PROBLEM, "without the kernel", SETUP),
        ("cpu", {"tpu_chips": 4, "options.strategy": "mirrored"}, OK, "none", ""),
    ],
    "packages": [
        ("cpu", {"missing_modules": ["etils", "tqdm"]}, PROBLEM, "cannot import etils, tqdm", "[models]"),
        ("cpu", {"missing_modules": ["pkg_resources"]}, PROBLEM, "pkg_resources", "'setuptools<82'"),
    ],
    "tf-models-official": [
        ("cpu", {}, OK, "2.20.0, with tf_keras 2.20.1", ""),
        ("cpu", {"packages.tf-models-official": None}, PROBLEM, "not installed", "[models]"),
        (
            "cpu",
            {"packages.tf-models-official": "2.19.1"},
            PROBLEM,
            "2.19.1 beside TensorFlow 2.20",
            "'tf-models-official~=2.20.0'",
        ),
        ("tpu", {"packages.tf-models-official": "2.20.0"}, PROBLEM, "2.20.0 beside TensorFlow 2.19", SETUP),
        (
            "cpu",
            {"answers.model_garden": {"error": "boom", "how": "raised"}},
            PROBLEM,
            "2.20.0 cannot be imported: boom",
            "[models]",
        ),
        (
            "cpu",
            {"answers.model_garden": {"error": "boom", "how": "raised"}, "missing_modules": ["pkg_resources"]},
            PROBLEM,
            "boom",
            "'setuptools<82'",
        ),
    ],
    "Keras": [
        ("cpu", {}, OK, "3.15.1 on tensorflow", ""),
        ("cpu", {"answers.keras.answer.version": "3.11.3"}, PROBLEM, "3.12 is the oldest", "'keras>=3.12'"),
        ("cpu", {"answers.keras.answer.version": "3.12.0"}, OK, "3.12.0", ""),
        ("cpu", {"answers.keras.answer.backend": "jax"}, WARNING, "on jax", "`export KERAS_BACKEND=tensorflow`"),
        (
            "cpu",
            {
                "answers.keras": {"error": "No module named 'torch'", "how": "raised"},
                "environment.KERAS_BACKEND": "torch",
            },
            PROBLEM,
            "No module named 'torch'",
            "`export KERAS_BACKEND=tensorflow`",
        ),
        ("cpu", {"answers.keras": {"error": "boom", "how": "raised"}}, PROBLEM, "boom", "--force-reinstall"),
        ("cpu", {"answers.keras": {"error": "x", "how": "raised", "missing": "keras"}}, PROBLEM, "x", "[models]"),
    ],
    "compiling for TPUs": [
        ("cpu", {}, OK, "jax 0.10.2 and libtpu 0.0.51", ""),
        ("cpu", {"packages.jax": None, "packages.libtpu": None}, NOTE, "no jax and no libtpu", "'.[aot]'"),
    ],
}


@pytest.mark.parametrize("base", BASES)
def test_nothing_is_wrong_with_the_bases(base):
    found = all_findings(BASES[base])
    assert {finding.status for finding in found} == {OK}
    assert {"Python", "TensorFlow", "TPU support", "strategy", "model_dir", "data", "disk"} <= {f.name for f in found}


@pytest.mark.parametrize(("name", "case"), [(name, case) for name in CASES for case in CASES[name]])
def test_what_is_said(name, case):
    check(name, *case)


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("2.20.0", (2, 20, 0)), ("2.21.0rc1", (2, 21, 0)), ("0.0.10.dev2", (0, 0, 10)), ("3", (3,))],
)
def test_releases(version, numbers):
    assert doctor_findings.release(version) == numbers


def test_the_table_and_the_exit_code(monkeypatch, capsys):
    found = [Finding(OK, "a", "x"), Finding(PROBLEM, "longer", "y.", "do z"), Finding(WARNING, "b", "w", "v")]
    monkeypatch.setattr(doctor, "examine", lambda arguments: CPU)
    monkeypatch.setattr(doctor_software, "findings", lambda facts: found)
    monkeypatch.setattr(doctor_machine, "findings", lambda facts: [])
    assert doctor.main([]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "ok       a       x",
        "problem  longer  y. Fix: do z",
        "warning  b       w. Fix: v",
        "not healthy: 1 to mend, from the top",
    ]
    assert doctor.main(["--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is False
    assert report["findings"][1] == {"status": "problem", "name": "longer", "found": "y.", "fix": "do z"}
    del found[1]
    assert doctor.main([]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "healthy"
