"""On JAX: the update as a pure function, compiled once with its state donated, and with sharded state."""

import keras
import numpy as np
import problem
import pytest
import runner
from tolerances import RELATIVE_L2, distance

import tf_lamb
from tf_lamb import rounding

if keras.backend.backend() != "jax":
    pytest.skip("needs KERAS_BACKEND=jax", allow_module_level=True)

import jax
import jax.extend

FLOAT32 = RELATIVE_L2["float32", "cpu"]
STEPS = 12
LISTS = {"exclude_from_weight_decay": ["bias", "gamma"], "exclude_from_layer_adaptation": ["bias", "plain"]}
BASES = {
    "LAMB": {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-6, "weight_decay": 0.3, "global_clipnorm": 2.5, **LISTS},
    "LARS": {"momentum": 0.8, "trust_coefficient": 0.4, "weight_decay": 0.3, **LISTS},
    "NormalizedSGD": {"weight_decay": 0.3, "clipnorm": 1.0, **LISTS},
}
SPOILED = (3, 7)
CASES = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 3},
    "skip": {"skip_nonfinite": True},
    "averages": {"use_ema": True, "ema_momentum": 0.75, "ema_overwrite_frequency": 5},
    "loss_scale": {"dynamic_loss_scale": True, "initial_scale": 8.0, "dynamic_growth_steps": 2},
    "telemetry": {"telemetry": True, "telemetry_every_steps": 4},
    "masters": {"master_weights": True, "moment_dtype": "bfloat16"},
    "all": {
        "gradient_accumulation_steps": 2,
        "skip_nonfinite": True,
        "use_ema": True,
        "telemetry": True,
        "layer_axes": {"dense_kernel": 1},
        "trust_ratio_bounds": (0.01, 10.0),
    },
}


def options_of(name, case):
    options = {**BASES[name], **CASES[case]}
    if name == "NormalizedSGD":
        options.pop("moment_dtype", None)
    return options


def gradients(case):
    """Those of the problem; some are spoiled where the case can bear it."""
    lists = [own for (own,) in problem.gradients(1, STEPS)]
    if case in ("skip", "loss_scale", "all"):
        for step in SPOILED:
            lists[step][1][2, 3] = np.inf
    return lists


def make(name, case):
    optimizer = runner.make("keras", name, options_of(name, case))
    variables = runner.make_variables("keras", "bfloat16" if case == "masters" else "float32")
    optimizer.build(variables)
    return optimizer, variables


class Stateless:
    """A compiled step on values, with the state donated, that counts how often it is traced."""

    def __init__(self, optimizer, variables):
        self.traces = 0
        self.weights = [v.value + 0 for v in variables]
        self.state = [v.value + 0 for v in optimizer.variables]

        def step(weights, state, gradients):
            self.traces += 1
            return optimizer.stateless_apply(state, gradients, weights)

        self.step = jax.jit(step, donate_argnums=(0, 1))

    def __call__(self, gradients):
        self.weights, self.state = self.step(self.weights, self.state, gradients)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("case", CASES)
def test_stateless_apply(name, case):
    optimizer, variables = make(name, case)
    pure = Stateless(optimizer, variables)
    before = [np.asarray(v.value) for v in optimizer.variables]
    for own in gradients(case):
        donated = pure.state[0]
        pure([keras.ops.convert_to_tensor(g) for g in own])
        assert donated.is_deleted()
    assert pure.traces == 1 and pure.step._cache_size() == 1, "the second call compiled again"
    for v, old in zip(optimizer.variables, before, strict=True):
        np.testing.assert_array_equal(np.asarray(v.value), old)  # A pure function left the variables alone.

    for own in gradients(case):
        runner.apply("keras", optimizer, own, variables)
    assert len(pure.state) == len(optimizer.variables)
    for new, v in zip(pure.state, optimizer.variables, strict=True):
        assert new.dtype == v.value.dtype and new.shape == v.value.shape
        if np.issubdtype(new.dtype, np.integer):
            assert int(new) == int(v.value), v.path
    if case == "masters":  # A draw of the stochastic rounding is decided by the last bit of what it rounds.
        assert distance(pure.weights, runner.values(variables)) < RELATIVE_L2["bfloat16", "cpu"]
        return
    assert distance(pure.weights, runner.values(variables)) < FLOAT32
    if "dynamic_loss_scale" not in CASES[case]:
        lists = [[own] for own in gradients(case)]
        options = options_of(name, case)
        assert distance(pure.weights, runner.expected(name, options, lists).weights) < FLOAT32


