"""What does not fit is refused in one sentence that says why, and nothing is written."""

import re
import shutil

import h5py
import keras
import numpy as np
import old_optimizers
import pytest
import tensorflow as tf
import tf_keras
from old_optimizers import ADDONS_FILES, RECORDED, TWINS, arrays_of, make_model, make_ours, run_keras
from runner import FACES

import tf_lamb
from tf_lamb import migrate
from tf_lamb.old_states import variables_of
from tf_lamb.state import variable_path

needs_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs the TensorFlow backend")
WIDE = {"first": (4, 4), "second": (4, 4), "head": (4, 3)}


def legacy(layers=TWINS, steps=1, trained=6, lamb=True, **options):
    """A tf_keras model, and Model Garden's LAMB, or Adam, that has updated so many of its variables."""
    make_optimizer = tf_keras.optimizers.legacy.Adam
    if lamb:
        make_optimizer = pytest.importorskip("official.modeling.optimization.lamb").LAMB
    model, optimizer = make_model("tf_keras", layers), make_optimizer(**options)
    model.compile(optimizer=optimizer, loss="mse")
    variables = model.trainable_variables[:trained]
    for _ in range(steps):
        old_optimizers.call(optimizer, variables, [np.ones(v.shape, "float32") for v in variables])
    return model, optimizer


def checkpoint(folder, **options):
    model, optimizer = legacy(**options)
    return tf.train.Checkpoint(model=model, optimizer=optimizer).save(folder / "ckpt")


def weights_alone(folder):
    return tf.train.Checkpoint(model=make_model("tf_keras")).save(folder / "ckpt")


def two_optimizers(folder):
    one, other = legacy(), legacy()
    return tf.train.Checkpoint(one=one[0], other=other[0], optimizers=[one[1], other[1]]).save(folder / "ckpt")


def names_without_objects(folder):
    tf.raw_ops.SaveV2(prefix=str(folder / "old"), tensor_names=["w"], shape_and_slices=[""], tensors=[tf.zeros(1)])
    return folder / "old"


def h5(folder, **options):
    legacy(**options)[0].save(folder / "model.h5")
    return folder / "model.h5"


def h5_without_optimizer(folder):
    make_model("tf_keras").save(folder / "model.h5")
    return folder / "model.h5"


def h5_without_the_last_moment(folder):
    shutil.copy(ADDONS_FILES["h5"], folder / "model.h5")
    with h5py.File(folder / "model.h5", "r+") as file:
        weights = file["optimizer_weights"]
        weights.attrs["weight_names"] = list(weights.attrs["weight_names"])[:-1]
    return folder / "model.h5"


def keras_file(folder, optimizer="Lamb", built=True, layers=TWINS):
    model = make_model("keras", layers)
    if optimizer is not None:
        model.compile(optimizer=getattr(keras.optimizers, optimizer)(), loss="mse")
        if built:
            model.optimizer.build(model.trainable_variables)
    model.save(folder / "model.keras")
    return folder / "model.keras"


def tf_keras_file(folder):
    model = make_model("tf_keras")
    model.compile(optimizer="sgd", loss="mse")
    model.save(folder / "model.keras")
    return folder / "model.keras"


def keras_checkpoint(folder, **options):
    model, optimizer = run_keras(5, **options)
    return tf.train.Checkpoint(model=model, optimizer=optimizer).save(folder / "ckpt")


def keras_adam_checkpoint(folder):
    optimizer = keras.optimizers.Adam(name="adam")
    optimizer.build(make_model("keras").trainable_variables)
    return tf.train.Checkpoint(optimizer=optimizer).save(folder / "ckpt")


def text(folder):
    (folder / "text").write_text("no checkpoint")
    return folder / "text"


def archive(folder):
    np.savez(folder / "archive.npz", a=1)
    return folder / "archive.npz"


def path_to(name):
    return lambda folder: ADDONS_FILES[name]


def with_options(make, **options):
    return lambda folder: make(folder, **options)


