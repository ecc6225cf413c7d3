"""What a SavedModel computes: signatures for token ids and, as an option, for text.

All take a batch of any size. Those for ids take int32 `[batch, length]`, those for text strings `[batch]`. Logits are
float32 and as the model gives them, at every place of the padded length.
"""

import tensorflow as tf

from vocabulary import MASK

IDS = tf.TensorSpec([None, None], tf.int32)
TEXT = tf.TensorSpec([None], tf.string)
NO_PLACE = -1


def masked_lm_of_ids(model, vocab_path, lower_case):
    """Predicts masked tokens from ids.

    Args:
        model: The model of `bert_task.PretrainTask`.
        vocab_path: The path of vocab.txt, which becomes an asset.
        lower_case: Whether the vocabulary is of lower case, which a client must know; the variable `lower_case`.

    Returns:
        A `tf.Module`. Its function `serve` takes `input_word_ids`, `input_mask` and `input_type_ids` of shape
        `[batch, length]` and `masked_lm_positions` of `[batch, predictions]`; it gives `mlm_logits` of
        `[batch, predictions, vocabulary]` and `next_sentence` of `[batch, 2]`.
    """
    module = _module(model, vocab_path)
    module.lower_case = tf.Variable(lower_case, trainable=False)

    @tf.function(input_signature=[IDS] * 4)
    def serve(input_word_ids, input_mask, input_type_ids, masked_lm_positions):
        return _masked_lm_logits(model, input_word_ids, input_mask, input_type_ids, masked_lm_positions)

    module.serve = serve
    return module


def masked_lm_of_text(model, vocab_path, max_positions):
    """Predicts the tokens at each "[MASK]" of a text.

    Args:
        model: The model of `bert_task.PretrainTask`.
        vocab_path: The path of vocab.txt, which becomes an asset.
        max_positions: The most tokens of a text, with the two special ones around it; more are an error of the call.

    Returns:
        A `tf.Module`. Its function `serve` takes `text`; it gives the outputs of `masked_lm_of_ids`, `input_word_ids`
        and `masked_lm_positions` as above, and int32 `mask_count` of `[batch]`, beyond which predictions are padding.
    """
    from text_input import TextTokenizer

    module = _module(model, vocab_path)
    module.tokenizer = tokenizer = TextTokenizer(vocab_path)

    @tf.function(input_signature=[TEXT])
    def serve(text):
        parts = tf.strings.split(text, MASK)
        ids, _, _ = tokenizer.tokenize(parts.flat_values)
        # A mask after each part, less the one after the last part of a text.
        mask = _column(tokenizer.token_id(MASK), ids.nrows())
        ids = parts.with_flat_values(tf.concat([ids, mask], axis=1)).merge_dims(1, 2)[:, :-1]
        ids = tf.concat([_column(tokenizer.token_id("[CLS]"), ids.nrows()), ids], axis=1)
        ids = tf.concat([ids, _column(tokenizer.token_id("[SEP]"), ids.nrows())], axis=1)
        longest = tf.reduce_max(ids.row_lengths(), axis=0)
        fits = tf.debugging.assert_less_equal(
            longest, tf.constant(max_positions, tf.int64), "A text has more tokens than the model has positions."
        )
        is_mask = tf.equal(ids.flat_values, tokenizer.token_id(MASK))
        places = tf.ragged.range(tf.cast(ids.row_lengths(), tf.int32))
        positions = tf.ragged.boolean_mask(places, ids.with_flat_values(is_mask))
        word_ids, seen = ids.to_tensor(), tf.cast(tf.sequence_mask(ids.row_lengths()), tf.int32)
        masked_lm_positions = positions.to_tensor()
        has_mask = tf.debugging.assert_positive(tf.shape(masked_lm_positions)[1], f"No text has a {MASK}.")
        # Before the model, which would fail with a message of its own.
        with tf.control_dependencies([fits, has_mask]):
            word_ids = tf.identity(word_ids)
        logits = _masked_lm_logits(model, word_ids, seen, tf.zeros_like(word_ids), masked_lm_positions)
        return {
            **logits,
            "input_word_ids": word_ids,
            "masked_lm_positions": masked_lm_positions,
            "mask_count": tf.cast(positions.row_lengths(), tf.int32),
        }

    module.serve = serve
    return module


def squad_of_ids(model, vocab_path):
    """Predicts the first and the last token of an answer from ids.

    Args:
        model: The model of `squad_task.SquadTask`.
        vocab_path: The path of vocab.txt, which becomes an asset.

    Returns:
        A `tf.Module`. Its function `serve` takes `input_word_ids`, `input_mask` and `input_type_ids` of shape
        `[batch, length]`; it gives `start_logits` and `end_logits` of `[batch, length]`.
    """
    module = _module(model, vocab_path)

    @tf.function(input_signature=[IDS] * 3)
    def serve(input_word_ids, input_mask, input_type_ids):
        return _squad_logits(model, input_word_ids, input_mask, input_type_ids)

    module.serve = serve
    return module


