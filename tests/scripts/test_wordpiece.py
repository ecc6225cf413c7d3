"""Tokens are those of Model Garden's tokenizer, and the learned vocabulary is the same in every process."""

import doctest
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import hypothesis
import pytest
import tokenizers
from hypothesis import strategies as st

import python_docs
import wordpiece
from config import ConfigError
from vocabulary import SPECIAL_TOKENS, Vocabulary, write
from wordpiece import MAX_WORD_CHARACTERS, WordPiece, split_words, train_vocabulary

STRANGE = [
    "",
    "   ",
    "HTTP/1.1 2**31-1 don't 'x' \"y\" `z` <w> {u} a_b @c $d ~e ^f|g",
    "日本語 ü ß \u00ad\u200b tab\there\x0bvertical\x1cfile\x85next\u2028line\u2029paragraph\xa0no-break\u3000wide",
    "ΣΊΣΥΦΟΣ ΑΣ. ὈΔΥΣΣΕΎΣ İstanbul ŉ ǅ ﬁ Å K",
    "नमस्ते e\u0301\u0323 \u1abf \u061d \u0890 \U0001171e\U00011f43 \U000e0041 \ufeff\ufffd\x00",
    "[MASK] [PAD] [CLS] [sep] ##s #",
    "𠀀𪛟𪜀𫝀𫠠丽 豈 ㌀ 한글 ｆｕｌｌ",
    "a" * 99 + " " + "b" * 100 + " " + "c" * 101 + " " + "d" * 200 + " " + "e" * 201,
    "f" * MAX_WORD_CHARACTERS + " " + "g" * (MAX_WORD_CHARACTERS + 1) + " end",
]


@pytest.fixture(scope="module")
def lines():
    """CPython's documentation."""
    return [line for document in python_docs.clean(python_docs.documents()).values() for line in document]


@pytest.fixture(scope="module")
def vocabulary(lines):
    characters = {character for line in STRANGE for word in split_words(line) for character in word}
    learned = train_vocabulary(lambda: lines, 3000)
    more = [*sorted(characters), *(f"##{character}" for character in sorted(characters)), "Σ", "Ω", "The", "ΑΣ"]
    return Vocabulary(dict.fromkeys([*learned.tokens, *more]))


@pytest.fixture(scope="module", params=[True, False], ids=["lower case", "cased"])
def both(request, vocabulary, tmp_path_factory):
    """Ours and Model Garden's, as functions from text to token ids."""
    tokenization = pytest.importorskip("official.nlp.tools.tokenization")
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    write(vocabulary, path)
    reference = tokenization.FullTokenizer(str(path), do_lower_case=request.param)
    ours = WordPiece(vocabulary, request.param)
    return ours.token_ids, lambda text: reference.convert_tokens_to_ids(reference.tokenize(text))


@pytest.mark.model_garden
def test_token_ids_on_pythons_documentation(both, lines):
    ours, reference = both
    assert len(lines) > 9000
    for line in lines[::3]:
        assert ours(line) == reference(line), line


@pytest.mark.model_garden
@pytest.mark.parametrize("line", STRANGE)
def test_token_ids_on_strange_lines(both, line):
    ours, reference = both
    assert ours(line) == reference(line)


@pytest.mark.model_garden
@hypothesis.given(
    st.one_of(
        st.text(),
        st.text(st.characters(categories=["Cc", "Cf", "Zs", "Zl", "Zp", "Mn", "P", "S"]) | st.sampled_from("aΣ")),
        st.text(st.characters(min_codepoint=0x2E80, max_codepoint=0x323AF, exclude_categories=["Cs"])),
        st.text(st.characters(max_codepoint=0x17F)),
        st.builds(lambda word, count: word * count, st.text(min_size=1, max_size=3), st.integers(50, 450)),
    )
)
@hypothesis.settings(max_examples=400)
def test_token_ids_on_any_text(both, text):
    ours, reference = both
    assert ours(text) == reference(text)


@pytest.mark.model_garden
def test_words_of_every_character(both, request):
    """Each code point inside a word, alone, after a capital letter and at a capital sigma's end."""
    tokenization = pytest.importorskip("official.nlp.tools.tokenization")
    lower_case = "lower case" in request.node.name
    reference = tokenization.BasicTokenizer(lower_case)
    for code_point in [*range(0xD800), *range(0xE000, 0x110000)][:: 1 if lower_case else 7]:
        character = chr(code_point)
        if unicodedata.category(character) in ("Cn", "Co") and code_point % 100:
            continue  # two thirds are not assigned and all alike
        text = f"a{character}b {character} ΑΣ{character}"
        assert split_words(text, lower_case) == reference.tokenize(text), hex(code_point)


