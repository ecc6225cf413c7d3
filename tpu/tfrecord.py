"""The TFRecord file format: framing, with checksums, of many records at once.

A record is its length (8 bytes, little-endian), the masked CRC-32C of that, its bytes, and their masked CRC-32C
(tensorflow/core/lib/io/record_writer.h). TensorFlow's own writer would do, but importing TensorFlow takes seconds
and hundreds of megabytes in each of many processes; TensorBoard's, which needs no TensorFlow, takes its checksums
byte by byte in Python. Here NumPy takes them of all records at once.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bits reversed
_MASK_DELTA = 0xA282EAD8
# After these bytes a register that began with zero holds 0xFFFFFFFF, with which a CRC-32C begins.
_PREAMBLE = (0x641F6454).to_bytes(4, "little")


def _table_of_two_bytes() -> np.ndarray:
    """What the CRC register becomes after 16 bits, for each value of its lower half; uint32 [65536]."""
    table = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return table


_TABLE = _table_of_two_bytes()


def masked_crc32c(records: Sequence[bytes]) -> np.ndarray:
    """The masked CRC-32C of each record, uint32 [records]."""
    width = -(-max(map(len, records)) // 2) * 2
    # Flush right: zeros before the preamble leave a register of zero as it is.
    rows = b"".join([(_PREAMBLE + record).rjust(width + 4, b"\0") for record in records])
    columns = np.frombuffer(rows, "<u2").reshape(len(records), -1).T.astype(np.uint32, order="C")
    register = np.zeros(len(records), np.uint32)
    for column in columns:
        register = _TABLE[(register ^ column) & 0xFFFF] ^ (register >> 16)
    crc = ~register
    return ((crc >> 15) | (crc << 17)) + np.uint32(_MASK_DELTA)


def frame(records: Sequence[bytes]) -> bytes:
    """The records as they stand in a file."""
    if not records:
        return b""
    lengths = [len(record).to_bytes(8, "little") for record in records]
    distinct = sorted(set(lengths))
    headers = {length: length + crc for length, crc in zip(distinct, _crc_bytes(distinct), strict=True)}
    parts = zip((headers[length] for length in lengths), records, _crc_bytes(records), strict=True)
    return b"".join(chain.from_iterable(parts))


def _crc_bytes(records: Sequence[bytes]) -> Iterator[bytes]:
    crcs = masked_crc32c(records).astype("<u4").tobytes()
    return (crcs[start : start + 4] for start in range(0, len(crcs), 4))


def read_records(path: str | Path) -> Iterator[bytes]:
    """The records of a file, without a look at their checksums. Unlike `tf.data`, this occupies no accelerator."""
    with Path(path).open("rb") as file:
        while header := file.read(12):
            yield file.read(int.from_bytes(header[:8], "little"))
            file.read(4)
