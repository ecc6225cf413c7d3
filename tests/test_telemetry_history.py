"""The history file and TensorBoard's scalars: what `fit` and loops of one's own leave behind."""

import csv
import sys

import keras
import numpy as np
import pytest
import runner
from keras import ops

import tf_lamb
from tf_lamb import telemetry, telemetry_history
from tf_lamb.telemetry import Recorder, plot, read_history, table

OPTIONS = {"weight_decay": 0.1, "exclude_from_weight_decay": ["bias"], "global_clipnorm": 0.5}
LAYERS = ["first/kernel", "first/bias", "second/kernel", "second/bias"]


def libraries(face):
    """The Keras, the optimizers and the callback of a face."""
    if face == "tf_keras":
        import tf_keras

        from tf_lamb import tf_keras as optimizers
        from tf_lamb.tf_keras_telemetry import TelemetryCallback

        return tf_keras, optimizers, TelemetryCallback
    return keras, tf_lamb, telemetry.TelemetryCallback


def compiled_model(face, steps_per_execution=1, **options):
    library, optimizers, _ = libraries(face)
    library.utils.set_random_seed(0)
    inputs = library.Input((6,))
    hidden = library.layers.Dense(8, "tanh", name="first")(inputs)
    model = library.Model(inputs, library.layers.Dense(1, name="second")(hidden))
    optimizer = optimizers.LAMB(0.01, **{**OPTIONS, "telemetry": True, **options})
    model.compile(optimizer=optimizer, loss="mse", steps_per_execution=steps_per_execution)
    return model


def fit(face, model, callback_arguments, batches=10, epochs=1, bad_batches=(), others=(), **fit_arguments):
    """Trains on batches of 4 examples; those of `bad_batches` hold a NaN. Returns our callback."""
    _, _, callback_class = libraries(face)
    callback = callback_class(**callback_arguments)
    random = np.random.default_rng(0)
    x = random.normal(size=(4 * batches, 6)).astype("float32")
    y = random.normal(size=(4 * batches, 1)).astype("float32")
    for batch in bad_batches:
        x[4 * batch] = np.nan
    model.fit(
        x,
        y,
        batch_size=4,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[callback, *others(model)] if others else [callback],
        **fit_arguments,
    )
    return callback


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("face", runner.FACES)
def test_fit_writes_the_statistics_as_csv(face, tmp_path):
    model, file = compiled_model(face, telemetry_every_steps=4), tmp_path / "logs" / "history.csv"
    fit(face, model, {"history_csv": file}, batches=10)
    header, *rows = rows_of(file)
    assert header[:5] == ["step", "gradient_norm", "clip_rate", "bound_hits", "skipped_steps"]
    assert header[5:] == [f"{name}/{layer}" for name in telemetry_history.PER_LAYER for layer in LAYERS]
    assert [row[0] for row in rows] == ["1", "4", "8", "10"]

    last = dict(zip(header, map(float, rows[-1]), strict=True))
    statistics = {name: ops.convert_to_numpy(value) for name, value in model.optimizer.statistics().items()}
    for name in telemetry_history.PER_LAYER:
        assert [np.float32(last[f"{name}/{layer}"]) for layer in LAYERS] == statistics[name].tolist()
    assert {name: np.float32(last[name]) for name in header[1:5]} == {name: statistics[name] for name in header[1:5]}
    assert last["trust_ratio/first/bias"] == 1.0 != last["trust_ratio/first/kernel"]


@pytest.mark.parametrize("face", runner.FACES)
def test_a_row_is_of_its_own_step(face, tmp_path):
    """Each row equals what a run that ends at that step reads at its end."""
    fit(face, compiled_model(face), {"history_csv": tmp_path / "all.csv", "every_steps": 3}, batches=8)
    history = read_history(tmp_path / "all.csv")
    assert history.step.tolist() == [1, 3, 6, 8]
    assert len(np.unique(history.update_norm[:, 0])) == 4
    for row, step in enumerate(history.step):
        model = compiled_model(face)
        fit(face, model, {"history_csv": tmp_path / f"{step}.csv"}, batches=8, epochs=1, steps_per_epoch=int(step))
        norms = ops.convert_to_numpy(model.optimizer.statistics()["update_norm"])
        np.testing.assert_array_equal(np.float32(history.update_norm[row]), norms)


@pytest.mark.parametrize("face", runner.FACES)
def test_steps_are_updates_and_not_batches(face, tmp_path):
    model = compiled_model(face, gradient_accumulation_steps=3)
    fit(face, model, {"history_csv": tmp_path / "history.csv", "every_steps": 2}, batches=10, epochs=2)
    assert read_history(tmp_path / "history.csv").step.tolist() == [1, 2, 4, 6]


