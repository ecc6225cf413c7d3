"""Exports the newest checkpoint of a run as a SavedModel, for masked tokens, answers to questions, or image classes.

    python tpu/export.py --data_dir DATA --model_dir RUN
    python tpu/export.py --model_dir SQUAD_RUN
    python tpu/export.py --model_dir IMAGE_RUN

The model goes to RUN/saved_model/STEP, the layout of TensorFlow Serving, and needs nothing but TensorFlow. The first
two take int32 token ids and have their vocabulary in assets/vocab.txt; with --text the model goes to
RUN/saved_model_text/STEP, takes strings, and needs tensorflow_text too, whose ops it holds. The last takes JPEG files.
The signature is `serving_default`; tpu/serving.py and tpu/serving_images.py say what it takes and gives.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import run_folder
import vocabulary as vocabularies
from bert_config import PretrainConfig
from bert_manifest import Manifest
from config import CHECKPOINTS, CONFIG_NAME, ConfigError, check_reachable, load
from data_files import sha256
from image_config import ImageConfig
from image_manifest import Manifest as ImageManifest
from paths import any_path, is_remote, upload
from squad_config import SquadConfig

# What makes a folder a SavedModel for those who look for one.
SAVED_MODEL = "saved_model.pb"
TASKS = ("masked_lm", "squad", "images")


def main(argv=None):
    """Exports the run that the command line names.

    Returns:
        The exit code: 0, or 2 for input that cannot be used.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", type=any_path, required=True, help="the folder of the run")
    parser.add_argument("--data_dir", type=any_path, help="the data of a pre-training run, for its vocabulary")
    parser.add_argument("--task", choices=TASKS, help="what the run was trained for (default: what its config says)")
    parser.add_argument("--text", action="store_true", help="take text, by ops of tensorflow_text in the graph")
    arguments = parser.parse_args(argv)
    # Serving is no work for the machine's accelerators, which a training run may hold.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    try:
        check_reachable(arguments.model_dir, arguments.data_dir)
        path = export(arguments.model_dir, arguments.data_dir, arguments.task, arguments.text)
    except ConfigError as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    print(f"SavedModel: {path}")
    return 0


