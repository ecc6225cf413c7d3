"""Sentences, next-sentence pairs and masking (Devlin et al. 2018): exact rules exactly, random ones within 5 sigma."""

import dataclasses
import doctest
import itertools
import math

import numpy as np
import pytest

import bert_examples
from bert_config import DataConfig
from bert_examples import (
    CLS_ID,
    MASK_ID,
    PAD_ID,
    SEP_ID,
    SPECIAL_TOKENS,
    UNK_ID,
    SentencePair,
    document_examples,
    generator,
    mask_pairs,
    pair_sentences,
    split_sentences,
)

FIRST_ID = len(SPECIAL_TOKENS)


def is_likely(successes, trials, probability):
    """Within 5 standard deviations: a correct program fails once in two million draws."""
    return abs(successes - trials * probability) <= 5 * math.sqrt(trials * probability * (1 - probability))


@pytest.fixture(scope="module")
def documents():
    """60 documents in which each token occurs once, so that a token tells where it comes from."""
    rng = np.random.default_rng(0)
    next_id = itertools.count(FIRST_ID)
    return [
        [[next(next_id) for _ in range(rng.integers(1, 30))] for _ in range(rng.integers(1, 40))] for _ in range(60)
    ]


@pytest.fixture(scope="module")
def vocab_size(documents):
    return documents[-1][-1][-1] + 1


def flatten(document):
    return [token for sentence in document for token in sentence]


def is_run(tokens):
    return tokens == list(range(tokens[0], tokens[0] + len(tokens)))


# --- sentences ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sentences",
    [
        ["One sentence."],
        ["It ends.", "It begins."],
        ["Is it?", "It is!", "Really?!", "Yes."],
        ["Use a tuple, e.g. (1, 2), or a list, i.e. [1, 2].", "Both work."],
        ["Pi is 3.14 here.", "In Python 3.11 it is not 3.", "No more."],
        ["The file __init__.py is run.", "Then a.b.c is imported from os.path."],
        ["open() returns a file.", "os.open() does not.", "_private is a name."],
        ["Lists, tuples, etc. and more of them.", "Lists, tuples, etc.", "That is all."],
        ['He says "no." And then "yes."', "(So it is.)", "Fine."],
        ["Fred L. Drake wrote it, cf. Fig. 3 and Sect. 5.", "It is used in the U.S. Government."],
        ["1. First do this.", "2. Then do that."],
        ["Wait ... or go.", "Wait...", "Go."],
        ["no full stop at all"],
    ],
)
def test_split_sentences(sentences):
    if sentences[0].startswith("He says"):
        sentences = ['He says "no."', 'And then "yes."', *sentences[1:]]
    assert split_sentences(" ".join(sentences)) == sentences


@pytest.mark.parametrize("text", ["", "   ", "...", "a", ". . ."])
def test_split_sentences_loses_nothing(text):
    assert " ".join(split_sentences(text)).split() == text.split()


# --- pairs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seq_length", [16, 64])
def test_pairs_fit_and_come_from_where_the_label_says(documents, seq_length):
    of_document = {token: index for index, document in enumerate(documents) for token in flatten(document)}
    adjacent = 0
    for index, duplicate in itertools.product(range(len(documents)), range(5)):
        for pair in pair_sentences(documents, index, seq_length, 0.3, generator(1, duplicate, index)):
            total = len(pair.tokens_a) + len(pair.tokens_b)
            assert pair.tokens_a and pair.tokens_b
            assert total <= seq_length - 3
            assert is_run(pair.tokens_a) and is_run(pair.tokens_b)
            assert of_document[pair.tokens_a[0]] == index
            if pair.is_random_next:
                assert of_document[pair.tokens_b[0]] != index
            else:
                assert of_document[pair.tokens_b[0]] == index
                assert pair.tokens_b[0] > pair.tokens_a[-1]
                if total < seq_length - 3:  # not truncated
                    assert pair.tokens_b[0] == pair.tokens_a[-1] + 1
                    adjacent += 1
    assert adjacent > 0


def test_runs_begin_and_end_at_sentences_and_miss_nothing(documents):
    """Without truncation the A runs and their actual B runs are the document, once and in order."""
    starts = {sentence[0] for document in documents for sentence in document}
    ends = {sentence[-1] for document in documents for sentence in document}
    for index, document in enumerate(documents):
        seen = []
        for pair in pair_sentences(documents, index, 5000, 0.5, generator(2, 0, index)):
            for run in (pair.tokens_a, pair.tokens_b):
                assert run[0] in starts and run[-1] in ends
            seen += pair.tokens_a + ([] if pair.is_random_next else pair.tokens_b)
        assert seen == flatten(document)


