"""Text inside a graph: the ids of Model Garden's tokenizer, and bytes of the text as it came."""

import random
import unicodedata

import numpy as np
import pytest
import squad_file
import tensorflow as tf

tokenization = pytest.importorskip("official.nlp.tools.tokenization", reason="needs tf-models-official")

import tensorflow_text  # noqa: E402

import text_input  # noqa: E402
from vocabulary import Vocabulary  # noqa: E402
from wordpiece import WordPiece  # noqa: E402

pytestmark = pytest.mark.model_garden

TEXTS = [
    "",
    "   ",
    "\u200b\u0301",
    "HTTP/1.1 2**31-1 don't 'x' \"y\" `z` <w> {u} a_b @c $d ~e ^f |g",
    "The wyvernzoologist of Škofja Loka reads [MASK] and [PAD] in the naïve café, Ж or no Ж, at 3.14 o'clock.",
    "日本語 ü ß \u00ad\u200b tab\there\u00a0no-break\u3000wide\u2028line",
    "e\u0301a\u0300 re\u0301sume\u0301 x\u0301\u0302\u0303.",
    "STRASSE Straße İSTANBUL ŉ ﬁne Ǆ",
    "ΣΑΣ ΑΣ. ΑΣΒ Σ ΟΔΥΣΣΕΥΣ",
    "한국어 조선말 \U0001f600 \U00020000x “quoted” «more» dash—dash…",
    "a\x00b\ufffdc\x07d \x1f e\x7f\x85f",
    "x" * 399 + " " + "x" * 400 + " the " + "x" * 401 + " ж" + "ж" * 400,
]


@pytest.fixture(scope="module")
def vocabulary():
    letters = "abcdefghijklmnopqrstuvwxyz0123456789ςσαουδευж日本語ß\u1112\u1161\u11ab"
    rest = [*letters, *(f"##{letter}" for letter in letters)]
    learned = squad_file.vocabulary()
    return [*learned, *(token for token in dict.fromkeys(rest) if token not in learned)]


@pytest.fixture(scope="module")
def vocab_path(vocabulary, tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def ours(vocab_path):
    tokenizer = text_input.TextTokenizer(vocab_path)
    traced = tf.function(tokenizer.tokenize, input_signature=[tf.TensorSpec([None], tf.string)])

    def tokenize(texts):
        return [part.to_list() for part in traced(tf.constant(texts))]

    return tokenize


@pytest.fixture(scope="module")
def model_gardens(vocab_path):
    tokenizer = tokenization.FullTokenizer(str(vocab_path), do_lower_case=True)
    return lambda text: tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))


def test_ids_equal_model_gardens(ours, model_gardens, vocabulary):
    texts = TEXTS + [text for _, text in squad_file.paragraphs()]
    ids, _, _ = ours(texts)
    assert len(texts) > 500
    for text, tokens in zip(texts, ids, strict=True):
        assert tokens == model_gardens(text), text
    assert any(vocabulary.index("[UNK]") in tokens for tokens in ids)
    assert not any(vocabulary.index("[MASK]") in tokens for tokens in ids)


def test_ids_equal_those_that_the_data_is_made_of(ours, vocabulary):
    word_piece = WordPiece(Vocabulary(vocabulary))
    texts = [text for _, text in squad_file.paragraphs()] + TEXTS
    for text, tokens in zip(texts, ours(texts)[0], strict=True):
        assert tokens == word_piece.token_ids(text), text


def test_every_character_by_itself(ours, model_gardens):
    """Between two words, each code point that Python knows; the tables of RE2 may be some years older or newer."""
    characters = [chr(point) for point in range(0x20000) if unicodedata.category(chr(point)) not in ("Cn", "Cs", "Co")]
    texts = [f"the{character}object" for character in characters]
    ids, _, _ = ours(texts)
    different = [c for c, text, tokens in zip(characters, texts, ids, strict=True) if tokens != model_gardens(text)]
    assert len(characters) > 60_000
    assert len(different) < 300, [f"U+{ord(c):04X} {unicodedata.name(c, '')}" for c in different]
    assert not [c for c in different if ord(c) < 0x0800]


def test_random_texts(ours, model_gardens):
    chosen = random.Random(5)
    alphabet = "aAzé ÉΣσ.,-'’\u0301\u200b\t日ßİЖ1[MASK]\n한"
    texts = ["".join(chosen.choices(alphabet, k=chosen.randrange(40))) for _ in range(300)]
    for text, tokens in zip(texts, ours(texts)[0], strict=True):
        assert tokens == model_gardens(text), ascii(text)


def test_offsets_cut_the_text_as_it_came(ours, vocabulary):
    """What a token was made of, put through the tokenizer by itself, is its letters again."""
    texts = TEXTS + [text for _, text in squad_file.paragraphs()[:100]]
    basic = tokenization.BasicTokenizer(do_lower_case=True)
    cut = 0
    for text, ids, starts, ends in zip(texts, *ours(texts), strict=True):
        content = text.encode()
        assert starts == sorted(starts) and all(start < end for start, end in zip(starts, ends, strict=True))
        for token, start, end in zip(ids, starts, ends, strict=True):
            piece = content[start:end].decode()
            if vocabulary[token] not in ("[UNK]", "ς", "##ς") and not unicodedata.category(piece[0]) == "Lo":
                assert "".join(basic.tokenize(piece)) == vocabulary[token].removeprefix("##"), (piece, text)
                cut += 1
    assert cut > 3000


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Café, RE\u0301SUME\u0301!", ["Café", ",", "RE\u0301SUME\u0301", "!"]),
        ("a\u200bb\u00adc x", ["a\u200bb\u00adc", "x"]),
        ("日本 ß", ["日", "本", "ß"]),
        ("İ x", ["İ", "x"]),
    ],
)
def test_words_of_offsets(ours, vocabulary, text, pieces):
    """A word goes from the first byte of its first token to the last of its last, with the accents of that."""
    ids, starts, ends = (part[0] for part in ours([text, "other text"]))
    words = []
    for token, start, end in zip(ids, starts, ends, strict=True):
        if vocabulary[token].startswith("##"):
            words[-1][1] = end
        else:
            words.append([start, end])
    assert [text.encode()[start:end].decode() for start, end in words] == pieces


def test_a_token_ends_within_its_own_text(ours):
    """The next text begins with a character that leaves nothing; it does not belong to the token before."""
    _, starts, ends = ours(["the", "\u0301the", "\u200b"])
    assert (starts[0], ends[0]) == ([0], [3])
    assert (starts[1], ends[1]) == ([2], [5])
    assert starts[2] == ends[2] == []


def test_the_tokenizer_of_tensorflow_text_agrees_on_plain_text_alone(vocab_path, ours):
    """Why it is not used as it stands: case folding. If this fails, it may be used."""
    theirs = tensorflow_text.BertTokenizer(str(vocab_path), lower_case=True)
    plain = [text for _, text in squad_file.paragraphs() if text.isascii()]
    assert theirs.tokenize(plain).merge_dims(1, 2).to_list() == ours(plain)[0]
    assert theirs.tokenize(["ß"]).to_list()[0][0] != ours(["ß"])[0][0]
    _, starts, _ = theirs.tokenize_with_offsets(["é the"])
    assert starts.to_list()[0][-1] != ours(["é the"])[1][0][-1:]


def test_no_texts(ours):
    assert ours(np.array([], dtype=object).astype("S1")) == [[], [], []]
