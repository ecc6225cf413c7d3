"""The findings of doctor.py, and what several of them ask of the facts. Any Python from 3.8 on reads this."""

import re
from typing import NamedTuple

OK, NOTE, WARNING, PROBLEM = "ok", "note", "warning", "problem"
# They install the same folder.
TENSORFLOWS = ("tensorflow", "tensorflow-cpu", "tensorflow-tpu")
SETUP = "run tpu/setup_tpu_vm.sh"
INSTALL = f"on a TPU VM {SETUP}, elsewhere `python -m pip install '.[models]'`, in the checkout"


class Finding(NamedTuple):
    """A line of the report.

    Attributes:
        status: One of OK, NOTE, WARNING and PROBLEM; a problem makes the exit code 1.
        name: What it is about.
        found: What was found.
        fix: What to do, empty where nothing is to be done.
    """

    status: str
    name: str
    found: str
    fix: str = ""


def release(version):
    """The numbers with which a version begins: "2.20.0rc1" is (2, 20, 0)."""
    return tuple(int(number) for number in re.match(r"\d+(?:\.\d+)*", version).group().split("."))


def choose_strategy(facts):
    """The strategy that is asked for, or with `auto` the best one for this machine."""
    asked = facts["options"]["strategy"]
    if asked != "auto":
        return asked
    if "TF_CONFIG" in facts["environment"]:
        return "multi_worker"
    reaches_tpu = facts["tpu_chips"] or facts["options"]["tpu"] != "local"
    return "tpu" if reaches_tpu and answer_to(facts, "tensorflow").get("has_tpu_kernel") else "mirrored"


def wants_tpu(facts):
    """Whether this machine is to train on a TPU: it was said so, or it has one."""
    options = facts["options"]
    return options["strategy"] == "tpu" or (
        options["strategy"] == "auto" and bool(facts["tpu_chips"] or options["tpu"] != "local")
    )


def has_tpu_wheel(facts):
    """Whether TensorFlow was built for TPUs; where it does not import, whether its package is called so."""
    tensorflow = answer_to(facts, "tensorflow")
    return tensorflow.get("has_tpu_kernel", "tensorflow-tpu" in facts["packages"])


def answer_to(facts, question):
    """The answer of the probe to a question, empty if there is none."""
    return facts["answers"].get(question, {}).get("answer", {})


def error_of(facts, question):
    """Why the probe could not answer a question, or None."""
    return facts["answers"].get(question, {}).get("error")


def dotted(version):
    """A version that is given by its numbers."""
    return ".".join(map(str, version))
