"""Pre-trains BERT with LAMB, in stages, from a YAML config.

    python tpu/train_bert.py --config_file configs/bert/tiny.yaml --data_dir DATA --model_dir RUN

DATA is a folder that prepare_bert_data.py wrote. RUN receives the resolved config, checkpoints, TensorBoard summaries
and the results on the held-out documents. The same command continues a run that was interrupted.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import bert_manifest
import strategy as strategies
from atomic_file import atomic_path
from bert_config import PretrainConfig
from config import CHECKPOINTS, ConfigError, claim_folder, load
from config import add_arguments as add_config_arguments


def parse_arguments(argv):
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    parser.add_argument("--data_dir", required=True, help="the folder that prepare_bert_data.py wrote")
    parser.add_argument("--model_dir", required=True, help="the folder of the run, created when missing")
    strategies.add_arguments(parser)
    return parser.parse_args(argv)


def main(argv=None):
    """Trains in stages, then evaluates on the held-out documents.

    Returns:
        The exit code: 0, 2 for input that cannot be used, 130 when interrupted.
    """
    arguments = parse_arguments(argv)
    try:
        config = load(arguments.config_file, PretrainConfig, arguments.overrides)
        manifest = bert_manifest.load(arguments.data_dir)
        bert_manifest.check_covers(manifest, config.stages)
        strategy = strategies.make(arguments.strategy, arguments.cpu_replicas, arguments.tpu)
        for size in (*(stage.global_batch_size for stage in config.stages), config.run.eval_global_batch_size):
            strategies.per_replica_batch_size(size, strategy)
        claim_folder(arguments.model_dir, config)
        bert_manifest.claim_folder(manifest, arguments.model_dir)
        run(config, manifest, strategy, Path(arguments.data_dir), Path(arguments.model_dir))
    except ConfigError as error:
        print(f"train_bert: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntrain_bert: interrupted; the same command continues from the newest checkpoint.", file=sys.stderr)
        return 130
    return 0


def run(config, manifest, strategy, data_dir, model_dir):
    """Trains a run to its end from wherever it stands, and writes `held_out.json`.

    Args:
        config: The `PretrainConfig`.
        manifest: The `bert_manifest.Manifest` of the data.
        strategy: A `tf.distribute.Strategy`.
        data_dir: The `Path` of the data.
        model_dir: The `Path` of the run.

    Returns:
        The metrics on the held-out documents, as a dict of floats.
    """
    # TensorFlow is imported this late because the strategy sets up its devices and environment first.
    import orbit
    import tf_keras

    import bert_input
    import training_loop
    from bert_task import PretrainTask
    from tf_lamb.model_garden import LAMB

    # Model and optimizer.
    tf_keras.utils.set_random_seed(config.run.seed)
    task = PretrainTask(config.model, manifest.vocab_size, manifest.most_frequent_token.id)
    with strategy.scope():
        model = task.build_model()
        optimizer = LAMB(learning_rate_schedule(config.stages), **config.optimizer.model_dump())
        optimizer.build(model.trainable_variables)
        metrics = task.build_metrics()
    (model_dir / "plan.txt").write_text(f"{optimizer.plan()}\n", encoding="utf-8")
    print(*str(optimizer.plan()).splitlines()[-2:], sep="\n")

    # The newest checkpoint. Orbit's controllers restore it again, to no effect.
    checkpoints = training_loop.checkpoint_manager(
        model_dir / CHECKPOINTS, model, optimizer, config.run.checkpoint_every_steps
    )
    checkpoints.restore_or_initialize()
    done_steps = int(optimizer.iterations.numpy())
    total_steps = sum(stage.steps for stage in config.stages)
    print(f"{strategy.num_replicas_in_sync} replicas; step {done_steps} of {total_steps}")

    # Training, stage by stage.
    controller_options = {
        "global_step": optimizer.iterations,
        "strategy": strategy,
        "checkpoint_manager": checkpoints,
        "steps_per_loop": config.run.steps_per_loop,
        "summary_interval": config.run.steps_per_loop,
        "summary_dir": str(model_dir / "summaries" / "train"),
        "eval_summary_dir": str(model_dir / "summaries" / "held_out"),
    }
    shown = {"loss": "masked_lm_loss", "acc": "masked_lm_accuracy", "lr": "learning_rate"}
    progress = training_loop.Progress(total_steps, done_steps, optimizer.iterations, shown)
    first_step = 0
    stop = training_loop.StopAtEdge(checkpoints, optimizer.iterations)
    with training_loop.orbit_messages_to(model_dir / "orbit.log"), stop:
        for number, stage in enumerate(config.stages, start=1):
            last_step = first_step + stage.steps
            if done_steps < last_step:
                progress.begin_stage(f"stage {number}", stage.global_batch_size)
                dataset = bert_input.train_batches(
                    strategy,
                    *manifest.records(data_dir, "train", stage.seq_length),
                    stage,
                    seed=config.run.seed + 1_000_000 * number,
                    skip_steps=max(0, done_steps - first_step),
                )
                trainer = training_loop.Trainer(strategy, task, model, optimizer, metrics, dataset)
                controller = orbit.Controller(trainer=trainer, train_actions=[progress, stop], **controller_options)
                controller.train(last_step)
            first_step = last_step
        progress.close()

        # Evaluation on the held-out documents, at the length of the last stage.
        stage = config.stages[-1]
        dataset, steps = bert_input.eval_batches(
            strategy,
            *manifest.records(data_dir, "held_out", stage.seq_length),
            stage,
            config.run.eval_global_batch_size,
        )
        evaluator = training_loop.Evaluator(strategy, task, model, metrics, dataset)
        results = orbit.Controller(evaluator=evaluator, **controller_options).evaluate(steps)
    return report(results, manifest.most_frequent_token, model_dir)


def learning_rate_schedule(stages):
    """The rate over a whole run: every stage warms up from zero and decays to zero.

    Args:
        stages: The `StageConfig`s.
    """
    from tf_lamb.schedules import Stages, WarmupPolynomialDecay

    schedules = [
        WarmupPolynomialDecay(stage.learning_rate, stage.steps, stage.warmup_steps, stage.decay_power)
        for stage in stages
    ]
    return Stages(schedules, [stage.steps for stage in stages])


def report(results, baseline_token, model_dir):
    """Writes and prints the held-out results beside the unigram baseline."""
    results = {name: float(value) for name, value in results.items() if name != "steps_per_second"}
    with atomic_path(model_dir / "held_out.json") as unfinished:
        unfinished.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    accuracy, baseline = results["masked_lm_accuracy"], results["unigram_accuracy"]
    print(
        f"held-out masked-LM accuracy {accuracy:.2%}, loss {results['masked_lm_loss']:.3f}\n"
        f"unigram baseline            {baseline:.2%} (always {baseline_token.token!r})\n"
        f"next-sentence accuracy      {results['next_sentence_accuracy']:.2%}"
    )
    return results


if __name__ == "__main__":
    exit_code = main()
    if exit_code == 130:
        # TensorFlow's iterators can take a minute to wind down, and whoever interrupts does not want to wait.
        sys.stdout.flush()
        os._exit(exit_code)
    sys.exit(exit_code)
