"""The rows of `test_peers` beyond Keras's LAMB: Model Garden, TensorFlow Addons, formulas, and what nobody has."""

import importlib
import importlib.metadata
import importlib.util

import keras
import numpy as np
import old_optimizers
import oracle
import peer_optimizers
import pytest
import tensorflow as tf
import test_dialects
import transcriptions
from test_peers import LEARNING_RATE, model_gardens_lamb
from test_tensorflow_addons import RECORDING
from tolerances import RELATIVE_L2, distance

import tf_lamb
from tf_lamb import dialects, migrate
from tf_lamb.old_states import as_array

FLOAT32 = RELATIVE_L2["float32", "cpu"]
LISTS = ("exclude_from_weight_decay", "exclude_from_layer_adaptation")


@pytest.mark.model_garden
def test_row_11_a_config_has_both_lists():
    given = dict(zip(LISTS, (["bias"], ["head"]), strict=True))
    ours, peer = (o.from_config(o.get_config()) for o in (tf_lamb.LAMB(**given), model_gardens_lamb(**given)))
    lists = [[ours.get_config()[name] for name in LISTS], [getattr(peer, name) for name in LISTS]]
    print(f"row 11 both lists, reloaded: ours {lists[0]} Model Garden {lists[1]}")
    assert lists == [[["bias"], ["head"]], [None, None]]


@pytest.mark.model_garden
@pytest.mark.filterwarnings("ignore:.*exclude_from_layer_adaptation:UserWarning")  # Of an empty list, to Addons' users.
def test_row_12_an_empty_list_adapts_everything():
    """A bias of 100 with gradient 1 at rate 0.01 moves by 1 where it is adapted, and by 0.01 where it is not."""
    steps = []
    for make in (tf_lamb.LAMB, model_gardens_lamb):
        variable = (keras.Variable if make is tf_lamb.LAMB else tf.Variable)([100.0], name="bias")
        make(LEARNING_RATE, **dict(zip(LISTS, (["bias"], []), strict=True))).apply_gradients([(tf.ones(1), variable)])
        steps.append(100.0 - float(variable.numpy()[0]))
    no_list, empty_list = (RECORDING[f"{case}/weights"] for case in ("no_adaptation_list", "empty_adaptation_list"))
    print(
        f"row 12 [] for adaptation, step of a bias: ours {steps[0]:.2f} Model Garden {steps[1]:.2f}; "
        f"Addons, [] and None: {np.max(np.abs(no_list - empty_list)):.1g} apart"
    )
    np.testing.assert_allclose(steps, [1.0, 0.01], rtol=1e-2)
    np.testing.assert_array_equal(no_list, empty_list)


def test_row_13_addons_needs_a_keras_that_is_gone():
    """The module is one that Addons imports, as it was recorded."""
    module = str(RECORDING["keras_module"])
    with pytest.raises(ModuleNotFoundError, match=r"keras\.src\.engine"):
        importlib.import_module(module)
    ours = importlib.import_module("tf_lamb.tf_keras").LAMB
    print(f"row 13 imports under TensorFlow {tf.__version__}: ours {ours.__name__}, Addons: no module {module}")
    assert ours(0.1).get_config()["name"] == "LAMB"


def test_row_14_a_norm_of_zero_is_refused():
    """In csrc/multi_tensor_lamb.cu of apex a norm above the largest is divided by it: 5 / 0."""
    gradient, max_grad_norm = np.array([3.0, 4.0]), np.float64(0.0)
    with np.errstate(divide="ignore"):
        norm = np.linalg.norm(gradient)
        peer = gradient / (norm / max_grad_norm if norm > max_grad_norm else 1.0)
    with pytest.raises(ValueError, match=r"`global_clipnorm` must be a number > 0, or None") as caught:
        tf_lamb.LAMB(global_clipnorm=0)
    print(f"row 14 a largest norm of 0: ours {caught.typename}, apex's formula makes [3, 4] {peer}")
    np.testing.assert_array_equal(peer, [0.0, 0.0])


