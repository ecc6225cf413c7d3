"""Documents of made-up tokens as a token store, and what is likely by chance."""

import itertools
import math

import numpy as np

from token_store import TokenStore
from vocabulary import SPECIAL_TOKENS, Vocabulary

FIRST_ID = len(SPECIAL_TOKENS)


def make_store(documents):
    """A store of lists of sentences, which are lists of token ids."""
    sentences = [sentence for document in documents for sentence in document]
    tokens = np.array([token for sentence in sentences for token in sentence], np.uint32)
    return TokenStore(
        tokens=tokens,
        sentence_starts=np.cumsum([0, *map(len, sentences)]),
        document_starts=np.cumsum([0, *map(len, documents)]),
        token_counts=np.bincount(tokens),
    )


def make_vocabulary(size, inner_pieces=()):
    """The special tokens, then words; "##" before those whose ids are in `inner_pieces`."""
    words = (f"{'##' if index in inner_pieces else ''}w{index}" for index in range(FIRST_ID, size))
    return Vocabulary([*SPECIAL_TOKENS, *words])


def distinct_tokens(documents=60, seed=0):
    """Documents in which each token occurs once and is one more than the last: it tells where it comes from."""
    rng = np.random.default_rng(seed)
    next_id = itertools.count(FIRST_ID)
    return [
        [[next(next_id) for _ in range(rng.integers(1, 30))] for _ in range(rng.integers(1, 40))]
        for _ in range(documents)
    ]


def is_likely(successes, trials, probability):
    """Within 5 standard deviations: a correct program fails once in two million draws."""
    return abs(successes - trials * probability) <= 5 * math.sqrt(trials * probability * (1 - probability))
