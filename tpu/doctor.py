"""Looks at what is installed and at this machine, and says what keeps the scripts from running and how to mend it.

    python tpu/doctor.py --strategy tpu --model_dir gs://bucket/run --data_dir gs://bucket/data

It needs no package and imports none itself, so it also speaks where TensorFlow is missing or crashes. It looks at
Python, TensorFlow and whether it was built for TPUs, libtpu, tf-models-official, Keras, devices, the strategy, and
whether --model_dir can be written and --data_dir is complete; it leaves nothing behind in either.

Exit code: 0 if there is no problem, 1 if there is, 2 for a command line that cannot be used.
"""

import argparse
import json
import signal
import sys

import doctor_facts
import doctor_machine
import doctor_software
from doctor_findings import PROBLEM, answer_to, choose_strategy

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")


def main(argv=None):
    """Prints the findings; returns the exit code."""
    arguments = parse_arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Leaves as an exception, which ends the probes.
    try:
        facts = examine(arguments)
    except KeyboardInterrupt:
        print("\ndoctor: interrupted; the same command begins anew.", file=sys.stderr)
        return 130
    findings = doctor_software.findings(facts) + doctor_machine.findings(facts)
    problems = sum(finding.status == PROBLEM for finding in findings)
    if arguments.json:
        report = {"healthy": not problems, "findings": [finding._asdict() for finding in findings]}
        print(json.dumps(report, indent=2))
    else:
        print(table(findings))
        print("healthy" if not problems else f"not healthy: {problems} to mend, from the top")
    return 1 if problems else 0


def parse_arguments(argv):
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default="auto",
        help="what training is to run on, as for the training scripts; auto (default): what this machine is best for",
    )
    parser.add_argument("--tpu", default="local", help="the TPU: local (default) or its name")
    parser.add_argument("--cpu_replicas", type=_positive(int), default=2, help="as for the training scripts")
    parser.add_argument("--model_dir", help="the folder of a run, which need not be there yet")
    parser.add_argument("--data_dir", help="prepared data, to see whether it is complete")
    parser.add_argument(
        "--timeout_seconds", type=_positive(float), default=180.0, help="for an import or a strategy (default: 180)"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser.parse_args(argv)


def _positive(kind):
    def read(text):
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < 1e9:
            raise argparse.ArgumentTypeError(f"a number above 0 is needed. Received: {text}. Expected for example 2.")
        return value

    return read


def examine(arguments):
    """The facts of `doctor_facts.gather`, with the answers of the probe to all that can be asked here."""
    facts = doctor_facts.gather(arguments)

    def ask(*questions):
        strategy = choose_strategy(facts)
        facts["answers"].update(doctor_facts.ask(questions, arguments, strategy, facts["tpu_chips"]))

    # What needs TensorFlow is not asked where it does not import: everything would say the same.
    ask("tensorflow", *(["libtpu"] if "libtpu" in facts["packages"] else []))
    questions = []
    if answer_to(facts, "tensorflow"):
        questions.append("keras")
        if "tf-models-official" in facts["packages"]:
            questions.append("model_garden")
        if facts["model_dir"] is None:
            questions.append("model_dir")
    has_config = not {"pydantic", "ruamel.yaml", "typing_extensions"} & set(facts["missing_modules"])
    if has_config:
        # A strategy of several machines would wait for the others.
        if answer_to(facts, "tensorflow") and choose_strategy(facts) != "multi_worker":
            questions.append("strategy")
        if arguments.data_dir:
            questions.append("data")
    ask(*questions)
    return facts


def table(findings):
    """The findings as text, a line each."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for status, name, found, fix in findings:
        found = found.rstrip(".")
        lines.append("{:<7}  {:<{}}  {}{}".format(status, name, width, found, f". Fix: {fix}" if fix else ""))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
