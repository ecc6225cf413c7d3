"""Files that are either whole or absent, whatever interrupts the writing."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from paths import as_path, is_remote, upload


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Gives a path to write to; it takes the name `path` if and when the block ends without an error.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_path(folder / "vocab.txt") as unfinished:
        ...     _ = unfinished.write_text("[PAD]")
        >>> [file.name for file in folder.iterdir()]
        ['vocab.txt']

    Args:
        path: The file to create or replace. Its folder must exist.

    Yields:
        A local path: in the same folder, so that the final rename stays within one file system, or, of a file on Cloud
        Storage, where a file appears as a whole, in a temporary one.

    Raises:
        OSError: The file could not be written.
    """
    path = as_path(path)
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            unfinished = Path(folder) / path.name
            yield unfinished
            upload(unfinished, path)
        return
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".unfinished")
    os.close(handle)
    try:
        # mkstemp makes the file private; the result gets the mode of any new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(unfinished, 0o666 & ~umask)
        yield Path(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(unfinished)
        raise
