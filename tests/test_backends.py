"""What holds on every backend of Keras: run it once with each value of KERAS_BACKEND.

The expected values are written down or computed in NumPy, so the backends agree with each other because each agrees
with them.
"""

import json
import warnings

import keras
import numpy as np
import problem
import pytest
import runner
from tolerances import RELATIVE_L2, distance

import tf_lamb

FLOAT32 = RELATIVE_L2["float32", "cpu"]
LISTS = {"exclude_from_weight_decay": ["bias", "gamma"], "exclude_from_layer_adaptation": ["bias", "plain"]}
OPTIMIZERS = {
    "LAMB": {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-6, "weight_decay": 0.3}
    | {"global_clipnorm": 2.5, "nesterov": "m", **LISTS},
    "LARS": {"momentum": 0.8, "trust_coefficient": 0.4, "weight_decay": 0.3, "clipnorm": 1.0, **LISTS},
    "NormalizedSGD": {"weight_decay": 0.3, "clipvalue": 0.5, **LISTS},
}
RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(64, 4)).astype("float32")
Y = (X @ RANDOM.normal(size=(4, 2))).astype("float32")


# The plan.

TABLE = """\
variable                      shape  decayed  adapted   excluded by
----------------------------  -----  -------  --------  --------------------------------------
inputs/kernel                 4x4    yes      yes
encoder/attention_norm/gamma  4      -        -         decay: norm; adaptation: attention
encoder/attention_norm/beta   4      -        -         decay: norm; adaptation: attention
encoder/qkv/kernel            4x3x4  yes      3 slices
encoder/qkv/bias              3x4    -        -         decay: bias$; adaptation: ^encoder/.*s
batch_normalization/gamma     12     -        yes       decay: norm
batch_normalization/beta      12     -        yes       decay: norm
dense/kernel                  12x3   yes      yes
dense/bias                    3      -        yes       decay: bias$
dense_1/kernel                3x2    yes      yes
dense_1/bias                  2      -        yes       decay: bias$
decayed: 4 of 11 tensors, 106 of 155 parameters
adapted: 8 of 11 tensors, 135 of 155 parameters"""


def make_network():
    """A model in a model, with normalisation, and layers whose names begin alike."""
    x = inputs = keras.Input((4,))
    encoder = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.LayerNormalization(name="attention_norm"),
            keras.layers.EinsumDense("ab,bcd->acd", output_shape=(3, 4), bias_axes="cd", name="qkv"),
            keras.layers.Flatten(),
        ],
        name="encoder",
    )
    x = encoder(keras.layers.Dense(4, use_bias=False, name="inputs")(x))
    x = keras.layers.BatchNormalization(name="batch_normalization")(x)
    x = keras.layers.Dense(3, name="dense")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="dense_1")(x), name="net")


def decisions(optimizer):
    return [(rule.decayed, rule.adapted, rule.layer_axis) for rule in optimizer.plan()]


def test_the_plan_is_the_same_everywhere():
    model = make_network()
    optimizer = tf_lamb.LAMB(
        weight_decay=0.1,
        exclude_from_weight_decay=["norm", "bias$"],
        exclude_from_layer_adaptation=["attention", "^encoder/.*s"],
        layer_axes={"qkv/kernel": -2},
    )
    optimizer.build(model.trainable_variables)
    assert str(optimizer.plan()) == TABLE


def test_short_names_would_give_another_plan():
    """The other plan is what a search in short names finds: nothing is called after its layer."""
    names = [variable.name for variable in make_network().trainable_variables]
    assert not any("norm" in name or "encoder" in name for name in names)


# The numbers.


def cotangents(steps):
    """The gradients of the problem, one list a step, as the rows of a matrix."""
    lists = [own for (own,) in problem.gradients(1, steps)]
    return lists, np.stack([np.concatenate([np.ravel(g) for g in own]) for own in lists])


class Problem(keras.layers.Layer):
    """Holds the variables of the problem; the gradient of its output is its input."""

    def build(self, input_shape):
        self.weights_of = [
            self.add_weight(shape=w.shape, name=name, initializer=keras.initializers.Constant(0.0))
            for name, w in zip(problem.NAMES, runner.initial_weights(), strict=True)
        ]

    def call(self, x):
        flat = keras.ops.concatenate([keras.ops.reshape(w, (-1,)) for w in self.weights_of])
        return keras.ops.sum(x * flat, axis=-1, keepdims=True)


def fit_problem(name, options, steps, **compile_options):
    """The optimizer and the weights after `fit` on the problem."""
    _, rows = cotangents(steps)
    model = keras.Sequential([keras.Input((rows.shape[1],)), Problem(name="problem")])
    model.set_weights(runner.initial_weights())
    optimizer = runner.make("keras", name, options)
    model.compile(optimizer=optimizer, loss=lambda y_true, y_pred: keras.ops.mean(y_pred), **compile_options)
    model.fit(rows, np.zeros((steps, 1)), batch_size=1, shuffle=False, verbose=0)
    return optimizer, [np.asarray(w, np.float64) for w in model.get_weights()]