def test_half_of_the_pairs_have_a_random_next_sentence():
    documents = [[[1000 * d + s] for s in range(400)] for d in range(50)]  # no sentence is ever alone but the last
    labels = [
        pair.is_random_next
        for index in range(50)
        for pair in pair_sentences(documents, index, 13, 0.0, generator(3, 0, index))
        if pair.tokens_a[-1] != documents[index][-1][0]
    ]
    assert len(labels) > 1000
    assert is_likely(sum(labels), len(labels), 0.5)


def test_a_lone_sentence_gets_a_random_next_sentence():
    documents = [[[5]], [[6]], [[7]]]
    seen = set()
    for duplicate in range(200):
        (pair,) = pair_sentences(documents, 1, 16, 0.1, generator(4, duplicate, 1))
        assert pair.is_random_next and pair.tokens_a == [6]
        seen.add(pair.tokens_b[0])
    assert seen == {5, 7}


def test_random_documents_and_places_are_all_as_likely():
    documents = [[[100 * d + s] for s in range(4)] for d in range(5)]
    counts = np.zeros((5, 4))
    for duplicate in range(4000):
        for pair in pair_sentences(documents, 2, 16, 0.0, generator(5, duplicate, 2)):
            if pair.is_random_next:
                counts[divmod(pair.tokens_b[0], 100)] += 1
    assert counts[2].sum() == 0
    others = np.delete(counts, 2, axis=0)
    assert all(is_likely(count, others.sum(), 1 / 16) for count in others.flat)


def test_the_asked_share_of_pairs_is_short():
    documents = [[[1000 * d + s] for s in range(900)] for d in range(30)]
    max_tokens = 37
    totals = []
    for index in range(30):
        for pair in pair_sentences(documents, index, max_tokens + 3, 0.2, generator(6, 0, index)):
            near_an_end = pair.tokens_a[-1] % 1000 > 850 or pair.tokens_b[-1] % 1000 > 850
            if not near_an_end:
                totals.append(len(pair.tokens_a) + len(pair.tokens_b))
    # A short length is any of 2..37 with equal probability; of these 37 looks like all the others.
    short = [total for total in totals if total < max_tokens]
    assert is_likely(len(short), len(totals), 0.2 * 35 / 36)
    assert is_likely(sum(total >= 20 for total in short), len(short), 17 / 35)
    assert (min(totals), max(totals)) == (2, max_tokens)


def test_truncation_equals_taking_tokens_from_the_longer_run_one_by_one():
    rng = np.random.default_rng(7)
    for length_a, length_b, max_tokens in itertools.product(range(1, 12), range(1, 12), range(2, 15)):
        a, b = list(range(length_a)), list(range(100, 100 + length_b))
        expected_a, expected_b = length_a, length_b
        while expected_a + expected_b > max_tokens:
            if expected_a > expected_b:
                expected_a -= 1
            else:
                expected_b -= 1
        kept_a, kept_b = bert_examples._truncate(a, b, max_tokens, rng)
        assert (len(kept_a), len(kept_b)) == (expected_a, expected_b)
        assert is_run(kept_a) and is_run(kept_b) and set(kept_a) <= set(a) and set(kept_b) <= set(b)


def test_truncation_takes_from_both_ends_alike():
    rng = np.random.default_rng(8)
    fronts = [bert_examples._truncate(list(range(40)), [0], 21, rng)[0][0] for _ in range(2000)]
    assert is_likely(sum(fronts), 2000 * 20, 0.5)
    assert 2.0 < np.std(fronts) < 2.5  # each of the 20 tokens on its own: sqrt(20) / 2 = 2.24


def test_one_document_is_not_enough():
    with pytest.raises(ValueError, match=r"another document. Received: 1. Expected >= 2"):
        pair_sentences([[[5], [6]]], 0, 16, 0.1, generator(0, 0, 0))


# --- masking -----------------------------------------------------------------------------------------------------

SEQ_LENGTH, MAX_PREDICTIONS, VOCAB_SIZE = 64, 8, 5000


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(9)
    pairs = []
    for _ in range(4000):
        length_a, length_b = rng.integers(1, 31, 2)
        tokens = rng.integers(FIRST_ID, VOCAB_SIZE, length_a + length_b).tolist()
        pairs.append(SentencePair(tokens[:length_a], tokens[length_a:], bool(rng.integers(2))))
    return pairs