def test_row_15_bias_correction_does_not_dip_the_rate():
    """The relative step by the rate at t, with DeepSpeed's formula and ours."""
    random, rate, at = np.random.default_rng(0), 1e-4, np.array([1, 10, 1000])
    weights, gradients = np.float32(random.normal(size=(8, 8))), np.float32(random.normal(size=(1000, 8, 8)))
    peer = transcriptions.deepspeed_fused_lamb([weights], [[g] for g in gradients], [rate] * 1000, 0.0, [True])
    variable, optimizer = keras.Variable(weights, dtype="float64"), tf_lamb.LAMB(rate)
    ours = []
    for g in gradients:
        optimizer.apply([tf.constant(g, tf.float64)], [variable])
        ours.append([variable.numpy()])
    factors = []
    for trajectory in (ours, peer):
        w = [np.float64(weights), *(step[0] for step in trajectory)]
        factors.append([np.linalg.norm(w[t] - w[t - 1]) / np.linalg.norm(w[t - 1]) / rate for t in at])
    print(f"row 15 step by rate at t = 1, 10, 1000: ours {np.round(factors[0], 3)} DeepSpeed {np.round(factors[1], 3)}")
    np.testing.assert_allclose(factors[0], 1.0, rtol=1e-4)
    np.testing.assert_allclose(factors[1], [0.316, 0.153, 0.795], atol=1e-3)


def test_row_16_a_clipped_gradient_is_not_enlarged():
    """pytorch_optimizer once divided by its clip coefficient, min(1, largest / norm); 4.1.0 multiplies by it."""
    gradient = np.array([30.0, 40.0])
    once = np.linalg.norm(gradient / min(1.0, 1.0 / np.linalg.norm(gradient)))
    variable, optimizer = keras.Variable([1.0, 1.0]), tf_lamb.LAMB(LEARNING_RATE, global_clipnorm=1.0)
    optimizer.apply([tf.constant(gradient, tf.float32)], [variable])
    ours = np.linalg.norm(as_array(optimizer._slots[0][0]) / (1 - 0.9))
    peer, version = "not installed", ""
    if importlib.util.find_spec("pytorch_optimizer"):
        torch, version = importlib.import_module("torch"), importlib.metadata.version("pytorch_optimizer")
        parameter = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        parameter.grad = torch.tensor(gradient)
        lamb = importlib.import_module("pytorch_optimizer").Lamb([parameter], lr=LEARNING_RATE, pre_norm=True)
        lamb.step()
        peer = round(float(lamb.state[parameter]["exp_avg"].norm()) / (1 - 0.9), 3)
        assert peer == pytest.approx(1.0, abs=1e-3), "the installed one is right"
    print(f"row 16 norm 50 clipped to 1: ours {ours:.3f}, pytorch_optimizer once {once:.0f}, {version} {peer}")
    assert ours == pytest.approx(1.0, rel=1e-5)
    assert once == pytest.approx(2500.0)


# Row 18: what none of the peers has.


def test_row_18_lists_that_are_separate_and_saved():
    ours = tf_lamb.LAMB(**dict(zip(LISTS, (["bias"], ["head/bias"]), strict=True)))
    ours = tf_lamb.LAMB.from_config(ours.get_config())
    ours.build(old_optimizers.make_model("keras", old_optimizers.RECORDED).trainable_variables)
    found = [(rule.decayed, rule.adapted) for rule in ours.plan()]
    with pytest.raises(ValueError, match="exclude_from_layer_adaptation") as caught:
        keras.optimizers.Lamb(exclude_from_layer_adaptation=["bias"])
    print(f"row 18 lists, (decayed, adapted) of kernel, bias, kernel, bias: ours {found} keras {caught.typename}")
    assert found == [(True, True), (False, True), (True, True), (False, False)]