AVERAGES = {"use_ema": True, "ema_momentum": 0.75, "ema_overwrite_frequency": 5}
SLICES = {"layer_axes": {"dense_kernel": 1, "conv": -1}, "trust_ratio_bounds": (0.1, 5.0)}
FIT = {
    "LAMB": ("LAMB", {}),
    "LAMB_accumulation": ("LAMB", {"gradient_accumulation_steps": 3, **AVERAGES}),
    "LAMB_slices": ("LAMB", {"telemetry": True, "skip_nonfinite": True, **SLICES}),
    "LARS": ("LARS", {}),
    "LARS_accumulation": ("LARS", {"gradient_accumulation_steps": 2, "telemetry": True, **SLICES}),
    "NormalizedSGD": ("NormalizedSGD", {}),
    "NormalizedSGD_averages": ("NormalizedSGD", {"skip_nonfinite": True, **AVERAGES}),
}


@pytest.mark.parametrize("case", FIT)
def test_fit_follows_the_oracle(case):
    name, changes = FIT[case]
    options = {**OPTIMIZERS[name], **changes}
    steps = problem.STEPS * options.get("gradient_accumulation_steps", 1)
    optimizer, weights = fit_problem(name, options, steps)
    oracle = runner.expected(name, options, [[own] for own in cotangents(steps)[0]])
    assert int(optimizer.iterations) == oracle.t == problem.STEPS
    expected = oracle.averages if oracle.use_ema else oracle.weights  # `fit` ends with the averages.
    missed_by = distance(weights, expected) / FLOAT32
    print(f"{case}: {missed_by:.2f} tolerances")
    assert missed_by < 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fit_does_not_follow_another_oracle(name):
    options = OPTIMIZERS[name]
    _, weights = fit_problem(name, options, problem.STEPS)
    lists = [[own] for own in cotangents(problem.STEPS)[0]]
    for change in ({"weight_decay": 0.0}, {"exclude_from_layer_adaptation": ()}, {"exclude_from_weight_decay": ()}):
        assert distance(weights, runner.expected(name, {**options, **change}, lists).weights) > 20 * FLOAT32


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fit_trains(name):
    keras.utils.set_random_seed(0)
    model = make_network()
    options = {"weight_decay": 1e-4, "exclude_from_weight_decay": ["norm", "bias"]}
    if name == "LARS":
        options["trust_coefficient"] = 0.1
    model.compile(optimizer=getattr(tf_lamb, name)(0.03, **options), loss="mse")
    losses = model.fit(X, Y, batch_size=16, epochs=30, verbose=0).history["loss"]
    print(f"{name}: {losses[0]:.3f} -> {losses[-1]:.3f}")
    assert losses[-1] < 0.5 * losses[0]


# Files.

SAVED = {
    "LAMB": {"global_clipnorm": 0.5},
    "LAMB_cycle": {"gradient_accumulation_steps": 3, "skip_nonfinite": True},
    "LAMB_averages": {"use_ema": True, "ema_momentum": 0.9, "telemetry": True},
    "LAMB_narrow": {"moment_dtype": "bfloat16", "dynamic_loss_scale": True, "initial_scale": 4.0},
    "LARS_cycle": {"gradient_accumulation_steps": 3, "ratio_position": "after_momentum"},
    "NormalizedSGD_cycle": {"gradient_accumulation_steps": 3, "use_ema": True, "ema_overwrite_frequency": 2},
}


def make_compiled(name="LAMB", **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="relu", name="dense"),
            keras.layers.LayerNormalization(name="norm"),
            keras.layers.Dense(2, name="dense_1"),
        ],
        name="s",
    )
    schedule = tf_lamb.schedules.WarmupPolynomialDecay(0.05, total_steps=20, warmup_steps=10)
    options = {"weight_decay": 0.1, "exclude_from_weight_decay": ["bias", "gamma|beta"], **options}
    model.compile(optimizer=getattr(tf_lamb, name)(schedule, **options), loss="mse")
    return model


def train(model, steps):
    model.fit(X[: 8 * steps], Y[: 8 * steps], batch_size=8, shuffle=False, verbose=0)


def moved(model, before):
    return any(not np.array_equal(w, old) for w, old in zip(model.get_weights(), before, strict=True))


@pytest.mark.parametrize("case", SAVED)
def test_a_keras_file_goes_on(case, tmp_path):
    name = case.split("_")[0]
    make_compiled(name)  # Keras numbers what it builds, so a second model in one process may have other paths.
    model = make_compiled(name, **SAVED[case])
    train(model, 4)  # In the middle of the warmup and, with accumulation, of the second cycle.
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert decisions(loaded.optimizer) == decisions(model.optimizer)
    assert [rule.decayed for rule in loaded.optimizer.plan()] == [True, False, False, False, True, False]
    states = [[np.asarray(keras.ops.convert_to_numpy(v)) for v in each.optimizer.variables] for each in (model, loaded)]
    for ours, theirs in zip(*states, strict=True):
        np.testing.assert_array_equal(ours, theirs)

    before = model.get_weights()
    for each in (model, loaded):
        train(each, 2)
    assert moved(model, before)
    for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("forgotten", ["_iterations", "_micro_step", "_accumulated_gradients", "_slots"])