NO_CHECKPOINT = "Received: no checkpoint of TensorFlow. Expected: a tf.train.Checkpoint: its prefix, or its folder"
# What is read, what the error says, and further arguments.
LEGACY = {
    "nothing": (lambda folder: folder / "none", NO_CHECKPOINT),
    "empty folder": (lambda folder: folder, NO_CHECKPOINT),
    "text": (text, NO_CHECKPOINT),
    "names": (names_without_objects, "Received: a checkpoint of names, without objects"),
    ".keras": (keras_file, "Received: a .keras file, which leaves the state of this optimizer out"),
    "weights": (weights_alone, "Received: 0 optimizers with slots m and v. Expected: exactly one"),
    "two optimizers": (two_optimizers, "Received: 2 optimizers with slots m and v. Expected: exactly one"),
    "Adam": (with_options(checkpoint, lamb=False), "Received: the state of Adam. Expected: the state of a LAMB"),
    "Adam renamed": (with_options(checkpoint, lamb=False, name="mine"), "slots m and v but no weight decay, as Adam"),
    "h5 alone": (h5_without_optimizer, "Received: a model with no optimizer. Expected: a model with a LAMB"),
    "h5 of Adam": (with_options(h5, lamb=False), "Received: a model with Adam. Expected: a model with a LAMB"),
    "h5 untrained": (with_options(h5, steps=0), "Received: a model with Addons>LAMB. .*that has trained"),
    "h5 lacking": (h5_without_the_last_moment, "Moments are missing: .*: ['LAMB/head/bias']"),
    "lacking moments": (with_options(checkpoint, trained=4), "Received: 4 saved (.*). Expected: 6 (.*first/kernel"),
    "other number": (path_to("checkpoint"), "Received: 4 saved (model/layer.*). Expected: 6 (.*first/kernel"),
    "other number in h5": (path_to("h5"), "Received: 4 saved (hidden/kernel, .*). Expected: 6 (.*first/kernel"),
    "ambiguous": (checkpoint, "is '.*first/kernel' of shape (4, 4). Received: 2 of that shape (model/layer_with_w"),
    "other shape in h5": (
        with_options(h5, layers=WIDE),
        "state of 'head/kernel' does not fit '.*head/kernel'. Received: shape (4, 3). Expected: (4, 2)",
        {"load_weights": True},
    ),
    "mapping lacking": (
        path_to("h5"),
        "must name all our variables. Received: ['a']. Expected: ['",
        {"mapping": {"a": "b"}},
    ),
}
KERAS = {
    "nothing": (lambda folder: folder / "none", NO_CHECKPOINT),
    "h5": (path_to("h5"), NO_CHECKPOINT),
    "archive": (archive, "Received: another archive. Expected: a .keras file"),
    "not compiled": (
        with_options(keras_file, optimizer=None),
        "Received: a model with no optimizer. Expected: a model",
    ),
    "Adam": (with_options(keras_file, optimizer="Adam"), "Received: a model with Adam. Expected: a model with a keras"),
    "of tf_keras": (tf_keras_file, "Received: a model with sgd. Expected: a model with a keras.optimizers.Lamb"),
    "unbuilt": (with_options(keras_file, built=False), "Received: a Lamb of 2 variables. Expected: one that is"),
    "other number": (with_options(keras_file, layers=RECORDED), "Received: 4 saved (0, 1, 2, 3). Expected: 6 ("),
    "other shape": (
        with_options(keras_file, layers=WIDE),
        "saved state of '4' does not fit '.*head/kernel'. Received: shape (4, 3). Expected: (4, 2)",
    ),
    "weights": (
        keras_file,
        "weights were not saved with this state. Received: load_weights=True",
        {"load_weights": True},
    ),
    "unfinished": (
        lambda folder: run_keras(5, gradient_accumulation_steps=3)[1],
        "has accumulated 2 of 3 gradients, .*Received: gradient_accumulation_steps=2. Expected: 3, or a",
    ),
    "other accumulation": (
        lambda folder: run_keras(6, gradient_accumulation_steps=3)[1],
        "Received: gradient_accumulation_steps=2. Expected: 3.",
        {"gradient_accumulation_steps": 2},
    ),
}
KERAS_CHECKPOINTS = {
    "legacy": (path_to("checkpoint"), "Received: 0 optimizers with momentums and velocities. Expected: exactly one"),
    "Adam": (keras_adam_checkpoint, "Received: the state of adam. Expected: the state of a LAMB"),
    "accumulation": (
        with_options(keras_checkpoint, gradient_accumulation_steps=3),
        "but not of how many calls. Expected: the old optimizer's `gradient_accumulation_steps`.",
    ),
    "other accumulation": (
        keras_checkpoint,
        "Received: gradient_accumulation_steps=3.",
        {"gradient_accumulation_steps": 3},
    ),
}


