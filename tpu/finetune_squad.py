"""Fine-tunes BERT on SQuAD 1.1 or 2.0, predicts, and evaluates, from a YAML config.

    python tpu/finetune_squad.py --config_file configs/squad/v1_bert_large.yaml --train_file train-v1.1.json \
        --predict_file dev-v1.1.json --vocab_file vocab.txt --init_checkpoint CHECKPOINT --model_dir RUN

CHECKPOINT is a run of train_bert.py, or a public BERT checkpoint without its suffix. RUN receives the resolved config,
the vocabulary, features, checkpoints, TensorBoard summaries, predictions.json, nbest_predictions.json, for SQuAD 2.0
null_odds.json, and results.json. The same command continues a run that was interrupted.
"""

import command
import run_folder
import strategy as strategies
import vocabulary as vocabularies
from config import check_reachable, claim_folder, load
from device_loop import leave
from paths import any_path
from squad_config import SquadConfig
from stages import resolve, split

# The panels of the report.
CURVES = {
    "loss": ["loss"],
    "accuracy": ["start_accuracy", "end_accuracy"],
    "rate": ["learning_rate"],
    "gradient norm": ["gradient_norm"],
    "features/s": ["examples_per_second"],
}


def main(argv=None):
    """Fine-tunes, predicts and evaluates; returns the exit code of `command.exit_code_of`."""
    return command.exit_code_of("finetune_squad", finetune, parse_arguments(argv))


def parse_arguments(argv):
    """Reads the command line."""
    parser = command.make_parser(__doc__, "two updates of a tiny model on random tokens, no files")
    parser.add_argument("--train_file", type=any_path, help="the SQuAD JSON file to train on")
    parser.add_argument("--predict_file", type=any_path, help="the SQuAD JSON file to answer and evaluate")
    vocabulary = parser.add_mutually_exclusive_group()
    vocabulary.add_argument("--vocab_file", type=any_path, help="the vocabulary of the checkpoint")
    vocabulary.add_argument("--data_dir", type=any_path, help="the folder of prepare_bert_data.py, for its vocabulary")
    parser.add_argument(
        "--init_checkpoint", type=any_path, help="a run or a checkpoint; without it the weights begin at random"
    )
    parser.add_argument("--features_dir", type=any_path, help="where to keep the features (default: in the run)")
    arguments = parser.parse_args(argv)
    if not arguments.smoke:
        for name in ("train_file", "predict_file"):
            if getattr(arguments, name) is None:
                parser.error(f"--{name} is required, unless --smoke is given")
        if arguments.vocab_file is None and arguments.data_dir is None:
            parser.error("--vocab_file or --data_dir is required, unless --smoke is given")
    return arguments


def finetune(arguments):
    """Does what the command line says.

    Raises:
        ConfigError: Its input cannot be used.
        RunError: The run cannot go on.
    """
    config = load(arguments.config_file, SquadConfig, arguments.overrides)
    strategies.prepare(arguments, arguments.model_dir, arguments.features_dir)
    check_reachable(
        arguments.train_file,
        arguments.predict_file,
        arguments.vocab_file,
        arguments.data_dir,
        arguments.init_checkpoint,
    )
    if arguments.smoke:
        strategy = strategies.make(arguments.strategy, arguments.cpu_replicas, arguments.tpu)
        smoke(config, strategy, arguments.model_dir)
        return
    vocab_file = arguments.vocab_file or arguments.data_dir / run_folder.VOCAB_NAME
    vocabulary = vocabularies.read(vocab_file)
    strategy = strategies.make(arguments.strategy, arguments.cpu_replicas, arguments.tpu)
    for size in (config.training.global_batch_size, config.prediction.global_batch_size):
        split(size, strategy.num_replicas_in_sync, None)
    with strategies.precision(config.run.mixed_precision, strategy):
        run(config, vocabulary, strategy, arguments)


