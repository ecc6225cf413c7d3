"""Writes the tables of docs/aot.md from tpu_slices.json, which benchmarks/tpu_slices.py makes.

Run from anywhere:

    python docs/figures/tpu_slices.py
"""

import json
from pathlib import Path

import page_table

FIGURES = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "aot.md"
GIB = 2**30


def main():
    """Writes the tables."""
    rows = json.loads(FIGURES.read_text())["rows"]
    for table, head, line in (("bert", BERT_HEAD, bert), ("newer", NEWER_HEAD, newer), ("resnet", RESNET_HEAD, resnet)):
        of_table = [row for row in rows if row["table"] == table]
        of_table.sort(key=lambda row: row["figures"]["stages"][0]["global_batch_size"])
        page_table.write(PAGE, table, page_table.table(head, [line(row) for row in of_table]))


BERT_HEAD = ["Batch", "Slice", "A core", "Fits", "Update, at least", "Bound by", "Hours, at least", "Paper", "Ratio"]


def bert(row):
    """A row of BERT-Large on the paper's chips."""
    hours, published = row["figures"]["run"]["hours"], row["published_hours"]
    return [*shared(row), f"{hours:.2f}", f"{published:.2f}", f"{published / hours:.1f}"]


RESNET_HEAD = [
    "Batch",
    "Slice",
    "A core",
    "Fits",
    "Update, at least",
    "Bound by",
    "Hours, at least",
    "Images/s, at most",
]


def resnet(row):
    """A row of ResNet-50."""
    (stage,), hours = row["figures"]["stages"], row["figures"]["run"]["hours"]
    return [*shared(row), f"{hours:.2f}", f"{stage['global_batch_size'] / step_seconds(stage):,.0f}"]


NEWER_HEAD = ["Batch", "Slice", "A core", "Fits", "Update, at least", "Bound by", "Hours, at least", "Chip-hours"]


def newer(row):
    """A row of the same run on a newer slice."""
    run = row["figures"]["run"]
    return [*shared(row), f"{run['hours']:.2f}", f"{run['chip_hours']:,.0f}"]


def shared(row):
    """What all tables have."""
    figures = row["figures"]
    stages = figures["stages"]

    def each(function):
        values = [function(stage) for stage in stages]
        return values[0] if len(set(values)) == 1 else " / ".join(values)

    return [
        each(lambda stage: f"{stage['global_batch_size']:,}"),
        figures["topology"],
        each(lambda stage: f"{stage['per_replica_batch_size']} x {stage['micro_batches']}"),
        f"{'yes' if figures['fits'] else 'no'}, {each(lambda stage: gib(stage['compiled']['needed_bytes']))} of "
        f"{gib(stages[0]['compiled']['available_bytes'])} GiB",
        each(lambda stage: milliseconds(step_seconds(stage))) + " ms",
        each(lambda stage: stage["time"]["bound"]),
    ]


def gib(size_bytes):
    """A size in GiB."""
    return f"{size_bytes / GIB:.1f}"


def milliseconds(seconds):
    """A time in three digits, or as many as it has."""
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def step_seconds(stage):
    """The least time of an update."""
    return max(stage["time"][f"{name}_seconds"] for name in ("matrix", "memory", "all_reduce"))


if __name__ == "__main__":
    main()
