"""Times what the features of the optimizer add to a plain update: telemetry, skipping, clipping, masters and others.

    python benchmarks/features.py [--models BERT-base] [--json FILE]

A ratio is to the plain update, both called from Python and with the same gradients. As the memory that a process was
given can make either faster by more than some features cost, each is measured in several. Telemetry takes the global
gradient norm only once in `telemetry_every_steps` updates, and so many updates are one call here. Accumulation over
four calls is one call here, too, and is compared with one plain update: three calls only add.
"""

import argparse
import functools
import json

import cases
import child
from interleaved import OtherLoad, summarize, time_in_turns
from model_shapes import MODELS

PACKAGES = ("tensorflow", "keras")
PLAIN = "plain update"
TELEMETRY_EVERY = 10
ACCUMULATED = 4
ROUNDS, PROCESSES = {"BERT-tiny": 10, "BERT-base": 6, "BERT-large": 4, "ResNet-50": 8}, 2
# For each feature: the options, and the dtype of the variables.
FEATURES = {
    "telemetry": ({"telemetry": True, "telemetry_every_steps": TELEMETRY_EVERY}, "float32"),
    "skip_nonfinite": ({"skip_nonfinite": True}, "float32"),
    "dynamic_loss_scale": ({"dynamic_loss_scale": True}, "float32"),
    "global_clipnorm": ({"global_clipnorm": 1.0}, "float32"),
    "clipnorm": ({"clipnorm": 1.0}, "float32"),
    "use_ema": ({"use_ema": True}, "float32"),
    "bfloat16 moments": ({"moment_dtype": "bfloat16"}, "float32"),
    "bfloat16 variables": ({}, "bfloat16"),
    "bfloat16 variables with master_weights": ({"master_weights": True}, "bfloat16"),
    f"gradient_accumulation_steps={ACCUMULATED}": ({"gradient_accumulation_steps": ACCUMULATED}, "float32"),
}
# Those that take turns with a plain update, a process each.
GROUPS = (
    ("telemetry",),
    ("skip_nonfinite", "dynamic_loss_scale", "global_clipnorm", "clipnorm"),
    ("use_ema", "bfloat16 moments", f"gradient_accumulation_steps={ACCUMULATED}"),
    ("bfloat16 variables", "bfloat16 variables with master_weights"),
)


def main():
    """Times every feature on every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["BERT-base"], help="(default: BERT-base)")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    cases.add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.one:
        model, *features = arguments.one
        print(json.dumps(measure(model, features)))
        return
    models, processes = (["BERT-tiny"], 1) if arguments.quick else (arguments.models, PROCESSES)
    measured = []
    for model in models:
        seconds = {feature: {} for feature in FEATURES}
        with OtherLoad() as load:
            for features in GROUPS * processes:
                answer = child.ask(__file__, "--one", model, *features)
                for feature in features:
                    for name in (PLAIN, feature):
                        seconds[feature].setdefault(name, []).extend(answer[name])
        rows = []
        for pair in seconds.values():
            rows += summarize(pair, PLAIN)[bool(rows) :]
        measured.append(cases.make(f"features on {model}", "seconds", rows, {}, load))
    cases.finish("features", PACKAGES, measured, arguments)


def measure(model, features):
    """The seconds of an update in each round by their names: of a plain one and with each feature."""
    import contenders
    import tf_lamb

    weights, gradients = contenders.arrays(MODELS[model]())
    updates = max(FEATURES[feature][0].get("telemetry_every_steps", 1) for feature in features)
    steps = {}
    for name, (options, dtype) in {PLAIN: ({}, "float32"), **{name: FEATURES[name] for name in features}}.items():
        apply = contenders.keras_apply(functools.partial(tf_lamb.LAMB, **options), weights, dtype)
        step = contenders.tensorflow_step(apply, gradients, dtype=dtype)
        steps[name] = repeated(step, updates * options.get("gradient_accumulation_steps", 1))
    seconds = time_in_turns(steps, ROUNDS[model])
    return {name: [value / updates for value in values] for name, values in seconds.items()}


def repeated(step, times):
    """A function that calls another so often."""

    def steps():
        for _ in range(times):
            step()

    return steps


if __name__ == "__main__":
    cases.run(main)
