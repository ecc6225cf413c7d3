"""Ours takes the step that the old optimizer would have taken, from everything that it leaves behind."""

import functools
import itertools

import keras
import numpy as np
import old_optimizers
import pytest
import tensorflow as tf
import tf_keras
from old_optimizers import (
    ADDONS_FILES,
    RECORDED,
    STEPS,
    TWINS,
    addons,
    arrays_of,
    gradients,
    keras_lamb,
    make_model,
    model_garden,
)
from runner import FACES
from tolerances import RELATIVE_L2, distance, state_distance

from tf_lamb import dialects, migrate
from tf_lamb.old_states import as_array
from tf_lamb.state import storage_dtype, variable_path

FLOAT32 = RELATIVE_L2["float32", "cpu"]
needs_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs the TensorFlow backend")
each_face = pytest.mark.parametrize("face", FACES)


def miss(optimizer, variables, old):
    """The distance of our next update from that of the old optimizer."""
    for arrays in old.calls:
        old_optimizers.call(optimizer, variables, arrays)
    return state_distance(old_optimizers.state_of(optimizer, variables), old.after)


def swap(one, other):
    values = as_array(one), as_array(other)
    one.assign(values[1])
    other.assign(values[0])


def no_iterations(optimizer):
    optimizer._iterations.assign(0)


def swapped_moments(optimizer):
    for m, v in optimizer._slots:
        swap(m, v)


def swapped_twins(optimizer):
    for one, other in itertools.combinations(optimizer._slots, 2):
        if tuple(one[0].shape) == tuple(other[0].shape) == (4, 4):
            swap(one[0], other[0])
            swap(one[1], other[1])


