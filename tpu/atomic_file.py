"""Files that are either whole or absent, whatever interrupts the writing."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


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
        A path in the same folder, so that the final rename stays within one file system.
    """
    path = Path(path)
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
