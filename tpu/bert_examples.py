"""From token ids to the examples of BERT's two tasks: next sentence and masked words (Devlin et al. 2018, section 3.1).

`pair_sentences` packs documents into pairs, which are stretches of a `TokenStore`; `mask_pairs` looks up their tokens
and chooses what the model is to predict. Both work on the documents of one output file at once.

Differs from the published script (google-research/bert, create_pretraining_data.py) and Model Garden's:

1. The length of a short sequence is drawn for each pair, not once for all pairs of a document. A document with a
   short length has many pairs: drawn once for each document, far more than 10% of the pairs would be short.
2. [UNK] is not predicted, and a random replacement is never a special token.
3. The second half of a random pair is never of the same document.
4. With whole words, whether a token is shown as [MASK], as another or as itself is drawn for each token, as in the
   published script; Model Garden draws once for a word.
"""

import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from token_store import TokenStore
from vocabulary import Vocabulary

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1


class Pairs(NamedTuple):
    """Pairs of runs of tokens of a `TokenStore`, together at most `seq_length` - 3 long.

    Attributes:
        a_start: int64 [pairs]: where in `TokenStore.tokens` the first run begins.
        a_length: int64 [pairs]: how many tokens it has, >= 1.
        b_start: int64 [pairs]: where the second run begins.
        b_length: int64 [pairs]: how many tokens it has, >= 1.
        is_random_next: bool [pairs]: whether the second run is of another document.
    """

    a_start: np.ndarray
    a_length: np.ndarray
    b_start: np.ndarray
    b_length: np.ndarray
    is_random_next: np.ndarray

    def take(self, rows: np.ndarray) -> "Pairs":
        """The pairs of these rows, in their order."""
        return Pairs(*(field[rows] for field in self))


class Examples(NamedTuple):
    """Padded examples, in the features that Model Garden's pre-training reader expects (version 2 names).

    Attributes:
        input_word_ids: int32 [examples, seq_length]: [CLS] A [SEP] B [SEP] and padding, with the replaced tokens.
        input_mask: int32 [examples, seq_length]: 1 for a token, 0 for padding.
        input_type_ids: int32 [examples, seq_length]: 1 for B and its [SEP], else 0.
        masked_lm_positions: int32 [examples, max_predictions]: what to predict, ascending, then zeros.
        masked_lm_ids: int32 [examples, max_predictions]: the original tokens there, then zeros.
        masked_lm_weights: float32 [examples, max_predictions]: 1 for a prediction, 0 for padding.
        next_sentence_labels: int32 [examples, 1]: 1 if B is from elsewhere, 0 if it follows A.
    """

    input_word_ids: np.ndarray
    input_mask: np.ndarray
    input_type_ids: np.ndarray
    masked_lm_positions: np.ndarray
    masked_lm_ids: np.ndarray
    masked_lm_weights: np.ndarray
    next_sentence_labels: np.ndarray


def pair_sentences(
    store: TokenStore,
    documents: Sequence[int],
    repetitions: int,
    seq_length: int,
    short_sequence_probability: float,
    rng: np.random.Generator,
) -> Pairs:
    """Packs the sentences of documents into pairs of at most `seq_length` - 3 tokens (three are [CLS], [SEP], [SEP]).

    Each pair takes sentences until they fill the sequence. A random place between two of them divides A from B. In
    half of the cases B is replaced by a run of sentences of another document, and the sentences it displaces come
    again in the next pair. A lone sentence always gets a random B.

    Args:
        store: Two or more documents.
        documents: Which of them to pair.
        repetitions: How many times to pair each.
        seq_length: The tokens of an example.
        short_sequence_probability: The share of pairs that aim at a random length from 2 tokens up.
        rng: The source of all randomness.

    Returns:
        The pairs in the order of the documents.

    Raises:
        ValueError: There are fewer than two documents.
    """
    document_count = len(store.document_starts) - 1
    if document_count < 2:
        raise ValueError(f"A random next sentence needs another document. Received: {document_count}. Expected >= 2.")
    max_tokens = seq_length - 3
    uniform = _uniforms(rng)
    rows = array.array("q")  # document, A's first token, B's first token, the token after B, target, is random
    for document in documents:
        first, last = store.document_starts[document : document + 2].tolist()
        starts = store.sentence_starts[first : last + 1].tolist()
        for _ in range(repetitions):
            start = 0
            while start < last - first:
                target = max_tokens
                if next(uniform) < short_sequence_probability:
                    target = 2 + int(next(uniform) * (max_tokens - 1))
                end = bisect_left(starts, starts[start] + target, start + 1, last - first)
                is_lone = end - start == 1
                middle = start + 1 if is_lone else start + 1 + int(next(uniform) * (end - start - 1))
                is_random = is_lone or next(uniform) < 0.5
                rows.extend((document, starts[start], starts[middle], starts[end], target, is_random))
                start = middle if is_random else end

    table = np.array(rows, np.int64).reshape(-1, 6)
    document, a_start, b_start, b_end, target, is_random = table.T
    is_random = is_random.astype(bool)
    a_length = b_start - a_start
    b_start[is_random], b_end[is_random] = _random_runs(store, document[is_random], (target - a_length)[is_random], rng)
    return _truncate(Pairs(a_start, a_length, b_start, b_end - b_start, is_random), max_tokens, rng)


