"""Writes the tables of docs/speed.md and README.md from bench_1.json and others, runs of `make bench`.

Run from anywhere:

    python docs/figures/speed.py
"""

import itertools
import json
from pathlib import Path

import page_table

FOLDER = Path(__file__).parent
RUNS = sorted(FOLDER.glob("bench_*.json"))
NUMBERED = [f"Run {number}" for number, _ in enumerate(RUNS, start=1)]
PAGE = FOLDER.parent / "speed.md"
README = FOLDER.parents[1] / "README.md"
# Runs agree if no ratio differs by more.
AGREEMENT = 0.15
MISSED = "**no**"
OURS, KERAS, GARDEN = "tf_lamb", "keras Lamb", "Model Garden LAMB"
BASE, IN_XLA = "update of BERT-base, float32 moments", "in an XLA step"
COMPILED = "update of BERT-base compiled for"
PEAK = "peak memory of an update of"
ON_GPU = "by Keras on JAX, on a GPU"
# What is compared: the table, the row, the row it is divided by (None: what the table divides by), the most it may be.
GOALS = {
    "LAMB called from Python / the floor": (BASE, OURS, None, 1.6),
    "LAMB called from Python / Keras's in an XLA step": (BASE, OURS, f"{KERAS}, {IN_XLA}", 0.7),
    "LAMB called from Python / Keras's called so": (BASE, OURS, KERAS, 0.15),
    "LAMB in an XLA step / Keras's there": (BASE, f"{OURS}, {IN_XLA}", f"{KERAS}, {IN_XLA}", 1.0),
    "telemetry / none": ("features on BERT-base", "telemetry", None, 1.02),
    **{
        f"{what}, {where} / {whose}": (f"{quantity}, 400 variables, {where}", OURS, peer, 1.0)
        for where in ("in a tf.function", IN_XLA)
        for what, quantity in (
            ("nodes of the graph", "nodes a variable"),
            ("time to trace", "seconds to trace"),
            ("first call", "seconds of the first call"),
        )
        for peer, whose in ((KERAS, "Keras's"), (GARDEN, "Model Garden's"))
    },
    **{
        f"peak memory, {model} / parameters, gradients and moments": (f"{PEAK} {model}", OURS, None, 1.1)
        for model in ("BERT-base", "BERT-large")
    },
    **{
        f"step of {script} / Model Garden's, {goal}": (f"step of {script}", f"tpu/{script}", None, most)
        for script in ("train_bert.py", "train_resnet.py")
        for goal, most in (("as fast", 1.0), ("5% faster", 1 / 1.05))
    },
    **{
        f"words a parameter on {chip}, {moments} / their floor": (f"{COMPILED} {chip}", moments, None, most)
        for chip in ("v3:4x4", "v4:2x2x4", "v5e:4x4")
        for moments, most in (
            ("float32 moments", 10.2 / 10),
            ("bfloat16 m, float32 v", 8.8 / 8.5),
            ("bfloat16 moments", 8.2 / 7),
        )
    },
    "LAMB of Keras on JAX, on a GPU / 10 words copied": (f"update of BERT-large {ON_GPU}", OURS, None, 1 / 0.85),
    "a step of BERT-base there / with optax.lamb": (f"step of BERT-base {ON_GPU}", OURS, None, 1.0),
}
# What the sentences of goals begin with, and why such a goal is missed where it is.
REASONS = {
    "LAMB called from Python / the floor": "This ratio is one of the machine; see below.",
    "telemetry / none": "A process more or less moves this ratio by some hundredths.",
    "peak memory": (
        "The scratch arrays of four variables are 0.07 of it in BERT-base and 0.03 in BERT-large, the graph and "
        "libraries some 0.05 in BERT-base. The rest was freed and is kept: without the allocator of oneDNN "
        "(`TF_ENABLE_ONEDNN_OPTS=0`) 0.015 less in BERT-base, 0.035 in BERT-large."
    ),
    "step of train_bert.py": (
        "Both train tf-models-official's model, whose forward and backward passes take most of a step; see below."
    ),
}


