"""What is masked (Devlin et al. 2018): exact rules exactly, random ones within 5 sigma."""

import numpy as np
import pytest
from made_documents import FIRST_ID, distinct_tokens, is_likely, make_store, make_vocabulary

from bert_examples import Pairs, mask_pairs, pair_sentences
from vocabulary import Vocabulary

SEQ_LENGTH, MAX_PREDICTIONS, VOCAB_SIZE = 64, 8, 5000
VOCABULARY = make_vocabulary(VOCAB_SIZE)
PAD_ID, UNK_ID, CLS_ID, SEP_ID, MASK_ID = range(5)


def mask(pairs, **changes):
    """Masks pairs that are given as two lists of tokens and a flag."""
    store = make_store([[tokens] for a, b, _ in pairs for tokens in (a, b)])
    starts, lengths = store.sentence_starts[:-1].reshape(-1, 2), np.diff(store.sentence_starts).reshape(-1, 2)
    flags = np.array([flag for _, _, flag in pairs])
    arguments = {
        "vocabulary": VOCABULARY,
        "rng": np.random.default_rng(10),
        "seq_length": SEQ_LENGTH,
        "max_predictions": MAX_PREDICTIONS,
        "masked_lm_probability": 0.15,
        "whole_word_masking": False,
    }
    columns = Pairs(starts[:, 0], lengths[:, 0], starts[:, 1], lengths[:, 1], flags)
    return mask_pairs(store, columns, **{**arguments, **changes})


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(9)
    pairs = []
    for _ in range(4000):
        length_a, length_b = rng.integers(1, 31, 2)
        tokens = rng.integers(FIRST_ID, VOCAB_SIZE, length_a + length_b).tolist()
        pairs.append((tokens[:length_a], tokens[length_a:], bool(rng.integers(2))))
    return pairs


@pytest.fixture(scope="module")
def examples(pairs):
    return mask(pairs)


def rows(examples):
    """The examples one by one, each as the features by name."""
    return [type(examples)(*row) for row in zip(*examples, strict=True)]


def predictions(example):
    """(position, original, shown) of each prediction of a row."""
    count = int(example.masked_lm_weights.sum())
    positions = example.masked_lm_positions[:count]
    return list(zip(positions, example.masked_lm_ids[:count], example.input_word_ids[positions], strict=True))


def test_labels_restore_the_original_sequence(pairs, examples):
    for (tokens_a, tokens_b, _), example in zip(pairs, rows(examples), strict=True):
        restored = example.input_word_ids.copy()
        for position, original, _ in predictions(example):
            restored[position] = original
        sequence = [CLS_ID, *tokens_a, SEP_ID, *tokens_b, SEP_ID]
        assert restored.tolist() == sequence + [PAD_ID] * (SEQ_LENGTH - len(sequence))


def test_mask_segments_and_label(pairs, examples):
    for (tokens_a, tokens_b, is_random), example in zip(pairs, rows(examples), strict=True):
        first, second = len(tokens_a) + 2, len(tokens_b) + 1
        padding = SEQ_LENGTH - first - second
        assert example.input_mask.tolist() == [1] * (first + second) + [0] * padding
        assert example.input_type_ids.tolist() == [0] * first + [1] * second + [0] * padding
        assert example.next_sentence_labels.tolist() == [1 if is_random else 0]


def test_number_of_predictions(pairs, examples):
    """15% of the tokens, special ones included, rounded (half to even); at least 1, at most `max_predictions`."""
    seen = set()
    for (tokens_a, tokens_b, _), example in zip(pairs, rows(examples), strict=True):
        count = min(MAX_PREDICTIONS, max(1, round(0.15 * (len(tokens_a) + len(tokens_b) + 3))))
        assert example.masked_lm_weights.tolist() == [1.0] * count + [0.0] * (MAX_PREDICTIONS - count)
        assert not example.masked_lm_ids[count:].any()
        assert not example.masked_lm_positions[count:].any()
        positions = example.masked_lm_positions[:count].tolist()
        assert positions == sorted(set(positions))
        seen.add(count)
    assert seen == set(range(1, MAX_PREDICTIONS + 1))


def test_share_of_predictions_without_a_limit(pairs):
    examples = mask(pairs, max_predictions=20)
    assert is_likely(examples.masked_lm_weights.sum(), examples.input_mask.sum(), 0.15)


