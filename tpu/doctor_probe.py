"""Answers one question of doctor.py about this Python, in a process that may crash or hang without harm to the doctor.

    python tpu/doctor_probe.py tensorflow

The answer is a line of JSON after `ANSWER`, at the end of what is printed. Nothing is imported before it is asked for,
and what is written here is read by any Python 3, so that the doctor can speak where nothing is installed.
"""

import argparse
import json
import os
import sys

ANSWER = "doctor_probe:"


def tensorflow(_):
    """Whether TensorFlow imports, whether it was built for TPUs, and which devices it sees."""
    import tensorflow as tf
    from tensorflow.python.framework import kernels

    return {
        "version": tf.__version__,
        # TPU wheels register a kernel for this op, others do not.
        "has_tpu_kernel": bool(kernels.get_registered_kernels_for_op("TPUExecute").kernel),
        "devices": [device.device_type for device in tf.config.list_physical_devices()],
    }


def keras(_):
    """Whether Keras imports, and on which backend."""
    import keras

    return {"version": keras.__version__, "backend": keras.backend.backend()}


def model_garden(_):
    """Whether what the training scripts import of tf-models-official does import."""
    import orbit  # noqa: F401
    import tf_keras
    from official.nlp.tasks import masked_lm  # noqa: F401
    from official.vision.configs import image_classification  # noqa: F401

    return {"tf_keras_version": tf_keras.__version__}


def libtpu(_):
    """Where the library of the TPU is."""
    import libtpu

    path = libtpu.get_library_path()
    return {"path": path, "is_there": os.path.isfile(path)}


def strategy(arguments):
    """Makes the strategy as the training scripts make it."""
    import strategy as strategies

    strategies.prepare(arguments)
    made = strategies.make(arguments.strategy, arguments.cpu_replicas, arguments.tpu)
    return {"replicas": made.num_replicas_in_sync}


def model_dir(arguments):
    """Writes a file behind an address, and removes it; a bucket needs no folder for that."""
    import uuid

    import tensorflow as tf

    file = "{}/doctor_{}.tmp".format(arguments.model_dir.rstrip("/"), uuid.uuid4().hex)
    try:
        with tf.io.gfile.GFile(file, "wb") as stream:
            stream.write(b"doctor")
    finally:
        if tf.io.gfile.exists(file):
            tf.io.gfile.remove(file)
    return {}


def data(arguments):
    """Reads the manifest of prepared data, and looks at the size of every file."""
    from bert_manifest import Manifest as BertManifest
    from data_files import check
    from data_manifest import MANIFEST_NAME
    from image_manifest import Manifest as ImageManifest
    from paths import as_path, read_bytes

    try:
        is_text = b'"vocab_file"' in read_bytes(as_path(arguments.data_dir) / MANIFEST_NAME)
    except OSError:
        is_text = True  # The manifest's own reading says what is wrong.
    manifest = (BertManifest if is_text else ImageManifest).read(arguments.data_dir)
    for file in manifest.files:
        check(file, arguments.data_dir, reads_all=False)
    return {
        "kind": "text" if is_text else "images",
        "files": len(manifest.files),
        "examples": sum(file.examples for file in manifest.record_files),
        "bytes": sum(file.size_bytes for file in manifest.files),
    }


QUESTIONS = {
    question.__name__: question for question in (tensorflow, keras, model_garden, libtpu, strategy, model_dir, data)
}


def main():
    """Answers, then ends the process at once: a TPU runtime may never wind down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=sorted(QUESTIONS))
    parser.add_argument("--strategy", default="mirrored")
    parser.add_argument("--cpu_replicas", type=int, default=2)
    parser.add_argument("--tpu", default="local")
    parser.add_argument("--model_dir")
    parser.add_argument("--data_dir")
    arguments = parser.parse_args()
    try:
        answer = {"answer": QUESTIONS[arguments.question](arguments)}
    except BaseException as error:  # Also a SystemExit in a broken package.
        text = " ".join(str(error).split())
        # Our own errors are sentences that need no name.
        is_sentence = type(error).__name__ in ("ConfigError", "RunError")
        named = text if is_sentence else f"{type(error).__name__}: {text}"
        answer = {"error": named[:600]}
        if isinstance(error, ModuleNotFoundError):
            answer["missing"] = error.name
    sys.stderr.flush()
    print("\n" + ANSWER, json.dumps(answer), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
