"""Exports the newest checkpoint of a BERT run as a SavedModel that needs nothing but TensorFlow.

    python tpu/export.py --data_dir DATA --model_dir RUN

The model goes to RUN/saved_model/STEP, the layout of TensorFlow Serving. Its signature `serving_default` takes int32
`input_word_ids`, `input_mask` and `input_type_ids` of shape [batch, length] and `masked_lm_positions` of shape
[batch, predictions]; it gives float32 `mlm_logits` of shape [batch, predictions, vocabulary] and `next_sentence` of
shape [batch, 2]. The vocabulary is in assets/vocab.txt.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

import bert_manifest
from bert_config import PretrainConfig
from config import CHECKPOINTS, CONFIG_NAME, ConfigError, load


def main(argv=None):
    """Exports the run that the command line names.

    Returns:
        The exit code: 0, or 2 for input that cannot be used.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="the data of the run, for its vocabulary")
    parser.add_argument("--model_dir", type=Path, required=True, help="the folder of the run")
    arguments = parser.parse_args(argv)
    try:
        config = load(arguments.model_dir / CONFIG_NAME, PretrainConfig)
        manifest = bert_manifest.load(arguments.data_dir)
        bert_manifest.claim_folder(manifest, arguments.model_dir)
        print(f"SavedModel: {export(config, manifest, arguments.data_dir, arguments.model_dir)}")
    except ConfigError as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    return 0


def export(config, manifest, data_dir, model_dir):
    """Writes the SavedModel of a run's newest checkpoint, unless it is there.

    Args:
        config: The run's `PretrainConfig`.
        manifest: The manifest of its data.
        data_dir: The `Path` of the data.
        model_dir: The `Path` of the run.

    Returns:
        The `Path` of the SavedModel.

    Raises:
        ConfigError: The run has no checkpoint, or one of another model.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    from bert_task import PretrainTask

    checkpoint = tf.train.latest_checkpoint(str(model_dir / CHECKPOINTS))
    if checkpoint is None:
        raise ConfigError(
            f"The run has no checkpoint. Received: {model_dir / CHECKPOINTS}. "
            "Expected a folder in which tpu/train_bert.py has saved one."
        )
    output_dir = model_dir / "saved_model" / checkpoint.rsplit("-", 1)[-1]
    if output_dir.exists():
        return output_dir

    task = PretrainTask(config.model, manifest.vocab_size, manifest.most_frequent_token.id)
    model = task.build_model()
    try:
        tf.train.Checkpoint(model=model).restore(checkpoint).assert_existing_objects_matched().expect_partial()
    except (AssertionError, ValueError) as error:
        raise ConfigError(
            f"The checkpoint is of another model. Received: {checkpoint} ({str(error).splitlines()[0]}). "
            f"Expected the variables of {model_dir / CONFIG_NAME} with {manifest.vocab_size} tokens."
        ) from None

    # A name of its own until it is complete, so that no reader finds half a model.
    unfinished = output_dir.with_name(f".{output_dir.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    module = serving_module(tf, model, str(data_dir / manifest.vocab_file.name))
    tf.saved_model.save(module, str(unfinished), signatures={"serving_default": module.serve})
    os.replace(unfinished, output_dir)
    return output_dir


def serving_module(tf, model, vocab_path):
    """A `tf.Module` with the serving function of a model and its vocabulary."""
    spec = tf.TensorSpec([None, None], tf.int32)
    module = tf.Module()
    module.model = model
    module.vocabulary = tf.saved_model.Asset(vocab_path)

    @tf.function(input_signature=[spec] * 4)
    def serve(input_word_ids, input_mask, input_type_ids, masked_lm_positions):
        outputs = model(
            {
                "input_word_ids": input_word_ids,
                "input_mask": input_mask,
                "input_type_ids": input_type_ids,
                "masked_lm_positions": masked_lm_positions,
            },
            training=False,
        )
        return {name: tf.cast(outputs[name], tf.float32) for name in ("mlm_logits", "next_sentence")}

    module.serve = serve
    return module


if __name__ == "__main__":
    sys.exit(main())
