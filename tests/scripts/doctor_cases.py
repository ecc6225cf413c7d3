"""Two healthy machines as the facts of the doctor, to be changed, and what a table of cases must hold of them."""

import copy

import doctor_machine
import doctor_software
from doctor_findings import OK, PROBLEM

GIB = 2**30
CPU = {
    "options": {"strategy": "auto", "tpu": "local", "model_dir": "runs/a", "data_dir": "data"},
    "python": [3, 11, 7],
    "packages": {
        "tensorflow": "2.20.0",
        "libtpu": "0.0.51",
        "tf-models-official": "2.20.0",
        "numpy": "2.4.6",
        "protobuf": "7.36.2",
        "jax": "0.10.2",
    },
    "missing_modules": [],
    "environment": {},
    "tpu_chips": 0,
    "memory_bytes": 16 * GIB,
    "model_dir": {"nearest": "runs", "error": None, "free_bytes": 100 * GIB},
    "answers": {
        "tensorflow": {"answer": {"version": "2.20.0", "has_tpu_kernel": False, "devices": ["CPU", "GPU", "GPU"]}},
        "libtpu": {"answer": {"path": "libtpu.so", "is_there": True}},
        "keras": {"answer": {"version": "3.15.1", "backend": "tensorflow"}},
        "model_garden": {"answer": {"tf_keras_version": "2.20.1"}},
        "strategy": {"answer": {"replicas": 2}},
        "data": {"answer": {"kind": "text", "files": 9, "examples": 12345, "bytes": 10}},
    },
}
TPU_CHANGES = {
    "packages": {
        "tensorflow-tpu": "2.19.1",
        "libtpu": "0.0.10",
        "tf-models-official": "2.19.1",
        "numpy": "2.1.3",
        "protobuf": "5.29.6",
    },
    "answers.tensorflow.answer": {"version": "2.19.1", "has_tpu_kernel": True, "devices": ["CPU"]},
    "answers.strategy.answer.replicas": 8,
    "tpu_chips": 4,
}
SETUP = "run tpu/setup_tpu_vm.sh"
NO_TENSORFLOW = {
    "error": "ModuleNotFoundError: No module named 'tensorflow'",
    "how": "raised",
    "missing": "tensorflow",
}
BROKEN = {"answers.tensorflow": {"error": "it was killed by SIGABRT; its last words: nothing", "how": "died"}}
REMOTE = {"options.model_dir": "gs://b/run", "model_dir": None}


def changed(facts, changes):
    """A copy of the facts with values at dotted names; None as a value of a package removes it."""
    facts = copy.deepcopy(facts)
    for name, value in changes.items():
        *parents, last = name.split(".") if not name.startswith("packages.") else name.split(".", 1)
        node = facts
        for parent in parents:
            node = node[parent]
        if value is None and parents == ["packages"]:
            del node[last]
        else:
            node[last] = value
    return facts


TPU = changed(CPU, TPU_CHANGES)
BASES = {"cpu": CPU, "tpu": TPU}


def all_findings(facts):
    return doctor_software.findings(facts) + doctor_machine.findings(facts)


def check(name, base, changes, status, found, fix):
    """Of a machine with changes: that one finding has this name, status, words and fix, and all are lines."""
    said = all_findings(changed(BASES[base], changes))
    matching = [f for f in said if f.name == name and f.status == status and found in f.found]
    assert len(matching) == 1, said
    assert fix in matching[0].fix
    assert bool(matching[0].fix) == (status != OK)
    for finding in said:
        assert finding.found
        assert "\n" not in finding.found + finding.fix
        # What is no problem makes none elsewhere, but for a TensorFlow that nothing here was made for.
        assert status == PROBLEM or finding.status != PROBLEM or finding.name == "TensorFlow", finding
