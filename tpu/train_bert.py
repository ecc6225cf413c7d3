"""Pre-trains BERT with LAMB, in stages, from a YAML config.

    python tpu/train_bert.py --config_file configs/bert/tiny.yaml --data_dir DATA --model_dir RUN

DATA is a folder that prepare_bert_data.py wrote. RUN receives the resolved config, checkpoints, TensorBoard summaries
and the results on the held-out documents. The same command continues a run that was interrupted. --init_checkpoint
gives a new run the weights of another one, or of a public BERT checkpoint, named without its suffix.
"""

import bert_manifest
import command
import strategy as strategies
from bert_config import PretrainConfig
from config import CHECKPOINTS, check_reachable, claim_folder, load
from device_loop import leave
from paths import any_path
from run_folder import newest_checkpoint
from stages import resolve, split

# The panels of the report.
CURVES = {
    "loss": ["masked_lm_loss", "next_sentence_loss"],
    "accuracy": ["masked_lm_accuracy", "next_sentence_accuracy"],
    "rate": ["learning_rate"],
    "gradient norm": ["gradient_norm"],
    "sequences/s": ["examples_per_second"],
}


def main(argv=None):
    """Trains in stages, then evaluates on the held-out documents; returns the exit code of `command.exit_code_of`."""
    return command.exit_code_of("train_bert", train, parse_arguments(argv))


def parse_arguments(argv):
    """Reads the command line."""
    parser = command.make_parser(__doc__, "two updates a stage of a tiny model on random tokens")
    parser.add_argument(
        "--data_dir", type=any_path, help="the folder that prepare_bert_data.py wrote; not needed for --smoke"
    )
    parser.add_argument(
        "--init_checkpoint", type=any_path, help="a run or a checkpoint; without it the weights begin at random"
    )
    arguments = parser.parse_args(argv)
    if not arguments.smoke and arguments.data_dir is None:
        parser.error("--data_dir is required, unless --smoke is given")
    return arguments


def train(arguments):
    """Does what the command line says.

    Raises:
        ConfigError: Its input cannot be used.
        RunError: The run cannot go on.
    """
    config = load(arguments.config_file, PretrainConfig, arguments.overrides)
    strategies.prepare(arguments, arguments.data_dir, arguments.model_dir)
    check_reachable(arguments.init_checkpoint)
    if arguments.smoke:
        strategy = strategies.make(arguments.strategy, arguments.cpu_replicas, arguments.tpu)
        smoke(config, strategy, arguments.model_dir)
        return
    manifest = bert_manifest.Manifest.load(arguments.data_dir)
    bert_manifest.check_covers(manifest, config.stages)
    strategy = strategies.make(arguments.strategy, arguments.cpu_replicas, arguments.tpu)
    stages = resolve_stages(config, manifest, strategy.num_replicas_in_sync)
    if arguments.init_checkpoint and not newest_checkpoint(arguments.model_dir / CHECKPOINTS):
        import initial_weights

        initial_weights.find_checkpoint(arguments.init_checkpoint)
    claim_folder(arguments.model_dir, config, arguments.allow_config_change)
    manifest.claim_run(arguments.model_dir)
    run(config, manifest, stages, strategy, arguments.data_dir, arguments.model_dir, arguments.init_checkpoint)