@pytest.mark.parametrize("whole_word_masking", [False, True])
def test_80_10_10(pairs, whole_word_masking):
    examples = mask(pairs, whole_word_masking=whole_word_masking)
    triples = [triple for example in rows(examples) for triple in predictions(example)]
    as_mask = sum(shown == MASK_ID for _, _, shown in triples)
    unchanged = sum(shown == original for _, original, shown in triples)
    by_chance = 0.1 / (VOCAB_SIZE - FIRST_ID)  # a random token may be the original one
    assert len(triples) > 15_000
    assert is_likely(as_mask, len(triples), 0.8)
    assert is_likely(unchanged, len(triples), 0.1 + by_chance)
    assert is_likely(len(triples) - as_mask - unchanged, len(triples), 0.1 - by_chance)


def test_random_replacements_are_uniform_over_ordinary_tokens():
    examples = mask([([FIRST_ID] * 30, [FIRST_ID] * 31, False)] * 4000, vocabulary=make_vocabulary(FIRST_ID + 10))
    shown = [s for example in rows(examples) for _, _, s in predictions(example)]
    counts = np.bincount(shown, minlength=FIRST_ID + 10)
    assert not counts[:MASK_ID].any()
    assert len(counts) == FIRST_ID + 10
    assert all(is_likely(count, len(shown), 0.1 / 10) for count in counts[FIRST_ID + 1 :])


def test_every_ordinary_position_is_as_likely():
    examples = mask([(list(range(5, 35)), list(range(35, 66)), False)] * 4000)
    chosen = np.bincount([p for example in rows(examples) for p, _, _ in predictions(example)], minlength=SEQ_LENGTH)
    special = [0, 31, 63]
    assert not chosen[special].any()
    assert all(is_likely(count, 4000, MAX_PREDICTIONS / 61) for count in np.delete(chosen, special))


def test_the_choice_does_not_depend_on_what_is_shown():
    """Positions and replacements are drawn anew for each pair: no two of many equal pairs need agree."""
    examples = mask([(list(range(5, 35)), list(range(35, 66)), False)] * 100)
    assert len({tuple(positions) for positions in examples.masked_lm_positions.tolist()}) > 95


def test_special_tokens_are_never_predicted():
    for example in rows(mask([([UNK_ID, 7, UNK_ID], [UNK_ID, 8], False)] * 500, masked_lm_probability=0.5)):
        assert [original for _, original, _ in predictions(example)] == [7, 8]


def test_special_ids_come_from_the_vocabulary():
    """As in the public vocabulary, where [PAD] is 0 and the others are 100 to 103."""
    words = [f"[unused{number}]" for number in range(99)]
    vocabulary = Vocabulary(["[PAD]", *words, "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two"])
    examples = mask([([1, 104], [105, 100], True)] * 4000, vocabulary=vocabulary, masked_lm_probability=0.5)
    assert set(examples.masked_lm_ids[:, :3].flat) == {1, 104, 105}
    assert examples.input_word_ids[0, [0, 3, 6]].tolist() == [101, 102, 102]
    shown = {s for example in rows(examples) for _, _, s in predictions(example)}
    assert shown == {103, *range(1, 100), 104, 105}


@pytest.mark.parametrize("whole_word_masking", [False, True])
@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"masked_lm_probability": 0.0}, 1),
        ({"masked_lm_probability": 1.0, "max_predictions": 100}, 4),
        ({"masked_lm_probability": 1.0, "max_predictions": 3}, 3),
    ],
)
def test_extreme_numbers_of_predictions(changes, count, whole_word_masking):
    examples = mask([([5, 6], [7, 8], True)], whole_word_masking=whole_word_masking, **changes)
    assert len(predictions(rows(examples)[0])) == count
    assert examples.masked_lm_positions.shape[1] == changes.get("max_predictions", MAX_PREDICTIONS)


@pytest.mark.parametrize("whole_word_masking", [False, True])
def test_a_pair_without_ordinary_tokens_has_no_prediction(whole_word_masking):
    examples = mask([([UNK_ID], [UNK_ID], True)], whole_word_masking=whole_word_masking)
    assert predictions(rows(examples)[0]) == []
    assert examples.input_word_ids[0, :5].tolist() == [CLS_ID, UNK_ID, SEP_ID, UNK_ID, SEP_ID]


# --- whole words -------------------------------------------------------------------------------------------------

# Ids from 3000 on are "##" pieces.
PIECES = make_vocabulary(VOCAB_SIZE, inner_pieces=range(3000, VOCAB_SIZE))


def words_of(restored):
    """The words of a sequence as runs of positions, by the rule itself: a piece goes on with the token before it."""
    words = []
    for position, token in enumerate(restored):
        if token < FIRST_ID:
            continue
        if token >= 3000 and words and words[-1][-1] == position - 1:
            words[-1].append(position)
        else:
            words.append([position])
    return words


