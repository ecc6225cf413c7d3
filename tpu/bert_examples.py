"""From text to the examples of BERT's two tasks: masked words and next sentence (Devlin et al. 2018, section 3.1).

A document is a list of sentences, a sentence a list of token ids. `document_examples` makes the examples of one
document; `pair_sentences` and `mask_pairs` are its two halves.

Every document has a random generator of its own, keyed by the seed, the index of the repetition and the index of
the document. So the examples do not depend on the order in which documents are taken, nor on who takes which.

Differs from the published script (google-research/bert, create_pretraining_data.py):

1. The length of a short sequence is drawn for each pair, not once for all pairs of a document. A document with a
   short length has many pairs: drawn once for each document, far more than 10% of the pairs would be short.
2. [UNK] is not predicted, and a random replacement is never a special token.
3. The second half of a random pair is never of the same document.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bert_config import DataConfig

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD_ID, UNK_ID, CLS_ID, SEP_ID, MASK_ID = range(len(SPECIAL_TOKENS))

Sentence = Sequence[int]
Document = Sequence[Sentence]

_POSSIBLE_END = re.compile(r"([.!?]+)[\"'”’)\]]*\s+(?=\S)")
_LOWER_CASE_WORD = re.compile(r"[a-z]+(?:[-'’][a-z]+)*[,;:.!?)\"'”’]*(?:\s|$)")
# "J.", "e.g.", "U.S." and abbreviations that a name, a number or a reference follows.
_ABBREVIATION = re.compile(r"(?:[A-Za-z]\.)*[A-Za-z]|eg|ie|cf|vs|[Mm]rs?|[Dd]r|Prof|[Ff]igs?|[Ss]ect?|pp|al")


@dataclass(frozen=True)
class SentencePair:
    """Two runs of tokens; whether the second is from elsewhere."""

    tokens_a: list[int]
    tokens_b: list[int]
    is_random_next: bool


@dataclass(frozen=True, eq=False)
class Example:
    """One example, padded, in the features that Model Garden's pre-training reader expects.

    Attributes:
        input_word_ids: int32 [seq_length]: [CLS] A [SEP] B [SEP] and padding, with the replaced tokens.
        input_mask: int32 [seq_length]: 1 for a token, 0 for padding.
        input_type_ids: int32 [seq_length]: 1 for B and its [SEP], else 0.
        masked_lm_positions: int32 [max_predictions]: what to predict, ascending, then zeros.
        masked_lm_ids: int32 [max_predictions]: the original tokens there, then zeros.
        masked_lm_weights: float32 [max_predictions]: 1 for a prediction, 0 for padding.
        next_sentence_label: 1 if B is from elsewhere, 0 if it follows A.
    """

    input_word_ids: np.ndarray
    input_mask: np.ndarray
    input_type_ids: np.ndarray
    masked_lm_positions: np.ndarray
    masked_lm_ids: np.ndarray
    masked_lm_weights: np.ndarray
    next_sentence_label: int


def split_sentences(paragraph: str) -> list[str]:
    """Splits English prose into sentences.

    A sentence ends where ".", "!" or "?", and any closing quotes and brackets, meet white space - unless what
    follows is an ordinary lower-case word ("etc. and", "... or"), or the full stop belongs to single letters
    ("e.g.", "J. Smith"), to one of a few abbreviations ("cf.", "Fig.") or to the number of a list item. A full
    stop inside a word or a number never ends a sentence.

    Example:
        >>> split_sentences("Use pi, i.e. 3.14. The file __init__.py is run. open() is not.")
        ['Use pi, i.e. 3.14.', 'The file __init__.py is run.', 'open() is not.']
    """
    sentences = []
    start = 0
    for match in _POSSIBLE_END.finditer(paragraph):
        if _LOWER_CASE_WORD.match(paragraph, match.end()):
            continue
        last_word = paragraph[start : match.start()].rpartition(" ")[2].lstrip("\"'“‘([")
        is_list_number = last_word.isdigit() and paragraph[start : match.start()].strip() == last_word
        if match[1] == "." and (_ABBREVIATION.fullmatch(last_word) or is_list_number):
            continue
        sentences.append(paragraph[start : match.end()].strip())
        start = match.end()
    sentences.append(paragraph[start:].strip())
    return [sentence for sentence in sentences if sentence]


def generator(seed: int, duplicate_index: int, document_index: int) -> np.random.Generator:
    """The source of all randomness in one document's examples."""
    return np.random.Generator(np.random.PCG64([seed, duplicate_index, document_index]))


