"""The costs of modules compiled for v3 and v5e are closed forms, and XLA's own where it counts the same."""

import numpy as np
import pytest
from compiled_hlo import compile_all

from hlo_text import summary

jax = pytest.importorskip("jax")
pytest.importorskip("libtpu")

import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402

pytestmark = pytest.mark.aot

FLOAT, HALF = jnp.float32, jnp.bfloat16
REPLICAS = {"v3:2x2": 8, "v5e:2x2": 4}
# Of every chip: the programs of v5p and v6e have instructions that an older jax cannot read.
EVERY_CHIP = {**REPLICAS, "v2:2x2": 8, "v4:2x2x1": 4, "v5p:2x2x1": 4, "v6e:2x2": 4}


def with_gradients(function):
    """A function and its gradients by both arguments."""
    return lambda x, w: (lambda y, pull: (y, *pull(y)))(*jax.vjp(function, x, w))


def strided(x, w):
    return lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def grouped(x, w):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2
    )


def depthwise(x, w):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=64
    )


def looped(rounds):
    return lambda x, w: lax.fori_loop(0, rounds, lambda _, y: jnp.tanh(y @ w), x)


def normalized(x, w):
    mean, variance = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
    return (x - mean) * lax.rsqrt(variance + 1e-3) * w


def accumulated(x, w):
    """The sum of the gradients of four parts of a batch, as a step with micro-batches has it."""
    parts = x.reshape(4, -1, x.shape[-1])

    def add(part, total):
        return total + jax.grad(lambda w: jnp.sum(jnp.tanh(parts[part] @ w) ** 2))(w)

    return w - lax.fori_loop(0, 4, add, jnp.zeros_like(w))


FUNCTIONS = {
    "dot": (lambda x, w: jnp.tanh(x @ w), (256, 512), (512, 1024), FLOAT),
    "batched dot": (lambda x, w: jnp.einsum("bnqd,bnkd->bnqk", x, w), (8, 12, 128, 64), (8, 12, 128, 64), HALF),
    "strided": (with_gradients(strided), (8, 56, 56, 64), (3, 3, 64, 128), HALF),
    "grouped": (with_gradients(grouped), (8, 27, 27, 96), (5, 5, 48, 256), HALF),
    "depthwise": (with_gradients(depthwise), (8, 56, 56, 64), (3, 3, 1, 64), HALF),
    "normalized": (normalized, (8, 56, 56, 64), (64,), FLOAT),
    "once": (looped(1), (256, 512), (512, 512), FLOAT),
    "five times": (looped(5), (256, 512), (512, 512), FLOAT),
    "nested": (lambda x, w: lax.fori_loop(0, 3, lambda _, y: looped(4)(y, w) + 1, x), (256, 512), (512, 512), FLOAT),
    "accumulated": (accumulated, (8192, 512), (512, 512), FLOAT),
    "gathered": (lambda x, w: x[w[:, 0].astype(jnp.int32)] * 2.0, (60000, 768), (4096, 1), FLOAT),
}
PLAIN = ["dot", "batched dot", "strided", "grouped", "depthwise", "normalized"]


def stablehlo(name):
    function, first, second, dtype = FUNCTIONS[name]
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in (first, second)]
    return jax.jit(function).lower(*shapes).as_text()


def summed(replicas):
    """Three tensors summed over all replicas, of which the compiler makes one exchange."""
    sums = "\n".join(
        f"""%s{i} = "stablehlo.all_reduce"(%v{i}) <{{replica_groups = dense<{[list(range(replicas))]}>
            : tensor<1x{replicas}xi64>}}> ({{
          ^bb0(%p: tensor<f32>, %q: tensor<f32>):
            %t = stablehlo.add %p, %q : tensor<f32>
            stablehlo.return %t : tensor<f32> }}) : (tensor<{size}xf32>) -> tensor<{size}xf32>"""
        for i, size in enumerate(("256x512", "512x512", "512"))
    )
    return f"""func.func @main(%a: tensor<256x512xf32>, %b: tensor<512x512xf32>, %c: tensor<512xf32>)
          -> (tensor<256x512xf32>, tensor<512x512xf32>, tensor<512xf32>) {{
        %v0 = stablehlo.tanh %a : tensor<256x512xf32>
        %v1 = stablehlo.tanh %b : tensor<512x512xf32>
        %v2 = stablehlo.tanh %c : tensor<512xf32>
        {sums}
        return %s0, %s1, %s2 : tensor<256x512xf32>, tensor<512x512xf32>, tensor<512xf32> }}"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What the compiler says of every function on every chip."""
    modules = {(name, chip): (stablehlo(name), chip) for chip in REPLICAS for name in FUNCTIONS}
    modules |= {("dot", chip): (stablehlo("dot"), chip) for chip in EVERY_CHIP}
    modules |= {("summed", chip): (summed(replicas), chip) for chip, replicas in EVERY_CHIP.items()}
    answers = compile_all(modules, tmp_path_factory.mktemp("hlo"))
    assert all(answer["outcome"] == "compiled" for answer in answers.values()), answers
    return answers


