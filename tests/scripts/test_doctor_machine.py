"""What the doctor says of the machine: strategies, places, disk and memory; and how it looks at them."""

import json
import types

import pytest
from doctor_cases import CPU, GIB, REMOTE, SETUP, changed, check

import doctor_facts
import doctor_findings
import doctor_machine
import host_facts
from doctor_findings import NOTE, OK, PROBLEM, WARNING

# For what is looked at: the machine, what is changed of it, and the status, the words and the fix that it must get.
CASES = {
    "devices": [
        ("cpu", {}, OK, "1 CPU, 2 GPU; TPU chips of this machine: 0", ""),
    ],
    "strategy": [
        ("cpu", {}, OK, "mirrored with 2 replicas", ""),
        (
            "cpu",
            {"options.strategy": "one_device", "answers.strategy.answer.replicas": 1},
            OK,
            "one_device with 1 replica; give the scripts --strategy one_device",
            "",
        ),
        ("tpu", {}, OK, "tpu with 8 replicas; give the scripts --strategy tpu", ""),
        (
            "tpu",
            {"answers.strategy": {"error": "none", "how": "raised"}, "tpu_chips": 0, "options.strategy": "tpu"},
            PROBLEM,
            "tpu: none",
            "run this on a TPU VM",
        ),
        (
            "tpu",
            {"answers.strategy": {"error": "none", "how": "raised"}, "options.tpu": "pod", **REMOTE},
            PROBLEM,
            "tpu: none",
            "gcloud compute tpus tpu-vm list",
        ),
        (
            "tpu",
            {"answers.strategy": {"error": "see /tmp/libtpu_lockfile", "how": "raised"}},
            PROBLEM,
            "lockfile",
            "end the other process",
        ),
        (
            "tpu",
            {"answers.strategy": {"error": "no answer", "how": "hung"}},
            PROBLEM,
            "no answer",
            "on every host of the slice",
        ),
        ("tpu", {"answers.strategy": {"error": "SIGSEGV", "how": "died"}}, PROBLEM, "SIGSEGV", "restart the TPU VM"),
        (
            "cpu",
            {"answers.strategy": {"error": "none", "how": "raised"}, "options.strategy": "tpu"},
            PROBLEM,
            "tpu: none",
            SETUP,
        ),
        ("cpu", {"options.strategy": "multi_worker"}, PROBLEM, "without TF_CONFIG", "`export TF_CONFIG='{"),
    ],
    "environment": [
        ("tpu", {"environment.PJRT_DEVICE": "CPU"}, PROBLEM, "PJRT_DEVICE=CPU", "`unset PJRT_DEVICE`"),
    ],
    "model_dir": [
        ("cpu", {}, OK, "runs/a can be written", ""),
        (
            "cpu",
            {"model_dir.error": "Permission denied"},
            PROBLEM,
            "runs/a cannot be written: runs: Permission denied",
            "--model_dir",
        ),
        ("cpu", {"options.model_dir": None}, OK, "not given; the current folder can be written", ""),
        ("tpu", {"options.tpu": "pod"}, PROBLEM, "runs/a is on this machine, and --tpu pod", "gs://"),
        ("cpu", {**REMOTE, "answers.model_dir": {"answer": {}}}, OK, "gs://b/run can be written", ""),
        (
            "cpu",
            {**REMOTE, "answers.model_dir": {"error": "403", "how": "raised"}},
            PROBLEM,
            "gs://b/run cannot be written: 403",
            "gcloud auth",
        ),
        ("cpu", REMOTE, NOTE, "not tried", "mend TensorFlow"),
    ],
    "data": [
        ("cpu", {}, OK, "data: 12,345 examples of text in 9 files", ""),
        ("cpu", {"options.data_dir": None}, NOTE, "not given", "--data_dir"),
        (
            "cpu",
            {"answers.data": {"error": "boom", "how": "raised"}},
            PROBLEM,
            "data: boom",
            "tpu/prepare_bert_data.py",
        ),
        ("tpu", {"options.tpu": "pod"}, PROBLEM, "data is on this machine", "gs://"),
    ],
    "disk": [
        ("cpu", {"model_dir.free_bytes": 20 * GIB - 1}, WARNING, "20.0 GiB free", "--model_dir"),
        ("cpu", {"model_dir.free_bytes": 20 * GIB}, OK, "20.0 GiB free", ""),
        ("cpu", {"model_dir.free_bytes": GIB - 1}, PROBLEM, "1.0 GiB free", "--model_dir"),
    ],
    "memory": [
        ("cpu", {"memory_bytes": 8 * GIB - 1}, WARNING, "8.0 GiB of host memory free", "more memory"),
        ("cpu", {"memory_bytes": GIB - 1}, PROBLEM, "1.0 GiB of host memory free", "more memory"),
    ],
}


@pytest.mark.parametrize(("name", "case"), [(name, case) for name in CASES for case in CASES[name]])
def test_what_is_said(name, case):
    check(name, *case)


