"""Plans the published runs on the slices they were made on, and one of them on newer slices, with tpu/aot.py.

    python benchmarks/tpu_slices.py --json docs/figures/tpu_slices.json

Takes some hours on two cores. Each row is written when it is done, and the same command goes on with the rest.
docs/figures/tpu_slices.py writes the tables of docs/aot.md from the figures.
"""

import argparse
import concurrent.futures
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from machine import ROOT, describe_machine

sys.path.insert(0, str(ROOT / "tpu"))
from atomic_file import atomic_path  # noqa: E402

PACKAGES = ("tensorflow", "tf-models-official", "jax", "libtpu")


@dataclass(frozen=True)
class Row:
    """A run on a slice.

    Attributes:
        table: The table that it belongs to.
        config: In configs/.
        topology: The slice.
        published_hours: What the paper took (arXiv 1904.00962v3, table 1); None where it gives no time.
        overrides: Of the config.
    """

    table: str
    config: str
    topology: str
    published_hours: float | None = None
    overrides: tuple[str, ...] = ()

    @property
    def name(self):
        """A name for a file."""
        return f"{self.config.replace('/', '_')}.{self.topology.replace(':', '_')}"


# Table 1 of the paper: the global batch, the chips of TPUv3, and the hours.
BERT = [
    ("large_lamb_32768", "32x32", 101.2 / 60),
    ("large_lamb_65536_32768", "32x32", 76.19 / 60),
    ("large_lamb_512", "4x4", 82.8),
    ("large_lamb_1024", "4x8", 43.2),
    ("large_lamb_2048", "8x8", 21.4),
    ("large_lamb_4096", "8x16", 693.6 / 60),
    ("large_lamb_8192", "16x16", 390.5 / 60),
    ("large_lamb_16384", "16x32", 200.0 / 60),
]
# 32 images a core: 16 cores for a batch of 512, and so on.
RESNET = {512: "2x4", 1024: "4x4", 2048: "4x8", 4096: "8x8", 8192: "8x16", 16384: "16x16", 32768: "16x32"}
# About the peak of 1,024 chips of TPUv3, 126 PFLOP/s; of v5e the largest slice has 50.
NEWER = ("v4:8x8x8", "v5e:16x16", "v5p:4x8x8", "v6e:8x16")

ROWS = [
    *(Row("bert", f"bert/{config}", f"v3:{shape}", hours) for config, shape, hours in BERT[:2]),
    *(Row("newer", "bert/large_lamb_65536_32768", topology) for topology in NEWER),
    *(
        Row("resnet", f"resnet50/lamb_{batch}", f"v3:{shape}", None, ("stages.0.max_per_replica_batch_size=32",))
        for batch, shape in RESNET.items()
    ),
    *(Row("bert", f"bert/{config}", f"v3:{shape}", hours) for config, shape, hours in BERT[2:]),
]


def main():
    """Plans the rows that are not in the file of figures yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="how many rows at once (default: 1); one of BERT takes up to 11 GB of memory",
    )
    parser.add_argument(
        "--tables", nargs="+", default=("bert", "newer", "resnet"), help="the tables to plan (default: all three)"
    )
    parser.add_argument("--json", type=Path, required=True, help="the file for the figures; rows in it are kept")
    arguments = parser.parse_args()
    machine = describe_machine(arguments.jobs, PACKAGES)
    figures = {}
    if arguments.json.exists():
        figures = {row["name"]: row["figures"] for row in json.loads(arguments.json.read_text())["rows"]}
    missing = [row for row in ROWS if row.table in arguments.tables and row.name not in figures]
    failed = False
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        waiting = {pool.submit(plan, row): row for row in missing}
        for future in tqdm(concurrent.futures.as_completed(waiting), total=len(missing), unit="row"):
            row = waiting[future]
            try:
                figures[row.name] = future.result()
            except RuntimeError as error:
                failed = True
                tqdm.write(f"{row.name}: {error}", file=sys.stderr)
                continue
            done = [{"name": r.name, **asdict(r), "figures": figures[r.name]} for r in ROWS if r.name in figures]
            with atomic_path(arguments.json) as unfinished:
                unfinished.write_text(json.dumps({"machine": machine, "rows": done}, indent=1) + "\n")
    return 1 if failed else 0


def plan(row):
    """Runs tpu/aot.py for a row; returns its figures.

    Raises:
        RuntimeError: It did not succeed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "figures.json")
        command = [sys.executable, "tpu/aot.py", "--config_file", f"configs/{row.config}.yaml"]
        command += ["--topology", row.topology, "--json", str(path)]
        command += ["--set", *row.overrides] if row.overrides else []
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        # An exit code of 1 may also mean that the run does not fit, which is a result.
        if not path.exists():
            raise RuntimeError(f"exit code {done.returncode}. {done.stderr.strip()[-500:]}")
        return json.loads(path.read_text())


if __name__ == "__main__":
    sys.exit(main())
