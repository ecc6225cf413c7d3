"""Compiles small modules for TPUs, all in one process that is not that of the tests."""

import json
import subprocess
import sys
from pathlib import Path

import slice_compiler
from tpu_chips import parse_topology

LOOP = """
import json, sys
sys.path.insert(0, sys.argv[1])
import compile_only
requests = json.load(open(sys.argv[2]))
json.dump([compile_only.answer(request) for request in requests], open(sys.argv[3], "w"))
"""


def compile_all(modules, folder):
    """Compiles modules.

    Args:
        modules: Pairs of StableHLO, as text, and the name of a topology, by any keys.
        folder: An empty folder.

    Returns:
        What `compile_only.answer` says of each, with "hlo" where it compiles.
    """
    folder = Path(folder)
    requests = []
    for number, (text, name) in enumerate(modules.values()):
        topology = parse_topology(name)
        (folder / f"{number}.mlir").write_text(text)
        requests.append(
            slice_compiler._request(folder / f"{number}.mlir", topology, folder / f"{number}.hlo", str(folder))
        )
    (folder / "requests.json").write_text(json.dumps(requests))
    subprocess.run(
        [sys.executable, "-c", LOOP, str(slice_compiler.CHILD.parent), folder / "requests.json", folder / "answers"],
        env=slice_compiler._environment(topology, str(folder)),
        check=True,
        capture_output=True,
    )
    answers = dict(zip(modules, json.loads((folder / "answers").read_text()), strict=True))
    for number, answer in enumerate(answers.values()):
        path = folder / f"{number}.hlo"
        answer["hlo"] = path.read_text() if path.exists() else None
    return answers
