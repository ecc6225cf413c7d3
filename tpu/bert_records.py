"""Examples as serialized `tf.train.Example` messages, many at a time.

The bytes are those of `tf.train.Example.SerializeToString(deterministic=True)`. Building the messages one by one
with the protobuf library takes several times as long, and the classes come with TensorFlow only.
"""

from collections.abc import Iterable
from functools import lru_cache
from itertools import groupby

import numpy as np

from bert_examples import Examples

# Numbers of fields, tensorflow/core/example/feature.proto: a key is the number times 8, plus 2 for "of this length".
_FEATURES = _FEATURE = _KEY = _VALUES = b"\x0a"  # 1
_FEATURE_OF_KEY = b"\x12"  # 2
_KINDS = {np.dtype(np.int32): b"\x1a", np.dtype(np.float32): b"\x12"}  # int64_list = 3, float_list = 2


def serialize(examples: Examples) -> list[bytes]:
    """The message of each example.

    Args:
        examples: Integers >= 0.
    """
    parts = []
    for is_fixed, group in groupby(sorted(examples._asdict().items()), lambda item: _has_fixed_size(item[1])):
        if is_fixed:
            parts.append(_fixed_size(group))
        else:
            parts += (_entries(name, values) for name, values in group)
    records = list(map(b"".join, zip(*parts, strict=True)))
    return [_length_prefix(len(record), _FEATURES) + record for record in records]


def _has_fixed_size(values: np.ndarray) -> bool:
    """Whether each row takes the same number of bytes: floats do, and integers of 7 bits."""
    return values.dtype == np.float32 or values.max(initial=0) < 1 << 7


def _fixed_size(features: Iterable[tuple[str, np.ndarray]]) -> list[bytes]:
    """The entries of features of fixed size that follow one another: as one block for all rows, cut at last."""
    columns = []
    for name, values in features:
        payload = values.astype("<f4").view(np.uint8) if values.dtype == np.float32 else values.astype(np.uint8)
        prefix = np.frombuffer(_prefix(name, _KINDS[values.dtype], payload.shape[1]), np.uint8)
        columns += (np.broadcast_to(prefix, (len(values), len(prefix))), payload)
    block = np.concatenate(columns, axis=1)
    content, width = block.tobytes(), block.shape[1]
    return [content[start : start + width] for start in range(0, len(content), width)]


def _entries(name: str, values: np.ndarray) -> list[bytes]:
    """One entry of the map of features for each row of integers."""
    payload, ends = _varints(values)
    ends = ends.tolist()
    kind = _KINDS[values.dtype]
    return [_prefix(name, kind, end - start) + payload[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _varints(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """All values as varints, 7 bits a byte with the lowest first, and where each row ends."""
    width = max(1, -(-int(values.max(initial=0)).bit_length() // 7))
    shifted = values[..., None] >> (7 * np.arange(width, dtype=np.int32))
    is_needed = shifted > 0
    is_needed[..., 0] = True
    sevens = (shifted & 0x7F).astype(np.uint8)
    sevens[..., :-1] |= is_needed[..., 1:].astype(np.uint8) << 7
    return sevens[is_needed].tobytes(), np.cumsum(is_needed.sum(axis=(1, 2)))


@lru_cache(maxsize=1 << 16)
def _prefix(name: str, kind: bytes, payload_bytes: int) -> bytes:
    """What stands before the values of a feature: the heads of the messages that they are in, and the key."""
    values = _length_prefix(payload_bytes, _VALUES)
    a_list = _length_prefix(len(values) + payload_bytes, kind) + values
    key = _length_prefix(len(name), _KEY) + name.encode()
    feature = key + _length_prefix(len(a_list) + payload_bytes, _FEATURE_OF_KEY) + a_list
    return _length_prefix(len(feature) + payload_bytes, _FEATURE) + feature


@lru_cache(maxsize=1 << 16)
def _length_prefix(length: int, field: bytes) -> bytes:
    payload, _ = _varints(np.array([[length]], np.int32))
    return field + payload
