"""The costs of HLO text, by samples written by hand, whose costs are plain."""

import numpy as np
import pytest

from hlo_parser import arrays
from hlo_text import Costs, executed, summary

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402

KIB = 1024


def module(entry, *others):
    """HLO text of an entry computation and others, each without its braces."""
    texts = [f"%{head} (p: f32[]) -> f32[] {{\n{body}\n}}\n" for head, body in others]
    return "HloModule m, is_scheduled=true\n\n" + "\n".join(
        [*texts, f"ENTRY %main (a: f32[]) -> f32[] {{\n{entry}\n}}"]
    )


@pytest.mark.parametrize(
    ("shape", "size_bytes", "padded_bytes", "space"),
    [
        ("f32[]", 4, 4, 0),
        ("f32[]{:T(256)}", 4, KIB, 0),
        ("u32[]{:S(2)}", 4, 4, 2),
        ("f32[8,128]{1,0:T(8,128)}", 4096, 4096, 0),
        ("f32[9,129]{1,0:T(8,128)}", 4644, 16 * 256 * 4, 0),
        ("f32[9,129]{0,1:T(8,128)}", 4644, 136 * 128 * 4, 0),
        ("bf16[3,3,64,128]{3,2,1,0:T(8,128)(2,1)S(1)}", 147456, 147456, 1),
        ("bf16[5,7]{1,0:T(8,128)(2,1)}", 70, 2048, 0),
        ("pred[100]{0:T(1024)(128)(4,1)}", 100, 1024, 0),
        ("f32[7]{0:T(8,128)}", 28, 4096, 0),
        ("s4[10]", 5, 5, 0),
        ("f8e4m3fn[10]", 10, 10, 0),
        ("c64[2]", 16, 16, 0),
        ("f32[0,4]", 0, 0, 0),
    ],
)
def test_shapes(shape, size_bytes, padded_bytes, space):
    (array,) = arrays(shape)
    assert (array.size_bytes, array.padded_bytes, array.space) == (size_bytes, padded_bytes, space)


def test_nested_tuples_and_dynamic_shapes():
    parts = arrays("((f32[2]{0}, s32[<=4,3]{1,0}), token[])")
    assert [part.size_bytes for part in parts] == [8, 48, 0]
    assert [part.is_dynamic for part in parts] == [False, True, False]


