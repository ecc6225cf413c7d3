"""The chips are those that are published, and the slices those that exist."""

import pytest
from compiled_hlo import compile_all

from config import ConfigError
from tpu_chips import CHIPS, parse_topology


@pytest.mark.parametrize(
    ("text", "chips", "replicas"),
    [
        ("v2:16x16", 256, 512),
        ("v3:1x1", 1, 2),
        ("v3:32x32", 1024, 2048),
        ("v3:2x4", 8, 16),
        ("v4:2x2x4", 16, 16),
        ("v4:16x16x16", 4096, 4096),
        ("v4:2x2x64", 256, 256),
        ("v5e:4x8", 32, 32),
        ("v5p:16x20x28", 8960, 8960),
        (" v6e:16x16\n", 256, 256),
    ],
)
def test_slices(text, chips, replicas):
    topology = parse_topology(text)
    assert (topology.chips, topology.replicas) == (chips, replicas)
    assert parse_topology(topology.name) == topology


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Received: ''. Expected for example v3:32x32"),
        ("v3", "Received: 'v3'. Expected for example v3:32x32"),
        ("v3-2048", "Received: 'v3-2048'. Expected for example v3:32x32"),
        ("v3:0x4", "Received: 'v3:0x4'"),
        ("v3:4x", "Received: 'v3:4x'"),
        ("v3:4X4", "Received: 'v3:4X4'"),
        ("v1:4x4", "Received: 'v1' in 'v1:4x4'. Expected one of: v2, v3, v4, v5e, v5p, v6e."),
        ("v3:4x4x4", "v3 is wired in 2 dimensions. Received: 'v3:4x4x4' with 3. Expected for example v3:4x4."),
        ("v4:4x4", "v4 is wired in 3 dimensions. Received: 'v4:4x4' with 2. Expected for example v4:4x4x4."),
        ("v2:16x32", "Received: 'v2:16x32' with 512 chips. Expected at most v2:16x16, 256 chips."),
        ("v5e:2x32", "Expected at most v5e:16x16, 256 chips."),
        ("v4:16x16x18", "Expected at most v4:16x16x16, 4,096 chips."),
        ("v3:3x4", "Received: 'v3:3x4'. Expected even numbers in the first two dimensions, or 1."),
        ("v5p:2x3x4", "Received: 'v5p:2x3x4'. Expected even numbers"),
    ],
)
def test_other_slices_are_errors(text, message):
    with pytest.raises(ConfigError) as error:
        parse_topology(text)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "pod_flops_per_second", "pod_all_reduce_bytes_per_second"),
    [
        # What Google publishes of whole pods.
        ("v2", 11.5e15, None),
        ("v3", 126e15, 340e12),
        ("v4", 1.1e18, 1.1e15),
        ("v5e", 50.63e15, 51.2e12),
        ("v6e", 234.9e15, 102.4e12),
    ],
)
def test_a_pod_is_the_sum_of_its_chips(name, pod_flops_per_second, pod_all_reduce_bytes_per_second):
    pod = parse_topology(f"{name}:{'x'.join(map(str, CHIPS[name].largest_pod))}")
    assert pod.chips * pod.chip.peak_flops_per_second == pytest.approx(pod_flops_per_second, rel=0.03)
    if pod_all_reduce_bytes_per_second:
        # The paper on v4 has 50 GB/s for a link, the documentation 45.
        assert pod.chips * pod.chip.ici_bytes_per_second == pytest.approx(pod_all_reduce_bytes_per_second, rel=0.12)


def test_cores_share_their_chip():
    chip = CHIPS["v3"]
    assert chip.peak_flops_per_second_per_core == 61.5e12
    assert chip.hbm_bytes_per_core == 16 * 2**30
    assert chip.hbm_bytes_per_second_per_core == 450e9
    assert CHIPS["v4"].hbm_bytes_per_core == 32 * 2**30


def test_every_number_has_a_source():
    assert all("Jouppi" in chip.source or "https://" in chip.source for chip in CHIPS.values())


@pytest.mark.aot
def test_the_compiler_knows_these_chips(tmp_path):
    """How many cores a slice has, and what a program may use of a core's memory, are libtpu's own figures."""
    pytest.importorskip("libtpu")
    names = ["v2:2x2", "v3:2x2", "v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "v3:32x32", "v4:2x2x4", "v3:1x2"]
    # 120 GiB, which is in no memory.
    text = """func.func @main(%x: tensor<30x32768x32768xf32>) -> tensor<30x32768x32768xf32> {
      %0 = stablehlo.tanh %x : tensor<30x32768x32768xf32>
      return %0 : tensor<30x32768x32768xf32> }"""
    for name, answer in compile_all({name: (text, name) for name in names}, tmp_path).items():
        # A wrong number of cores would be the outcome "topology".
        assert answer["outcome"] == "memory", (name, answer)
        usable = CHIPS[name.partition(":")[0]].usable_hbm_bytes_per_core / 2**30
        assert f"exceeds available HBM ({usable:.2f}G)" in answer["message"], (name, answer)
