"""Prepared examples in words, for the eye."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from bert_manifest import Manifest
from tfrecord import read_records


def examples_in_words(manifest: Manifest, data_dir: Path, count: int) -> Iterator[str]:
    """The first training examples in words: [shown→answer] where the model is to predict.

    Args:
        manifest: The manifest of the data.
        data_dir: The folder of the data.
        count: How many examples.
    """
    if not count:
        return
    # Only here: no other part of the preparation needs TensorFlow.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from tensorflow.train import Example

    tokens = manifest.vocabulary(data_dir).tokens
    for record in itertools.islice(read_records(data_dir / manifest.record_files[0].name), count):
        feature = Example.FromString(record).features.feature
        words = [tokens[index] for index in feature["input_word_ids"].int64_list.value]
        words = words[: sum(feature["input_mask"].int64_list.value)]
        for position, answer, weight in zip(
            feature["masked_lm_positions"].int64_list.value,
            feature["masked_lm_ids"].int64_list.value,
            feature["masked_lm_weights"].float_list.value,
            strict=True,
        ):
            if weight:
                words[position] = f"[{words[position].strip('[]')}→{tokens[answer]}]"
        is_random_next = feature["next_sentence_labels"].int64_list.value[0]
        yield f"{'random' if is_random_next else 'actual'} next: {' '.join(words)}"