def mask(pairs, **changes):
    arguments = {
        "seq_length": SEQ_LENGTH,
        "max_predictions": MAX_PREDICTIONS,
        "masked_lm_probability": 0.15,
        "vocab_size": VOCAB_SIZE,
        "rng": np.random.default_rng(10),
    }
    return mask_pairs(pairs, **{**arguments, **changes})


@pytest.fixture(scope="module")
def examples(pairs):
    return mask(pairs)


def predictions(example):
    """(position, original, shown) of each prediction."""
    count = int(example.masked_lm_weights.sum())
    positions = example.masked_lm_positions[:count]
    return list(zip(positions, example.masked_lm_ids[:count], example.input_word_ids[positions], strict=True))


def test_labels_restore_the_original_sequence(pairs, examples):
    for pair, example in zip(pairs, examples, strict=True):
        restored = example.input_word_ids.copy()
        for position, original, _ in predictions(example):
            restored[position] = original
        sequence = [CLS_ID, *pair.tokens_a, SEP_ID, *pair.tokens_b, SEP_ID]
        assert restored.tolist() == sequence + [PAD_ID] * (SEQ_LENGTH - len(sequence))


def test_mask_segments_and_label(pairs, examples):
    for pair, example in zip(pairs, examples, strict=True):
        first, second = len(pair.tokens_a) + 2, len(pair.tokens_b) + 1
        padding = SEQ_LENGTH - first - second
        assert example.input_mask.tolist() == [1] * (first + second) + [0] * padding
        assert example.input_type_ids.tolist() == [0] * first + [1] * second + [0] * padding
        assert example.next_sentence_label == (1 if pair.is_random_next else 0)


def test_number_of_predictions(pairs, examples):
    """15% of the tokens, special ones included, rounded (half to even); at least 1, at most `max_predictions`."""
    seen = set()
    for pair, example in zip(pairs, examples, strict=True):
        count = min(MAX_PREDICTIONS, max(1, round(0.15 * (len(pair.tokens_a) + len(pair.tokens_b) + 3))))
        assert example.masked_lm_weights.tolist() == [1.0] * count + [0.0] * (MAX_PREDICTIONS - count)
        assert not example.masked_lm_ids[count:].any()
        assert not example.masked_lm_positions[count:].any()
        positions = example.masked_lm_positions[:count].tolist()
        assert positions == sorted(set(positions))
        seen.add(count)
    assert seen == set(range(1, MAX_PREDICTIONS + 1))


def test_share_of_predictions_without_a_limit(pairs):
    examples = mask(pairs, max_predictions=20)
    predicted = sum(example.masked_lm_weights.sum() for example in examples)
    tokens = sum(example.input_mask.sum() for example in examples)
    assert is_likely(predicted, tokens, 0.15)


def test_80_10_10(examples):
    triples = [triple for example in examples for triple in predictions(example)]
    as_mask = sum(shown == MASK_ID for _, _, shown in triples)
    unchanged = sum(shown == original for _, original, shown in triples)
    by_chance = 0.1 / (VOCAB_SIZE - FIRST_ID)  # a random token may be the original one
    assert len(triples) > 15_000
    assert is_likely(as_mask, len(triples), 0.8)
    assert is_likely(unchanged, len(triples), 0.1 + by_chance)
    assert is_likely(len(triples) - as_mask - unchanged, len(triples), 0.1 - by_chance)


def test_random_replacements_are_uniform_over_ordinary_tokens():
    pairs = [SentencePair([FIRST_ID] * 30, [FIRST_ID] * 31, False)] * 4000
    shown = [s for example in mask(pairs, vocab_size=FIRST_ID + 10) for _, _, s in predictions(example)]
    counts = np.bincount(shown, minlength=FIRST_ID + 10)
    assert not counts[:MASK_ID].any()
    assert len(counts) == FIRST_ID + 10
    assert all(is_likely(count, len(shown), 0.1 / 10) for count in counts[FIRST_ID + 1 :])


def test_every_ordinary_position_is_as_likely():
    pairs = [SentencePair(list(range(5, 35)), list(range(35, 66)), False)] * 4000
    chosen = np.bincount([p for example in mask(pairs) for p, _, _ in predictions(example)], minlength=SEQ_LENGTH)
    special = [0, 31, 63]
    assert not chosen[special].any()
    assert all(is_likely(count, 4000, MAX_PREDICTIONS / 61) for count in np.delete(chosen, special))