def squad_of_text(model, vocab_path, data):
    """Predicts the first and the last token of an answer from a question and its context.

    A context that is too long is read in windows, as in training; each is a row of the output.

    Args:
        model: The model of `squad_task.SquadTask`.
        vocab_path: The path of vocab.txt, which becomes an asset.
        data: The `squad_config.SquadDataConfig` of the run, for the lengths.

    Returns:
        A `tf.Module`. Its function `serve` takes `question` and `context` of shape `[batch]`; it gives, each of
        `[windows, length]`, `start_logits`, `end_logits`, int32 `input_word_ids`, and int32 `first_byte` and
        `end_byte`, the bytes of the context that a token was made of; they are -1 at tokens outside the context. Int32
        `example` of `[windows]` says to which question of the batch a window belongs. The answer that a window gives
        from token s to token e is `context[first_byte[s]:end_byte[e]]`, in bytes.
    """
    from text_input import TextTokenizer

    module = _module(model, vocab_path)
    module.tokenizer = tokenizer = TextTokenizer(vocab_path)

    @tf.function(input_signature=[TEXT, TEXT])
    def serve(question, context):
        tf.debugging.assert_equal(tf.shape(question), tf.shape(context), "Each question needs a context.")
        query, _, _ = tokenizer.tokenize(question)
        query = query[:, : data.max_query_length]
        words, first_byte, end_byte = tokenizer.tokenize(context)
        example, tokens = _windows(
            tf.cast(words.row_lengths(), tf.int32), data.seq_length - 3 - tf.cast(query.row_lengths(), tf.int32), data
        )
        query = tf.gather(query, example)

        def row(question_part, window_part, marker):
            window = tokens.with_flat_values(tf.gather(window_part.flat_values, tokens.flat_values))
            around = [_column(token, query.nrows()) for token in marker]
            return tf.concat([around[0], question_part, around[1], window, around[2]], axis=1)

        separator = tokenizer.token_id("[SEP]")
        ids = row(query, words, (tokenizer.token_id("[CLS]"), separator, separator))
        types = row(tf.zeros_like(query), tf.ones_like(words), (0, 0, 1))
        outside = tf.ones_like(query) * NO_PLACE
        word_ids, seen = ids.to_tensor(), tf.cast(tf.sequence_mask(ids.row_lengths()), tf.int32)
        return {
            **_squad_logits(model, word_ids, seen, types.to_tensor()),
            "input_word_ids": word_ids,
            "first_byte": row(outside, first_byte, [NO_PLACE] * 3).to_tensor(NO_PLACE),
            "end_byte": row(outside, end_byte, [NO_PLACE] * 3).to_tensor(NO_PLACE),
            "example": example,
        }

    module.serve = serve
    return module


def _windows(lengths, rooms, data):
    """The windows of contexts of so many tokens where a window has room for so many.

    Returns:
        The context of each window, and its tokens as places among those of all contexts, ragged.
    """
    beyond = tf.maximum(lengths - rooms, 0)
    counts = 1 + (beyond + data.doc_stride - 1) // data.doc_stride
    example = tf.repeat(tf.range(tf.size(lengths)), counts)
    starts = tf.ragged.range(counts).flat_values * data.doc_stride
    ends = tf.minimum(starts + tf.gather(rooms, example), tf.gather(lengths, example))
    base = tf.gather(tf.cumsum(lengths, exclusive=True), example)
    return example, tf.ragged.range(starts + base, ends + base)


def _column(value, rows):
    """A ragged tensor of one value in each row."""
    return tf.RaggedTensor.from_uniform_row_length(tf.fill([rows], tf.cast(value, tf.int32)), 1)


def _module(model, vocab_path):
    module = tf.Module()
    module.model = model
    module.vocabulary = tf.saved_model.Asset(str(vocab_path))
    return module


def _masked_lm_logits(model, input_word_ids, input_mask, input_type_ids, masked_lm_positions):
    outputs = model(
        {
            "input_word_ids": input_word_ids,
            "input_mask": input_mask,
            "input_type_ids": input_type_ids,
            "masked_lm_positions": masked_lm_positions,
        },
        training=False,
    )
    return {name: tf.cast(outputs[name], tf.float32) for name in ("mlm_logits", "next_sentence")}


def _squad_logits(model, input_word_ids, input_mask, input_type_ids):
    inputs = {"input_word_ids": input_word_ids, "input_mask": input_mask, "input_type_ids": input_type_ids}
    start_logits, end_logits = model(inputs, training=False)
    return {"start_logits": tf.cast(start_logits, tf.float32), "end_logits": tf.cast(end_logits, tf.float32)}