@pytest.mark.parametrize("face", runner.FACES)
def test_skipped_steps_are_no_steps_but_are_counted(face, tmp_path):
    model = compiled_model(face, skip_nonfinite=True)
    arguments = {"history_csv": tmp_path / "history.csv", "every_steps": 2}
    fit(face, model, arguments, batches=10, bad_batches=(0, 3, 4))
    history = read_history(tmp_path / "history.csv")
    assert history.step.tolist() == [1, 2, 4, 6, 7]
    assert history.skipped_steps.tolist() == [1, 1, 3, 3, 3]
    assert np.isfinite(history.update_norm).all()


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras has no steps_per_execution on torch")
@pytest.mark.parametrize("face", runner.FACES)
def test_several_steps_per_execution(face, tmp_path):
    model = compiled_model(face, steps_per_execution=4)
    fit(face, model, {"history_csv": tmp_path / "history.csv", "every_steps": 3}, batches=16)
    assert read_history(tmp_path / "history.csv").step.tolist() == [4, 8, 12, 16]


@pytest.mark.parametrize("accumulation_steps", [None, 4])
def test_the_device_is_waited_for_only_when_a_row_may_be_due(accumulation_steps, tmp_path, monkeypatch):
    reads = []
    step = Recorder.step.fget
    monkeypatch.setattr(Recorder, "step", property(lambda self: reads.append(1) or step(self)))
    model = compiled_model("keras", gradient_accumulation_steps=accumulation_steps)
    batches = 120 * (accumulation_steps or 1)
    fit("keras", model, {"history_csv": tmp_path / "history.csv", "every_steps": 50}, batches=batches)
    assert read_history(tmp_path / "history.csv").step.tolist() == [1, 50, 100, 120]
    assert len(reads) < 30


@pytest.mark.parametrize("face", runner.FACES)
def test_no_batch_is_waited_for_to_show_its_logs(face):
    """Keras 3 waits after each batch if a callback listens to its end, tf_keras if one wants the logs as numbers."""
    library, _, callback_class = libraries(face)
    for name in ("on_train_batch_end", "on_batch_end"):
        assert getattr(callback_class, name) is getattr(library.callbacks.Callback, name)
    if face == "tf_keras":
        assert library.callbacks.CallbackList([callback_class("history.csv")])._batch_hooks_support_tf_logs


def test_a_wrapper_that_scales_the_loss_is_looked_into(tmp_path):
    model = compiled_model("keras")
    model.compile(optimizer=keras.optimizers.LossScaleOptimizer(tf_lamb.LAMB(0.01, telemetry=True)), loss="mse")
    fit("keras", model, {"history_csv": tmp_path / "history.csv"}, batches=3)
    assert read_history(tmp_path / "history.csv").step.tolist() == [1, 3]