def test_what_a_file_lost_would_show(forgotten, tmp_path):
    model = make_compiled(gradient_accumulation_steps=3)
    train(model, 4)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    state = getattr(loaded.optimizer, forgotten)
    for variable in keras.tree.flatten(state):
        variable.assign(np.zeros(variable.shape))
    for each in (model, loaded):
        train(each, 2)
    assert moved(model, loaded.get_weights())


# The lists.


def network_optimizer(model, **lists):
    optimizer = tf_lamb.LAMB(0.1, weight_decay=0.5, **lists)
    model.compile(optimizer=optimizer, loss="mse")
    return optimizer


def expect_same_decisions_after_a_file(model, folder):
    model.optimizer.build(model.trainable_variables)
    model.save(folder / "model.keras")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The (pattern|entry)")
        loaded = keras.models.load_model(folder / "model.keras")
    assert decisions(loaded.optimizer) == decisions(model.optimizer)
    json.dumps(loaded.optimizer.get_config()["plan"])


def test_lists_of_layers_and_variables(tmp_path):
    """A path used as a bare pattern would let `dense` hit `dense_1`."""
    model = make_network()
    dense, dense_1 = model.get_layer("dense"), model.get_layer("dense_1")
    optimizer = network_optimizer(
        model, exclude_from_weight_decay=[dense, "gamma"], exclude_from_layer_adaptation=[dense.kernel, dense_1.bias]
    )
    unbuilt = tf_lamb.LAMB.from_config(optimizer.get_config())
    expect_same_decisions_after_a_file(model, tmp_path)
    unbuilt.build(model.trainable_variables)
    for plan in (optimizer.plan(), unbuilt.plan()):
        assert [rule.path for rule in plan if not rule.decayed] == [
            "encoder/attention_norm/gamma",
            "batch_normalization/gamma",
            "dense/kernel",
            "dense/bias",
        ]
        assert [rule.path for rule in plan if not rule.adapted] == ["dense/kernel", "dense_1/bias"]


def test_the_layers_of_a_list_are_of_the_saved_model_alone(tmp_path):
    """The same network twice in one process: the second is excluded by position, whatever its paths are."""
    first, second = make_network(), make_network()
    optimizer = network_optimizer(first, exclude_from_weight_decay=[first.get_layer("dense")])
    optimizer.build(first.trainable_variables)
    copy = tf_lamb.LAMB.from_config(optimizer.get_config())
    copy.build(second.trainable_variables)
    assert decisions(copy) == decisions(optimizer)
    with pytest.warns(UserWarning, match="matches no variable"):
        other = network_optimizer(second, exclude_from_weight_decay=[first.get_layer("dense")])
        other.build(second.trainable_variables)


def test_two_variables_of_one_path(tmp_path):
    def variables():
        return [keras.Variable([1.0, 2.0], name="w"), keras.Variable([1.0, 2.0], name="w")]

    both = variables()
    optimizer = tf_lamb.LAMB(0.1, weight_decay=0.5, exclude_from_weight_decay=[both[1]])
    optimizer.build(both)
    assert [rule.path for rule in optimizer.plan()] == ["w", "w"]
    copy = tf_lamb.LAMB.from_config(optimizer.get_config())
    copy.build(variables())
    for each in (optimizer, copy):
        assert [rule.decayed for rule in each.plan()] == [True, False]


def test_kerass_own_method(tmp_path):
    model = make_network()
    optimizer = network_optimizer(model, exclude_from_layer_adaptation=())
    optimizer.exclude_from_weight_decay(var_list=[model.get_layer("dense").kernel])
    optimizer.exclude_from_weight_decay(var_names=["norm", "bias$"])
    optimizer.exclude_from_weight_decay(var_names=["norm"])  # A second time, to no effect.
    expect_same_decisions_after_a_file(model, tmp_path)
    assert [rule.path for rule in optimizer.plan() if rule.decayed] == [
        "inputs/kernel",
        "encoder/qkv/kernel",
        "dense_1/kernel",
    ]
    with pytest.raises(ValueError, match="after the optimizer was built"):
        optimizer.exclude_from_weight_decay(var_names=["kernel"])


@pytest.mark.parametrize("axis", [1, -2])
def test_layer_axes_are_saved(axis, tmp_path):
    model = make_network()
    optimizer = network_optimizer(model, layer_axes={"qkv/kernel": axis})
    assert tf_lamb.LAMB.from_config(optimizer.get_config()).get_config()["layer_axes"] == {"qkv/kernel": axis}
    expect_same_decisions_after_a_file(model, tmp_path)
    assert [rule.layer_axis for rule in optimizer.plan()] == [None, None, None, 1, *[None] * 7]
    assert optimizer.layer_names()[3:6] == [f"encoder/qkv/kernel[{i}]" for i in range(3)]
