"""Each dialect follows its peer step by step, and no other peer.

The peers are the packages themselves where they are installed (`peer_optimizers`), and the formulas of those that do
not run here (`transcriptions`). The problem is that of `problem.py`, with what tells dialects apart: tensors whose
ratio is above 10, above 1 and below 0.01, gradients near epsilon, and a global norm above 1 on some steps only.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import oracle
import peer_optimizers
import problem
import pytest
import transcriptions
from tolerances import PEERS, RELATIVE_L2, distance

from tf_lamb import dialects

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own.

STEPS = 24
# Shape, size of the weights, size of the gradients.
EXTRA = {"large_bias": ((6,), 100.0, 0.1), "large_kernel": ((5, 4), 2.0, 0.3), "small_kernel": ((4, 6), 1e-4, 1e-6)}
NAMES = [*problem.NAMES, *EXTRA]
WEIGHT_DECAY = 0.1
NOT_DECAYED, NOT_ADAPTED = ("bias", "gamma"), ("bias", "plain")
DECAYS = [not any(word in name for word in NOT_DECAYED) for name in NAMES]
ADAPTS = [not any(word in name for word in NOT_ADAPTED) for name in NAMES]
LARGE_RATES = 40.0  # LARS multiplies its rate by 0.001.
SAME_ARITHMETIC = [("model_garden", "paper", "tensorflow_addons"), ("albert", "paper_v3")]


def make_problem(scale=1.0, constant=False):
    """The arguments of every peer. All numbers are exact in float32, so none is rounded on the way to one of them."""
    random = np.random.default_rng(5)
    weights = problem.initial_weights()
    weights += [size * random.normal(size=shape) for shape, size, _ in EXTRA.values()]
    gradients = []
    for step, (given,) in enumerate(problem.gradients(1, STEPS)):
        given = [*given, *(size * random.normal(size=shape) for shape, _, size in EXTRA.values())]
        gradients.append([np.float32(g * (0.03 if step % 3 == 1 else 1.0)) for g in given])
    return {
        "weights": [np.float32(w) for w in weights],
        "gradients": gradients,
        "learning_rates": [
            float(np.float32(scale * 0.05 / (1 if constant else 1 + step / 4))) for step in range(STEPS)
        ],
        "weight_decay": WEIGHT_DECAY,
        "decays": DECAYS,
    }


LAMB_PROBLEM = make_problem()
LARS_PROBLEM = make_problem(LARGE_RATES)
CONSTANT_RATE = make_problem(LARGE_RATES / 4, constant=True)
CONSTANT_RATE_NOT_FLAT = {**CONSTANT_RATE, "decays": [np.ndim(w) > 1 for w in CONSTANT_RATE["weights"]]}
NOT_FLAT = {"exclude_from_weight_decay": ("scalar", "bias", "gamma", "unused")}


def the_papers_lamb(weights, gradients, learning_rates, weight_decay, decays):
    """The oracle; what does not decay does not adapt."""
    lamb = oracle.Lamb(weights, decays, decays, beta_1=0.9, beta_2=0.999, epsilon=1e-6, weight_decay=weight_decay)
    trajectory = []
    for step, rate in zip(gradients, learning_rates, strict=True):
        lamb.step([step], rate)
        trajectory.append(list(lamb.weights))
    return trajectory


@dataclasses.dataclass(frozen=True)
class Case:
    """A dialect, what overrides it, and the peer that it is to follow."""

    dialect: str
    peer: Callable
    overrides: dict = dataclasses.field(default_factory=dict)
    peer_options: dict = dataclasses.field(default_factory=dict)
    problem: dict | None = None

    def __str__(self):
        options = "".join(f"-{name}={value}" for name, value in self.peer_options.items() if name != "adapts")
        lists = "-lists" if "adapts" in self.peer_options else ""
        return f"{self.dialect}-{self.peer.__name__}{options}{lists}"

    def marks(self):
        return [pytest.mark.model_garden] if self.peer.__name__.startswith("model_garden") else []

    def arguments(self):
        return self.problem or (LARS_PROBLEM if self.dialect in dialects.LARS_DIALECTS else LAMB_PROBLEM)

    def tolerance(self, dtype):
        return max(RELATIVE_L2[dtype, "cpu"], PEERS.get(self.peer.__name__, 0.0))


BOTH_LISTS = {"exclude_from_layer_adaptation": NOT_ADAPTED}
ADAPTS_ALL = {"exclude_from_layer_adaptation": ()}
WITHOUT_DECAY = {**make_problem(0.1), "weight_decay": 0.0}  # At a small rate: no weight comes near 0.
AT_MOST_10 = {"weight_norm_bounds": (None, 10.0), "global_clipnorm": None, "trust_ratio_bounds": None}
# The first case of a dialect is that of the pairs.
CASES = [
    Case("paper", the_papers_lamb),
    Case("tensorflow_addons", the_papers_lamb),
    Case("model_garden", peer_optimizers.model_garden_lamb),
    Case("model_garden", peer_optimizers.model_garden_lamb, BOTH_LISTS, {"adapts": ADAPTS}),
    Case("optax", peer_optimizers.optax_lamb),
    Case("paper_v3", transcriptions.albert),
    Case("albert", transcriptions.albert),
    Case("albert", transcriptions.albert, BOTH_LISTS, {"adapts": ADAPTS}),
    Case("nvlamb", transcriptions.apex_nvlamb),
    Case("nvlamb", peer_optimizers.timm_lamb, {}, {"always_adapt": True}),
    Case("apex", transcriptions.apex_fused_lamb),
    Case("apex", peer_optimizers.timm_lamb),
    Case("apex", transcriptions.apex_fused_lamb, problem=WITHOUT_DECAY),
    Case("apex", peer_optimizers.timm_lamb, problem=WITHOUT_DECAY),
    Case("deepspeed", transcriptions.deepspeed_fused_lamb),
    Case("deepspeed", transcriptions.deepspeed_fused_lamb, {"bias_correction": True}, {"correct_the_moments": True}),
    Case("lambc", transcriptions.timm_lambc),
    Case("lambc", peer_optimizers.timm_lamb, {}, {"always_adapt": True, "trust_clip": True, "max_grad_norm": None}),
    Case("keras", peer_optimizers.keras_lamb),
    Case(
        "keras",
        peer_optimizers.timm_lamb,
        {"epsilon": 1e-6},
        {"always_adapt": True, "decoupled_decay": True, "max_grad_norm": None},
    ),
    # Packages that mix the dialects.
    Case("paper_v3", peer_optimizers.torch_optimizer_lamb, {**AT_MOST_10, **ADAPTS_ALL}),
    Case("deepspeed", peer_optimizers.torch_optimizer_lamb, {**AT_MOST_10, "epsilon": 1e-6}, {"debias": True}),
    Case(
        "paper_v3",
        peer_optimizers.pytorch_optimizer_lamb,
        {**AT_MOST_10, **ADAPTS_ALL},
        {"weight_decouple": False, "adam_debias": True},
    ),
    Case(
        "paper_v3",
        peer_optimizers.pytorch_optimizer_lamb,
        {**AT_MOST_10, **ADAPTS_ALL, "global_clipnorm": 1.0},
        {"weight_decouple": False, "adam_debias": True, "pre_norm": True},
    ),
    Case(
        "keras",
        peer_optimizers.pytorch_optimizer_lamb,
        {**AT_MOST_10, "epsilon": 1e-6, "bias_correction": False},
        {"adam_debias": True},
    ),
    Case("lars_paper", transcriptions.lars_paper),
    Case("lars_lamb_paper", transcriptions.lars_of_the_lamb_paper, problem=LAMB_PROBLEM),
    Case("lars_lamb_paper", transcriptions.lars_of_the_lamb_paper, {"momentum": 0.7}, {"beta1": 0.7}, LAMB_PROBLEM),
    Case("lars_mlperf", transcriptions.mlperf_lars),
    Case("lars_mlperf", transcriptions.mlperf_lars, {"nesterov": True}, {"nesterov": True}),
    Case("lars_model_garden", peer_optimizers.model_garden_lars),
    Case("lars_model_garden", peer_optimizers.model_garden_lars, {"nesterov": True}, {"nesterov": True}),
    Case(
        "lars_model_garden",
        peer_optimizers.model_garden_lars,
        {"ratio_position": "after_momentum", **BOTH_LISTS},
        {"classic_momentum": False, "adapts": ADAPTS},
    ),
    Case(
        "lars_model_garden",
        peer_optimizers.model_garden_lars,
        {"ratio_position": "after_momentum", "nesterov": True},
        {"classic_momentum": False, "nesterov": True},
    ),
    Case("lars_optax", peer_optimizers.optax_lars),
    Case("lars_optax", peer_optimizers.optax_lars, {"nesterov": True}, {"nesterov": True}),
    Case("lars_optax", peer_optimizers.optax_lars, BOTH_LISTS, {"adapts": ADAPTS}),
    # PyTorch multiplies by the rate after the momentum: the same as long as the rate stays.
    Case("lars_paper", peer_optimizers.timm_lars, {"epsilon": 1e-8}, {"momentum": 0.9}, CONSTANT_RATE),
    Case(
        "lars_paper",
        peer_optimizers.torch_optimizer_lars,
        {"epsilon": 1e-8, "trust_coefficient": 0.01},
        {"momentum": 0.9},
        CONSTANT_RATE,
    ),
    Case("lars_paper", peer_optimizers.pytorch_optimizer_lars, NOT_FLAT, problem=CONSTANT_RATE_NOT_FLAT),
]


def keras_variables(arrays, dtype):
    return [keras.Variable(w, dtype=dtype, name=name) for name, w in zip(NAMES[: len(arrays)], arrays, strict=True)]


def follow(optimizer, arguments, dtype):
    """The weights of a Keras 3 optimizer after every step."""
    with peer_optimizers.backend_float64():
        variables = keras_variables(arguments["weights"], dtype)
        optimizer.build(variables)
        trajectory = []
        for step, rate in zip(arguments["gradients"], arguments["learning_rates"], strict=True):
            optimizer.learning_rate = rate
            optimizer.apply([keras.ops.convert_to_tensor(g, dtype) for g in step], variables)
            trajectory.append([np.array(keras.ops.convert_to_numpy(v)) for v in variables])
    return trajectory


def options(case, arguments):
    return {"weight_decay": arguments["weight_decay"], "exclude_from_weight_decay": NOT_DECAYED, **case.overrides}


def ours(case, dtype, arguments=None):
    arguments = arguments or case.arguments()
    make_optimizer = getattr(dialects, case.dialect)
    return follow(make_optimizer(1.0, jit_compile=False, **options(case, arguments)), arguments, dtype)


def theirs(case):
    try:
        return case.peer(**case.arguments(), **case.peer_options)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")


def farthest(actual, expected):
    """The largest distance of all steps."""
    assert len(actual) == len(expected)
    return max(distance(a, e) for a, e in zip(actual, expected, strict=True))


def test_the_problem_tells_apart():
    """Clipping acts on some steps only, and ratios are beyond every bound."""
    norms = [np.sqrt(sum(np.sum(np.float64(g) ** 2) for g in step)) for step in LAMB_PROBLEM["gradients"]]
    assert 4 <= sum(norm > 1.0 for norm in norms) <= STEPS - 4
    ratios = [np.linalg.norm(w) / np.sqrt(np.size(w)) for w in LAMB_PROBLEM["weights"]]  # Of a first update of ones.
    assert min(ratio for ratio in ratios if ratio > 0) < 0.01 and max(ratios) > 10.0
    assert 0.0 in ratios


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", [pytest.param(case, id=str(case), marks=case.marks()) for case in CASES])
def test_follows_its_peer(case, dtype, record_property):
    error = farthest(ours(case, dtype), theirs(case))
    record_property("relative_l2", error)
    print(f"{case} {dtype}: {error:.1e}")
    assert error < case.tolerance(dtype)


@functools.cache
def peers_of_the_pairs():
    """The first case of each arithmetic, with the trajectory of its peer."""
    cases = {case.dialect: case for case in reversed(CASES)}
    repeated = {name for names in SAME_ARITHMETIC for name in names[1:]}
    return [(cases[name], theirs(cases[name])) for name in sorted(set(cases) - repeated)]


@pytest.mark.model_garden
@pytest.mark.parametrize("dialect", [*dialects.LAMB_DIALECTS, *dialects.LARS_DIALECTS])
def test_misses_the_other_peers(dialect, record_property):
    same = next((names for names in SAME_ARITHMETIC if dialect in names), (dialect,))
    misses = {}
    for case, trajectory in peers_of_the_pairs():
        if case.dialect not in same:
            given = ours(dataclasses.replace(case, dialect=dialect, overrides={}), "float64", case.arguments())
            misses[case.dialect] = farthest(given, trajectory) / case.tolerance("float32")
    nearest = min(misses, key=misses.get)
    record_property("tolerances", misses)
    print(f"{dialect} misses all others, the nearest ({nearest}) by {misses[nearest]:.0f} tolerances")
    assert misses[nearest] > 10
    assert len(misses) == len(peers_of_the_pairs()) - 1


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf_keras needs the TensorFlow backend")
@pytest.mark.parametrize("dialect", [*dialects.LAMB_DIALECTS, *dialects.LARS_DIALECTS])
def test_the_tf_keras_face_takes_the_same_options(dialect):
    import tensorflow as tf

    import tf_lamb.tf_keras

    case = next(case for case in CASES if case.dialect == dialect)
    arguments = case.arguments()
    optimizer_class = tf_lamb.tf_keras.LAMB if dialect in dialects.LAMB_DIALECTS else tf_lamb.tf_keras.LARS
    given = dialects.options(dialect, 1.0, jit_compile=False, **options(case, arguments))
    optimizer = optimizer_class(**given)
    variables = [tf.Variable(w, name=name) for name, w in zip(NAMES, arguments["weights"], strict=True)]
    trajectory = []
    for step, rate in zip(arguments["gradients"], arguments["learning_rates"], strict=True):
        optimizer.learning_rate = rate
        optimizer.apply_gradients(zip(map(tf.constant, step), variables, strict=True))
        trajectory.append([v.numpy() for v in variables])
    assert farthest(trajectory, theirs(case)) < case.tolerance("float32")


@pytest.mark.parametrize("case", ["both_lists", "no_adaptation_list", "empty_adaptation_list", "defaults"])
def test_tensorflow_addons_follows_the_recording(case, record_property):
    """Of `recordings/record_tensorflow_addons.py`. The empty list for adaptation is no list, as in Addons."""
    recording = np.load(Path(__file__).parent / "recordings" / "tensorflow_addons.npz")
    given = {"learning_rate": 1.0, **json.loads(str(recording["cases"]))[case]}
    rates = [problem.learning_rate(step) if "list" in case else given["learning_rate"] for step in range(STEPS)]
    weights = problem.initial_weights()
    gradients = [step for (step,) in problem.gradients(1, STEPS)]
    arguments = {"weights": weights, "gradients": gradients, "learning_rates": rates}
    trajectory = follow(dialects.tensorflow_addons(jit_compile=False, **given), arguments, "float32")
    flat = [np.concatenate([np.ravel(w) for w in step]) for step in trajectory]
    ends = np.cumsum([np.size(w) for w in weights])[:-1]
    expected = [np.split(row, ends) for row in recording[f"{case}/weights"]]
    error = farthest([np.split(row, ends) for row in flat], expected)
    record_property("relative_l2", error)
    print(f"tensorflow_addons {case}: {error:.1e}")
    assert error < RELATIVE_L2["float32", "cpu"]


def test_a_list_of_ones_own_wins():
    assert dialects.options("apex", 0.1, weight_decay=0.0)["exclude_from_layer_adaptation"] == (".*",)
    assert dialects.options("apex", 0.1, weight_decay=0.0, exclude_from_layer_adaptation=["a"]) == {
        "learning_rate": 0.1,
        "weight_decay": 0.0,
        "global_clipnorm": 1.0,
        "exclude_from_layer_adaptation": ["a"],
    }
    assert dialects.options("optax", 0.1, exclude_from_layer_adaptation=None)["exclude_from_layer_adaptation"] is None


def test_adapting_everything_can_be_said():
    """In Model Garden's own LAMB it cannot: there an empty list, of whatever type, is the list for decay."""
    for dialect in ("tensorflow_addons", "model_garden", "albert", "lars_model_garden"):
        assert dialects.options(dialect, 0.1, exclude_from_layer_adaptation=[])["exclude_from_layer_adaptation"] is None
        assert dialects.options(dialect, 0.1, **ADAPTS_ALL)["exclude_from_layer_adaptation"] == ()


def test_an_unknown_dialect_is_named():
    with pytest.raises(ValueError, match="Received: 'nvlars'. Expected one of albert, apex, "):
        dialects.options("nvlars", 0.1)


def test_a_dialect_survives_its_config():
    optimizer = dialects.deepspeed(0.1, weight_decay=0.2)
    again = type(optimizer).from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()
    assert again.get_config()["trust_ratio_bounds"] == [0.01, 10.0]


@pytest.mark.parametrize("page", ["dialects.md", "conversion.md"])
def test_the_documentation_names_every_dialect(page):
    text = (Path(__file__).parent.parent / "docs" / page).read_text(encoding="utf-8")
    assert [name for name in [*dialects.LAMB_DIALECTS, *dialects.LARS_DIALECTS] if f"`{name}`" not in text] == []