def test_text_that_is_no_hlo():
    with pytest.raises(ValueError, match="no entry computation"):
        summary("nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        summary(module("  ROOT %r = f32[2]{0}"))


def test_bytes_of_plain_instructions():
    """Names for values cost nothing; an operation reads its operands and writes its result."""
    costs = summary(
        module("""  %a = f32[256]{0} parameter(0)
  %t = (f32[256]{0}, f32[256]{0}) tuple(%a, %a)
  %g = f32[256]{0} get-tuple-element(%t), index=1
  %b = f32[16,16]{1,0} bitcast(%g)
  %c = f32[] constant(2)
  %d = f32[16,16]{1,0} broadcast(%c), dimensions={}
  ROOT %r = f32[16,16]{1,0} add(%b, %d), metadata={op_name="no/add(%x)"}""")
    )
    assert costs == Costs(hbm_read_bytes=4 + 2 * KIB, hbm_written_bytes=2 * KIB)


def test_memory_on_the_chip_is_not_counted():
    """A copy that begins and ends apart counts once: it reads HBM, and the addition writes it."""
    text = module("""  %a = f32[256]{0} parameter(0)
  %s = (f32[256]{0:S(1)}, f32[256]{0}, u32[]{:S(2)}) copy-start(%a)
  %d = f32[256]{0:S(1)} copy-done(%s)
  ROOT %r = f32[256]{0} negate(%d)""")
    assert summary(text) == Costs(hbm_read_bytes=KIB, hbm_written_bytes=KIB)
    assert summary(text.replace("S(1)", "S(0)")) == Costs(hbm_read_bytes=2 * KIB, hbm_written_bytes=2 * KIB)
    assert summary(text.replace("S(1)", "S(5)")).host_transfers == 1


def test_only_the_part_counts_that_is_used():
    plain = summary(
        module("""  %a = f32[1000,256]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %u = f32[1,256]{1,0} parameter(2)
  %n = s32[8]{0} parameter(3)
  %v = f32[8,256]{1,0} parameter(4)
  %l = f32[4,256]{1,0} slice(%a), slice={[0:4], [0:256]}
  %d = f32[2,256]{1,0} dynamic-slice(%a, %i, %i), dynamic_slice_sizes={2,256}
  %g = f32[8,256]{1,0} gather(%a, %n), offset_dims={1}
  %w = f32[1000,256]{1,0} dynamic-update-slice(%a, %u, %i, %i)
  ROOT %r = f32[1000,256]{1,0} scatter(%w, %n, %v), to_apply=%add""")
    )
    read = 4 + (2 + 8 / KIB) + (8 + 32 / KIB) + (1 + 8 / KIB) + (8 + 8 + 32 / KIB)
    assert plain == Costs(hbm_read_bytes=read * KIB, hbm_written_bytes=(4 + 2 + 8 + 1 + 8) * KIB)


def test_a_fusion_that_updates_in_place():
    """The update is computed, so its operand is read; the rest of the big operand stays where it is."""
    text = module(
        """  %a = f32[1000,256]{1,0} parameter(0)
  %u = f32[1,256]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %r = f32[1000,256]{1,0} fusion(%a, %u, %i), kind=kLoop, calls=%f""",
        (
            "f",
            """  %p = f32[1000,256]{1,0} parameter(0)
  %q = f32[1,256]{1,0} parameter(1)
  %j = s32[] parameter(2)
  %n = f32[1,256]{1,0} negate(%q)
  ROOT %w = f32[1000,256]{1,0} dynamic-update-slice(%p, %n, %j, %j)""",
        ),
    )
    assert summary(text) == Costs(hbm_read_bytes=KIB + 4, hbm_written_bytes=KIB)
    # A result of another value than the operand is written whole.
    other = text.replace(
        "%n = f32[1,256]{1,0} negate(%q)", "%n = f32[1,256]{1,0} negate(%q)\n  %m = f32[1000,256]{1,0} negate(%p)"
    )
    other = other.replace("update-slice(%p", "update-slice(%m")
    assert summary(other) == Costs(hbm_read_bytes=1001 * KIB + 4, hbm_written_bytes=1001 * KIB - KIB)


def test_a_fusion_that_slices_also_through_inner_ones():
    inner = ("inner", "  %p = f32[1000,256]{1,0} parameter(0)\n  ROOT %b = f32[1000,256]{1,0} bitcast(%p)")
    body = """  %p = f32[1000,256]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[1000,256]{1,0} fusion(%p), kind=kLoop, calls=%inner
  ROOT %w = f32[2,256]{1,0} dynamic-slice(%b, %i, %i), dynamic_slice_sizes={2,256}"""
    entry = """  %a = f32[1000,256]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %r = f32[2,256]{1,0} fusion(%a, %i), kind=kLoop, calls=%f"""
    assert summary(module(entry, inner, ("f", body))) == Costs(hbm_read_bytes=2 * KIB + 4, hbm_written_bytes=2 * KIB)
    # Whatever else uses the operand needs all of it.
    more = body.replace("  ROOT", "  %n = f32[] reduce(%b, %i), dimensions={0,1}\n  ROOT")
    assert summary(module(entry, inner, ("f", more))).hbm_read_bytes == 1000 * KIB + 4


def loop_text(start="0", step="1", bound="7", direction="LT", order="%g, %n", extra=""):
    """A loop whose body adds 256 numbers in HBM, to which the counter is added in other memory."""
    return module(
        f"""  %a = f32[256]{{0}} parameter(0)
  %z = s32[]{{:S(6)}} constant({start})
  %zz = s32[]{{:S(6)}} copy(%z)
  %l = s32[]{{:S(6)}} constant({bound})
  %t = (s32[]{{:S(6)}}, f32[256]{{0}}, /*index=2*/s32[]{{:S(6)}}) tuple(%zz, %a, %l)
  %w = (s32[]{{:S(6)}}, f32[256]{{0}}, s32[]{{:S(6)}}) while(%t), condition=%cond, body=%body
  ROOT %r = f32[256]{{0}} get-tuple-element(%w), index=1""",
        (
            "body",
            f"""  %s = (s32[]{{:S(6)}}, f32[256]{{0}}, s32[]{{:S(6)}}) parameter(0)
  %g = s32[]{{:S(6)}} get-tuple-element(%s), index=0
  %v = f32[256]{{0}} get-tuple-element(%s), index=1
  %n = s32[]{{:S(6)}} get-tuple-element(%s), index=2
  %o = s32[]{{:S(6)}} constant({step})
  %h = s32[]{{:S(6)}} add(%g, %o)
  %u = f32[256]{{0}} add(%v, %v){extra}
  ROOT %q = (s32[]{{:S(6)}}, f32[256]{{0}}, s32[]{{:S(6)}}) tuple(%h, %u, %n)""",
        ),
        (
            "cond",
            f"""  %s = (s32[]{{:S(6)}}, f32[256]{{0}}, s32[]{{:S(6)}}) parameter(0)
  %g = s32[]{{:S(6)}} get-tuple-element(%s), index=0
  %n = s32[]{{:S(6)}} get-tuple-element(%s), index=2
  ROOT %c = pred[]{{:S(6)}} compare({order}), direction={direction}""",
        ),
    )


def python_rounds(start, step, bound, direction):
    """How often the loop would run, or None."""
    holds = {"LT": int.__lt__, "LE": int.__le__, "GT": int.__gt__, "GE": int.__ge__, "NE": int.__ne__}[direction]
    for count in range(1000):
        if not holds(start + count * step, bound):
            return count
    return None


@pytest.mark.parametrize("direction", ["LT", "LE", "GT", "GE", "NE"])
def test_a_body_counts_as_often_as_it_runs(direction):
    flipped = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE", "NE": "NE"}[direction]
    for start, step, bound in [(0, 1, 7), (2, 3, 11), (7, -1, 0), (0, 1, 0), (5, 1, 3), (-4, 2, 4), (9, -3, 0)]:
        count = python_rounds(start, step, bound, direction)
        for order, sign in (("%g, %n", direction), ("%n, %g", flipped)):
            costs = summary(loop_text(start, step, bound, sign, order))
            assert costs.unknown_loops == (count is None)
            assert costs.hbm_bytes == 3 * KIB * (1 if count is None else count), (start, step, bound, sign, order)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # A bound that the body changes, one that no text tells, a step that is none, and another condition.
        ("tuple(%h, %u, %n)", "tuple(%h, %u, %h)"),
        ("tuple(%h, %u, %n)", "tuple(%h, %u, %g)"),
        ("%l = s32[]{:S(6)} constant(7)", "%l = s32[]{:S(6)} parameter(1)"),
        ("add(%g, %o)", "multiply(%g, %o)"),
        ("compare(%g, %n), direction=LT", "is-finite(%g)"),
    ],
)
def test_a_loop_that_cannot_be_counted_is_reported(old, new):
    assert old in loop_text()
    costs = summary(loop_text().replace(old, new))
    assert costs.unknown_loops == 1
    assert costs.hbm_bytes == 3 * KIB


