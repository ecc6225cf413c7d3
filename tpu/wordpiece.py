"""BERT's WordPiece: words and their pieces as Model Garden's tokenizer has them, and the learning of a vocabulary.

The token ids of `WordPiece` are those of `official.nlp.tools.tokenization.FullTokenizer` on the same vocabulary, for
any text. The library `tokenizers` learns vocabularies and looks up the pieces of a word. Its ready-made BERT
normalizer and pre-tokenizer are left out, because they differ from Model Garden's (tests/scripts/test_wordpiece.py):

1. A word of more than 100 characters becomes [UNK] there. Model Garden's limit, and ours, is 400; the published
   script's is 200.
2. Their tables of Unicode are older than Python's: some punctuation is not split off, and some accents and control
   characters stay.
3. They lower-case a Greek capital sigma at the end of a word to the letter for its middle.

Splitting here and keeping the pieces of words that were seen is also some five times faster.
"""

import collections
import re
import unicodedata
from collections.abc import Callable, Iterable
from itertools import chain

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tqdm import tqdm

from config import ConfigError
from vocabulary import INNER_PREFIX, SPECIAL_TOKENS, UNK, Vocabulary

MAX_ALPHABET = 1000
MAX_WORD_CHARACTERS = 400
# A bound on memory: about 200 MiB of remembered words.
MAX_REMEMBERED_WORDS = 1_000_000

_ASCII_WORD = re.compile(r"[A-Za-z0-9]+|[!-/:-@\[-`{-~]")
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class _Table(dict):
    """What each code point becomes, for `str.translate`; worked out when a code point is met for the first time."""

    def __init__(self, function: Callable[[str], str]):
        super().__init__()
        self._function = function

    def __missing__(self, code_point: int) -> str:
        return self.setdefault(code_point, self._function(chr(code_point)))


def _clean(character: str) -> str:
    """White space becomes a space; control characters go; an ideograph is a word of its own."""
    category = unicodedata.category(character)
    if character in " \t\n\r" or category == "Zs":
        return " "
    if character in "\0\ufffd" or category in ("Cc", "Cf"):
        return ""
    return f" {character} " if any(first <= ord(character) <= last for first, last in _CJK) else character


def _split_punctuation(character: str) -> str:
    """A punctuation mark is a word of its own, and so is any ASCII character that is no letter, digit or space."""
    is_ascii_mark = character.isascii() and _ASCII_WORD.fullmatch(character) and not character.isalnum()
    is_mark = is_ascii_mark or unicodedata.category(character).startswith("P")
    return f" {character} " if is_mark else character


def _strip_accents_and_split(character: str) -> str:
    return "" if unicodedata.category(character) == "Mn" else _split_punctuation(character)


_CLEAN, _SPLIT, _STRIP_AND_SPLIT = _Table(_clean), _Table(_split_punctuation), _Table(_strip_accents_and_split)


def split_words(text: str, lower_case: bool = True) -> list[str]:
    """The words of a text before they are cut into pieces.

    Example:
        >>> split_words("Škofja Loka's café.")
        ['skofja', 'loka', "'", 's', 'cafe', '.']

    Args:
        text: Any text without lone surrogates.
        lower_case: Whether to lower-case and to strip accents.
    """
    if text.isascii() and text.isprintable():
        return _ASCII_WORD.findall(text.lower() if lower_case else text)
    text = text.translate(_CLEAN)
    if lower_case:
        return unicodedata.normalize("NFD", text.lower()).translate(_STRIP_AND_SPLIT).split()
    return text.translate(_SPLIT).split()


class WordPiece:
    """The tokenizer of a vocabulary.

    Text that looks like a special token, such as "[MASK]", is tokenized like any other.

    Example:
        >>> WordPiece(Vocabulary([*SPECIAL_TOKENS, "un", "##aff", "##able"])).token_ids("Unaffable, unable")
        [5, 6, 7, 1, 5, 7]

    Args:
        vocabulary: The vocabulary.
        lower_case: Whether to lower-case and to strip accents, as the vocabulary was learned.

    Attributes:
        vocabulary: The vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, lower_case: bool = True):
        self.vocabulary = vocabulary
        self._lower_case = lower_case
        self._model = models.WordPiece(
            vocabulary.ids,
            unk_token=UNK,
            max_input_chars_per_word=MAX_WORD_CHARACTERS,
            continuing_subword_prefix=INNER_PREFIX,
        )
        self._pieces = _Pieces(self._model)

    def token_ids(self, text: str) -> list[int]:
        """The token ids of a text, without special tokens but [UNK]."""
        if len(self._pieces) > MAX_REMEMBERED_WORDS:
            self._pieces.clear()
        words = split_words(text, self._lower_case)
        return list(chain.from_iterable(map(self._pieces.__getitem__, words)))


class _Pieces(dict):
    """The token ids of each word that was seen."""

    def __init__(self, model: models.WordPiece):
        super().__init__()
        self._model = model

    def __missing__(self, word: str) -> tuple[int, ...]:
        return self.setdefault(word, tuple(token.id for token in self._model.tokenize(word)))


def train_vocabulary(read_lines: Callable[[], Iterable[str]], vocab_size: int, lower_case: bool = True) -> Vocabulary:
    """Learns a vocabulary from text; the same text gives the same vocabulary.

    Args:
        read_lines: Gives the lines of the text; called twice, so that nobody need hold them.
        vocab_size: The most tokens, special ones included. A short text may give fewer.
        lower_case: Whether to lower-case and to strip accents.

    Returns:
        A vocabulary that begins with the special tokens.

    Raises:
        ConfigError: The single characters of the text alone need more than `vocab_size` tokens.
    """
    first, inner, words = collections.Counter(), collections.Counter(), collections.Counter()

    def count_characters() -> None:
        for word, count in words.items():
            first[word[0]] += count
            for character in word[1:]:
                inner[character] += count
        words.clear()

    for line in tqdm(read_lines(), desc="alphabet", unit=" lines", disable=None):
        words.update(split_words(line, lower_case))
        if len(words) > MAX_REMEMBERED_WORDS:
            count_characters()
    count_characters()
    by_count = sorted((first + inner).items(), key=lambda item: (-item[1], item[0]))
    alphabet = sorted(character for character, _ in by_count[:MAX_ALPHABET])

    # The trainer numbers pieces such as "##a" in the order of a hash table, and settles ties between merges by these
    # numbers, so that each run would give another vocabulary (huggingface/tokenizers pull request 2066). Given as
    # special tokens, they are numbered in our order.
    pieces = [*alphabet, *(f"{INNER_PREFIX}{character}" for character in alphabet if character in inner)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[*SPECIAL_TOKENS, *pieces],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner = Tokenizer(models.WordPiece(unk_token=UNK))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    lines = tqdm(read_lines(), desc="vocabulary", unit=" lines", disable=None)
    learner.train_from_iterator((" ".join(split_words(line, lower_case)) for line in lines), trainer)
    tokens = learner.get_vocab()
    if len(tokens) > vocab_size:
        raise ConfigError(
            f"The vocabulary has no room for the characters of the text. Received: data.vocab_size={vocab_size}. "
            f"Expected >= {len(tokens)}."
        )
    return Vocabulary(sorted(tokens, key=tokens.get))