@pytest.mark.parametrize(
    ("options", "chips", "environment", "kernel", "chosen"),
    [
        ({}, 0, {}, False, "mirrored"),
        ({}, 0, {}, True, "mirrored"),
        ({}, 4, {}, False, "mirrored"),
        ({}, 4, {}, True, "tpu"),
        ({"tpu": "pod"}, 0, {}, True, "tpu"),
        ({}, 4, {"TF_CONFIG": "{}"}, True, "multi_worker"),
        ({"strategy": "one_device"}, 4, {"TF_CONFIG": "{}"}, True, "one_device"),
        ({"strategy": "tpu"}, 0, {}, False, "tpu"),
    ],
)
def test_the_strategy_that_is_chosen(options, chips, environment, kernel, chosen):
    facts = changed(CPU, {"tpu_chips": chips, "environment": environment})
    facts["options"].update(options)
    facts["answers"]["tensorflow"]["answer"]["has_tpu_kernel"] = kernel
    assert doctor_findings.choose_strategy(facts) == chosen


CLUSTER = {"worker": ["a:1", "b:1"]}


@pytest.mark.parametrize(
    ("config", "status", "found"),
    [
        ({"cluster": CLUSTER, "task": {"type": "worker", "index": 1}}, OK, "machine 2 of 2"),
        ({"cluster": CLUSTER, "task": {"type": "worker", "index": 2}}, PROBLEM, "the index 2 of 2 machines"),
        ({"cluster": CLUSTER, "task": {"type": "worker", "index": -1}}, PROBLEM, "the index -1"),
        ({"cluster": CLUSTER}, PROBLEM, "KeyError: 'task'"),
        ([], PROBLEM, "TypeError"),
        ("{", PROBLEM, "JSONDecodeError"),
    ],
)
def test_several_machines(config, status, found):
    text = config if isinstance(config, str) else json.dumps(config)
    facts = changed(CPU, {"options.strategy": "multi_worker", "environment": {"TF_CONFIG": text}})
    finding = doctor_machine.findings(facts)[1]
    assert (finding.status, finding.name) == (status, "strategy")
    assert found in finding.found


# How it looks.


def test_tpu_chips(tmp_path):
    for number, (vendor, device) in enumerate(
        [("0x1ae0", "0x0063")] * 2 + [("0x1ae0", "0x0042"), ("0x8086", "0x0063")]
    ):
        folder = tmp_path / "pci" / str(number)
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "device").write_text(f"{device}\n")
    (tmp_path / "accel0").touch()
    accelerators = str(tmp_path / "accel[0-9]*")
    assert doctor_facts.tpu_chips(str(tmp_path / "pci"), accelerators) == 2
    assert doctor_facts.tpu_chips(str(tmp_path / "none"), accelerators) == 1
    assert doctor_facts.tpu_chips(str(tmp_path / "none"), str(tmp_path / "none*")) == 0


def test_memory_is_also_what_a_container_leaves(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:   50 kB\n")
    assert host_facts.free_memory_bytes(str(meminfo), str(tmp_path)) == 50 * 1024
    (tmp_path / "memory.current").write_text("20000\n")
    for limit, free in (("30000\n", 10000), ("max\n", 50 * 1024), ("10000\n", 0), ("99000000\n", 50 * 1024)):
        (tmp_path / "memory.max").write_text(limit)
        assert host_facts.free_memory_bytes(str(meminfo), str(tmp_path)) == free
    assert host_facts.free_memory_bytes(str(tmp_path / "none"), str(tmp_path)) is None


def test_a_folder_is_tried_and_left_as_it_was(tmp_path):
    for place in (tmp_path, tmp_path / "not" / "there"):
        found = doctor_facts.local_place(str(place))
        assert (found["nearest"], found["error"]) == (str(tmp_path), None)
        assert found["free_bytes"] > 0
        assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    assert doctor_facts.local_place(str(tmp_path / "file" / "run"))["error"] == "Not a directory"


def test_the_probe_gets_what_keeps_the_tpu_free(monkeypatch):
    seen = {}

    class Process:
        def __init__(self, question, arguments, environment):
            seen[question] = {name for name in ("TPU_LOAD_LIBRARY", "TPU_SKIP_MDS_QUERY") if name in environment}

        def result(self, *_):
            return {}

        def kill(self):
            pass

    # JAX may have set it in this process.
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    monkeypatch.setattr(doctor_facts, "_Process", Process)
    options = types.SimpleNamespace(tpu="local", cpu_replicas=2, model_dir=None, data_dir=None, timeout_seconds=1)
    doctor_facts.ask(["keras", "strategy"], options, "mirrored", 4)
    assert seen == {"keras": {"TPU_LOAD_LIBRARY"}, "strategy": {"TPU_LOAD_LIBRARY"}}
    doctor_facts.ask(["keras", "strategy"], options, "tpu", 4)
    assert seen == {"keras": {"TPU_LOAD_LIBRARY"}, "strategy": set()}
    monkeypatch.setattr(doctor_facts.os.path, "exists", lambda path: False)
    doctor_facts.ask(["strategy"], options, "tpu", 0)
    assert seen["strategy"] == {"TPU_SKIP_MDS_QUERY"}
    options.tpu = "pod"
    doctor_facts.ask(["strategy"], options, "tpu", 0)
    assert seen["strategy"] == set()
