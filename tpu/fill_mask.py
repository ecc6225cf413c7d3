"""Fills the [MASK]s of a sentence with the likeliest tokens, by a SavedModel of export.py and plain TensorFlow.

    python tpu/fill_mask.py --saved_model RUN/saved_model "Return the [MASK] of the list."

Where the folder holds several versions, the newest is taken.
"""

import argparse
import os
import sys

from config import ConfigError
from paths import local_path
from vocabulary import MASK
from vocabulary import read as read_vocabulary
from wordpiece import WordPiece


def main(argv=None):
    """Prints the likeliest fillings of the sentence that the command line gives.

    Returns:
        The exit code: 0, or 2 for input that cannot be used.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--saved_model", type=local_path, required=True, help="a SavedModel, or the folder of its versions"
    )
    parser.add_argument("--count", type=int, default=5, help="how many fillings to print (default: 5)")
    parser.add_argument("sentence", help="a sentence with at least one [MASK]")
    arguments = parser.parse_args(argv)
    try:
        fillings = fill(newest_version(arguments.saved_model), arguments.sentence, arguments.count)
    except ConfigError as error:
        print(f"fill_mask: {error}", file=sys.stderr)
        return 2
    print(arguments.sentence)
    for number, candidates in enumerate(fillings, start=1):
        if len(fillings) > 1:
            print(f"{MASK} {number}")
        for token, probability in candidates:
            print(f"  {probability:6.1%}  {token}")
    return 0


def newest_version(folder):
    """The SavedModel at `folder`, or the one with the highest number in it.

    Raises:
        ConfigError: There is none.
    """
    versions = [path for path in folder.glob("*") if path.name.isdigit()]
    model = max(versions, key=lambda path: int(path.name), default=folder)
    if not (model / "saved_model.pb").is_file():
        raise ConfigError(f"No SavedModel found. Received: {folder}. Expected a folder that tpu/export.py wrote.")
    return model


def fill(saved_model, sentence, count):
    """The likeliest tokens for each [MASK] of a sentence.

    Args:
        saved_model: The `Path` of a SavedModel of export.py.
        sentence: The text.
        count: How many tokens to give for each.

    Returns:
        For each [MASK], a list of pairs of token and probability, the likeliest first.

    Raises:
        ConfigError: The sentence has no [MASK] or is longer than the model takes, `count` is not positive, or the
            SavedModel is one for text or for questions.
    """
    if count < 1:
        raise ConfigError(f"There must be a filling to print. Received: --count {count}. Expected a number >= 1.")
    if MASK not in sentence:
        raise ConfigError(f"The sentence has no {MASK}. Received: {sentence!r}. Expected for example 'A {MASK} word.'")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    model, serve = load(tf, saved_model)
    vocabulary = read_vocabulary(saved_model / "assets" / "vocab.txt")
    word_piece = WordPiece(vocabulary, bool(model.lower_case.numpy()))
    parts = [word_piece.token_ids(part) for part in sentence.split(MASK)]
    ids = [vocabulary.cls_id, *parts[0]]
    positions = []
    for part in parts[1:]:
        positions.append(len(ids))
        ids += [vocabulary.mask_id, *part]
    row = tf.constant([[*ids, vocabulary.sep_id]])
    try:
        outputs = serve(
            input_word_ids=row,
            input_mask=tf.ones_like(row),
            input_type_ids=tf.zeros_like(row),
            masked_lm_positions=tf.constant([positions]),
        )
    except tf.errors.InvalidArgumentError:
        raise ConfigError(
            f"The sentence is longer than the model takes. Received: {row.shape[1]} tokens. Expected fewer."
        ) from None
    top = tf.math.top_k(tf.nn.softmax(outputs["mlm_logits"][0]), min(count, len(vocabulary)))
    return [
        [
            (vocabulary.tokens[index], float(probability))
            for index, probability in zip(indices, probabilities, strict=True)
        ]
        for indices, probabilities in zip(top.indices.numpy(), top.values.numpy(), strict=True)
    ]


def load(tf, saved_model):
    """A SavedModel, which must be kept as long as it is used, and its function from ids to masked tokens.

    Raises:
        ConfigError: It is one for text or for questions.
    """
    try:
        model = tf.saved_model.load(str(saved_model))
        serve = model.signatures["serving_default"]
        inputs = serve.structured_input_signature[1]
    except (OSError, RuntimeError, tf.errors.OpError):
        inputs = ()  # Among others, ops of tensorflow_text that are not known here.
    if "masked_lm_positions" not in inputs:
        raise ConfigError(
            f"The SavedModel does not predict masked tokens from ids. Received: {saved_model}. "
            "Expected what tpu/export.py makes of a pre-training run without --text."
        )
    return model, serve


if __name__ == "__main__":
    sys.exit(main())
