"""Plans the published runs on the slices they were made on, and one of them on newer slices, with tpu/aot.py.

    python benchmarks/tpu_slices.py --json docs/figures/tpu_slices.json

Takes some hours on two cores. Each row is kept in --work_dir when it is done; the same command goes on with the rest.
docs/figures/tpu_slices.py writes the tables of docs/aot.md from the figures.
"""

import argparse
import concurrent.futures
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from machine import ROOT, describe_machine
from tqdm import tqdm

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
    """Plans the rows that are not there yet, and writes all that are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="how many rows at once (default: 1); one of BERT takes up to 18 GB of memory",
    )
    parser.add_argument(
        "--tables", nargs="+", default=("bert", "newer", "resnet"), help="the tables to plan (default: all three)"
    )
    parser.add_argument("--work_dir", type=Path, default=Path("build/tpu_slices"), help="where rows are kept")
    parser.add_argument("--json", type=Path, required=True, help="the file for the figures")
    arguments = parser.parse_args()
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    machine = describe_machine(arguments.jobs, PACKAGES)
    wanted = [row for row in ROWS if row.table in arguments.tables]
    missing = [row for row in wanted if not (arguments.work_dir / f"{row.name}.json").exists()]
    failed = []
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        waiting = {pool.submit(plan, row, arguments.work_dir): row for row in missing}
        for future in tqdm(concurrent.futures.as_completed(waiting), total=len(missing), unit="row"):
            if message := future.result():
                failed.append(waiting[future].name)
                tqdm.write(f"{waiting[future].name}: {message}", file=sys.stderr)
            write(machine, arguments.work_dir, arguments.json)
    write(machine, arguments.work_dir, arguments.json)
    return 1 if failed else 0


def plan(row, work_dir):
    """Runs tpu/aot.py for a row, which writes its figures; returns what went wrong, if anything did."""
    path = work_dir / f"{row.name}.json"
    command = [sys.executable, "tpu/aot.py", "--config_file", f"configs/{row.config}.yaml", "--topology", row.topology]
    command += ["--json", str(path.absolute()), *(["--set", *row.overrides] if row.overrides else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    (work_dir / f"{row.name}.txt").write_text(done.stdout + done.stderr)
    # 1 also means that the run does not fit, which is a result.
    return None if path.exists() else done.stderr.strip().splitlines()[-1]


def write(machine, work_dir, path):
    """Writes the rows that are done."""
    rows = []
    for row in ROWS:
        figures = work_dir / f"{row.name}.json"
        if figures.exists():
            rows.append({**asdict(row), "figures": json.loads(figures.read_text())})
    with atomic_path(path) as unfinished:
        unfinished.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
