"""Writes the tables of docs/speed.md and README.md from bench_1.json and bench_2.json, two runs of `make bench`.

Run from anywhere:

    python docs/figures/speed.py
"""

import json
from pathlib import Path

import page_table

FOLDER = Path(__file__).parent
RUNS = [FOLDER / "bench_1.json", FOLDER / "bench_2.json"]
PAGE = FOLDER.parent / "speed.md"
README = FOLDER.parents[1] / "README.md"
# Two runs agree if no ratio differs by more.
AGREEMENT = 0.15
OURS, KERAS, GARDEN = "tf_lamb", "keras Lamb", "Model Garden LAMB"
BASE, IN_XLA = "update of BERT-base, float32 moments", "in an XLA step"
IN_FUNCTION = "400 variables, in a tf.function"
COMPILED = "update of BERT-base compiled for"
# What is compared: the table, the row, the row it is divided by (None: what the table divides by), the most it may be.
GOALS = {
    "LAMB called from Python / the floor": (BASE, OURS, None, 1.6),
    "LAMB called from Python / Keras's in an XLA step": (BASE, OURS, f"{KERAS}, {IN_XLA}", 0.7),
    "LAMB called from Python / Keras's called so": (BASE, OURS, KERAS, 0.15),
    "LAMB in an XLA step / Keras's there": (BASE, f"{OURS}, {IN_XLA}", f"{KERAS}, {IN_XLA}", 1.0),
    "telemetry / none": ("features on BERT-base", "telemetry", None, 1.02),
    "nodes of the graph / Keras's": (f"nodes a variable, {IN_FUNCTION}", OURS, KERAS, 1.0),
    "nodes of the graph / Model Garden's": (f"nodes a variable, {IN_FUNCTION}", OURS, GARDEN, 1.0),
    "time to trace / Keras's": (f"seconds to trace, {IN_FUNCTION}", OURS, KERAS, 1.0),
    "time to trace / Model Garden's": (f"seconds to trace, {IN_FUNCTION}", OURS, GARDEN, 1.0),
    "first call / Keras's": (f"seconds of the first call, {IN_FUNCTION}", OURS, KERAS, 1.0),
    "first call / Model Garden's": (f"seconds of the first call, {IN_FUNCTION}", OURS, GARDEN, 1.0),
    "peak memory / parameters, gradients and moments": ("peak memory of an update of BERT-base", OURS, None, 1.1),
    "step of train_bert.py / Model Garden's": ("step of train_bert.py", "tpu/train_bert.py", None, 1.0),
    "step of train_resnet.py / Model Garden's": ("step of train_resnet.py", "tpu/train_resnet.py", None, 1.0),
    **{
        f"words a parameter on {chip}, {moments} / their floor": (f"{COMPILED} {chip}", moments, None, most)
        for chip in ("v3:4x4", "v4:2x2x4", "v5e:4x4")
        for moments, most in (
            ("float32 moments", 10.2 / 10),
            ("bfloat16 m, float32 v", 8.8 / 8.5),
            ("bfloat16 moments", 8.2 / 7),
        )
    },
}


def main():
    """Writes the tables, and prints which ratios of the two runs disagree."""
    runs = read()
    goals = page_table.table(
        ["Ratio", "Goal, at most", "First run", "Second run", "Met"], [goal(name, *GOALS[name], runs) for name in GOALS]
    )
    page_table.write(PAGE, "goals", goals)
    page_table.write(PAGE, "figures", "\n".join(figures(title, runs) for title in runs[0]))
    page_table.write(README, "update", update_table(runs[0][BASE]))
    for title, name, first, second in disagreements(*runs):
        print(f"{title}: {name}: {first:.3f} and {second:.3f}")


def read():
    """The tables of both runs by their titles."""
    return [{case["title"]: case for each in json.loads(path.read_text()) for case in each["cases"]} for path in RUNS]


def rows_of(case):
    """The rows of a table by their names."""
    return {row["name"]: row for row in case["rows"]}


def ratio(case, name, base):
    """The ratio of a row to another, or to what the table divides by."""
    rows = rows_of(case)
    return rows[name]["ratio"] / (rows[base]["ratio"] if base else 1.0)


def goal(sentence, title, name, base, most, runs):
    """A row of the table of goals."""
    ratios = [ratio(run[title], name, base) for run in runs]
    met = all(each <= most for each in ratios)
    return [sentence, f"{most:.2f}", *(f"{each:.2f}" for each in ratios), "yes" if met else "**no**"]


def figures(title, runs):
    """A table of a benchmark: values of the first run, ratios of both."""
    first, second = (run[title] for run in runs)
    others = rows_of(second)
    lines = [
        [
            row["name"],
            f"{row['value']:.4g}",
            f"{row['spread']:.0%}",
            f"{row['ratio']:.2f}",
            f"{others[name]['ratio']:.2f}",
        ]
        for name, row in rows_of(first).items()
        if name in others
    ]
    lines += [[name, f"not run: {reason}", "", "", ""] for name, reason in first["missing"].items()]
    note = f"\n{first['note']}\n" if first["note"] else ""
    head = ["", first["unit"], "Spread", "Ratio", "Second run"]
    return f"\n### {title[0].upper()}{title[1:]}\n{note}\n{page_table.table(head, lines)}"


def update_table(case):
    """The update of BERT-base in README.md."""
    lines = [[row["name"], f"{1000 * row['value']:,.0f} ms", f"{row['ratio']:.2f}"] for row in case["rows"]]
    return page_table.table(["", "An update of BERT-base", "To the floor"], lines)


def disagreements(first, second):
    """Tuples of a table, a row, and its ratios in both runs, where they differ by more than `AGREEMENT`."""
    for title, case in first.items():
        others = rows_of(second[title])
        for name, row in rows_of(case).items():
            pair = row["ratio"], others[name]["ratio"]
            if max(pair) > (1 + AGREEMENT) * min(pair):
                yield title, name, *pair


if __name__ == "__main__":
    main()
