"""BERT's vocab.txt: any place for the special tokens, and one sentence for what is no vocabulary."""

import doctest

import pytest

import vocabulary as vocabularies
from config import ConfigError
from vocabulary import SPECIAL_TOKENS, Vocabulary, read, write

# The layout of the public uncased vocabulary of 30,522 tokens, cut short.
PUBLIC = ["[PAD]", *(f"[unused{n}]" for n in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused99]", "!", "##s"]


def test_the_public_layout():
    vocabulary = Vocabulary(PUBLIC)
    ids = (vocabulary.pad_id, vocabulary.unk_id, vocabulary.cls_id, vocabulary.sep_id, vocabulary.mask_id)
    assert ids == (0, 100, 101, 102, 103) and len(vocabulary) == 107
    assert vocabulary.ordinary_ids.tolist() == [*range(1, 100), 104, 105, 106]
    assert [PUBLIC[i] for i in range(107) if vocabulary.is_inner_piece[i]] == ["##s"]
    assert [i for i in range(107) if vocabulary.is_special[i]] == [0, 100, 101, 102, 103]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "end"])
def test_what_is_written_is_read(tmp_path, ending, last):
    lines = [*SPECIAL_TOKENS, "ж", "\u2028x".strip(), "日", "##é"]
    (tmp_path / "v").write_bytes((ending.join(lines) + (ending if last else "")).encode())
    vocabulary = read(tmp_path / "v")
    assert vocabulary.tokens == tuple(lines)
    write(vocabulary, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == "".join(f"{line}\n" for line in lines).encode()
    assert read(tmp_path / "w").tokens == vocabulary.tokens


@pytest.mark.model_garden
def test_model_garden_reads_the_same_ids(tmp_path):
    tokenization = pytest.importorskip("official.nlp.tools.tokenization")
    write(Vocabulary([*PUBLIC, "日", "##é", "a\u2028b"]), tmp_path / "v")
    assert dict(tokenization.load_vocab(str(tmp_path / "v"))) == read(tmp_path / "v").ids


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"[PAD]\n[UNK]\na\n",
            r"v: .*Received: no \[CLS\], \[SEP\], \[MASK\] among 3 tokens\. Expected \[PAD\], \[UNK\]",
        ),
        (b"", r"v: A vocabulary needs the special tokens\. Received: no \[PAD\]"),
        (b"a\n[PAD]\na\n", r"v: A vocabulary has each token once\. Received: 'a' in line 1\. Expected a token that no"),
        (b"a\n\n[PAD]\n", r"v: A vocabulary has each token once\. Received: '' in line 2\."),
        (b"[PAD]\n\xff\n", r"v is not text\. Received: invalid start byte at byte 6\. Expected UTF-8\."),
        (None, r"The vocabulary cannot be read: No such file or directory\. Received: .*v\. Expected a file with one"),
    ],
)
def test_what_is_no_vocabulary(tmp_path, content, message):
    if content is not None:
        (tmp_path / "v").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as raised:
        read(tmp_path / "v")
    assert "\n" not in str(raised.value)


def test_docstring_examples():
    result = doctest.testmod(vocabularies)
    assert result.attempted and not result.failed