@pytest.mark.parametrize("case", ["accumulation", "skip", "loss_scale", "telemetry", "all"])
def test_the_counters(case):
    """How many updates, skips and doublings there are, counted by hand."""
    optimizer, variables = make("LAMB", case)
    pure = Stateless(optimizer, variables)
    for own in gradients(case):
        pure([keras.ops.convert_to_tensor(g) for g in own])
    for variable, new in zip(optimizer.variables, pure.state, strict=True):
        variable.assign(new)
    updates, skips = {"accumulation": (4, None), "all": (4, 2), "skip": (10, 2), "loss_scale": (10, 2)}.get(
        case, (12, None)
    )
    assert int(optimizer.iterations) == updates
    assert (optimizer.skipped_steps is None) if skips is None else int(optimizer.skipped_steps) == skips
    if case == "loss_scale":
        # Two good steps double; 8 -> 16 | good, bad: 8 | 16, good, bad: 8 | 16, 32.
        assert float(optimizer.loss_scale) == 32.0
    if case in ("telemetry", "all"):
        statistics = optimizer.statistics()
        assert len(optimizer.layer_names()) == statistics["trust_ratio"].shape[0]
        assert float(statistics["gradient_norm"]) > 0


def test_sparse_gradients_are_summed():
    """Repeated ids are summed before they are squared, and may be summed inside of a compiled step."""
    from jax.experimental import sparse

    rows, ids = np.float32([[1.0], [1.0]]), np.array([[1], [1]])
    for stateless in (False, True):
        variable = keras.Variable(np.ones((3, 1)))
        optimizer = tf_lamb.LAMB(0.01)
        optimizer.build([variable])
        gradient = sparse.BCOO((rows, ids), shape=(3, 1))
        if stateless:
            pure = Stateless(optimizer, [variable])
            pure([gradient])
            v = pure.state[[o.path for o in optimizer.variables].index(optimizer._slots[0][1].path)]
        else:
            optimizer.apply([gradient], [variable])
            v = optimizer._slots[0][1].value
        np.testing.assert_allclose(np.ravel(v), [0.0, 0.004, 0.0], rtol=1e-5)


# What a compiler may elide: a value that is narrowed and at once widened again.


def elidable(function, *arguments):
    """How many values a function narrows and reads again other than by their bits."""
    equations = jax.make_jaxpr(function)(*arguments).eqns
    narrowed = {
        e.outvars[0]
        for e in equations
        if e.primitive.name == "convert_element_type" and e.outvars[0].aval.dtype == "bfloat16"
    }
    readers = [e for e in equations if e.primitive.name != "bitcast_convert_type"]
    return sum(isinstance(v, jax.extend.core.Var) and v in narrowed for e in readers for v in e.invars)


def naively_reconcile(master, value):
    same = keras.ops.cast(keras.ops.cast(master, "bfloat16"), "float32") == keras.ops.cast(value, "float32")
    return keras.ops.where(same, master, keras.ops.cast(value, "float32"))


def test_rounding_is_on_bits():
    """XLA on the CPU keeps all roundings; where it does not, a naive form would take the variable for a stranger's."""
    x = np.ones(4, np.float32)
    value = jax.numpy.ones(4, "bfloat16")
    assert elidable(naively_reconcile, x, value) == 1
    assert elidable(rounding.reconcile, x, value) == 0
    assert elidable(lambda x: keras.ops.cast(keras.ops.cast(x, "bfloat16"), "float32"), x) == 1
    assert elidable(rounding.to_bfloat16, x) == 0
    assert elidable(lambda x: rounding.to_bfloat16_stochastically(x, 1, 0), x) == 0


