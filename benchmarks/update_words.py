"""Counts the memory traffic of the update alone, as the TPU's own compiler would run it, for wide and narrow moments.

    python benchmarks/update_words.py [--json FILE]

In words of 4 bytes for each parameter of BERT-Base, without a TPU; see tpu/aot.py. Where neither weight nor moments
stay on the chip, an update cannot do with less than 10 words, 8.5 with a bfloat16 first moment, 7 with two. A ratio is
to that floor. Gradients are not clipped by their global norm, which would read them once more.
"""

import argparse
import functools
import sys
from concurrent.futures import ThreadPoolExecutor

import cases
from interleaved import OtherLoad
from machine import ROOT

CONFIG = ROOT / "configs" / "bert" / "base_lamb_4096.yaml"
TOPOLOGIES = ("v3:4x4", "v4:2x2x4", "v5e:4x4")
# The dtypes of the moments, and the least words a parameter.
MOMENTS = {
    "float32 moments": ("float32", 10.0),
    "bfloat16 m, float32 v": ("[bfloat16, float32]", 8.5),
    "bfloat16 moments": ("bfloat16", 7.0),
}
PACKAGES = ("tensorflow", "tf-models-official", "jax", "libtpu")


def main():
    """Compiles every update for every chip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases.add_arguments(parser)
    arguments = parser.parse_args()
    measured = []
    for topology in TOPOLOGIES[: 1 if arguments.quick else None]:
        with OtherLoad() as load, ThreadPoolExecutor(2) as pool:
            rows = list(pool.map(functools.partial(measure, topology), MOMENTS))
        measured.append(cases.make(f"update of BERT-base compiled for {topology}", "words", rows, {}, load))
    cases.finish("update_words", PACKAGES, measured, arguments)


def measure(topology, name):
    """The row of an update."""
    sys.path.insert(0, str(ROOT / "tpu"))
    import config
    import recipe as recipes
    import slice_plan
    from tpu_chips import parse_topology

    moment_dtype, floor = MOMENTS[name]
    overrides = ["optimizer.global_clipnorm=null", f"optimizer.moment_dtype={moment_dtype}"]
    recipe = recipes.Recipe(config.load(CONFIG, recipes.schema_of, overrides))
    topology = parse_topology(topology)
    stage = recipe.stages(topology.replicas)[0]
    words = slice_plan.plan_update(recipe, stage, topology).words_per_parameter
    return {"name": name, "value": words, "spread": 0.0, "ratio": words / floor}


if __name__ == "__main__":
    cases.run(main)