@pytest.mark.parametrize("face", runner.FACES)
def test_tensorboard_has_the_same_numbers(face, tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model = compiled_model(face)
    arguments = {"history_csv": tmp_path / "history.csv", "log_dir": tmp_path / "board", "every_steps": 3}
    fit(face, model, arguments, batches=7)
    from tensorboard.util import tensor_util

    events = event_accumulator.EventAccumulator(str(tmp_path / "board"), size_guidance={"tensors": 0})
    events.Reload()
    header, *rows = rows_of(tmp_path / "history.csv")
    assert set(header[1:]) == set(events.Tags()["tensors"])
    for column, name in enumerate(header[1:], start=1):
        points = [(event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in events.Tensors(name)]
        assert points == [(int(row[0]), pytest.approx(float(row[column]), rel=1e-6)) for row in rows]


# The file.


def recorder_of(path, names=("a", "b"), **options):
    """A recorder of an optimizer of variables of these names, and a function that makes an update."""
    variables = [keras.Variable([3.0, 4.0], name=name) for name in names]
    optimizer = tf_lamb.NormalizedSGD(0.1, telemetry=True, **options)
    optimizer.build(variables)

    def make_update():
        optimizer.apply([ops.convert_to_tensor([0.0, 8.0])] * len(names), variables)

    return Recorder(optimizer, path), make_update


def test_a_resumed_job_appends(tmp_path):
    file = tmp_path / "history.csv"
    for steps, expected in (((1, 2), [1, 2]), ((1, 2, 3), [1, 2, 3])):
        recorder, make_update = recorder_of(file)
        with recorder:
            for step in steps:
                make_update()
                assert recorder.write() == step
                assert recorder.write() is None
                assert file.read_bytes().endswith(b"\n")
        assert read_history(file).step.tolist() == expected
    assert [row[0] for row in rows_of(file)] == ["step", "1", "2", "1", "2", "3"]


def test_rows_beyond_an_earlier_checkpoint_are_left_out(tmp_path):
    file = tmp_path / "history.csv"
    header = telemetry_history.columns(["a"])
    rows = [[step, norm, 0, 0, 0, 1, 1, 1] for step, norm in ((10, 1.0), (20, 2.0), (30, 3.0), (20, 4.0), (25, 5.0))]
    file.write_text("\n".join(",".join(map(str, row)) for row in [header, *rows]) + "\n", encoding="utf-8")
    history = read_history(file)
    assert (history.step.tolist(), history.gradient_norm.tolist()) == ([10, 20, 25], [1.0, 4.0, 5.0])


@pytest.mark.parametrize("lost", [1, 5, 20])
def test_a_row_that_was_cut_off_is_removed(lost, tmp_path):
    file = tmp_path / "history.csv"
    recorder, make_update = recorder_of(file)
    for _ in range(2):
        make_update()
        recorder.write()
    recorder.close()
    whole = file.read_bytes()
    file.write_bytes(whole[:-lost])
    assert read_history(file).step.tolist() == [1]
    recorder, make_update = recorder_of(file)
    make_update()
    recorder.write()
    recorder.close()
    header, first, _ = whole.decode().splitlines(keepends=True)
    assert file.read_text(encoding="utf-8") == header + 2 * first


def test_a_header_that_was_cut_off_is_written_anew(tmp_path):
    file = tmp_path / "history.csv"
    file.write_text("step,gradient_no", encoding="utf-8")
    recorder_of(file)[0].close()
    assert rows_of(file) == [telemetry_history.columns(["a", "b"])]


@pytest.mark.parametrize("content", ["my precious results", "my,precious\nresults,1\n", "\n"])
def test_another_file_is_refused_and_left_alone(content, tmp_path):
    file = tmp_path / "history.csv"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"holds something else.*Received: history_csv=.*Expected: "):
        recorder_of(file)
    assert file.read_text(encoding="utf-8") == content


def test_the_history_of_other_layers_is_refused(tmp_path):
    file = tmp_path / "history.csv"
    recorder_of(file)[0].close()
    with pytest.raises(ValueError, match="the column 'trust_ratio/b'. Expected: 'trust_ratio/c'"):
        recorder_of(file, ["a", "c"])
    with pytest.raises(ValueError, match="11 columns. Expected: 8"):
        recorder_of(file, ["a"])


def test_names_with_commas_and_quotes_survive(tmp_path):
    file = tmp_path / "history.csv"
    names = ['a,"b"', "ü"]
    recorder, make_update = recorder_of(file, names)
    make_update()
    recorder.write()
    recorder.close()
    recorder_of(file, names)[0].close()
    assert read_history(file).layers == names


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 7:
            raise KeyboardInterrupt


def test_an_interrupt_leaves_whole_rows_and_the_next_run_goes_on(tmp_path):
    file = tmp_path / "history.csv"
    arguments = {"history_csv": file, "every_steps": 3}
    model = compiled_model("keras")
    with pytest.raises(KeyboardInterrupt):
        fit("keras", model, arguments, others=lambda model: [Interrupt()])
    assert file.read_bytes().endswith(b"\n")
    assert read_history(file).step.tolist() == [1, 3, 6]
    fit("keras", model, arguments, batches=10)
    assert read_history(file).step.tolist() == [1, 3, 6, 9, 12, 15, 17]


# Errors.


class WithoutTelemetry:
    def __repr__(self):
        return "<some optimizer>"


ERRORS = {
    "no target": (lambda: telemetry.TelemetryCallback(), ValueError, "nothing to write to. Expected `history_csv`"),
    "remote file": (lambda: telemetry.TelemetryCallback("gs://bucket/h.csv"), ValueError, "must be a local file.*gs:"),
    "every_steps": (lambda: telemetry.TelemetryCallback("h.csv", every_steps=0), ValueError, "every_steps=0"),
    "other optimizer": (
        lambda: Recorder(WithoutTelemetry(), "h.csv"),
        ValueError,
        "`telemetry=True`.*<some optimizer>",
    ),
    "no telemetry": (lambda: Recorder(tf_lamb.LAMB(), "h.csv"), ValueError, "made with `telemetry=True`"),
    "table": (lambda: table(tf_lamb.LAMB()), ValueError, "keeps no statistics"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()
    assert not list(tmp_path.iterdir())


def test_fit_says_what_is_wrong_with_the_optimizer(tmp_path):
    with pytest.raises(ValueError, match="Expected an optimizer of tf_lamb made with `telemetry=True`"):
        fit("keras", compiled_model("keras", telemetry=False), {"history_csv": tmp_path / "history.csv"})


MISSING = {
    "tensorflow": r"needs TensorFlow.*tf-lamb\[tensorflow\]",
    "tensorboard.summary.v2": r"needs TensorBoard, .*`pip install tensorboard`, or write a `history_csv`",
    "matplotlib.figure": r"needs matplotlib.*\[plot\]",
}


@pytest.mark.parametrize("missing", MISSING)
def test_what_is_missing_is_named(missing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=MISSING[missing]):
        if missing.startswith("tensor"):
            Recorder(tf_lamb.LAMB(telemetry=True), log_dir=tmp_path)
        else:
            plot("history.csv", "ratios.png")
    assert not list(tmp_path.iterdir())


def test_reading_what_is_no_history(tmp_path):
    file = tmp_path / "history.csv"
    for content in ("", "step,loss\n1,2\n", "step"):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=r"no history of tf_lamb.telemetry. Received: .*history.csv"):
            read_history(file)
    file.write_text(",".join(telemetry_history.columns(["a"])) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no rows yet"):
        read_history(file)