def main():
    """Writes the tables, and prints which ratios of the runs disagree."""
    runs = read()
    rows = [goal(name, *GOALS[name], runs) for name in GOALS]
    goals = page_table.table(["Ratio", "Goal, at most", *NUMBERED, "Met"], rows)
    missed = [row[0] for row in rows if row[-1] == MISSED]
    reasons = [f"- {name}: {why}" for name, why in REASONS.items() if any(each.startswith(name) for each in missed)]
    goals += "\n".join(["", "Why a goal is missed:", "", *reasons, ""] if reasons else [])
    page_table.write(PAGE, "runs", "".join(f"- {describe(path)}\n" for path in RUNS))
    page_table.write(PAGE, "goals", goals)
    page_table.write(PAGE, "figures", "\n".join(figures(title, runs) for title in runs[0]))
    page_table.write(README, "speed", f"{update_table(runs[0][BASE])}\n{step_table(runs[0])}")
    for pair in itertools.combinations(runs, 2):
        for title, name, first, second in disagreements(*pair):
            print(f"{title}: {name}: {first:.3f} and {second:.3f}")


def read():
    """The tables of each run by their titles."""
    return [{case["title"]: case for each in json.loads(path.read_text()) for case in each["cases"]} for path in RUNS]


def describe(path):
    """When a run was made, of what and on what."""
    every = [each["machine"] for each in json.loads(path.read_text())]
    facts = {name: value for each in every for name, value in each.items()}
    machine = f"{facts.pop('machine')}, {facts.pop('cores')} cores, Python {facts.pop('python')}"
    commits, dates = (sorted({each[name] for each in every}) for name in ("commit", "date"))
    others = ("date", "commit", "load_average")
    versions = [f"{name} {version}" for name, version in facts.items() if name not in others]
    when = f"{dates[0]} to {dates[-1]}, commit {' and '.join(commits)}"
    return f"{path.name}: {when}, {machine}; {', '.join(versions)}"


def rows_of(case):
    """The rows of a table by their names."""
    return {row["name"]: row for row in case["rows"]}


def ratio(case, name, base):
    """The ratio of a row to another, or to what the table divides by."""
    rows = rows_of(case)
    return rows[name]["ratio"] / (rows[base]["ratio"] if base else 1.0)


def goal(sentence, title, name, base, most, runs):
    """A row of the table of goals."""
    if not all(run[title]["rows"] for run in runs):
        return [sentence, f"{most:.2f}", *["not run"] * (len(runs) + 1)]
    ratios = [ratio(run[title], name, base) for run in runs]
    met = all(each <= most for each in ratios)
    return [sentence, f"{most:.2f}", *(f"{each:.2f}" for each in ratios), "yes" if met else MISSED]


def figures(title, runs):
    """A table of a benchmark: values of the first run, ratios of all."""
    first, rows = runs[0][title], [rows_of(run[title]) for run in runs]
    lines = [
        [name, f"{row['value']:.4g}", f"{row['spread']:.0%}", *(f"{of_run[name]['ratio']:.2f}" for of_run in rows)]
        for name, row in rows[0].items()
    ]
    lines += [[name, f"not run: {reason}", "", *[""] * len(runs)] for name, reason in first["missing"].items()]
    note = f"\n{first['note']}\n" if first["note"] else ""
    head = ["", first["unit"], "Spread", *(f"Ratio, {number.lower()}" for number in NUMBERED)]
    return f"\n### {title[0].upper()}{title[1:]}\n{note}\n{page_table.table(head, lines)}"


def update_table(case):
    """The update of BERT-base in README.md."""
    lines = [[row["name"], f"{1000 * row['value']:,.0f} ms", f"{row['ratio']:.2f}"] for row in case["rows"]]
    return page_table.table(["", "An update of BERT-base", "To the floor"], lines)


def step_table(run):
    """The whole training steps in README.md."""
    rows = [rows_of(run[f"step of {script}"])[f"tpu/{script}"] for script in ("train_bert.py", "train_resnet.py")]
    lines = [[f"`{row['name']}`", f"{1000 * row['value']:,.0f} ms", f"{row['ratio']:.2f}"] for row in rows]
    return page_table.table(["", "A training step", "To tf-models-official's"], lines)


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