def forward_and_backward(function, name):
    """The products of a convolution, and of its two gradients, which meet the same elements."""
    _, first, second, _ = FUNCTIONS[name]
    return 3 * 2 * float(function(jnp.ones(first), jnp.ones(second)).sum())


@pytest.mark.parametrize("chip", REPLICAS)
def test_matrix_flops_are_the_closed_forms(compiled, chip):
    flops = {name: summary(compiled[name, chip]["hlo"]).matrix_flops for name in FUNCTIONS}
    once = 2 * 256 * 512 * 512
    assert flops == {
        "dot": 2 * 256 * 512 * 1024,
        "batched dot": 2 * 8 * 12 * 128 * 128 * 64,
        "strided": forward_and_backward(strided, "strided"),
        "grouped": forward_and_backward(grouped, "grouped"),
        "depthwise": forward_and_backward(depthwise, "depthwise"),
        "normalized": 0,
        "once": once,
        "five times": 5 * once,
        "nested": 12 * once,
        "accumulated": 2 * 2 * 8192 * 512 * 512,
        "gathered": 0,
    }


@pytest.mark.parametrize("chip", REPLICAS)
@pytest.mark.parametrize("name", ["batched dot", "strided", "grouped", "depthwise"])
def test_matrix_flops_are_those_of_xla(compiled, chip, name):
    """Of modules that only multiply matrices."""
    answer = compiled[name, chip]
    assert summary(answer["hlo"]).matrix_flops == pytest.approx(answer["xla_flops"], rel=1e-3)


@pytest.mark.parametrize("name", PLAIN)
def test_bytes_are_those_of_xla_where_it_counts_them_so(compiled, name):
    """On v3, without loops: the largest difference is 1e-3."""
    answer = compiled[name, "v3:2x2"]
    assert summary(answer["hlo"]).hbm_bytes == pytest.approx(answer["xla_bytes_accessed"], rel=0.01)


def test_counting_on_chip_copies_would_not_do(compiled):
    """On v5e, XLA's count is several times what moves to and from HBM."""
    for name in ("dot", "strided"):
        _, first, second, dtype = FUNCTIONS[name]
        answer = compiled[name, "v5e:2x2"]
        costs = summary(answer["hlo"])
        least = dtype(0).nbytes * (np.prod(first) + np.prod(second))
        assert least < costs.hbm_bytes < answer["xla_bytes_accessed"] / 2


@pytest.mark.parametrize("chip", REPLICAS)
def test_a_gather_reads_what_it_takes(compiled, chip):
    """Not the table, unless the compiler first copies it onto the chip: 61 MiB here, too much to be worth it."""
    assert summary(compiled["gathered", chip]["hlo"]).hbm_bytes < 60000 * 768 * 4


@pytest.mark.parametrize("chip", REPLICAS)
def test_all_loops_are_counted(compiled, chip):
    assert all(summary(compiled[name, chip]["hlo"]).unknown_loops == 0 for name in FUNCTIONS)
    # A loop of a plain count must be in the text, or this says nothing.
    assert "while(" in compiled["accumulated", chip]["hlo"]


@pytest.mark.parametrize("chip", EVERY_CHIP)
def test_sums_over_replicas(compiled, chip):
    assert summary(compiled["dot", chip]["hlo"]).matrix_flops == 2 * 256 * 512 * 1024
    costs = summary(compiled["summed", chip]["hlo"])
    assert costs.all_reduce_bytes == 4 * (256 * 512 + 512 * 512 + 512)
    assert costs.all_reduce_tensors == 3
    assert 1 <= costs.all_reduces <= 3
    assert (costs.host_transfers, costs.dynamic_shapes, costs.conditionals, costs.other_collectives) == (0, 0, 0, 0)