def expect_refusal(load, face, message, folder, source, arguments, error=ValueError):
    """`load` raises one line that matches, where `.*` stands for anything, and changes no variable."""
    model = make_model(face, seed=12)
    options = {"use_ema": True, "gradient_accumulation_steps": 2, "skip_nonfinite": True}
    ours = make_ours(face, "paper", model.trainable_variables, **options)
    for i in range(3):
        old_optimizers.call(ours, variables_of(ours), old_optimizers.gradients(i))
    variables = [*variables_of(ours), *ours.variables]
    before = arrays_of(variables)
    pattern = ".*".join(re.escape(part) for part in message.split(".*"))
    with pytest.raises(error, match=pattern) as caught:
        load(ours, source(folder), **arguments)
    assert "\n" not in str(caught.value)
    for old, new in zip(before, arrays_of(variables), strict=True):
        np.testing.assert_array_equal(old, new)


def rows(table):
    return pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in table.items()])


@pytest.mark.parametrize("face", FACES)
@rows(LEGACY)
def test_tensorflow_addons_and_model_garden(face, row, tmp_path):
    source, message, *arguments = row
    expect_refusal(migrate.from_tensorflow_addons, face, message, tmp_path, source, *(arguments or [{}]))


@pytest.mark.parametrize("face", FACES)
@rows(KERAS)
def test_keras(face, row, tmp_path):
    source, message, *arguments = row
    expect_refusal(migrate.from_keras, face, message, tmp_path, source, *(arguments or [{}]))


@needs_tensorflow
@rows(KERAS_CHECKPOINTS)
def test_keras_checkpoints(row, tmp_path):
    source, message, *arguments = row
    expect_refusal(migrate.from_keras, "keras", message, tmp_path, source, *(arguments or [{}]))


@needs_tensorflow
@pytest.mark.model_garden
def test_a_variable_without_moments_is_named(tmp_path):
    """Where the objects tell which variable it is."""
    path = checkpoint(tmp_path, trained=5)
    model = make_model("tf_keras")
    ours = make_ours("tf_keras", "paper", model.trainable_variables)
    with pytest.raises(ValueError, match=r"Moments are missing: .*\['model/layer_with_weights-2/bias'\]"):
        migrate.from_model_garden(ours, path, model=model)
    assert int(ours.iterations) == 0


@pytest.mark.parametrize("face", FACES)
def test_a_mapping_leads_to_one_saved_variable_each(face):
    model = make_model(face, RECORDED)
    ours = make_ours(face, "paper", model.trainable_variables)
    paths = [variable_path(variable) for variable in model.trainable_variables]
    for keys in (["hidden/kernel", "hidden/bias", "head/kernel", "head"], ["hidden/kernel"] * 4):
        with pytest.raises(ValueError, match=r"must lead to a saved variable for each of ours. .*'head/bias'\]\.$"):
            migrate.from_tensorflow_addons(ours, ADDONS_FILES["h5"], mapping=dict(zip(paths, keys, strict=True)))
    swapped = dict(zip(paths, ["head/kernel", "head/bias", "hidden/kernel", "hidden/bias"], strict=True))
    with pytest.raises(ValueError, match="state of 'head/kernel' does not fit '.*hidden/kernel'"):
        migrate.from_tensorflow_addons(ours, ADDONS_FILES["h5"], mapping=swapped)
    assert int(ours.iterations) == 0