def expect_next_step(old, make, load):
    """`make` gives one of ours and its variables; what `load` writes makes it follow, and no wrong state does."""

    def migrated():
        optimizer, variables = make()
        load(optimizer)
        return optimizer, variables

    optimizer, variables = migrated()
    assert int(optimizer.iterations) == old.t
    for ours, theirs in zip(old_optimizers.state_of(optimizer, variables), old.before, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    error = miss(optimizer, variables, old)
    print(f"{error:.1e}")
    assert error < FLOAT32
    for mutate in (no_iterations, swapped_moments, swapped_twins)[: 2 if len(variables) == 4 else 3]:
        optimizer, variables = migrated()
        mutate(optimizer)
        assert miss(optimizer, variables, old) > 10 * FLOAT32, mutate


def expect_moments(optimizer, t, m):
    assert int(optimizer.iterations) == t > 0
    for slots, expected in zip(optimizer._slots, m, strict=True):
        np.testing.assert_array_equal(*arrays_of([slots[0], expected]))
        assert np.any(as_array(slots[0]))


def maker(face, dialect, model, weights, backwards=False, **options):
    """A function that gives one of ours, built on the variables of `model` with `weights`, and those variables."""

    def make():
        model.set_weights(weights)
        variables = model.trainable_variables
        own = variables[::-1] if backwards else variables
        return old_optimizers.make_ours(face, dialect, own, **options), variables

    return make


# TensorFlow Addons.


def addons_maker(face, **options):
    model = make_model(face, RECORDED)
    weights = options.pop("weights", addons().before[0])
    return model, maker(face, "tensorflow_addons", model, weights, **{**old_optimizers.ADDONS_OPTIONS, **options})


@each_face
@pytest.mark.parametrize("kind", ADDONS_FILES)
def test_tensorflow_addons(face, kind):
    _, make = addons_maker(face)
    expect_next_step(addons(), make, lambda ours: migrate.from_tensorflow_addons(ours, ADDONS_FILES[kind]))


@each_face
@pytest.mark.parametrize("kind", ADDONS_FILES)
def test_tensorflow_addons_with_the_weights(face, kind):
    _, make = addons_maker(face, weights=make_model(face, RECORDED).get_weights())
    load = functools.partial(migrate.from_tensorflow_addons, path=ADDONS_FILES[kind], load_weights=True)
    expect_next_step(addons(), make, load)


@needs_tensorflow
def test_tensorflow_addons_by_its_objects():
    model, make = addons_maker("tf_keras", weights=make_model("tf_keras", RECORDED).get_weights(), backwards=True)
    prefix = str(ADDONS_FILES["checkpoint"] / "ckpt-1")
    load = functools.partial(migrate.from_tensorflow_addons, path=prefix, model=model, load_weights=True)
    expect_next_step(addons(), make, load)


@each_face
def test_tensorflow_addons_needs_its_dialect(face):
    model = make_model(face, RECORDED, addons().before[0])
    ours = old_optimizers.make_ours(face, "keras", model.trainable_variables, **old_optimizers.ADDONS_OPTIONS)
    migrate.from_tensorflow_addons(ours, ADDONS_FILES["checkpoint"])
    assert miss(ours, model.trainable_variables, addons()) > 10 * FLOAT32


# Model Garden.


@pytest.fixture(scope="module")
def model_garden_files(tmp_path_factory):
    return old_optimizers.save_model_garden(tmp_path_factory.mktemp("model_garden"))


def garden_maker(face, model=None, **options):
    model = model or make_model(face)
    weights = options.pop("weights", model_garden().before[0])
    return model, maker(face, "model_garden", model, weights, **{**old_optimizers.LISTS, **options})


@pytest.mark.model_garden
@each_face
@pytest.mark.parametrize("kind", ["checkpoint", "other names", "saved weights", "h5"])
def test_model_garden_by_values(face, kind, model_garden_files):
    for backwards in (False, True):
        _, make = garden_maker(face, backwards=backwards)
        load = functools.partial(migrate.from_model_garden, source=model_garden_files[kind])
        expect_next_step(model_garden(), make, load)


@pytest.mark.model_garden
@needs_tensorflow
@pytest.mark.parametrize("kind", ["checkpoint", "other names", "saved weights"])
def test_model_garden_by_objects(kind, model_garden_files):
    """Neither the order, nor the shapes, nor the weights tell which variable is which."""
    model, make = garden_maker("tf_keras", backwards=True, weights=make_model("tf_keras", seed=12).get_weights())
    root = tf.train.Checkpoint(net=model) if kind == "other names" else model
    options = {"model": root, "load_weights": True}
    expect_next_step(
        model_garden(), make, lambda ours: migrate.from_model_garden(ours, model_garden_files[kind], **options)
    )


@pytest.mark.model_garden
@each_face
@pytest.mark.parametrize("kind", ["checkpoint", "h5"])
def test_model_garden_by_a_mapping(face, kind, model_garden_files):
    model, make = garden_maker(face, backwards=True, weights=make_model(face, seed=12).get_weights())
    keys = [f"{layer}/{each}" for layer in TWINS for each in ("kernel", "bias")]
    if kind == "checkpoint":
        keys = [f"model/layer_with_weights-{i}/{each}" for i in range(3) for each in ("kernel", "bias")]
        keys[0] += "/.ATTRIBUTES/VARIABLE_VALUE"  # As tf.train.list_variables shows them.
    paths = [variable_path(variable) for variable in model.trainable_variables]
    options = {"mapping": dict(zip(paths, keys, strict=True)), "load_weights": True}
    expect_next_step(
        model_garden(), make, lambda ours: migrate.from_model_garden(ours, model_garden_files[kind], **options)
    )


@pytest.mark.model_garden
@each_face
def test_model_garden_live(face):
    old_model, old, _ = old_optimizers.run_model_garden(STEPS)
    _, make = garden_maker(face)  # Other variables, in the same order.
    expect_next_step(model_garden(), make, lambda ours: migrate.from_model_garden(ours, old))
    if face == "tf_keras":
        _, make = garden_maker(face, old_model, backwards=True)
        expect_next_step(model_garden(), make, lambda ours: migrate.from_model_garden(ours, old))


@pytest.mark.model_garden
def test_model_garden_under_a_loss_scale(tmp_path):
    _, optimizer, _ = old_optimizers.run_model_garden(STEPS)
    model = make_model("tf_keras")
    optimizer = tf_keras.mixed_precision.LossScaleOptimizer(type(optimizer).from_config(optimizer.get_config()))
    model.compile(optimizer=optimizer, loss="mse")
    model.fit(np.ones((4, 4)), np.ones((4, 2)), epochs=2, verbose=0)
    model.save(tmp_path / "model.h5")
    m = [optimizer.get_slot(variable, "m") for variable in model.trainable_variables]
    path = tf.train.Checkpoint(model=model, optimizer=optimizer).save(tmp_path / "ckpt")
    for source in (path, tmp_path / "model.h5", optimizer):
        ours, _ = garden_maker(FACES[-1], weights=model.get_weights())[1]()
        migrate.from_model_garden(ours, source)
        expect_moments(ours, 2, m)


# Keras 3.


def keras_maker(face, model=None, **options):
    model = model or make_model(face)
    weights = options.pop("weights", keras_lamb().before[0])
    options = {**old_optimizers.KERAS_OPTIONS, "exclude_from_weight_decay": ["bias"], **options}
    return maker(face, "keras", model, weights, **options)


@each_face
def test_keras_live(face):
    model, old = old_optimizers.run_keras(STEPS)
    load = functools.partial(migrate.from_keras, source=old)
    expect_next_step(keras_lamb(), keras_maker(face), load)
    expect_next_step(keras_lamb(), keras_maker(face, backwards=True), load)  # By their values.
    if face == "keras":
        before = arrays_of(model.trainable_variables)
        expect_next_step(keras_lamb(), keras_maker(face, model, weights=before, backwards=True), load)


def test_keras_needs_its_dialect():
    _, old = old_optimizers.run_keras(STEPS)
    model = make_model("keras", weights=keras_lamb().before[0])
    lists = {"exclude_from_weight_decay": ["bias"], "exclude_from_layer_adaptation": ()}
    ours = old_optimizers.make_ours(
        "keras", "paper", model.trainable_variables, **old_optimizers.KERAS_OPTIONS, **lists
    )
    migrate.from_keras(ours, old)
    assert miss(ours, model.trainable_variables, keras_lamb()) > 10 * FLOAT32


@each_face
@pytest.mark.parametrize(
    "options", [{}, {"use_ema": True}, {"gradient_accumulation_steps": 5, "use_ema": True}], ids=str
)
def test_keras_file(face, options, tmp_path):
    steps = options.get("gradient_accumulation_steps", 1)
    model, _ = old_optimizers.run_keras(STEPS * steps, **options)
    model.save(tmp_path / "model.keras")
    old = keras_lamb(STEPS * steps, steps, **options)
    own = {**options, "weights": old.before[0]}
    expect_next_step(old, keras_maker(face, **own), lambda ours: migrate.from_keras(ours, tmp_path / "model.keras"))


def test_keras_file_after_fit(tmp_path):
    """As its users have it: trained by `fit` with a schedule, saved, loaded without its optimizer."""
    schedule = keras.optimizers.schedules.InverseTimeDecay(0.05, 1, 0.1)
    x, y = np.random.default_rng(3).normal(size=(2, 8, 4)).astype("float32")
    model = make_model("keras", {"first": (4, 4), "second": (4, 4)})
    model.compile(optimizer=keras.optimizers.Lamb(schedule, weight_decay=0.1), loss="mse")
    model.fit(x, y, epochs=STEPS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    optimizer = dialects.keras(schedule, weight_decay=0.1)
    loaded.compile(optimizer=optimizer, loss="mse")
    optimizer.build(loaded.trainable_variables)
    migrate.from_keras(optimizer, tmp_path / "model.keras")
    for each in (model, loaded):
        each.fit(x, y, verbose=0)
    old = old_optimizers.state_of_keras(model.optimizer)
    assert state_distance(old_optimizers.state_of(optimizer, loaded.trainable_variables), old) < FLOAT32


def test_keras_under_a_loss_scale(tmp_path):
    for wrap in (keras.optimizers.LossScaleOptimizer, lambda lamb: lamb):
        keras.config.set_dtype_policy("mixed_float16")  # In which Keras wraps an optimizer by itself.
        try:
            model = make_model("keras")
            model.compile(optimizer=wrap(keras.optimizers.Lamb(0.05)), loss="mse")
        finally:
            keras.config.set_dtype_policy("float32")
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        model.optimizer.initial_scale = 1.0
        model.fit(np.ones((4, 4)), np.ones((4, 2)), epochs=2, verbose=0)
        model.save(tmp_path / "model.keras")
        for source in (tmp_path / "model.keras", model.optimizer):
            ours, _ = keras_maker("keras")()
            migrate.from_keras(ours, source)
            expect_moments(
                ours, int(model.optimizer.inner_optimizer.iterations), model.optimizer.inner_optimizer._momentums
            )


@needs_tensorflow
@each_face
def test_keras_checkpoint(face, tmp_path):
    for steps in (1, 3):
        accumulates = {"gradient_accumulation_steps": 3} if steps == 3 else {}
        model, optimizer = old_optimizers.run_keras(STEPS, **accumulates)
        path = tf.train.Checkpoint(model=model, optimizer=optimizer).save(tmp_path / f"ckpt{steps}")
        old = keras_lamb(STEPS, steps, **accumulates)
        make = keras_maker(face, weights=make_model(face, seed=12).get_weights(), **accumulates)
        load = functools.partial(migrate.from_keras, source=path, load_weights=True, **accumulates)
        expect_next_step(old, make, load)


@each_face
def test_an_unfinished_cycle_goes_on(face):
    old = keras_lamb(STEPS, 3, gradient_accumulation_steps=3)
    assert old.t == 1 and len(old.calls) == 1
    _, optimizer = old_optimizers.run_keras(STEPS, gradient_accumulation_steps=3)
    make = keras_maker(face, weights=old.before[0], gradient_accumulation_steps=3, skip_nonfinite=True)
    expect_next_step(old, make, lambda ours: migrate.from_keras(ours, optimizer))

    ours, variables = make()
    migrate.from_keras(ours, optimizer)
    ours._accumulated_gradients[0].assign(0.0 * as_array(ours._accumulated_gradients[0]))
    assert miss(ours, variables, old) > 10 * FLOAT32


@each_face
def test_a_whole_cycle_needs_no_accumulation(face):
    old = keras_lamb(6, 3, gradient_accumulation_steps=3)
    mean = [np.mean(each, axis=0) for each in zip(*old.calls, strict=True)]
    _, optimizer = old_optimizers.run_keras(6, gradient_accumulation_steps=3)
    load = functools.partial(migrate.from_keras, source=optimizer)
    make = keras_maker(face, weights=old.before[0])
    expect_next_step(old._replace(calls=[mean]), make, load)

    ours, variables = keras_maker(face, weights=old.before[0], gradient_accumulation_steps=3)()
    old_optimizers.call(ours, variables, mean)  # A cycle that ours began before is given up.
    load(ours)
    assert miss(ours, variables, old) < FLOAT32


@each_face
def test_averages_go_on(face):
    _, optimizer = old_optimizers.run_keras(STEPS, use_ema=True)
    ours, _ = keras_maker(face, use_ema=True)()
    migrate.from_keras(ours, optimizer)
    theirs = arrays_of(optimizer._model_variables_moving_average)
    for ours_, theirs_ in zip(arrays_of(ours._model_variables_moving_average), theirs, strict=True):
        np.testing.assert_array_equal(ours_, theirs_)
    migrate.from_keras(ours, old_optimizers.run_keras(STEPS)[1])
    for average, weight in zip(arrays_of(ours._model_variables_moving_average), keras_lamb().before[0], strict=True):
        np.testing.assert_array_equal(average, weight)


# What ours stores otherwise.


@each_face
def test_narrow_moments_and_weights(face):
    """Values are compared in the dtype of ours, and moments rounded to theirs."""
    weights, m, v = keras_lamb().before
    if face == "keras":
        variables = [keras.Variable(w, dtype="bfloat16", name=f"w{i}") for i, w in enumerate(weights)]
    else:
        variables = [tf.Variable(tf.cast(w, "bfloat16"), name=f"w{i}") for i, w in enumerate(weights)]
    options = {"moment_dtype": ("bfloat16", "float32"), "master_weights": True}
    ours = old_optimizers.make_ours(face, "keras", variables[::-1], **options)
    migrate.from_keras(ours, old_optimizers.run_keras(STEPS)[1])
    for slots, old_m, old_v in zip(ours._slots[::-1], m, v, strict=True):
        assert [storage_dtype(slot) for slot in slots] == ["bfloat16", "float32"]
        np.testing.assert_array_equal(as_array(slots[0]), as_array(old_m, "bfloat16"))
        np.testing.assert_array_equal(as_array(slots[1]), old_v)
    old_optimizers.call(ours, variables, [as_array(g, "bfloat16") for g in gradients(STEPS)])
    assert distance(arrays_of(variables), keras_lamb().after[0]) < RELATIVE_L2["bfloat16", "cpu"]


@needs_tensorflow
@each_face
def test_every_replica_gets_the_state(face, two_replicas):
    with two_replicas.scope():
        model, make = addons_maker(face)
        ours, _ = make()
    migrate.from_tensorflow_addons(ours, ADDONS_FILES["checkpoint"], model=model)
    for slots, *moments in zip(ours._slots, *addons().before[1:], strict=True):
        for slot, expected in zip(slots, moments, strict=True):
            local = two_replicas.experimental_local_results(slot.value if face == "keras" else slot)
            assert len(local) == 2
            for each in local:
                np.testing.assert_array_equal(each, expected)