def run(config, vocabulary, strategy, arguments):
    """Takes a run to its end from wherever it stands.

    Args:
        config: The `SquadConfig`.
        vocabulary: The `vocabulary.Vocabulary`.
        strategy: A `tf.distribute.Strategy`.
        arguments: The command line, for its files and folders.

    Returns:
        The scores of `squad_predict.evaluate`.
    """
    # TensorFlow is imported this late because the strategy sets up its devices and environment first.
    import report
    import run_config
    import squad_data
    import squad_features
    import squad_input
    import squad_predict
    import training_loop

    # What is wrong with the files is said before anything is written.
    model_dir, data = arguments.model_dir, config.data
    squad_data.read(arguments.train_file, "train", data.version_2_with_negative)
    squad_data.read(arguments.predict_file, "predict", data.version_2_with_negative)
    task, model = initial_model(config, len(vocabulary), strategy, arguments)

    # Features, which are made once.
    claim_folder(model_dir, config, arguments.allow_config_change)
    run_folder.keep_vocabulary(vocabulary, model_dir)
    folder = arguments.features_dir or model_dir / "features"
    train_path, train = squad_features.prepare(arguments.train_file, "train", vocabulary, data, folder)
    squad_features.claim_folder(train, model_dir)
    predict_path, predict = squad_features.prepare(arguments.predict_file, "predict", vocabulary, data, folder)
    print(
        f"train: {train.questions:,} questions, {train.features:,} features, "
        f"{train.unusable_questions:,} questions left out whose answer is not in the context\n"
        f"predict: {predict.questions:,} questions, {predict.features:,} features"
    )

    (stage,) = resolve([config.training], strategy.num_replicas_in_sync, lambda _: train.features)
    print(f"{stage.describe()}; {train.features:,} features")
    training = training_loop.Run(
        task, model, run_config.make_optimizer(config.optimizer, config.run), [stage], strategy, model_dir, config.run
    )
    training.train(
        lambda stage, skip_steps: squad_input.train_batches(
            strategy,
            train_path,
            train.features,
            stage.global_batch_size,
            data.seq_length,
            config.run.seed,
            skip_steps,
        )
    )

    # Prediction and evaluation.
    examples = squad_features.read_examples(arguments.predict_file, "predict", data)
    features = squad_features.read_features(predict_path, vocabulary)
    results = predicted_logits(config, strategy, task, model, predict_path, predict.features)
    files = squad_predict.answers(examples, features, results, config)
    scores = squad_predict.evaluate(arguments.predict_file, files, data.version_2_with_negative)
    squad_predict.write({**files, "results.json": scores}, model_dir)
    if training.workers.is_chief:
        report.write(training.folder.path, "BERT fine-tuning on SQuAD", [stage], strategy, scores, CURVES)
        training.publish()
    print(
        f"EM {scores.get('exact_match', scores.get('exact')):.2f}, F1 {scores['f1']:.2f} of {scores['total']} questions"
    )
    return scores


def initial_model(config, vocab_size, strategy, arguments):
    """The task and its model, with the weights of `--init_checkpoint` unless the run has a checkpoint of its own."""
    import initial_weights
    import train_state
    from squad_task import SquadTask, encoder_of

    task = SquadTask(config, vocab_size)
    model = train_state.build_model(task, strategy, config.run.seed)
    with strategy.scope():
        initial_weights.initialize(
            initial_weights.load_encoder, encoder_of(model), arguments.init_checkpoint, arguments.model_dir
        )
    return task, model


def smoke(config, strategy, model_dir):
    """Makes two updates of a config, with a tiny model, on random tokens; says what it shrank.

    Args:
        config: The `SquadConfig`.
        strategy: A `tf.distribute.Strategy`.
        model_dir: The `Path` of the trial run, not that of a real one.
    """
    import tensorflow as tf

    import smoke
    from squad_task import SquadTask

    def make_example(small, _, integers):
        length = small.data.seq_length
        return {
            "input_word_ids": integers(length, smoke.VOCAB_SIZE),
            "input_mask": tf.ones([length], tf.int32),
            "input_type_ids": integers(length, 2),
            "start_positions": integers(1, length)[0],
            "end_positions": integers(1, length)[0],
        }

    smoke.run(
        config,
        [("training",)],
        smoke.TINY_BERT,
        strategy,
        model_dir,
        lambda small: SquadTask(small, smoke.VOCAB_SIZE),
        make_example,
    )


def predicted_logits(config, strategy, task, model, path, features):
    """The logits of every feature of a file, see `squad_predict.logits`."""
    import squad_input
    import squad_predict

    batches, steps = squad_input.predict_batches(
        strategy, path, features, config.prediction.global_batch_size, config.data.seq_length
    )
    return squad_predict.logits(strategy, task, model, batches, steps)


if __name__ == "__main__":
    leave(main())