def smoke(config, strategy, model_dir):
    """Makes two updates of each stage of a config, with a tiny model, on random tokens; says what it shrank.

    Args:
        config: The `PretrainConfig`.
        strategy: A `tf.distribute.Strategy`.
        model_dir: The `Path` of the trial run, not that of a real one.
    """
    import tensorflow as tf

    import smoke
    from bert_task import PretrainTask

    def make_example(_, stage, integers):
        length, predictions = stage.seq_length, stage.max_predictions
        return {
            "input_word_ids": integers(length, smoke.VOCAB_SIZE),
            "input_mask": tf.ones([length], tf.int32),
            "input_type_ids": integers(length, 2),
            "masked_lm_positions": tf.sort(integers(predictions, length)),
            "masked_lm_ids": integers(predictions, smoke.VOCAB_SIZE),
            # Replicas and parts have unequal counts of masked positions.
            "masked_lm_weights": tf.cast(tf.range(predictions) <= integers(1, predictions), tf.float32),
            "next_sentence_labels": integers(1, 2)[0],
            "example_weights": tf.ones([]),
        }

    smoke.run(
        config,
        [("stages", number) for number in range(len(config.stages))],
        smoke.TINY_BERT,
        strategy,
        model_dir,
        lambda small: PretrainTask(small.model, smoke.VOCAB_SIZE, baseline_token=0),
        make_example,
    )


def resolve_stages(config, manifest, replicas):
    """The config's `stages.Stage`s on so many replicas, whose numbers of epochs are of the data of `manifest`."""

    def count_examples(stage):
        return sum(file.examples for file in manifest.select("train", stage.seq_length))

    split(config.run.eval_global_batch_size, replicas, None)
    return resolve(config.stages, replicas, count_examples)


def run(config, manifest, stages, strategy, data_dir, model_dir, init_checkpoint=None):
    """Trains a run to its end from wherever it stands, and writes `held_out.json`.

    Args:
        config: The `PretrainConfig`.
        manifest: The `bert_manifest.Manifest` of the data.
        stages: The `stages.Stage`s of the config on this strategy.
        strategy: A `tf.distribute.Strategy`.
        data_dir: The `Path` of the data.
        model_dir: The `Path` of the run.
        init_checkpoint: A run or a checkpoint whose weights a new run begins with; None for weights at random.

    Returns:
        The metrics on the held-out documents, as a dict of floats.
    """
    # TensorFlow is imported this late because the strategy sets up its devices and environment first.
    import bert_input
    import dynamic_masking
    import initial_weights
    import training_loop
    from bert_task import PretrainTask

    def batches(stage, skip_steps):
        files, count = manifest.records(data_dir, "train", stage.config.seq_length)
        seed = stage.seed(config.run.seed)
        return bert_input.train_batches(strategy, files, count, stage.config, seed, skip_steps, masking)

    masking = None
    if config.run.dynamic_masking:
        data = manifest.settings.data
        masking = dynamic_masking.Masking(
            data.masked_lm_probability, data.whole_word_masking, manifest.vocabulary(data_dir)
        )
    for stage in stages:
        print(stage.describe())
    with strategies.precision(config.run.mixed_precision, strategy):
        task = PretrainTask(config.model, manifest.vocab_size, manifest.most_frequent_token.id)
        training = training_loop.make(
            task,
            config,
            stages,
            strategy,
            model_dir,
            lambda model: initial_weights.initialize(
                initial_weights.load_pretrainer, model, init_checkpoint, model_dir
            ),
        )
        training.train(batches)

        # Evaluation on the held-out documents, at the length of the last stage.
        last = config.stages[-1]
        files, count = manifest.records(data_dir, "held_out", last.seq_length)
        results = training.evaluate(
            *bert_input.eval_batches(strategy, files, count, last, config.run.eval_global_batch_size)
        )
    if training.workers.is_chief:
        training.finish("held_out.json", "BERT pre-training", results, CURVES)
        print_results(results, manifest, training.model_dir)
    return results


def print_results(results, manifest, model_dir):
    """Prints the results beside the unigram baseline."""
    accuracy, baseline = results["masked_lm_accuracy"], results["unigram_accuracy"]
    print(
        f"held-out masked-LM accuracy {accuracy:.2%}, loss {results['masked_lm_loss']:.3f}\n"
        f"unigram baseline            {baseline:.2%} (always {manifest.most_frequent_token.token!r})\n"
        f"next-sentence accuracy      {results['next_sentence_accuracy']:.2%}\n"
        f"report: {model_dir / 'report.md'}"
    )


if __name__ == "__main__":
    leave(main())