@pytest.mark.parametrize("face", FACES)
def test_keras_live(face, tmp_path):
    for source in (
        keras.optimizers.Lamb(),
        keras.optimizers.Adam(),
        make_ours(face, "keras", make_model(face).weights),
    ):
        message = f"Received: {type(source).__name__}. Expected: a keras.optimizers.Lamb that is built, or a path"
        expect_refusal(migrate.from_keras, face, message, tmp_path, lambda _, source=source: source, {}, TypeError)


@pytest.mark.model_garden
@pytest.mark.parametrize("face", FACES)
def test_model_garden_live(face, tmp_path):
    refusals = [
        (run_keras(1)[1], TypeError, "Received: Lamb. Expected: a LAMB of official.modeling"),
        (legacy(lamb=False)[1], TypeError, "Received: Adam. Expected: a LAMB of official.modeling"),
        (legacy(steps=0)[1], ValueError, "holds no state. Expected one that has made a step"),
        (legacy(layers=WIDE)[1], ValueError, "does not fit '.*head/kernel'. Received: shape (4, 3). Expected: (4, 2)"),
    ]
    for source, error, message in refusals:
        load = migrate.from_model_garden
        expect_refusal(load, face, message, tmp_path, lambda _, source=source: source, {}, error)
    weights = "The weights were not saved with this state. Received: load_weights=True. Expected: False."
    arguments = {"load_weights": True}
    expect_refusal(migrate.from_model_garden, face, weights, tmp_path, lambda _: legacy()[1], arguments)


@pytest.mark.parametrize("face", FACES)
def test_only_a_lamb_that_is_built_takes_a_state(face):
    module = tf_lamb
    if face == "tf_keras":
        from tf_lamb import tf_keras as module
    with pytest.raises(ValueError, match=r"no plan before it knows its variables.*optimizer.build"):
        migrate.from_tensorflow_addons(module.LAMB(0.1), ADDONS_FILES["h5"])
    lars = module.LARS(0.1)
    lars.build(make_model(face).trainable_variables)
    for other in (lars, keras.optimizers.Lamb(0.1)):
        with pytest.raises(TypeError, match=rf"into a tf_lamb.LAMB .*Received: optimizer={type(other).__name__}\."):
            migrate.from_keras(other, run_keras(1)[1])


@pytest.mark.model_garden
@pytest.mark.parametrize("face", FACES)
def test_equal_values_settle_nothing_but_an_order_does(face, tmp_path):
    weights = [np.ones_like(w) for w in make_model(face).get_weights()]
    garden, optimizer = legacy()
    garden.set_weights(weights)
    path = tf.train.Checkpoint(model=garden, optimizer=optimizer).save(tmp_path / "ckpt")
    variables = make_model(face, weights=weights).trainable_variables
    ours = make_ours(face, "keras", variables)
    with pytest.raises(ValueError, match="It is not clear which saved variable is"):
        migrate.from_model_garden(ours, path)
    model, old = run_keras(2)
    model.set_weights(weights)
    migrate.from_keras(ours, old)
    for slots, m in zip(ours._slots, old._momentums, strict=True):
        np.testing.assert_array_equal(*arrays_of([slots[0], m]))


@pytest.mark.parametrize("face", FACES)
def test_values_against_the_order_settle_nothing_in_part(face):
    """One value of ours is that of another saved variable, so the order is not trusted; the others are unknown."""
    _, old = run_keras(2)
    weights = make_model(face, seed=12).get_weights()
    weights[2] = arrays_of(old._trainable_variables)[0]
    ours = make_ours(face, "keras", make_model(face, weights=weights).trainable_variables)
    with pytest.raises(ValueError, match="It is not clear which saved variable is"):
        migrate.from_keras(ours, old)