@pytest.mark.model_garden
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("c" * 101, id="long word"),
        pytest.param("ΑΣ", id="final sigma"),
        pytest.param(
            "a\u061db",
            id="new punctuation",
            marks=pytest.mark.skipif(
                unicodedata.category("\u061d") == "Cn", reason="this Python's Unicode is as old as that of tokenizers"
            ),
        ),
    ],
)
def test_the_ready_made_tokenizer_differs(both, vocabulary, text):
    """What the docstring lists; the test fails when a difference is gone."""
    ours, reference = both
    is_cased = ours("The") == [vocabulary.ids["The"]]
    ready_made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary.ids, unk_token="[UNK]"))
    ready_made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=not is_cased)
    ready_made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    assert ours(text) == reference(text)
    differs = ready_made.encode(text, add_special_tokens=False).ids != ours(text)
    assert differs or (is_cased and text == "ΑΣ")


def test_a_word_of_400_characters_is_the_longest(vocabulary):
    ours = WordPiece(vocabulary)
    assert vocabulary.unk_id not in ours.token_ids("f" * 400)
    assert ours.token_ids("g" * 401) == [vocabulary.unk_id]


def test_special_tokens_are_not_found_in_text(vocabulary):
    assert min(WordPiece(vocabulary).token_ids("[MASK] [PAD] [CLS]")) >= len(SPECIAL_TOKENS)


def test_remembered_words_are_bounded(vocabulary, monkeypatch, lines):
    expected = [WordPiece(vocabulary).token_ids(line) for line in lines[:50]]
    monkeypatch.setattr(wordpiece, "MAX_REMEMBERED_WORDS", 10)
    ours = WordPiece(vocabulary)
    assert [ours.token_ids(line) for line in lines[:50]] == expected
    assert len(ours._pieces) < 200


# --- learning ----------------------------------------------------------------------------------------------------


def test_a_learned_vocabulary_begins_with_the_special_tokens(lines):
    learned = train_vocabulary(lambda: lines[:2000], 1500)
    assert learned.tokens[:5] == SPECIAL_TOKENS == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert len(learned) == 1500
    assert not any(token != token.lower() for token in learned.tokens[5:])


def test_a_cased_vocabulary_keeps_capitals_and_accents(lines):
    learned = train_vocabulary(lambda: [*lines[:2000], *["Café"] * 200], 1500, lower_case=False)
    assert {"Café", "The", "T", "é"} <= set(learned.tokens)


def test_frequent_words_are_learned_whole(lines):
    planted = "zyxqvutology"
    assert planted in train_vocabulary(lambda: [*lines[:2000], *[planted] * 200], 1500).tokens
    assert planted not in train_vocabulary(lambda: lines[:2000], 1500).tokens


def test_the_text_need_not_fit_into_memory(lines, monkeypatch):
    """The words that are counted are let go from time to time, and the result is the same."""
    expected = train_vocabulary(lambda: lines[:2000], 1500).tokens
    monkeypatch.setattr(wordpiece, "MAX_REMEMBERED_WORDS", 100)
    assert train_vocabulary(lambda: iter(lines[:2000]), 1500).tokens == expected


def test_other_processes_learn_the_same_vocabulary(lines, tmp_path):
    """The trainer alone does not: it numbers pieces in the order of a randomly seeded hash table."""
    (tmp_path / "text").write_text("\n".join(lines[:2000]), encoding="utf-8")
    program = (
        "import sys, wordpiece\n"
        "lines = open(sys.argv[1], encoding='utf-8').read().split('\\n')\n"
        "print('\\n'.join(wordpiece.train_vocabulary(lambda: lines, 1500).tokens))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(wordpiece.__file__).parent), "PYTHONUTF8": "1"}
    command = [sys.executable, "-c", program, str(tmp_path / "text")]
    output = subprocess.run(command, env=environment, capture_output=True, check=True, encoding="utf-8").stdout
    assert tuple(output.splitlines()) == train_vocabulary(lambda: lines[:2000], 1500).tokens


def test_a_vocabulary_too_small_for_the_characters(lines):
    with pytest.raises(ConfigError, match=r"no room for the characters .* Received: data.vocab_size=30. Expected >= "):
        train_vocabulary(lambda: lines[:200], 30)


def test_docstring_examples():
    result = doctest.testmod(wordpiece)
    assert result.attempted and not result.failed
