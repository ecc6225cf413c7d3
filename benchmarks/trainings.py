"""Whole trainings, each a process of its own, ours and tf-models-official's: the same model, data, batch and LAMB.

The clock of both is Orbit's, which both train with: the steps a second that it writes into the summaries at the end of
each loop. The first loop, which compiles, is left out.
"""

import json
from pathlib import Path

import child
from machine import ROOT

TAG = "steps_per_second"
# Some four seconds of BERT, what "auto" would choose.
STEPS_PER_LOOP = 25
# Where the summaries are in the folder of a run of our scripts, and of Model Garden's.
SUMMARIES = {"ours": Path("summaries", "train"), "theirs": Path("train")}
# For each training: its script, a config, and the experiment of Model Garden.
TRAININGS = {
    "bert": (
        "train_bert.py",
        {
            "data": {"vocab_size": 8000, "dupe_factor": 5},
            "model": {"layers": 2, "hidden_size": 128, "attention_heads": 2, "intermediate_size": 512},
            "optimizer": {"weight_decay": 0.01, "exclude_from_weight_decay": ["LayerNorm|layer_norm|bias"]},
            "stages": [
                {
                    "seq_length": 128,
                    "max_predictions": 20,
                    "global_batch_size": 32,
                    "steps": 0,
                    "learning_rate": 0.001,
                    "warmup_steps": 10,
                }
            ],
            "run": {"steps_per_loop": STEPS_PER_LOOP, "checkpoint_every_steps": 10_000},
        },
        "bert/pretraining",
    ),
    "resnet": (
        "train_resnet.py",
        {
            "data": {
                "image_size": 32,
                "crop_area": [0.6, 1.0],
                "flip": False,
                "center_crop_fraction": 1.0,
                "label_smoothing": 0.1,
            },
            "model": {"name": "resnet", "depth": 50},
            "optimizer": {"weight_decay": 0.01, "exclude_from_weight_decay": ["batch_normalization"]},
            "stages": [{"global_batch_size": 64, "steps": 0, "learning_rate": 0.001, "warmup_steps": 10}],
            "run": {"steps_per_loop": STEPS_PER_LOOP, "checkpoint_every_steps": 10_000, "shuffle_images": 1000},
        },
        "resnet_imagenet",
    ),
}


def prepare(name, folder, **of_stage):
    """Makes the data of a training, of what is on every machine: CPython's documentation, scikit-learn's digits.

    Args:
        name: One of `TRAININGS`.
        folder: An empty folder.
        **of_stage: As in `write_config`.
    """
    config, raw, data = write_config(name, folder, **{"steps": 1, **of_stage}), folder / "raw", folder / "data"
    if name == "bert":
        _run("python_docs.py", "--output_dir", raw)
        texts = ["--train_text", raw / "train.txt", "--held_out_text", raw / "held_out.txt"]
        _run("prepare_bert_data.py", "--config_file", config, "--output_dir", data, *texts)
    else:
        _run("digits.py", "--output_dir", raw)
        shards = ["--train_shards", "8", "--validation_shards", "2"]
        _run(
            "prepare_imagenet.py",
            "--train",
            raw / "train",
            "--validation",
            raw / "validation",
            "--output_dir",
            data,
            *shards,
        )


def write_config(name, folder, steps, **of_stage):
    """Writes the config of a training of so many steps; returns its path.

    Args:
        name: One of `TRAININGS`.
        folder: Where to.
        steps: How many updates.
        **of_stage: Other fields of its stage.
    """
    config = json.loads(json.dumps(TRAININGS[name][1]))
    config["stages"][0] |= {"steps": steps, **of_stage}
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(config))  # which is YAML, too
    return path


def train_ours(name, folder, model_dir, config, *options, environment=None):
    """Trains by our script.

    Args:
        name: One of `TRAININGS`.
        folder: That of `prepare`.
        model_dir: A folder that is not there yet.
        config: The path of the config.
        *options: More of the command line.
        environment: More of the environment.

    Returns:
        A list of the seconds a step of each loop but the first.
    """
    _run(
        TRAININGS[name][0],
        *("--config_file", config, "--data_dir", folder / "data", "--model_dir", model_dir, *options),
        environment=environment,
    )
    return seconds_per_step(model_dir / SUMMARIES["ours"])


