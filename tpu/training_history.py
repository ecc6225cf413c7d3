"""What a run leaves of its way: history.csv, and for each stage the optimizer's statistics of every layer.

A run that goes on from a checkpoint drops the rows after it, so the files are those of an uninterrupted run.
"""

import csv

from atomic_file import atomic_path
from tf_lamb.telemetry import Recorder

HISTORY = "history.csv"


def layers_path(folder, stage_number):
    """The file of a stage's statistics, for `tf_lamb.telemetry.read_history`; steps are the optimizer's own."""
    return folder / f"layers_{stage_number}.csv"


class History:
    """Writes a row of metrics at each edge of the device loop: a context, and an action for Orbit.

    Args:
        folder: The local `Path` for the files.
        summaries: The path for TensorBoard, of any file system that TensorFlow knows.
        optimizer: An optimizer of tf_lamb, made with telemetry.
        step: The variable that counts the run's steps.
        is_chief: Whether this process writes.
    """

    def __init__(self, folder, summaries, optimizer, step, is_chief):
        self._folder, self._summaries = folder, summaries
        self._optimizer, self._step, self._is_chief = optimizer, step, is_chief
        self._recorder = self._stage = None

    def __enter__(self):
        """Drops what comes after the run's present step."""
        if self._is_chief:
            drop_rows_after(self._folder / HISTORY, int(self._step.numpy()))
        return self

    def __exit__(self, *_):
        """Closes the files."""
        self._close()

    def begin_stage(self, stage):
        """Goes on with the file of a stage; files of later ones go."""
        self._close()
        self._stage = stage
        if not self._is_chief:
            return
        path = layers_path(self._folder, stage.number)
        for later in self._folder.glob("layers_*.csv"):
            if int(later.stem.removeprefix("layers_")) > stage.number:
                later.unlink()
        if int(self._step.numpy()) == stage.first_step:
            path.unlink(missing_ok=True)
        drop_rows_after(path, int(self._optimizer.iterations.numpy()))
        log_dir = self._summaries / f"layers_{stage.number}"
        self._recorder = Recorder(self._optimizer, path, log_dir)

    def __call__(self, output):
        """Writes a row; `output` holds the metrics of the last loop."""
        if not self._is_chief:
            return
        self._recorder.write()
        path = self._folder / HISTORY
        row = {"step": int(self._step.numpy()), "stage": self._stage.number, **output}
        is_new = not path.exists()
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, row.keys(), lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow(row)

    def _close(self):
        if self._recorder is not None:
            self._recorder.close()
        self._recorder = None


def drop_rows_after(path, step):
    """Rewrites a CSV file, if it is there, without the rows of later steps and without a line that was cut off."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines[1:] if line.endswith("\n") and int(line.split(",")[0]) <= step]
    with atomic_path(path) as unfinished:
        unfinished.write_text("".join([*lines[:1], *kept]), encoding="utf-8")


def read(folder):
    """The rows of history.csv: a list of dictionaries of floats, oldest first."""
    with (folder / HISTORY).open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
