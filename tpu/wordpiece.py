"""A lower-casing WordPiece vocabulary and its tokenizer, as BERT defines them, by the `tokenizers` library."""

import collections
from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tqdm import tqdm

from config import ConfigError

MAX_ALPHABET = 1000
LINES_PER_BATCH = 1000


def train_vocabulary(lines: Sequence[str], vocab_size: int, special_tokens: Sequence[str]) -> list[str]:
    """Learns a vocabulary from text; the same text gives the same vocabulary.

    Args:
        lines: The text.
        vocab_size: The most tokens, special ones included. A short text may give fewer.
        special_tokens: They get the ids from 0 on.

    Returns:
        The tokens in the order of their ids.

    Raises:
        ConfigError: The single characters of the text alone need more than `vocab_size` tokens.
    """
    tokenizer = _tokenizer(models.WordPiece(unk_token="[UNK]"))
    first, inner = collections.Counter(), collections.Counter()
    for line in tqdm(lines, desc="alphabet", unit=" lines", disable=None):
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(line)):
            first[word[0]] += 1
            inner.update(word[1:])
    by_count = sorted((first + inner).items(), key=lambda item: (-item[1], item[0]))
    alphabet = sorted(character for character, _ in by_count[:MAX_ALPHABET])

    # The trainer numbers pieces such as "##a" in the order of a hash table, and settles ties between merges by these
    # numbers, so that each run would give another vocabulary (huggingface/tokenizers pull request 2066). Given as
    # special tokens, they are numbered in our order.
    pieces = [*alphabet, *(f"##{character}" for character in alphabet if character in inner)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[*special_tokens, *pieces],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tqdm(lines, desc="vocabulary", unit=" lines", disable=None), trainer)
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) > vocab_size:
        raise ConfigError(
            f"The vocabulary has no room for the characters of the text. Received: data.vocab_size={vocab_size}. "
            f"Expected >= {len(vocabulary)}."
        )
    return sorted(vocabulary, key=vocabulary.get)


def tokenize(lines: Sequence[str], vocabulary: Sequence[str], progress_label: str) -> Iterator[list[int]]:
    """Gives the token ids of each line, without special tokens.

    Text that looks like a special token, such as "[MASK]", is tokenized like any other.
    """
    tokenizer = make_tokenizer(vocabulary)
    with tqdm(total=len(lines), desc=progress_label, unit=" lines", disable=None) as progress:
        for start in range(0, len(lines), LINES_PER_BATCH):
            batch = tokenizer.encode_batch_fast(lines[start : start + LINES_PER_BATCH], add_special_tokens=False)
            progress.update(len(batch))
            yield from (encoding.ids for encoding in batch)


def make_tokenizer(vocabulary: Sequence[str]) -> Tokenizer:
    """The tokenizer of a vocabulary, in the order of its ids; it finds no special tokens in a text."""
    # Not the tokenizer that learned the vocabulary: that one would find them.
    ids = {token: index for index, token in enumerate(vocabulary)}
    return _tokenizer(models.WordPiece(ids, unk_token="[UNK]"))


def _tokenizer(model: models.WordPiece) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