def mask_pairs(
    store: TokenStore,
    pairs: Pairs,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    *,
    seq_length: int,
    max_predictions: int,
    masked_lm_probability: float,
    whole_word_masking: bool,
) -> Examples:
    """Pads pairs and replaces tokens that the model is to predict.

    The number of predictions is the given share of the sequence's tokens (special ones counted, as in the published
    script), rounded half to even, at least one and at most `max_predictions`. Any token that is not special is as
    likely to be chosen. Of the chosen, 80% become [MASK], 10% a random token and 10% stay.

    With whole words, words are chosen in random order, each as a whole ("##" pieces belong to the token before them)
    or, where it has more tokens than are still to be chosen, not at all. So there may be fewer predictions, and none
    if every word is too long.

    Args:
        store: What the pairs are of.
        pairs: At most `seq_length` - 3 tokens each.
        vocabulary: The vocabulary of the tokens.
        rng: The source of all randomness.
        seq_length: The tokens of an example.
        max_predictions: The most predictions of an example.
        masked_lm_probability: The share of tokens to predict.
        whole_word_masking: Whether to choose words instead of tokens.
    """
    word_ids, type_ids, input_mask = _padded(store.tokens, pairs, vocabulary, seq_length)
    is_ordinary = ~vocabulary.is_special[word_ids]
    counts = np.clip(np.rint(input_mask.sum(axis=1) * masked_lm_probability), 1, max_predictions).astype(np.int64)
    if whole_word_masking:
        chosen = _choose_words(is_ordinary, vocabulary.is_inner_piece[word_ids], counts, rng)
    else:
        chosen = _choose_tokens(is_ordinary, counts, max_predictions, rng)

    rows, columns = np.nonzero(chosen)
    originals = word_ids[rows, columns]
    draw = rng.random(len(rows))
    random_ids = rng.choice(vocabulary.ordinary_ids, len(rows))
    shown = np.where(draw < MASK_SHARE + RANDOM_SHARE, random_ids, originals)
    word_ids[rows, columns] = np.where(draw < MASK_SHARE, vocabulary.mask_id, shown)

    positions, labels = np.zeros((2, len(word_ids), max_predictions), np.int32)
    numbers = chosen.sum(axis=1)
    is_prediction = np.arange(max_predictions) < numbers[:, None]
    positions[is_prediction] = columns
    labels[is_prediction] = originals
    next_labels = pairs.is_random_next.astype(np.int32)[:, None]
    return Examples(word_ids, input_mask, type_ids, positions, labels, is_prediction.astype(np.float32), next_labels)


def _uniforms(rng: np.random.Generator) -> Iterator[float]:
    """Numbers from [0, 1), drawn many at a time: one by one they would take longer than all the rest."""
    while True:
        yield from rng.random(1024).tolist()