def document_examples(
    documents: Sequence[Document],
    document_index: int,
    duplicate_index: int,
    data: DataConfig,
    *,
    vocab_size: int,
    seq_length: int,
    max_predictions: int,
) -> list[Example]:
    """The examples of one document, in its order.

    Args:
        documents: All documents of the split; random second halves come from the others.
        document_index: Which one to turn into examples.
        duplicate_index: Which repetition of the document this is, from 0 to `data.dupe_factor` - 1.
        data: The probabilities and the seed.
        vocab_size: The size of the vocabulary that the tokens are of; it may be below `data.vocab_size`.
        seq_length: The tokens of an example, padding included.
        max_predictions: The most masked positions of an example.
    """
    rng = generator(data.seed, duplicate_index, document_index)
    pairs = pair_sentences(documents, document_index, seq_length, data.short_sequence_probability, rng)
    return mask_pairs(
        pairs,
        seq_length=seq_length,
        max_predictions=max_predictions,
        masked_lm_probability=data.masked_lm_probability,
        vocab_size=vocab_size,
        rng=rng,
    )


def pair_sentences(
    documents: Sequence[Document],
    document_index: int,
    seq_length: int,
    short_sequence_probability: float,
    rng: np.random.Generator,
) -> list[SentencePair]:
    """Packs a document's sentences into pairs of at most `seq_length` - 3 tokens (three are [CLS], [SEP], [SEP]).

    Each pair takes sentences until they fill the sequence. A random place between two of them divides A from B. In
    half of the cases B is replaced by a run of sentences of another document, and the sentences it displaces come
    again in the next pair. A lone sentence always gets a random B.

    Args:
        documents: Two or more documents, each with a sentence, each sentence with a token.
        document_index: Which document to pair.
        seq_length: The tokens of an example.
        short_sequence_probability: The share of pairs that aim at a random length from 2 tokens up.
        rng: The generator of this document.

    Raises:
        ValueError: There are fewer than two documents.
    """
    if len(documents) < 2:
        raise ValueError(f"A random next sentence needs another document. Received: {len(documents)}. Expected >= 2.")
    document = documents[document_index]
    max_tokens = seq_length - 3
    pairs = []
    start = 0
    while start < len(document):
        target = max_tokens
        if rng.random() < short_sequence_probability:
            target = int(rng.integers(2, max_tokens, endpoint=True))
        end = start
        length = 0
        while end < len(document) and length < target:
            length += len(document[end])
            end += 1

        middle = start + 1 if end - start == 1 else int(rng.integers(start + 1, end))
        tokens_a = _concatenate(document[start:middle])
        is_random_next = end - start == 1 or rng.random() < 0.5
        if is_random_next:
            tokens_b = _random_next(documents, document_index, target - len(tokens_a), rng)
            start = middle
        else:
            tokens_b = _concatenate(document[middle:end])
            start = end
        tokens_a, tokens_b = _truncate(tokens_a, tokens_b, max_tokens, rng)
        pairs.append(SentencePair(tokens_a, tokens_b, is_random_next))
    return pairs