@pytest.fixture(scope="module")
def words_and_examples(pairs):
    examples = mask(pairs, vocabulary=PIECES, whole_word_masking=True)
    found = []
    for example in rows(examples):
        restored = example.input_word_ids.copy()
        for position, original, _ in predictions(example):
            restored[position] = original
        found.append((words_of(restored), {int(p) for p, _, _ in predictions(example)}, example))
    return found


def test_words_are_chosen_as_a_whole(words_and_examples):
    sizes = set()
    for words, chosen, _ in words_and_examples:
        for word in words:
            assert len(chosen.intersection(word)) in (0, len(word))
            sizes.add(len(word) if chosen.issuperset(word) else 0)
    assert sizes >= {0, 1, 2, 3, 4}


def test_words_fill_the_number_of_predictions_as_far_as_they_fit(words_and_examples):
    """Never more than it, and no word is left out that would still have fitted."""
    below = 0
    for words, chosen, example in words_and_examples:
        count = min(MAX_PREDICTIONS, max(1, round(0.15 * int(example.input_mask.sum()))))
        assert len(chosen) <= count
        left_out = [len(word) for word in words if not chosen.intersection(word)]
        assert len(chosen) + min(left_out, default=count) > count or len(chosen) == count or not left_out
        below += len(chosen) < count
    assert 0 < below < 0.5 * len(words_and_examples)


def test_words_of_one_token_are_all_as_likely():
    examples = mask([(list(range(5, 35)), list(range(35, 66)), False)] * 4000, whole_word_masking=True)
    chosen = np.bincount([p for example in rows(examples) for p, _, _ in predictions(example)], minlength=SEQ_LENGTH)
    assert all(is_likely(count, 4000, MAX_PREDICTIONS / 61) for count in np.delete(chosen, [0, 31, 63]))


def test_the_order_of_words_is_random():
    """Two predictions fit: the word of two pieces if it comes first, else two of the three words of one."""
    pair = ([10, 3001, 11], [12, 13] + [UNK_ID] * 5, False)  # 13 tokens: 15% of them are 2
    examples = mask([pair] * 8000, vocabulary=PIECES, whole_word_masking=True)
    positions = [tuple(row[:2]) for row in examples.masked_lm_positions.tolist()]
    assert set(positions) == {(1, 2), (3, 5), (3, 6), (5, 6)}
    assert is_likely(positions.count((1, 2)), 8000, 1 / 4)
    assert is_likely(positions.count((3, 5)), 8000, 1 / 4)


def test_a_piece_without_its_beginning_is_a_word():
    """Truncation cuts words; a piece after [CLS] or [SEP] does not belong to that."""
    examples = mask([([3001, 3002, 10], [3003, 11], False)] * 300, vocabulary=PIECES, whole_word_masking=True)
    assert {tuple(row[:1]) for row in examples.masked_lm_positions.tolist()} == {(3,), (5,), (6,)}


# --- the whole ---------------------------------------------------------------------------------------------------


def test_types_and_shapes(examples):
    expected = {
        "input_word_ids": (np.int32, SEQ_LENGTH),
        "input_mask": (np.int32, SEQ_LENGTH),
        "input_type_ids": (np.int32, SEQ_LENGTH),
        "masked_lm_positions": (np.int32, MAX_PREDICTIONS),
        "masked_lm_ids": (np.int32, MAX_PREDICTIONS),
        "masked_lm_weights": (np.float32, MAX_PREDICTIONS),
        "next_sentence_labels": (np.int32, 1),
    }
    assert list(examples._asdict()) == list(expected)
    for name, (dtype, size) in expected.items():
        array = getattr(examples, name)
        assert (array.dtype, array.shape) == (dtype, (4000, size)), name


def test_settings_reach_pairs_and_masks():
    documents = distinct_tokens()
    store, vocabulary = make_store(documents), make_vocabulary(documents[-1][-1][-1] + 1)

    def lengths(short_sequence_probability, masked_lm_probability=0.15):
        rng = np.random.default_rng(0)
        pairs = pair_sentences(store, range(60), 1, 128, short_sequence_probability, rng)
        examples = mask_pairs(
            store,
            pairs,
            vocabulary,
            rng,
            seq_length=128,
            max_predictions=128,
            masked_lm_probability=masked_lm_probability,
            whole_word_masking=False,
        )
        expected = np.rint(examples.input_mask.sum(axis=1) * masked_lm_probability)
        np.testing.assert_array_equal(examples.masked_lm_weights.sum(axis=1), expected)
        return examples.input_mask.sum(axis=1).mean()

    assert lengths(1.0) < lengths(0.0) - 10
    lengths(0.1, masked_lm_probability=0.5)