def _random_runs(
    store: TokenStore, documents: np.ndarray, targets: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Sentences in a row of another document, from a random one on, until there are `targets` tokens."""
    others = rng.integers(len(store.document_starts) - 2, size=len(documents))
    others += others >= documents
    first, last = store.document_starts[others], store.document_starts[others + 1]
    sentences = rng.integers(first, last)
    starts = store.sentence_starts[sentences]
    ends = np.searchsorted(store.sentence_starts, starts + np.maximum(targets, 1))
    return starts, store.sentence_starts[np.minimum(ends, last)]


def _truncate(pairs: Pairs, max_tokens: int, rng: np.random.Generator) -> Pairs:
    """Shortens the longer run until both fit; each token goes from the front or the back with equal probability.

    What is left of A when single tokens are taken from the longer run in turn (from B on a tie) has a closed form.
    """
    a_start, a_length, b_start, b_length, is_random_next = pairs
    a_kept = np.minimum(a_length, np.maximum(max_tokens - b_length, (max_tokens + 1) // 2))
    b_kept = np.minimum(b_length, max_tokens - a_kept)
    a_start = a_start + rng.binomial(a_length - a_kept, 0.5)
    b_start = b_start + rng.binomial(b_length - b_kept, 0.5)
    return Pairs(a_start, a_kept, b_start, b_kept, is_random_next)


def _padded(
    tokens: np.ndarray, pairs: Pairs, vocabulary: Vocabulary, seq_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[CLS] A [SEP] B [SEP] and padding: word ids, type ids and mask, int32 [pairs, seq_length]."""
    columns = np.arange(seq_length)
    first_separator = 1 + pairs.a_length[:, None]
    last_separator = first_separator + 1 + pairs.b_length[:, None]
    in_a = (columns > 0) & (columns < first_separator)
    in_b = (columns > first_separator) & (columns < last_separator)
    sources_a = pairs.a_start[:, None] + columns - 1
    sources_b = pairs.b_start[:, None] + columns - first_separator - 1
    word_ids = np.full(in_a.shape, vocabulary.pad_id, np.int32)
    word_ids[in_a] = tokens[sources_a[in_a]]
    word_ids[in_b] = tokens[sources_b[in_b]]
    word_ids[:, 0] = vocabulary.cls_id
    word_ids[(columns == first_separator) | (columns == last_separator)] = vocabulary.sep_id
    input_mask = columns <= last_separator
    type_ids = input_mask & (columns > first_separator)
    return word_ids, type_ids.astype(np.int32), input_mask.astype(np.int32)


def _choose_tokens(
    is_ordinary: np.ndarray, counts: np.ndarray, max_predictions: int, rng: np.random.Generator
) -> np.ndarray:
    """The first `counts` of a random order of the ordinary tokens: bool [pairs, seq_length]."""
    scores = np.where(is_ordinary, rng.random(is_ordinary.shape), 2.0)
    most = min(max_predictions, scores.shape[1])
    lowest = np.sort(np.partition(scores, most - 1, axis=1)[:, :most], axis=1)
    limits = np.take_along_axis(lowest, counts[:, None] - 1, axis=1)
    return (scores <= limits) & is_ordinary


def _choose_words(
    is_ordinary: np.ndarray, is_inner_piece: np.ndarray, counts: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Words in random order as long as they fit into `counts` tokens: bool [pairs, seq_length]."""
    goes_on = np.zeros_like(is_ordinary)
    goes_on[:, 1:] = is_inner_piece[:, 1:] & is_ordinary[:, :-1]
    is_first = is_ordinary & ~goes_on
    rows = np.arange(len(is_first))
    words = np.cumsum(is_first, axis=1) - 1  # which word of its row a token is of
    lengths = np.zeros(is_first.shape, np.int64)
    token_rows, token_columns = np.nonzero(is_ordinary)
    np.add.at(lengths, (token_rows, words[token_rows, token_columns]), 1)

    order = np.argsort(np.where(lengths > 0, rng.random(lengths.shape), 2.0), axis=1)
    is_chosen_word = np.zeros_like(is_first)
    room = counts.copy()
    for candidates in order[:, : is_first.sum(axis=1).max(initial=0)].T:
        length = lengths[rows, candidates]
        fits = (length > 0) & (length <= room)
        is_chosen_word[rows, candidates] = fits
        room -= np.where(fits, length, 0)
    return is_ordinary & np.take_along_axis(is_chosen_word, np.maximum(words, 0), axis=1)