def test_loops_in_loops():
    text = loop_text(bound="3")
    outer = text.replace("%body", "%outer_body").replace("%cond", "%outer_cond").split("\n", 2)[2]
    inner = text.replace("ENTRY %main", "%called").split("\n", 2)[2]
    outer = outer.replace("f32[256]{0} add(%v, %v)", "f32[256]{0} call(%v), to_apply=%called")
    costs = summary(f"HloModule m\n\n{inner}\n\n{outer}")
    assert costs.hbm_bytes == 9 * 3 * KIB


ADD = ("add", "  %x = f32[] parameter(0)\n  %y = f32[] parameter(1)\n  ROOT %z = f32[] add(%x, %y)")


def test_all_reduces():
    """One of two tensors is one, whose sums may have more bits than what is added.

    Begun and ended apart, it counts once; over groups of one replica, it is none.
    """
    entry = """  %a = f32[100]{0:T(256)} parameter(0)
  %b = bf16[10]{0:T(256)} parameter(1)
  %c = (f32[100]{0:T(256)}, f32[10]{0:T(256)}) all-reduce(%a, %b), replica_groups={{0,1,2,3}}, to_apply=%add
  %s = f32[100]{0:T(256)} all-reduce-start(%a), replica_groups={}, to_apply=%add
  ROOT %r = f32[100]{0:T(256)} all-reduce-done(%s)"""
    costs = summary(module(entry, ADD))
    assert (costs.all_reduces, costs.all_reduce_tensors, costs.all_reduce_bytes) == (2, 3, 400 + 40 + 400)
    assert costs.hbm_bytes == (KIB + 512 + KIB) + (KIB + KIB + KIB)
    assert summary(module(entry.replace("{{0,1,2,3}}", "{{0},{1},{2},{3}}"), ADD)).all_reduces == 1
    assert summary(module(entry.replace("{{0,1,2,3}}", "{{0,1},{2,3}}"), ADD)).all_reduces == 2
    assert summary(module(entry.replace("all-reduce(", "reduce-scatter("), ADD)).other_collectives == 1


