"""Places to read and write: paths of this machine, and addresses such as gs://bucket/folder.

`as_path` makes either of them an object with the methods of `pathlib.Path`; TensorFlow opens what is behind an address.
What needs more than those methods is here.
"""

import argparse
import contextlib
import errno
import os
from pathlib import Path


def as_path(place: str | os.PathLike) -> Path:
    """The path of a place: a `pathlib.Path`, or an `epath.Path` where it has a scheme.

    Raises:
        ValueError: Nothing here knows the scheme.
    """
    if not is_remote(place):
        return Path(place)
    from etils import epath

    try:
        return epath.Path(place)
    except KeyError:
        raise ValueError(f"The file system is not known. Received: {place}. Expected a path, or gs://...") from None


def is_remote(place: str | os.PathLike) -> bool:
    """Whether a place has a scheme, as gs://bucket has."""
    return "://" in os.fspath(place)


def any_path(text: str) -> Path:
    """The place that an argument of a command line names.

    Raises:
        argparse.ArgumentTypeError: Nothing here knows the scheme.
    """
    try:
        return as_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def local_path(text: str) -> Path:
    """The path that an argument of a command line names, where only one of this machine will do.

    Raises:
        argparse.ArgumentTypeError: It is an address such as gs://bucket/folder.
    """
    if is_remote(text):
        raise argparse.ArgumentTypeError(
            f"This has to be a path of this machine. Received: {text}. Expected for example a folder that is copied "
            "from or to the bucket by `gcloud storage cp`."
        )
    return Path(text)


def read_bytes(place: str | os.PathLike) -> bytes:
    """The content of a file.

    Raises:
        OSError: It could not be read; `strerror` says why.
    """
    path = as_path(place)
    if not is_remote(path):
        return path.read_bytes()
    with os_errors(path):
        return path.read_bytes()


def make_folder(path: Path) -> None:
    """Makes a local folder and those above it, unless they are there; `upload` makes those of remote files."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def size(path: Path) -> int:
    """The bytes of a file."""
    status = path.stat()
    return status.length if is_remote(path) else status.st_size


def upload(source: Path, target: Path) -> None:
    """Copies a local file to a remote path, whose folders are made; it appears there as a whole.

    Raises:
        OSError: It could not be written.
    """
    import tensorflow as tf

    with os_errors(target):
        tf.io.gfile.makedirs(str(target.parent))
        tf.io.gfile.copy(str(source), str(target), overwrite=True)


def obstacle(place: Path) -> str | None:
    """Why nothing behind a remote place can be read, in words; None if it can, or if the place is not remote."""
    if not is_remote(place):
        return None
    try:
        with os_errors(place):
            place.exists()
    except OSError as error:
        return error.strerror
    return None


@contextlib.contextmanager
def os_errors(path):
    """Makes the errors of TensorFlow's file systems such as a local file would give."""
    import tensorflow as tf

    try:
        yield
    except (FileNotFoundError, tf.errors.NotFoundError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except tf.errors.OpError as error:
        raise OSError(errno.EIO, str(error).splitlines()[0], str(path)) from None