def mask_pairs(
    pairs: Sequence[SentencePair],
    *,
    seq_length: int,
    max_predictions: int,
    masked_lm_probability: float,
    vocab_size: int,
    rng: np.random.Generator,
) -> list[Example]:
    """Pads pairs and replaces tokens that the model is to predict.

    The number of predictions is the given share of the sequence's tokens (special ones counted, as in the published
    script), rounded, at least one and at most `max_predictions`. Any token that is not special is as likely to be
    chosen. Of the chosen, 80% become [MASK], 10% a random token and 10% stay.

    Args:
        pairs: At most `seq_length` - 3 tokens each.
        seq_length: The tokens of an example.
        max_predictions: The most predictions of an example.
        masked_lm_probability: The share of tokens to predict.
        vocab_size: One more than the highest token id; the ids below `len(SPECIAL_TOKENS)` are special.
        rng: The generator of the document.
    """
    if not pairs:
        return []
    shape = (len(pairs), seq_length)
    word_ids = np.full(shape, PAD_ID, np.int32)
    type_ids = np.zeros(shape, np.int32)
    lengths = np.empty(len(pairs), np.int32)
    for row, pair in enumerate(pairs):
        tokens = [CLS_ID, *pair.tokens_a, SEP_ID, *pair.tokens_b, SEP_ID]
        lengths[row] = len(tokens)
        word_ids[row, : len(tokens)] = tokens
        type_ids[row, len(pair.tokens_a) + 2 : len(tokens)] = 1
    input_mask = (np.arange(seq_length) < lengths[:, None]).astype(np.int32)

    # The first `count` of a random order of the ordinary tokens, for all pairs at once.
    ordinary = word_ids >= len(SPECIAL_TOKENS)
    counts = np.clip(np.rint(lengths * masked_lm_probability), 1, max_predictions)
    counts = np.minimum(counts, ordinary.sum(axis=1))
    order = np.argsort(np.where(ordinary, rng.random(shape), 2.0), axis=1)[:, :max_predictions]
    is_prediction = np.arange(max_predictions) < counts[:, None]
    positions = np.full(is_prediction.shape, seq_length, np.int32)
    positions[:, : order.shape[1]] = order
    positions = np.sort(np.where(is_prediction, positions, seq_length), axis=1)

    rows = np.arange(len(pairs))[:, None].repeat(max_predictions, axis=1)[is_prediction]
    columns = positions[is_prediction]
    originals = word_ids[rows, columns]
    draw = rng.random(len(originals))
    random_ids = rng.integers(len(SPECIAL_TOKENS), vocab_size, len(originals))
    word_ids[rows, columns] = np.where(draw < 0.8, MASK_ID, np.where(draw < 0.9, random_ids, originals))

    positions[~is_prediction] = 0
    labels = np.zeros_like(positions)
    labels[is_prediction] = originals
    weights = is_prediction.astype(np.float32)
    next_labels = [int(pair.is_random_next) for pair in pairs]
    return [
        Example(*fields)
        for fields in zip(word_ids, input_mask, type_ids, positions, labels, weights, next_labels, strict=True)
    ]


def _concatenate(sentences: Sequence[Sentence]) -> list[int]:
    return [token for sentence in sentences for token in sentence]


def _random_next(
    documents: Sequence[Document], document_index: int, target: int, rng: np.random.Generator
) -> list[int]:
    """Sentences in a row of another document, from a random one on, until there are `target` tokens."""
    other_index = int(rng.integers(len(documents) - 1))
    other = documents[other_index + (other_index >= document_index)]
    tokens = []
    for sentence in other[int(rng.integers(len(other))) :]:
        tokens.extend(sentence)
        if len(tokens) >= target:
            break
    return tokens


def _truncate(
    tokens_a: list[int], tokens_b: list[int], max_tokens: int, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Shortens the longer run until both fit; each token goes from the front or the back with equal probability.

    What is left of A when single tokens are taken from the longer run in turn (from B on a tie) has a closed form.
    """
    kept_a = min(len(tokens_a), max(max_tokens - len(tokens_b), (max_tokens + 1) // 2))
    kept_b = min(len(tokens_b), max_tokens - kept_a)
    shortened = []
    for tokens, kept in ((tokens_a, kept_a), (tokens_b, kept_b)):
        front = int(rng.binomial(len(tokens) - kept, 0.5))
        shortened.append(tokens[front : front + kept])
    return shortened[0], shortened[1]
