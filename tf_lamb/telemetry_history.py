"""The history of an optimizer's statistics: a CSV file, a row for each recorded update, and TensorBoard scalars."""

import csv
import io
import os
from typing import NamedTuple

import numpy as np
from keras import ops

from tf_lamb import options

SCALARS = ("gradient_norm", "clip_rate", "bound_hits", "skipped_steps")
PER_LAYER = ("trust_ratio", "weight_norm", "update_norm")


class Recorder:
    """Writes the statistics of an optimizer, of either Keras, whenever it is asked to; for loops of one's own.

    Rows are appended to the history, so a resumed job goes on with its file. The columns are `step`, `gradient_norm`,
    `clip_rate`, `bound_hits`, `skipped_steps`, and `trust_ratio/LAYER`, `weight_norm/LAYER` and `update_norm/LAYER` for
    each of `optimizer.layer_names()`; TensorBoard's tags are the same. Every row is written at once: an interrupted job
    leaves no half line, and one that a full disk cut off is removed before the next row.

    Args:
        optimizer: An optimizer of tf_lamb that was made with `telemetry=True`.
        history_csv: A local file, made with its folder if missing; or None.
        log_dir: A folder for TensorBoard, of any file system that TensorFlow knows; or None.

    Raises:
        ValueError: There is neither a file nor a folder, the optimizer keeps no statistics, or the file holds the
            history of other layers; of an optimizer that is not built yet, `write` raises the last of these.
        ImportError: TensorFlow is missing, for a `log_dir`.

    Example:

    >>> import os, tempfile, keras, tf_lamb
    >>> variable = keras.Variable([3.0, 4.0], name="kernel")
    >>> optimizer = tf_lamb.NormalizedSGD(0.1, telemetry=True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = os.path.join(folder, "history.csv")
    ...     with tf_lamb.telemetry.Recorder(optimizer, file) as recorder:
    ...         for _ in range(2):
    ...             optimizer.apply([keras.ops.convert_to_tensor([0.0, 8.0])], [variable])
    ...             _ = recorder.write()
    ...     with open(file) as lines:
    ...         print(lines.readline(), lines.readline(), sep="", end="")
    step,gradient_norm,clip_rate,bound_hits,skipped_steps,trust_ratio/kernel,weight_norm/kernel,update_norm/kernel
    1,8.0,0.0,0,0,0.625,5.0,8.0
    """

    def __init__(self, optimizer, history_csv=None, log_dir=None):
        check_targets(history_csv, log_dir)
        layerwise_options = getattr(optimizer, "_options", None)
        if not getattr(layerwise_options, "telemetry", False):
            raise ValueError(
                "There are no statistics to record. Expected an optimizer of tf_lamb made with `telemetry=True`. "
                f"Received: {optimizer!r}."
            )
        self.optimizer = optimizer
        self._history_csv, self._log_dir = history_csv, log_dir
        self._history_file = self._scalars = None
        self._open()
        self._last_step = self.step

    @property
    def step(self):
        """The updates that the optimizer has made, an int. Reading it waits for the device."""
        return int(ops.convert_to_numpy(ops.convert_to_tensor(self.optimizer.iterations)))

    def write(self):
        """Writes a row of the last update, unless there was none since the last row.

        Returns:
            The step of the row, an int; None if there was nothing to write.
        """
        step = self.step
        if step == self._last_step:
            return None
        self._last_step = step
        self._open()
        values = {name: ops.convert_to_numpy(value) for name, value in self.optimizer.statistics().items()}
        row = [*(values[name] for name in SCALARS), *(value for name in PER_LAYER for value in values[name])]
        if self._history_file is not None:
            self._history_file.write([step, *row])
        if self._scalars is not None:
            self._scalars.write(step, columns(self.optimizer.layer_names())[1:], row)
        return step

    def close(self):
        """Closes what is open; a later `write` opens it again."""
        for target in (self._history_file, self._scalars):
            if target is not None:
                target.close()
        self._history_file = self._scalars = None

    def _open(self):
        # The layers are known only once the optimizer is built.
        if self._history_csv is not None and self._history_file is None and self.optimizer._plan is not None:
            self._history_file = _HistoryFile(self._history_csv, columns(self.optimizer.layer_names()))
        if self._log_dir is not None and self._scalars is None:
            self._scalars = _Scalars(self._log_dir)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