def test_what_a_step_should_not_have():
    costs = summary(
        module(
            """  %a = f32[256]{0} parameter(0)
  %p = pred[] parameter(1)
  %t = token[] after-all()
  %i = (f32[256]{0}, token[]) infeed(%t)
  %o = token[] outfeed(%a, %t)
  %d = f32[<=256]{0} negate(%a)
  ROOT %r = f32[256]{0} conditional(%p, %a, %a), branch_computations={%small, %large}""",
            ("small", "  ROOT %x = f32[256]{0} parameter(0)"),
            ("large", "  %x = f32[256]{0} parameter(0)\n  ROOT %n = f32[256]{0} negate(%x)"),
        )
    )
    assert (costs.host_transfers, costs.dynamic_shapes, costs.conditionals) == (2, 1, 1)
    # The infeed writes, the outfeed and the two negations read and write: the larger branch counts.
    assert costs.hbm_bytes == (1 + 1 + 2 + 2) * KIB


def test_dot_products():
    costs = summary(
        module("""  %a = f32[4,6,8]{2,1,0} parameter(0)
  %b = f32[4,8,5]{2,1,0} parameter(1)
  ROOT %r = f32[4,6,5]{2,1,0} dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}""")
    )
    assert costs.matrix_flops == 2 * np.einsum("bij,bjk->", np.ones((4, 6, 8)), np.ones((4, 8, 5)))


CONVOLUTIONS = [
    # Image, kernel, stride, padding, dilations of the image and the kernel, groups of features and of the batch.
    ((2, 9, 7, 4), (3, 3, 4, 5), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1, 1),
    ((2, 9, 7, 4), (3, 2, 4, 5), (2, 3), ((0, 1), (2, 0)), (1, 1), (1, 1), 1, 1),
    ((1, 9, 7, 4), (3, 3, 4, 6), (1, 1), ((2, 1), (2, 1)), (2, 3), (1, 1), 1, 1),
    ((1, 9, 8, 4), (3, 3, 4, 6), (1, 2), ((2, 2), (3, 0)), (1, 1), (2, 3), 1, 1),
    ((2, 9, 7, 4), (3, 3, 2, 6), (1, 1), ((-1, 1), (1, -2)), (1, 1), (1, 1), 2, 1),
    ((4, 9, 7, 4), (3, 3, 4, 6), (1, 1), ((1, 1), (1, 1)), (2, 1), (1, 2), 1, 2),
]


def convolve(image, kernel, stride, padding, image_dilation, kernel_dilation, feature_groups, batch_groups):
    """JAX's convolution."""
    return lax.conv_general_dilated(
        image,
        kernel,
        stride,
        padding,
        lhs_dilation=image_dilation,
        rhs_dilation=kernel_dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=feature_groups,
        batch_group_count=batch_groups,
    )


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(case):
    """Of ones, the sum of the result is the number of products: JAX on a CPU is the oracle."""
    image, kernel, *settings = case
    stride, padding, image_dilation, kernel_dilation, feature_groups, batch_groups = settings
    result = convolve(jnp.ones(image), jnp.ones(kernel), *settings)
    window = {
        "size": "x".join(map(str, kernel[:2])),
        "stride": "x".join(map(str, stride)),
        "pad": "x".join(f"{low}_{high}" for low, high in padding),
        "lhs_dilate": "x".join(map(str, image_dilation)),
        "rhs_dilate": "x".join(map(str, kernel_dilation)),
    }
    groups = f"feature_group_count={feature_groups}, batch_group_count={batch_groups}"

    def shape(sizes):
        return f"f32[{','.join(map(str, sizes))}]{{3,2,1,0}}"

    text = module(
        f"  %a = {shape(image)} parameter(0)\n  %b = {shape(kernel)} parameter(1)\n"
        f"  ROOT %r = {shape(result.shape)} convolution(%a, %b), "
        f"window={{{' '.join(f'{name}={value}' for name, value in window.items())}}}, "
        f"dim_labels=b01f_01io->b01f, {groups}"
    )
    assert summary(text).matrix_flops == 2 * float(result.sum())


def test_executed_instructions_say_where_they_come_from():
    text = loop_text(bound="3", extra=', metadata={op_name="model/dense/add (1)"}')
    (addition,) = [entry for entry in executed(text) if entry.name == "u"]
    assert (addition.opcode, addition.origin, addition.times) == ("add", "model/dense/add (1)", 3)
    assert addition.costs.hbm_bytes == 3 * KIB
    assert sum((entry.costs * entry.times for entry in executed(text)), Costs()) == summary(text)
