"""Next-sentence pairs (Devlin et al. 2018): exact rules exactly, random ones within 5 sigma."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
from made_documents import distinct_tokens, is_likely, make_store

import bert_examples
from bert_examples import Pairs, pair_sentences


class Pair(NamedTuple):
    """A pair as lists of tokens."""

    tokens_a: list
    tokens_b: list
    is_random_next: bool


def pairs_of(documents, indices, repetitions, seq_length, short_sequence_probability, seed):
    """The pairs as lists of tokens."""
    store = make_store(documents)
    rng = np.random.default_rng(seed)
    pairs = pair_sentences(store, indices, repetitions, seq_length, short_sequence_probability, rng)
    return [
        Pair(store.tokens[a : a + la].tolist(), store.tokens[b : b + lb].tolist(), bool(is_random))
        for a, la, b, lb, is_random in zip(*pairs, strict=True)
    ]


@pytest.fixture(scope="module")
def documents():
    return distinct_tokens()


def flatten(document):
    return [token for sentence in document for token in sentence]


def is_run(tokens):
    return tokens == list(range(tokens[0], tokens[0] + len(tokens)))


@pytest.mark.parametrize("seq_length", [16, 64])
def test_pairs_fit_and_come_from_where_the_label_says(documents, seq_length):
    of_document = {token: index for index, document in enumerate(documents) for token in flatten(document)}
    adjacent = 0
    for index in range(len(documents)):
        for pair in pairs_of(documents, [index], 5, seq_length, 0.3, (1, index)):
            total = len(pair.tokens_a) + len(pair.tokens_b)
            assert pair.tokens_a and pair.tokens_b
            assert total <= seq_length - 3
            assert is_run(pair.tokens_a) and is_run(pair.tokens_b)
            assert of_document[pair.tokens_a[0]] == index
            if pair.is_random_next:
                assert of_document[pair.tokens_b[0]] != index
                assert of_document[pair.tokens_b[0]] == of_document[pair.tokens_b[-1]]
            else:
                assert of_document[pair.tokens_b[0]] == index
                assert pair.tokens_b[0] > pair.tokens_a[-1]
                if total < seq_length - 3:  # not truncated
                    assert pair.tokens_b[0] == pair.tokens_a[-1] + 1
                    adjacent += 1
    assert adjacent > 0


def test_runs_begin_and_end_at_sentences_and_miss_nothing(documents):
    """Without truncation the A runs and their actual B runs are the document, once and in order, in each repetition."""
    starts = {sentence[0] for document in documents for sentence in document}
    ends = {sentence[-1] for document in documents for sentence in document}
    for index, document in enumerate(documents):
        seen = []
        for pair in pairs_of(documents, [index], 3, 50_000, 0.5, (2, index)):
            for run in (pair.tokens_a, pair.tokens_b):
                assert run[0] in starts and run[-1] in ends
            seen += pair.tokens_a + ([] if pair.is_random_next else pair.tokens_b)
        assert seen == flatten(document) * 3


def test_random_runs_end_where_the_sequence_is_full(documents):
    """Never one sentence more than needed: without its last one, a random B would not fill the sequence."""
    first_of_sentence = {token: s[0] for document in documents for s in document for token in s}
    last_of_document = {token: document[-1][-1] for document in documents for token in flatten(document)}
    full = 0
    for pair in pairs_of(documents, range(60), 5, 203, 0.0, 3):
        length = len(pair.tokens_a) + len(pair.tokens_b)
        if pair.is_random_next and length < 200:
            assert pair.tokens_b[-1] == last_of_document[pair.tokens_b[-1]]
        elif pair.is_random_next:
            before_last = first_of_sentence[pair.tokens_b[-1]] - pair.tokens_b[0]
            assert len(pair.tokens_a) + before_last < 200
            full += 1
    assert full > 100


def test_half_of_the_pairs_have_a_random_next_sentence():
    documents = [[[1000 * d + s] for s in range(400)] for d in range(50)]  # no sentence is ever alone but the last
    labels = [
        pair.is_random_next for pair in pairs_of(documents, range(50), 1, 13, 0.0, 3) if pair.tokens_a[-1] % 1000 != 399
    ]
    assert len(labels) > 1000
    assert is_likely(sum(labels), len(labels), 0.5)


def test_a_lone_sentence_gets_a_random_next_sentence():
    seen = set()
    for pair in pairs_of([[[5]], [[6]], [[7]]], [1], 200, 16, 0.1, 4):
        assert pair.is_random_next and pair.tokens_a == [6]
        seen.add(pair.tokens_b[0])
    assert seen == {5, 7}


def test_random_documents_and_places_are_all_as_likely():
    documents = [[[100 * d + s] for s in range(4)] for d in range(5)]
    counts = np.zeros((5, 4))
    for pair in pairs_of(documents, [2], 4000, 16, 0.0, 5):
        if pair.is_random_next:
            counts[divmod(pair.tokens_b[0], 100)] += 1
    assert counts[2].sum() == 0
    others = np.delete(counts, 2, axis=0)
    assert others.sum() > 1000
    assert all(is_likely(count, others.sum(), 1 / 16) for count in others.flat)


def test_the_place_between_the_runs_is_uniform():
    documents = [[[100 * d + s] for s in range(10)] for d in range(3)]
    places = np.bincount([len(pair.tokens_a) for pair in pairs_of(documents, [0], 8000, 13, 0.0, 6)], minlength=10)
    whole = [len(p.tokens_a) for p in pairs_of(documents, [0], 8000, 13, 0.0, 6) if p.tokens_a[0] == 0]
    assert places[0] == 0 and len(whole) == 8000
    assert all(is_likely(count, 8000, 1 / 9) for count in np.bincount(whole, minlength=10)[1:])


def test_the_asked_share_of_pairs_is_short():
    documents = [[[1000 * d + s] for s in range(900)] for d in range(30)]
    max_tokens = 37
    totals = []
    for pair in pairs_of(documents, range(30), 1, max_tokens + 3, 0.2, 7):
        near_an_end = pair.tokens_a[-1] % 1000 > 850 or pair.tokens_b[-1] % 1000 > 850
        if not near_an_end:
            totals.append(len(pair.tokens_a) + len(pair.tokens_b))
    # A short length is any of 2..37 with equal probability; of these 37 looks like all the others.
    short = [total for total in totals if total < max_tokens]
    assert is_likely(len(short), len(totals), 0.2 * 35 / 36)
    assert is_likely(sum(total >= 20 for total in short), len(short), 17 / 35)
    assert (min(totals), max(totals)) == (2, max_tokens)


def truncate(length_a, length_b, max_tokens, rows=1, seed=7):
    """Where A and B begin and how long they are after truncation, from 0 and 1000."""
    same = [np.full(rows, value) for value in (0, length_a, 1000, length_b)]
    return bert_examples._truncate(Pairs(*same, np.zeros(rows, bool)), max_tokens, np.random.default_rng(seed))


def test_truncation_equals_taking_tokens_from_the_longer_run_one_by_one():
    for length_a, length_b, max_tokens in itertools.product(range(1, 12), range(1, 12), range(2, 15)):
        expected_a, expected_b = length_a, length_b
        while expected_a + expected_b > max_tokens:
            if expected_a > expected_b:
                expected_a -= 1
            else:
                expected_b -= 1
        kept = truncate(length_a, length_b, max_tokens)
        assert (kept.a_length[0], kept.b_length[0]) == (expected_a, expected_b)
        assert 0 <= kept.a_start[0] <= length_a - expected_a
        assert 1000 <= kept.b_start[0] <= 1000 + length_b - expected_b


def test_truncation_takes_from_both_ends_alike():
    fronts = truncate(40, 1, 21, rows=2000).a_start
    assert is_likely(fronts.sum(), 2000 * 20, 0.5)
    assert 2.0 < np.std(fronts) < 2.5  # each of the 20 tokens on its own: sqrt(20) / 2 = 2.24


def test_documents_are_paired_in_the_given_order(documents):
    firsts = [pair.tokens_a[0] for pair in pairs_of(documents, [7, 3], 2, 50_000, 0.0, 8)]
    beginnings = [first for first in firsts if first in (documents[7][0][0], documents[3][0][0])]
    assert beginnings == [documents[7][0][0]] * 2 + [documents[3][0][0]] * 2


def test_one_document_is_not_enough():
    with pytest.raises(ValueError, match=r"another document. Received: 1. Expected >= 2"):
        pairs_of([[[5], [6]]], [0], 1, 16, 0.1, 0)