def _run(script, *arguments, environment=None):
    child.run(ROOT / "tpu" / script, *arguments, environment=environment)


def seconds_per_step(folder):
    """What Orbit wrote into a folder of summaries: the seconds a step of each loop but the first."""
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    if TAG not in events.Tags()["tensors"]:
        return []
    return [1 / float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(TAG)[1:]]


def train_model_garden(name, data_dir, model_dir, config_path):
    """Trains by Model Garden's own train library, in this process."""
    import tensorflow as tf
    import tf_keras
    from official.core import exp_factory, task_factory, train_lib
    from official.nlp.configs import experiment_configs  # noqa: F401 - registers the experiments
    from official.vision import registry_imports  # noqa: F401 - and these

    config = json.loads(config_path.read_text())
    stage, optimizer = config["stages"][0], config["optimizer"]
    params = exp_factory.get_exp_config(TRAININGS[name][2])
    task = (_bert_task if name == "bert" else _resnet_task)(config, stage, data_dir)
    lamb = {
        "weight_decay_rate": optimizer["weight_decay"],
        "exclude_from_weight_decay": optimizer["exclude_from_weight_decay"],
        "global_clipnorm": 1.0,
    }
    polynomial = {"initial_learning_rate": stage["learning_rate"], "decay_steps": stage["steps"]}
    loop = config["run"]["steps_per_loop"]
    trainer = {
        "train_steps": stage["steps"],
        "steps_per_loop": loop,
        "summary_interval": loop,
        "checkpoint_interval": config["run"]["checkpoint_every_steps"],
        "optimizer_config": {
            "optimizer": {"type": "lamb", "lamb": lamb},
            "learning_rate": {"type": "polynomial", "polynomial": polynomial},
            "warmup": {"type": "polynomial", "polynomial": {"warmup_steps": stage["warmup_steps"], "power": 1.0}},
        },
    }
    params.override({"task": task, "trainer": trainer}, is_strict=False)
    tf_keras.utils.set_random_seed(0)
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        built = task_factory.get_task(params.task, logging_dir=str(model_dir))
    train_lib.run_experiment(strategy, built, "train", params, str(model_dir))


def _bert_task(config, stage, data_dir):
    import bert_config
    import bert_manifest
    import bert_task

    shape = bert_config.ModelConfig(**config["model"])
    manifest = bert_manifest.Manifest.load(data_dir)
    files, _ = manifest.records(data_dir, "train", stage["seq_length"])
    return {
        "model": bert_task.model_config(shape, manifest.vocab_size).as_dict(),
        "train_data": {
            "input_path": ",".join(files),
            "global_batch_size": stage["global_batch_size"],
            "seq_length": stage["seq_length"],
            "max_predictions_per_seq": stage["max_predictions"],
            "use_v2_feature_names": True,
        },
    }


def _resnet_task(config, stage, data_dir):
    from image_manifest import Manifest

    manifest = Manifest.read(data_dir)
    size = config["data"]["image_size"]
    return {
        "model": {
            # Labels begin at 1 in these files; Model Garden keeps the class 0.
            "num_classes": len(manifest.settings.classes) + 1,
            "input_size": [size, size, 3],
            "backbone": {"type": "resnet", "resnet": {"model_id": config["model"]["depth"]}},
        },
        "losses": {"l2_weight_decay": 0.0, "label_smoothing": config["data"]["label_smoothing"]},
        "train_data": {
            "input_path": str(data_dir / "train-*"),
            "global_batch_size": stage["global_batch_size"],
            "shuffle_buffer_size": config["run"]["shuffle_images"],
            "crop_area_range": config["data"]["crop_area"],
            "aug_rand_hflip": config["data"]["flip"],
        },
    }