def test_row_18_telemetry_in_the_compiled_step():
    def ratio(optimizer):
        variable = keras.Variable(np.full(4, 3.0))
        optimizer.build([variable])
        tf.function(lambda: optimizer.apply([tf.ones(4)], [variable]), jit_compile=True)()
        return float(optimizer.statistics()["trust_ratio"][0])

    ours = ratio(tf_lamb.LAMB(LEARNING_RATE, telemetry=True))
    with pytest.raises(AttributeError, match="statistics"):
        ratio(keras.optimizers.Lamb(LEARNING_RATE))
    print(f"row 18 trust ratio out of a compiled step (right: 3): ours {ours:.4f} keras: none")
    assert ours == pytest.approx(3.0, rel=1e-4)


@pytest.mark.parametrize("nesterov", ["m", "mv"])
def test_row_18_nesterov(nesterov):
    random = np.random.default_rng(0)
    w, gradients = random.normal(size=(4, 3)), np.float32(random.normal(size=(3, 4, 3)))
    expected = [
        oracle.Lamb([w], [True], [True], 0.9, 0.999, 1e-6, 0.0, nesterov=look_ahead) for look_ahead in (nesterov, False)
    ]
    variable, ours = keras.Variable(w), tf_lamb.LAMB(LEARNING_RATE, nesterov=nesterov)
    plain, peer = keras.Variable(w), keras.optimizers.Lamb(LEARNING_RATE)
    for g in gradients:
        for each in expected:
            each.step([[g]], LEARNING_RATE)
        ours.apply([tf.constant(g)], [variable])
        peer.apply([tf.constant(g)], [plain])
    errors = [distance([v.numpy()], expected[0].weights) / FLOAT32 for v in (variable, plain)]
    with pytest.raises(ValueError, match="nesterov"):
        keras.optimizers.Lamb(LEARNING_RATE, nesterov=nesterov)
    print(f"row 18 Nesterov {nesterov}: ours {errors[0]:.2g} keras {errors[1]:.3g} tolerances off")
    assert errors[0] < 1
    assert errors[1] > 10


def test_row_18_migration():
    """The state that TensorFlow Addons left behind after five steps."""
    old, files = old_optimizers.addons(), old_optimizers.ADDONS_FILES
    moments = []
    for who in ("ours", "keras"):
        model = old_optimizers.make_model("keras", old_optimizers.RECORDED, old.before[0])
        optimizer = dialects.tensorflow_addons(0.05) if who == "ours" else keras.optimizers.Lamb(0.05)
        optimizer.build(model.trainable_variables)
        if who == "ours":
            migrate.from_tensorflow_addons(optimizer, files["checkpoint"])
            moments.append(old_optimizers.state_of(optimizer, model.trainable_variables)[1])
        else:
            restored = tf.train.Checkpoint(model=model, optimizer=optimizer)
            restored.restore(str(files["checkpoint"] / "ckpt-1")).expect_partial()
            moments.append(old_optimizers.arrays_of(optimizer._momentums))
    misses = [distance(found, old.before[1]) for found in moments]
    print(f"row 18 moments of Addons, relative error: ours {misses[0]:.1g} keras {misses[1]:.1g}")
    assert misses[0] == 0.0
    assert misses[1] > 0.1


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own.
def test_row_18_dialects():
    """Ours as DeepSpeed's LAMB, and Keras's as it is."""
    (case,) = [c for c in test_dialects.CASES if c.dialect == "deepspeed" and not (c.overrides or c.peer_options)]
    expected = test_dialects.theirs(case)
    ours = test_dialects.farthest(test_dialects.ours(case, "float32"), expected) / FLOAT32
    peer = test_dialects.farthest(peer_optimizers.keras_lamb(**case.arguments()), expected) / FLOAT32
    print(f"row 18 DeepSpeed's dialect: ours {ours:.2g} keras {peer:.2g} tolerances off")
    assert ours < 1
    assert peer > 10
