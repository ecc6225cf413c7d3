"""Times one update of all variables of a model, nothing else: LAMB of this package, its peers and a floor in C.

    python benchmarks/update.py [--models BERT-base ResNet-50] [--moments float32 bfloat16] [--json FILE]

The gradients are there, and the same for all. As the memory that a process was given can make it some tenth faster or
slower, most models are measured in several, one after the other. A ratio is to the floor: two passes over the memory in
C with all cores, ten words a parameter (seven with bfloat16 moments); without a C compiler it is to this package in
one XLA computation. Only this package has bfloat16 moments; on a CPU they are always one XLA computation.
"""

import argparse
import functools
import json
from concurrent.futures import ThreadPoolExecutor

import cases
import child
from interleaved import OtherLoad, summarize, time_in_turns
from model_shapes import MODELS

PACKAGES = ("tensorflow", "keras", "tf-models-official", "jax", "optax", "torch", "torch-optimizer")
FLOOR, OURS, GRAPH, XLA = "floor in C", "tf_lamb", "in a tf.function", "in an XLA step"
# How many processes for each model, most of whose time goes into compiling, and the rounds in each.
PROCESSES = {"BERT-tiny": 2, "BERT-base": 2, "BERT-large": 1, "ResNet-50": 2}
ROUNDS = {"BERT-tiny": 30, "BERT-base": 8, "BERT-large": 12, "ResNet-50": 16}
ALL_OURS = (OURS, f"{OURS}, {GRAPH}", f"{OURS}, {XLA}")
KERAS = (f"keras Lamb, {XLA}", f"keras Lamb, {GRAPH}", "keras Lamb")
OTHERS = (f"Model Garden LAMB, {GRAPH}", "optax.lamb, jitted", "torch_optimizer Lamb", f"keras Adam, {XLA}")
# Those that take turns, with the floor: of a large model not all fit into 20 GB at once, with four copies of the
# weights each, of 0.4 GB in BERT-base and 1.3 GB in BERT-large.
GROUPS = {
    "BERT-base": (ALL_OURS + KERAS, OTHERS),
    "BERT-large": tuple((name,) for name in (OURS, f"{OURS}, {XLA}", f"keras Lamb, {XLA}")),
}


def makers(moments):
    """A dictionary of names to functions of weights and gradients that make a step; see contenders.py."""
    import keras

    import contenders
    import floor
    import tf_lamb

    own = functools.partial(tf_lamb.LAMB, **({} if moments == "float32" else {"moment_dtype": moments}))
    adam, lamb = contenders.adam_apply, keras.optimizers.Lamb

    def step(apply, compiled=None):
        return lambda weights, gradients: contenders.tensorflow_step(apply(weights), gradients, compiled)

    def of_keras(make):
        return lambda weights: contenders.keras_apply(make, weights)

    ours = {
        FLOOR: lambda weights, gradients: floor.make_step(weights, gradients, moments, **contenders.OPTIONS)[0],
        OURS: step(of_keras(own)),
        f"{OURS}, {GRAPH}": step(of_keras(own), compiled=False),
        f"{OURS}, {XLA}": step(of_keras(own), compiled=True),
    }
    return ours | {
        f"keras Lamb, {XLA}": step(of_keras(lamb), compiled=True),
        f"keras Lamb, {GRAPH}": step(of_keras(lamb), compiled=False),
        "keras Lamb": step(of_keras(lamb)),
        f"Model Garden LAMB, {GRAPH}": step(contenders.model_garden_apply, compiled=False),
        "optax.lamb, jitted": contenders.optax_lamb,
        "torch_optimizer Lamb": contenders.torch_optimizer_lamb,
        f"keras Adam, {XLA}": step(adam, compiled=True),
    }


def main():
    """Times every model with every kind of moments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="(default: all)")
    parser.add_argument("--moments", nargs="+", choices=("float32", "bfloat16"), default=("float32", "bfloat16"))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    cases.add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.one:
        model, moments, place = arguments.one
        print(json.dumps(measure_group(model, moments, int(place))))
        return
    models = ["BERT-tiny"] if arguments.quick else arguments.models
    measured = []
    for model in models:
        for moments in arguments.moments:
            with OtherLoad() as load:
                rows, missing = measure(model, moments, 1 if arguments.quick else PROCESSES[model])
            measured.append(cases.make(f"update of {model}, {moments} moments", "seconds", rows, missing, load))
    cases.finish("update", PACKAGES, measured, arguments)


def measure(model, moments, processes):
    """The rows of a model, of so many processes a group, and why others have none."""
    of_groups, missing = [{} for _ in groups(model, moments)], {}
    for _ in range(processes):
        for place, seconds in enumerate(of_groups):
            # What was freed is not given back to the system: each group has a process of its own.
            answer = child.ask(__file__, "--one", model, moments, place)
            missing |= answer["missing"]
            for name, values in answer["seconds"].items():
                seconds.setdefault(name, []).extend(values)
    rows = {}
    for seconds in of_groups:
        for row in summarize(seconds, FLOOR if FLOOR in seconds else f"{OURS}, {XLA}"):
            rows.setdefault(row["name"], row)
    return list(rows.values()), missing


def groups(model, moments):
    """Those that take turns: a list of lists of names."""
    if moments != "float32":
        return [[FLOOR, OURS]]
    return [[FLOOR, *group] for group in GROUPS.get(model, (ALL_OURS + KERAS + OTHERS,))]


def measure_group(model, moments, place):
    """The seconds of a group in each round by their names, and why others have none, as a dictionary."""
    from contenders import arrays

    weights, gradients = arrays(MODELS[model]())
    make, steps, missing = makers(moments), {}, {}
    for name in groups(model, moments)[place]:
        try:
            steps[name] = make[name](weights, gradients)
        except (ImportError, RuntimeError) as error:
            missing[name] = str(error)
    if FLOOR not in steps and f"{OURS}, {XLA}" not in steps:
        steps[f"{OURS}, {XLA}"] = make[f"{OURS}, {XLA}"](weights, gradients)
    with ThreadPoolExecutor(2) as pool:  # compiling takes one core each
        list(pool.map(lambda step: step(), steps.values()))
    return {"seconds": time_in_turns(steps, ROUNDS[model], warmups=1), "missing": missing}


if __name__ == "__main__":
    cases.run(main)
