"""Masks examples anew in the input pipeline, so that every epoch predicts other words of the same text.

A function of the examples and their keys alone: whoever reads an example in the same epoch, masks it alike.
"""

from typing import NamedTuple

import tensorflow as tf

from bert_examples import MASK_SHARE, RANDOM_SHARE
from vocabulary import Vocabulary


class Masking(NamedTuple):
    """How to mask.

    Attributes:
        probability: The share of tokens to predict.
        whole_words: Whether to choose words instead of tokens, see `bert_examples.mask_pairs`.
        vocabulary: The vocabulary of the tokens.
    """

    probability: float
    whole_words: bool
    vocabulary: Vocabulary


def mask(features, keys, seed, masking):
    """Restores the tokens of examples and masks them as `bert_examples.mask_pairs` does, with other random numbers.

    Args:
        features: A batch of parsed examples: int32 `[batch, seq_length]` for `input_word_ids` and `input_mask`,
            `[batch, max_predictions]` for `masked_lm_positions` and `masked_lm_ids`, float32 for `masked_lm_weights`.
            Others stay as they are.
        keys: int64 `[batch, 3]`: the epoch, the number of the example's file and its place in the file, all >= 0.
        seed: An integer from 0 to 2**31 - 1.
        masking: A `Masking`.

    Returns:
        The features, with the same shapes and dtypes.
    """
    vocabulary = masking.vocabulary
    seq_length = features["input_word_ids"].shape[1]
    max_predictions = features["masked_lm_positions"].shape[1]
    originals = _restore(features)
    is_ordinary = tf.gather(tf.constant(~vocabulary.is_special), originals)
    scores, draws, replacements = tf.unstack(_uniforms(keys, seed, seq_length), axis=1)

    lengths = tf.cast(tf.reduce_sum(features["input_mask"], axis=1), tf.float64)
    # In float64, as the data tool does: half to even is the same number there and here.
    counts = tf.cast(tf.round(lengths * tf.constant(masking.probability, tf.float64)), tf.int32)
    counts = tf.clip_by_value(counts, 1, max_predictions)
    if masking.whole_words:
        is_inner_piece = tf.gather(tf.constant(vocabulary.is_inner_piece), originals)
        chosen = _choose_words(is_ordinary, is_inner_piece, counts, scores)
    else:
        chosen = _choose_tokens(is_ordinary, counts, scores)

    ordinary_ids = tf.constant(vocabulary.ordinary_ids)
    random_ids = tf.gather(ordinary_ids, tf.cast(replacements * len(vocabulary.ordinary_ids), tf.int32))
    shown = tf.where(draws < MASK_SHARE + RANDOM_SHARE, random_ids, originals)
    shown = tf.where(draws < MASK_SHARE, vocabulary.mask_id, shown)

    # The chosen positions, ascending, then `seq_length` for the places that are left.
    positions = tf.sort(tf.where(chosen, tf.range(seq_length), seq_length), axis=1)[:, :max_predictions]
    positions = tf.pad(positions, [[0, 0], [0, max_predictions - positions.shape[1]]], constant_values=seq_length)
    is_prediction = positions < seq_length
    positions = tf.where(is_prediction, positions, 0)
    labels = tf.gather(originals, positions, batch_dims=1)
    return {
        **features,
        "input_word_ids": tf.where(chosen, shown, originals),
        "masked_lm_positions": positions,
        "masked_lm_ids": tf.where(is_prediction, labels, 0),
        "masked_lm_weights": tf.cast(is_prediction, tf.float32),
    }


def _restore(features):
    """The tokens before masking."""
    word_ids = features["input_word_ids"]
    batch, seq_length = tf.shape(word_ids)[0], word_ids.shape[1]
    # What is no prediction goes to a column of its own, which is dropped.
    is_prediction = features["masked_lm_weights"] > 0
    columns = tf.where(is_prediction, features["masked_lm_positions"], seq_length)
    rows = tf.broadcast_to(tf.range(batch)[:, None], tf.shape(columns))
    widened = tf.pad(word_ids, [[0, 0], [0, 1]])
    restored = tf.tensor_scatter_nd_update(widened, tf.stack([rows, columns], axis=-1), features["masked_lm_ids"])
    return tf.ensure_shape(restored[:, :seq_length], word_ids.shape)


def _uniforms(keys, seed, seq_length):
    """Three random numbers from [0, 1) for each position: float64 `[batch, 3, seq_length]`."""

    def of_example(key):
        # Two integers of 64 bits seed a generator: seed and epoch, file and place in the file.
        pair = tf.stack([seed * 2**32 + key[0], key[1] * 2**40 + key[2]])
        return tf.random.stateless_uniform([3, seq_length], pair, dtype=tf.float64, alg="philox")

    return tf.map_fn(of_example, keys, fn_output_signature=tf.TensorSpec([3, seq_length], tf.float64))


def _choose_tokens(is_ordinary, counts, scores):
    """The first `counts` of a random order of the ordinary tokens: bool `[batch, seq_length]`."""
    ordered = tf.sort(tf.where(is_ordinary, scores, 2.0), axis=1)
    limits = tf.gather(ordered, counts[:, None] - 1, batch_dims=1)
    return is_ordinary & (scores <= limits)


def _choose_words(is_ordinary, is_inner_piece, counts, scores):
    """Words in random order as long as they fit into `counts` tokens: bool `[batch, seq_length]`."""
    batch, seq_length = tf.shape(is_ordinary)[0], is_ordinary.shape[1]
    goes_on = tf.pad(is_inner_piece[:, 1:] & is_ordinary[:, :-1], [[0, 0], [1, 0]])
    is_first = is_ordinary & ~goes_on
    # Which word of its row a token is of. Tokens of no word count for a word that has none.
    words = tf.where(is_ordinary, tf.cumsum(tf.cast(is_first, tf.int32), axis=1) - 1, seq_length)
    places = words + tf.range(batch)[:, None] * (seq_length + 1)
    lengths = tf.math.bincount(tf.reshape(places, [-1]), minlength=batch * (seq_length + 1))
    lengths = tf.reshape(lengths, [batch, seq_length + 1])[:, :seq_length]

    order = tf.argsort(tf.where(lengths > 0, scores, 2.0), axis=1)
    candidates = tf.transpose(tf.gather(lengths, order, batch_dims=1))

    def take(taken, length):
        return tf.where(taken + length <= counts, taken + length, taken)

    taken = tf.transpose(tf.scan(take, candidates, initializer=tf.zeros_like(counts)))
    is_chosen = taken > tf.pad(taken[:, :-1], [[0, 0], [1, 0]])
    is_chosen = tf.gather(is_chosen, tf.argsort(order, axis=1), batch_dims=1)
    return is_ordinary & tf.gather(is_chosen, tf.minimum(words, seq_length - 1), batch_dims=1)