# State that is sharded over four devices.

X = np.random.default_rng(3).normal(size=(64, 8)).astype("float32")
Y = (X @ np.random.default_rng(4).normal(size=(8, 4))).astype("float32")
SHARDED = {
    "use_ema": True,
    "gradient_accumulation_steps": 2,
    "telemetry": True,
    "skip_nonfinite": True,
    "global_clipnorm": 1.0,
}


@pytest.fixture(params=["data_parallel", "model_parallel"])
def distribution(request):
    """A distribution over four devices, in force during the test."""
    assert len(jax.devices()) >= 4, "the tests need XLA_FLAGS=--xla_force_host_platform_device_count=4"
    names = [f"cpu:{i}" for i in range(4)]
    if request.param == "data_parallel":
        chosen = keras.distribution.DataParallel(devices=names)
    else:
        mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"), names)
        layout_map = keras.distribution.LayoutMap(mesh)
        layout_map[".*hidden_?/?kernel"] = (None, "model")
        layout_map[".*hidden/bias"] = ("model",)
        layout_map[".*head/kernel"] = ("model", None)
        chosen = keras.distribution.ModelParallel(layout_map=layout_map, batch_dim_name="batch")
    yield chosen
    keras.distribution.set_distribution(None)


def fit(dtype="float32", **options):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16, activation="tanh", name="hidden"), keras.layers.Dense(4, name="head")]
    model = keras.Sequential([keras.Input((8,)), *layers], name="net")
    random = np.random.default_rng(6)
    model.set_weights([0.3 * random.normal(size=w.shape) for w in model.get_weights()])
    optimizer = tf_lamb.LAMB(0.02, weight_decay=0.1, exclude_from_weight_decay=["bias"], **options)
    model.compile(optimizer=optimizer, loss="mse")
    model.fit(X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0)
    return model


def test_sharded_state(distribution):
    whole = fit(**SHARDED)
    keras.distribution.set_distribution(distribution)
    model = fit(**SHARDED)
    optimizer = model.optimizer
    sharded = 0
    for i, variable in enumerate(model.trainable_variables):
        sharding = variable.value.sharding
        sharded += not sharding.is_fully_replicated
        kept = [*optimizer._slots[i], optimizer._accumulated_gradients[i], optimizer._model_variables_moving_average[i]]
        for state in kept:
            assert len(state.value.devices()) == 4
            assert state.value.sharding.is_equivalent_to(sharding, len(variable.shape)), state.path
    assert sharded == (3 if isinstance(distribution, keras.distribution.ModelParallel) else 0)
    assert all(len(v.value.devices()) == 4 for v in optimizer.variables)
    assert distance(model.get_weights(), whole.get_weights()) < FLOAT32
    assert int(optimizer.iterations) == 6


def test_a_sharded_run_of_other_options_differs(distribution):
    whole = fit(**SHARDED)
    keras.distribution.set_distribution(distribution)
    assert distance(fit(**{**SHARDED, "global_clipnorm": None}).get_weights(), whole.get_weights()) > 10 * FLOAT32


def test_stochastic_rounding_draws_the_same_on_every_shard(distribution):
    """One gradient for all devices: the moments are the unsharded ones bit for bit."""

    def second_moment():
        variable = keras.Variable(np.ones((8, 16)), name="hidden_kernel")
        optimizer = tf_lamb.LAMB(0.1, moment_dtype="bfloat16")
        optimizer.build([variable])
        pure = Stateless(optimizer, [variable])
        for step in range(5):
            pure([keras.ops.convert_to_tensor(np.float32(np.random.default_rng(step).normal(size=(8, 16))))])
        return np.asarray(pure.state[[v.path for v in optimizer.variables].index(optimizer._slots[0][1].path)])

    whole = second_moment()
    keras.distribution.set_distribution(distribution)
    np.testing.assert_array_equal(second_moment(), whole)