class RecordingCallback:
    """What the callbacks for Keras 3 and tf_keras share; mixed into the Callback class of either."""

    def __init__(self, history_csv=None, log_dir=None, every_steps=None):
        super().__init__()
        check_targets(history_csv, log_dir)
        self._targets = history_csv, log_dir
        self._every_steps = None if every_steps is None else options.check_count("every_steps", every_steps)

    def on_train_begin(self, logs=None):
        """Opens the history."""
        optimizer = getattr(self.model, "optimizer", None)
        # Keras's LossScaleOptimizer wraps the one that keeps the statistics.
        self._recorder = Recorder(getattr(optimizer, "inner_optimizer", optimizer), *self._targets)
        self._every = self._every_steps or self._recorder.optimizer._options.telemetry_every_steps
        self._next_step = self._following(self._recorder.step)

    def on_epoch_begin(self, epoch, logs=None):
        """Looks at the optimizer before the next batch, since batches are counted anew."""
        self._look_at = 0

    # The end of a batch would do as well, but for a callback that listens there Keras 3 waits for every batch's logs.
    def on_train_batch_begin(self, batch, logs=None):
        """Writes a row of the update before, if one is due.

        Args:
            batch: The batches of this epoch before this one.
            logs: Not used.
        """
        if batch < self._look_at:
            return
        recorder = self._current_recorder()
        step = recorder.step
        if step >= self._next_step:
            recorder.write()
            self._next_step = self._following(step)
        # A batch makes one update at most, so nothing is due sooner.
        batches_per_update = recorder.optimizer.gradient_accumulation_steps or 1
        self._look_at = batch + (self._next_step - step - 1) * batches_per_update + 1

    def on_train_end(self, logs=None):
        """Writes a row of the last update, and closes the history."""
        recorder = self._current_recorder()
        recorder.write()
        recorder.close()

    def _current_recorder(self):
        _ = self.model  # With JAX, asking for it brings the state of `fit` into the optimizer's variables.
        return self._recorder

    def _following(self, step):
        return (step // self._every + 1) * self._every if step else 1


class History(NamedTuple):
    """What `read_history` gives.

    Attributes:
        layers: The names of the layers, a list of strings.
        step: The recorded updates, an int64 array, increasing.
        trust_ratio: An array of shape (steps, layers), as are `weight_norm` and `update_norm`.
        weight_norm: The norms of the layers' weights before each update.
        update_norm: The norms of the updates before the ratio and the rate.
        gradient_norm: An array of shape (steps,), as are the following.
        clip_rate: The share of all updates so far in which a gradient was clipped.
        bound_hits: In how many layers a bound acted.
        skipped_steps: How many steps were skipped so far.
    """

    layers: list
    step: np.ndarray
    trust_ratio: np.ndarray
    weight_norm: np.ndarray
    update_norm: np.ndarray
    gradient_norm: np.ndarray
    clip_rate: np.ndarray
    bound_hits: np.ndarray
    skipped_steps: np.ndarray


def read_history(history_csv):
    """Reads a history, also while it is being written.

    Where a job went back to an earlier checkpoint, the rows that it had left behind are left out.

    Args:
        history_csv: The file, a string or a path.

    Returns:
        A `History`.

    Raises:
        ValueError: The file is no history of tf_lamb, or it has no rows.
    """
    with open(history_csv, newline="", encoding="utf-8") as file:
        text = file.read()
    header, *lines = csv.reader(io.StringIO(text[: text.rfind("\n") + 1])) if "\n" in text else [[]]
    first = len(SCALARS) + 1
    layers = [name.partition("/")[2] for name in header[first : first + (len(header) - first) // len(PER_LAYER)]]
    if header != columns(layers):
        raise ValueError(
            f"The file is no history of tf_lamb.telemetry. Received: {os.fspath(history_csv)!r}, "
            f"whose header begins with {header[:3]}. Expected: one that begins with {['step', *SCALARS[:2]]}."
        )
    rows = []
    for line in lines:
        row = [float(cell) for cell in line]
        while rows and rows[-1][0] >= row[0]:
            rows.pop()
        rows.append(row)
    if not rows:
        raise ValueError(f"The history has no rows yet. Received: {os.fspath(history_csv)!r}.")
    step, *scalars = np.array(rows).T[:first]
    per_layer = np.split(np.array(rows)[:, first:], len(PER_LAYER), axis=1)
    return History(layers, step.astype(np.int64), *per_layer, *scalars)


def columns(layers):
    """The header of a history of the layers of these names."""
    return ["step", *SCALARS, *(f"{name}/{layer}" for name in PER_LAYER for layer in layers)]


def check_targets(history_csv, log_dir):
    """Raises ValueError if there is nothing to write to, or `history_csv` is not a local file."""
    if history_csv is None and log_dir is None:
        raise ValueError("There is nothing to write to. Expected `history_csv`, `log_dir`, or both. Received: None.")
    if history_csv is not None and "://" in os.fspath(history_csv):
        raise ValueError(
            "`history_csv` is appended to, so it must be a local file; a `log_dir` may be elsewhere. "
            f"Received: history_csv={os.fspath(history_csv)!r}."
        )


class _HistoryFile:
    """The CSV file, open for appending; its header is checked or, in a new file, written."""

    def __init__(self, path, header):
        path = os.fspath(path)
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        # Without a buffer, a row is one call of the system.
        self._file = open(path, "a+b", buffering=0)
        try:
            self._resume(path, header)
        except BaseException:
            self._file.close()
            raise

    def _resume(self, path, header):
        self._file.seek(0)
        found, expected = self._file.readline(), _line(header)
        if found == expected:
            self._file.truncate(self._end_of_the_last_line())
        elif expected.startswith(found):  # A new file, or one whose header was cut off.
            self._file.truncate(0)
            self.write(header)
        else:
            raise ValueError(
                "The history file holds something else. Choose another file, or move it away. "
                f"Received: history_csv={path!r} with {_difference(found, header)}."
            )

    def _end_of_the_last_line(self):
        end = self._file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - 2**16)
            self._file.seek(begin)
            newline = self._file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
            end = begin
        return 0

    def write(self, cells):
        data = _line(cells)
        if self._file.write(data) < len(data):
            raise OSError(
                f"A row could not be written whole to the history file {self._file.name!r}: is the disk full?"
            )

    def close(self):
        self._file.close()


def _line(cells):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([str(cell) for cell in cells])
    return text.getvalue().encode("utf-8")


def _difference(found, expected):
    found = next(csv.reader([found.decode("utf-8", errors="replace")]))
    if len(found) != len(expected):
        return f"{len(found)} columns. Expected: {len(expected)}, beginning with {expected[:2]}"
    i = next(i for i in range(len(found)) if found[i] != expected[i])
    return f"the column {found[i]!r}. Expected: {expected[i]!r}"


class _Scalars:
    """TensorBoard's scalars, through TensorFlow whatever the backend of Keras."""

    def __init__(self, log_dir):
        self._summary = _tensorflow().summary
        self._check_tensorboard()
        self._writer = self._summary.create_file_writer(os.fspath(log_dir))

    def _check_tensorboard(self):
        try:
            with self._summary.record_if(False):  # Writes nothing.
                self._summary.scalar("trial", 0.0, step=0)
        except Exception as error:
            if not isinstance(error.__cause__, ImportError):
                raise
            raise ImportError(
                "A `log_dir` needs TensorBoard, which TensorFlow brings up to 2.20 only. Install it with "
                "`pip install tensorboard`, or write a `history_csv` only."
            ) from None

    def write(self, step, names, values):
        with self._writer.as_default(step):
            for name, value in zip(names, values, strict=True):
                self._summary.scalar(name, value)
        self._writer.flush()

    def close(self):
        self._writer.close()


def _tensorflow():
    try:
        import tensorflow
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] != "tensorflow":
            raise
        raise ImportError(
            "A `log_dir` for TensorBoard needs TensorFlow. Install it with `pip install tf-lamb[tensorflow]`, or write "
            "a `history_csv` only."
        ) from None
    return tensorflow