def export(model_dir, data_dir=None, task=None, text=False):
    """Writes the SavedModel of a run's newest checkpoint, unless it is there.

    Args:
        model_dir: The `Path` of the run.
        data_dir: The `Path` of the data of a pre-training run; a SQuAD run has its vocabulary itself.
        task: One of `TASKS`, or None for what the run's config says.
        text: Whether the model is to take text.

    Returns:
        The `Path` of the SavedModel.

    Raises:
        ConfigError: The folder holds no run of the task, the run has no checkpoint or one of another model, the
            vocabulary is missing, another one or, with `text`, not of lower case, or the folder cannot be written.
    """
    trained = run_folder.task_of(model_dir)
    if task not in (None, trained):
        raise ConfigError(
            f"The run was trained for another task. Received: --task {task}. Expected {trained}, by {model_dir}."
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    task, make_module = PARTS[trained](model_dir, data_dir, text)
    import tensorflow as tf

    from checkpoints import step_of

    versions = model_dir / ("saved_model_text" if text else "saved_model")
    newest = versions / str(step_of(run_folder.checkpoint_of_run(model_dir)))
    if (newest / SAVED_MODEL).exists():
        return newest
    model, step = restored(tf, task, model_dir)
    output_dir = versions / str(step)
    if not (output_dir / SAVED_MODEL).exists():
        save(tf, make_module(model), output_dir)
    return output_dir


def masked_lm_parts(model_dir, data_dir, text):
    """The task of a pre-training run, and a function of its model that makes what is served."""
    vocab_path = vocabulary_of_pretraining(model_dir, data_dir)
    vocab_size, config = len(vocabularies.read(vocab_path)), load(model_dir / CONFIG_NAME, PretrainConfig)
    if text and not config.data.lower_case:
        raise ConfigError(
            "A SavedModel for text lower-cases it. Received: --text for a run with data.lower_case=false. "
            "Expected no --text: give it token ids."
        )
    import serving
    from bert_task import PretrainTask

    def make_module(model):
        if text:
            return serving.masked_lm_of_text(model, vocab_path, config.model.max_positions)
        return serving.masked_lm_of_ids(model, vocab_path, config.data.lower_case)

    return PretrainTask(config.model, vocab_size, baseline_token=0), make_module


def squad_parts(model_dir, data_dir, text):
    """The task of a SQuAD run, and a function of its model that makes what is served."""
    vocab_path = model_dir / run_folder.VOCAB_NAME
    vocab_size, config = len(vocabularies.read(vocab_path)), load(model_dir / CONFIG_NAME, SquadConfig)
    import serving
    from squad_task import SquadTask

    def make_module(model):
        return (
            serving.squad_of_text(model, vocab_path, config.data) if text else serving.squad_of_ids(model, vocab_path)
        )

    return SquadTask(config, vocab_size), make_module


def image_parts(model_dir, data_dir, text):
    """The task of an image classification run, and a function of its model that makes what is served."""
    if text:
        raise ConfigError("A model of images takes no text. Received: --text. Expected no --text.")
    manifest, config = ImageManifest.read(model_dir), load(model_dir / CONFIG_NAME, ImageConfig)
    classes = manifest.settings.classes
    import serving_images
    from image_task import ImageTask

    return ImageTask(config, len(classes)), lambda model: serving_images.of_jpeg(model, classes, config.data)


PARTS = {"masked_lm": masked_lm_parts, "squad": squad_parts, "images": image_parts}


def vocabulary_of_pretraining(model_dir, data_dir):
    """The `Path` of the vocabulary that a pre-training run was begun with.

    Raises:
        ConfigError: `data_dir` is None or holds another vocabulary.
    """
    if data_dir is None:
        raise ConfigError("A pre-training run needs its vocabulary. Received: no --data_dir. Expected the run's data.")
    vocab_file = Manifest.read(model_dir).vocab_file
    path = data_dir / vocab_file.name
    if not path.is_file() or sha256(path) != vocab_file.sha256:
        raise ConfigError(
            f"The data has not the vocabulary of the run. Received: {path}. "
            f"Expected the data that {model_dir} was begun with."
        )
    return path


def restored(tf, task, model_dir):
    """The model of a task with the weights of a run's newest whole checkpoint, and the step of that.

    Raises:
        ConfigError: No checkpoint can be read, or it is of another model.
    """
    from checkpoints import restore_newest, step_of

    model = task.build_model()
    return model, step_of(restore_newest(tf.train.Checkpoint(model=model), model_dir / CHECKPOINTS))


def save(tf, module, output_dir):
    """Writes a module with a function `serve` as a SavedModel.

    A local one has a name of its own until it is complete; of a remote one saved_model.pb comes last.

    Raises:
        ConfigError: The folder cannot be written.
    """
    try:
        if is_remote(output_dir):
            with tempfile.TemporaryDirectory() as folder:
                tf.saved_model.save(module, folder, signatures={"serving_default": module.serve})
                files = [path for path in Path(folder).rglob("*") if path.is_file()]
                for path in sorted(files, key=lambda path: path.name == SAVED_MODEL):
                    upload(path, output_dir / path.relative_to(folder))
            return
        unfinished = output_dir.with_name(f".{output_dir.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        tf.saved_model.save(module, str(unfinished), signatures={"serving_default": module.serve})
        os.replace(unfinished, output_dir)
    except (OSError, tf.errors.OpError) as error:
        raise ConfigError(
            f"The SavedModel cannot be written: {str(error).splitlines()[0]}. Received: {output_dir}. "
            "Expected a writable folder."
        ) from None


if __name__ == "__main__":
    sys.exit(main())
