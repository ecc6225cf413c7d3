"""What doctor.py says of the machine: its devices, the strategy for them, places, disk and memory."""

import json
import re

from doctor_findings import NOTE, OK, PROBLEM, SETUP, WARNING, Finding, answer_to, choose_strategy, has_tpu_wheel

GIB = 2**30
LEAST_DISK_BYTES, GOOD_DISK_BYTES = 1 * GIB, 20 * GIB
LEAST_MEMORY_BYTES, GOOD_MEMORY_BYTES = 1 * GIB, 8 * GIB
A_TPU_IS_HELD = re.compile(r"lockfile|already in use|already been|busy|ABORTED", re.IGNORECASE)


def findings(facts):
    """All that there is to say of the machine, of the facts that doctor_facts.py gathers."""
    parts = (devices, strategy, environment, model_dir, data, disk, memory)
    return [finding for part in parts for finding in part(facts)]


def devices(facts):
    """What TensorFlow can see before a TPU is made ready."""
    seen = answer_to(facts, "tensorflow").get("devices")
    if seen is not None:
        listed = ", ".join(f"{seen.count(kind)} {kind}" for kind in sorted(set(seen)))
        yield Finding(OK, "devices", "{}; TPU chips of this machine: {}".format(listed, facts["tpu_chips"]))


def strategy(facts):
    """Whether the strategy can be made that this machine would train with."""
    name = choose_strategy(facts)
    if name == "multi_worker":
        yield _multi_worker(facts["environment"].get("TF_CONFIG"))
        return
    result = facts["answers"].get("strategy")
    if result is None:
        yield Finding(NOTE, "strategy", f"{name}, not tried", "mend the problems above")
    elif "error" in result:
        yield Finding(PROBLEM, "strategy", "{}: {}".format(name, result["error"]), _fix_of_strategy(facts, result))
    else:
        how = "" if name == "mirrored" else f"; give the scripts --strategy {name}"
        count = result["answer"]["replicas"]
        replicas = "1 replica" if count == 1 else f"{count} replicas"
        yield Finding(OK, "strategy", f"{name} with {replicas}{how}")


def _fix_of_strategy(facts, result):
    if choose_strategy(facts) != "tpu":
        return "mend what the message names"
    if not has_tpu_wheel(facts):
        return SETUP
    if A_TPU_IS_HELD.search(result["error"]):
        return "end the other process that has the TPU; when there is none, remove /tmp/libtpu_lockfile"
    if facts["options"]["tpu"] != "local":
        return "compare --tpu with `gcloud compute tpus tpu-vm list`, and see that it is READY"
    if not facts["tpu_chips"]:
        return "run this on a TPU VM, or leave out --strategy tpu"
    if result["how"] == "hung":
        return "run this on every host of the slice at the same time, or restart the TPU VM"
    return "restart the TPU VM"


def _multi_worker(text):
    example = (
        '`export TF_CONFIG=\'{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}\'`'
    )
    if text is None:
        return Finding(PROBLEM, "strategy", "multi_worker without TF_CONFIG", example)
    try:
        config = json.loads(text)
        task, workers = config["task"], config["cluster"][config["task"]["type"]]
        if not 0 <= int(task["index"]) < len(workers):
            raise ValueError("the index {} of {} machines".format(task["index"], len(workers)))
    except (ValueError, KeyError, TypeError) as error:
        found = f"multi_worker with a TF_CONFIG that cannot be used: {type(error).__name__}: {error}"
        return Finding(PROBLEM, "strategy", found, example)
    found = "multi_worker, machine {} of {}; give the scripts --strategy multi_worker".format(
        int(task["index"]) + 1, len(workers)
    )
    return Finding(OK, "strategy", found)


def environment(facts):
    """Whether a variable is in the way of the TPU."""
    value = facts["environment"].get("PJRT_DEVICE", "TPU")
    if choose_strategy(facts) == "tpu" and value != "TPU":
        yield Finding(PROBLEM, "environment", f"PJRT_DEVICE={value}", "`unset PJRT_DEVICE`")


def model_dir(facts):
    """Whether a run can be written where it is to be."""
    options, local = facts["options"], facts["model_dir"]
    place = options["model_dir"]
    if local is None:
        result = facts["answers"].get("model_dir")
        if result is None:
            yield Finding(NOTE, "model_dir", f"{place}, not tried without TensorFlow", "mend TensorFlow")
        elif "error" in result:
            fix = "`gcloud auth application-default login`, and a bucket in which this account may create objects"
            yield Finding(PROBLEM, "model_dir", "{} cannot be written: {}".format(place, result["error"]), fix)
        else:
            yield Finding(OK, "model_dir", f"{place} can be written")
    elif local["error"]:
        place = place or "the current folder"
        found = "{} cannot be written: {}: {}".format(place, local["nearest"], local["error"])
        yield Finding(PROBLEM, "model_dir", found, "name another folder by --model_dir, or change its owner by chown")
    elif place and _is_out_of_reach(facts, place):
        yield _out_of_reach(facts, "model_dir", place)
    else:
        yield Finding(OK, "model_dir", "{} can be written".format(place or "not given; the current folder"))


def _is_out_of_reach(facts, place):
    return facts["options"]["tpu"] != "local" and "://" not in place


def _out_of_reach(facts, name, place):
    found = "{} is on this machine, and --tpu {} reads and writes from others".format(place, facts["options"]["tpu"])
    return Finding(PROBLEM, name, found, "name a place in a bucket: gs://...")


def data(facts):
    """Whether prepared data is complete."""
    place, result = facts["options"]["data_dir"], facts["answers"].get("data")
    if place is None:
        yield Finding(NOTE, "data", "not given", "name prepared data by --data_dir to have it looked at")
    elif _is_out_of_reach(facts, place):
        yield _out_of_reach(facts, "data", place)
    elif result is None:
        yield Finding(NOTE, "data", f"{place}, not tried", "mend the problems above")
    elif "error" in result:
        fix = "prepare it again by tpu/prepare_bert_data.py or tpu/prepare_imagenet.py, or name the folder they wrote"
        error = result["error"] if place in result["error"] else "{}: {}".format(place, result["error"])
        yield Finding(PROBLEM, "data", error, fix)
    else:
        answer = result["answer"]
        found = "{}: {:,} examples of {} in {:,} files, all there and of the right size"
        yield Finding(OK, "data", found.format(place, answer["examples"], answer["kind"], answer["files"]))


def disk(facts):
    """Whether there is space for checkpoints."""
    free_bytes = (facts["model_dir"] or {}).get("free_bytes")
    if free_bytes is not None:
        found = f"{free_bytes / GIB:.1f} GiB free"
        fix = (
            "free some, or name a larger place by --model_dir: BERT-Large keeps three checkpoints of 4 GB and adds one"
        )
        yield _enough(free_bytes, LEAST_DISK_BYTES, GOOD_DISK_BYTES, "disk", found, fix)


def memory(facts):
    """Whether there is host memory for the input and for a copy of the model."""
    free_bytes = facts["memory_bytes"]
    if free_bytes is not None:
        found = f"{free_bytes / GIB:.1f} GiB of host memory free"
        fix = "end other processes, or take a machine with more memory"
        yield _enough(free_bytes, LEAST_MEMORY_BYTES, GOOD_MEMORY_BYTES, "memory", found, fix)


def _enough(free_bytes, least, good, name, found, fix):
    status = PROBLEM if free_bytes < least else WARNING if free_bytes < good else OK
    return Finding(status, name, found, "" if status == OK else fix)
