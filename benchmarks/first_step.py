"""Counts and times what comes before the first update: nodes of the traced graph, tracing, compiling.

    python benchmarks/first_step.py [--json FILE]

For a model of 400 small variables (100 with --quick), and each package in a process of its own: nodes a variable in
the graph of a training step that only updates, with the functions it calls; seconds to trace it, and seconds of its
first call less those of its second. A ratio is to tf_lamb of the same kind.
"""

import argparse
import json
import statistics
import time

import cases
import child
from interleaved import OtherLoad, compare

PACKAGES = ("tensorflow", "keras", "tf-models-official")
VARIABLES, FEWER = 400, 100
KINDS = ("tf_lamb", "keras Lamb", "Model Garden LAMB")
COMPILED = {"in a tf.function": False, "in an XLA step": True}


def main():
    """Measures every package in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="how many processes of each (default: 2)")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "VARIABLES"), help=argparse.SUPPRESS)
    cases.add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.one:
        name, variables = arguments.one
        print(json.dumps({where: measure(name, compiled, int(variables)) for where, compiled in COMPILED.items()}))
        return
    variables, rounds = (FEWER, 1) if arguments.quick else (VARIABLES, arguments.rounds)
    answers, measured = {name: [] for name in KINDS}, []
    with OtherLoad() as load:
        for _ in range(rounds):
            for name in KINDS:
                answers[name].append(child.ask(__file__, "--one", name, variables))
    for where in COMPILED:
        for quantity in ("nodes a variable", "seconds to trace", "seconds of the first call"):
            values = {name: [answer[where][quantity] for answer in of_name] for name, of_name in answers.items()}
            rows = compare(values, statistics.median)
            measured.append(cases.make(f"{quantity}, {variables} variables, {where}", quantity, rows, {}, load))
    cases.finish("first_step", PACKAGES, measured, arguments)


def measure(name, compiled, variables):
    """Traces and runs a step twice."""
    import keras
    import numpy as np
    import tensorflow as tf

    import contenders
    import tf_lamb

    weights = [np.full((2, 3), 0.1, "float32")] * variables
    make = {"tf_lamb": tf_lamb.LAMB, "keras Lamb": keras.optimizers.Lamb}
    garden = name not in make
    apply = contenders.model_garden_apply(weights) if garden else contenders.keras_apply(make[name], weights)
    gradients = [tf.constant(w) for w in weights]
    step = tf.function(apply, jit_compile=compiled, autograph=False)
    begin = time.perf_counter()
    concrete = step.get_concrete_function(gradients)
    traced = time.perf_counter()
    step(gradients)
    first = time.perf_counter()
    step(gradients)
    second = time.perf_counter()
    graph = concrete.graph.as_graph_def()
    nodes = len(graph.node) + sum(len(function.node_def) for function in graph.library.function)
    return {
        "nodes a variable": nodes / variables,
        "seconds to trace": traced - begin,
        "seconds of the first call": (first - traced) - (second - first),
    }


if __name__ == "__main__":
    cases.run(main)