def test_the_choice_does_not_depend_on_what_is_shown():
    """Positions and replacements are drawn anew for each pair: no two of many equal pairs need agree."""
    pairs = [SentencePair(list(range(5, 35)), list(range(35, 66)), False)] * 100
    assert len({tuple(example.masked_lm_positions.tolist()) for example in mask(pairs)}) > 95


def test_special_tokens_are_never_predicted():
    pairs = [SentencePair([UNK_ID, 7, UNK_ID], [UNK_ID, 8], False)] * 500
    for example in mask(pairs, masked_lm_probability=0.5):
        assert [original for _, original, _ in predictions(example)] == [7, 8]


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"masked_lm_probability": 0.0}, 1),
        ({"masked_lm_probability": 1.0, "max_predictions": 100}, 4),
        ({"masked_lm_probability": 1.0, "max_predictions": 3}, 3),
    ],
)
def test_extreme_numbers_of_predictions(changes, count):
    (example,) = mask([SentencePair([5, 6], [7, 8], True)], **changes)
    assert len(predictions(example)) == count
    assert len(example.masked_lm_positions) == changes.get("max_predictions", MAX_PREDICTIONS)


def test_a_pair_without_ordinary_tokens_has_no_prediction():
    (example,) = mask([SentencePair([UNK_ID], [UNK_ID], True)])
    assert predictions(example) == []
    assert example.input_word_ids[:5].tolist() == [CLS_ID, UNK_ID, SEP_ID, UNK_ID, SEP_ID]


def test_types_and_shapes(examples):
    example = examples[0]
    expected = {
        "input_word_ids": (np.int32, SEQ_LENGTH),
        "input_mask": (np.int32, SEQ_LENGTH),
        "input_type_ids": (np.int32, SEQ_LENGTH),
        "masked_lm_positions": (np.int32, MAX_PREDICTIONS),
        "masked_lm_ids": (np.int32, MAX_PREDICTIONS),
        "masked_lm_weights": (np.float32, MAX_PREDICTIONS),
    }
    for name, (dtype, size) in expected.items():
        array = getattr(example, name)
        assert (array.dtype, array.shape) == (dtype, (size,)), name
    assert [field.name for field in dataclasses.fields(example)] == [*expected, "next_sentence_label"]
    assert mask([]) == []


# --- the whole of a document -------------------------------------------------------------------------------------


def as_lists(examples):
    return [[np.asarray(value).tolist() for value in vars(example).values()] for example in examples]


def make(documents, vocab_size, index, duplicate, seed=12345):
    data = DataConfig(vocab_size=vocab_size, dupe_factor=5, seed=seed)
    return as_lists(
        document_examples(documents, index, duplicate, data, vocab_size=vocab_size, seq_length=32, max_predictions=5)
    )


def test_the_order_of_work_does_not_matter(documents, vocab_size):
    work = [(index, duplicate) for duplicate in range(2) for index in range(len(documents))]
    forward = {key: make(documents, vocab_size, *key) for key in work}
    backward = {key: make(documents, vocab_size, *key) for key in reversed(work)}
    assert forward == backward


def test_seed_repetition_and_document_each_change_the_examples(documents, vocab_size):
    index = max(range(len(documents)), key=lambda i: len(documents[i]))
    base = make(documents, vocab_size, index, 0)
    assert base == make(documents, vocab_size, index, 0)
    assert base != make(documents, vocab_size, index, 1)
    assert base != make(documents, vocab_size, index, 0, seed=1)
    copies = [documents[index], documents[index], documents[0]]
    assert make(copies, vocab_size, 0, 0) != make(copies, vocab_size, 1, 0)


def test_settings_reach_pairs_and_masks(documents, vocab_size):
    index = max(range(len(documents)), key=lambda i: len(documents[i]))
    length = {"vocab_size": vocab_size, "seq_length": 128, "max_predictions": 128}

    def examples(**settings):
        return document_examples(documents, index, 0, DataConfig(vocab_size=9999, dupe_factor=1, **settings), **length)

    def lengths(examples):
        return np.mean([example.input_mask.sum() for example in examples])

    assert lengths(examples(short_sequence_probability=1.0)) < lengths(examples(short_sequence_probability=0.0)) - 10
    for example in examples(masked_lm_probability=0.5):
        assert example.masked_lm_weights.sum() == round(0.5 * example.input_mask.sum())


def test_docstring_examples():
    result = doctest.testmod(bert_examples)
    assert result.attempted and not result.failed


def test_an_example_cannot_be_changed(examples):
    with pytest.raises(dataclasses.FrozenInstanceError):
        examples[0].next_sentence_label = 1
