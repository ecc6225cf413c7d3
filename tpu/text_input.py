"""Text to token ids inside a graph, with the bytes of the text that each token was made of.

The ids are those of Model Garden's tokenizer on the same vocabulary. `tensorflow_text.BertTokenizer` is the last two
steps of this, `regex_split` and `WordpieceTokenizer`; the steps before it are not used, because they fold the case
("ß" becomes "ss") and count bytes in the text as it stands after them. Here each character is made ready by itself, so
that its place in the text as it came is known. No op is of the fast family, which servers lack.
"""

import tensorflow as tf
import tensorflow_text

UNK = "[UNK]"
# A longer word is unknown as a whole, as in Model Garden's tokenizer.
MAX_WORD_CHARACTERS = 400
MAX_BYTES_OF_CHARACTER = 4

# A capital sigma at the end of a word has a small letter of its own, of the same number of bytes (Unicode, section
# 3.13, Final_Sigma): after a letter with case and not before one, whatever has no part in case between them.
_CASED = r"\p{Lu}\p{Ll}\p{Lt}"
_IGNORABLE = r"\p{Mn}\p{Me}\p{Cf}\p{Lm}\p{Sk}'.:··՟״‘’․‧︓﹒﹕＇．："
_FINAL_SIGMA = rf"([{_CASED}][{_IGNORABLE}]*)Σ([{_IGNORABLE}]*(?:[^{_CASED}{_IGNORABLE}]|$))", r"\1ς\2"
_WHITESPACE = r"[\t\n\r\p{Z}]"
_DROPPED = r"[\x00\x{FFFD}\p{Cc}\p{Cf}]"
_ACCENT = r"\p{Mn}"
_ALONE = (
    r"([!-/:-@\[-`{-~\p{P}\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}"
    r"\x{2B740}-\x{2B81F}\x{2B820}-\x{2CEAF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}])"
)


class TextTokenizer(tf.Module):
    """The tokenizer of a vocabulary, as part of a graph.

    Text that looks like a special token, such as "[MASK]", is tokenized like any other.

    Args:
        vocab_path: The path of a vocab.txt, which becomes an asset of a SavedModel.
    """

    def __init__(self, vocab_path):
        super().__init__()
        lines = tf.lookup.TextFileInitializer(
            str(vocab_path),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        self.table = tf.lookup.StaticVocabularyTable(lines, num_oov_buckets=1)
        self._pieces = tensorflow_text.WordpieceTokenizer(
            self.table, max_bytes_per_word=MAX_WORD_CHARACTERS * MAX_BYTES_OF_CHARACTER, unknown_token=UNK
        )

    def token_id(self, token):
        """The id of one token of the vocabulary, an int32 scalar."""
        return tf.cast(self.table.lookup(tf.constant(token)), tf.int32)

    def tokenize(self, texts):
        """Tokenizes texts.

        Args:
            texts: A string tensor of shape `[batch]`, UTF-8.

        Returns:
            Three ragged int32 tensors of shape `[batch, (tokens)]`: the ids, and of the bytes in the text that each
            token was made of the first and the one after the last.
        """
        texts = tf.strings.regex_replace(texts, *_FINAL_SIGMA)
        characters, places = tf.strings.unicode_split_with_offsets(texts, "UTF-8")
        ready = _make_ready(characters.flat_values)
        words, word_starts, _ = tensorflow_text.regex_split_with_offsets(
            tf.strings.reduce_join(characters.with_flat_values(ready), axis=-1), " +"
        )
        ids, starts, ends = self._pieces.tokenize_with_offsets(_mask_long(words))
        starts += word_starts[..., tf.newaxis]
        ends += word_starts[..., tf.newaxis]
        ids, starts, ends = (tf.cast(part.merge_dims(1, 2), tf.int32) for part in (ids, starts, ends))
        starts, ends = _places(starts, ends, characters, tf.cast(places, tf.int32), ready)
        return ids, starts, ends


def _make_ready(characters):
    """Each character lower-cased and without its accent; a space on both sides of what is a word by itself."""
    ready = tf.strings.regex_replace(characters, _WHITESPACE, " ")
    ready = tf.strings.regex_replace(ready, _DROPPED, "")
    ready = tf.strings.lower(ready, encoding="utf-8")
    ready = tensorflow_text.normalize_utf8(ready, "NFD")
    ready = tf.strings.regex_replace(ready, _ACCENT, "")
    return tf.strings.regex_replace(ready, _ALONE, r" \1 ")


def _mask_long(words):
    """Words with those that are too long replaced by as many bytes that are in no vocabulary."""
    flat = words.flat_values
    long = tf.strings.length(flat, unit="UTF8_CHAR") > MAX_WORD_CHARACTERS
    return words.with_flat_values(tf.where(long, tf.strings.regex_replace(flat, r"\C", "\x01"), flat))


def _places(starts, ends, characters, places, ready):
    """From bytes of the texts made ready to bytes of the texts as they came, where the characters are at `places`.

    All texts are taken as one, so that one search serves them all. A token ends with the characters after it that
    left nothing, such as an accent of its last letter.
    """
    lengths = tf.strings.length(ready)
    last = tf.cumsum(lengths)
    first = last - lengths
    rows = tf.cast(characters.row_splits, tf.int32)
    before = tf.concat([[0], last], axis=0)  # the bytes before each character, and those of all
    row_of_token = tf.cast(starts.value_rowids(), tf.int32)
    base = tf.gather(before, tf.gather(rows, row_of_token))

    token_first = tf.searchsorted(last, starts.flat_values + base, side="right")
    end = ends.flat_values + base
    token_last = tf.maximum(tf.searchsorted(first, end, side="left"), tf.searchsorted(last, end, side="right")) - 1
    token_last = tf.minimum(token_last, tf.gather(rows, row_of_token + 1) - 1)

    flat_places = places.flat_values
    original_ends = flat_places + tf.strings.length(characters.flat_values)
    return (
        starts.with_flat_values(tf.gather(flat_places, token_first)),
        ends.with_flat_values(tf.gather(original_ends, token_last)),
    )
