"""Files that are described by size and checksum, so that whoever reads them can tell whether they are whole."""

import hashlib
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from pydantic import Field

from atomic_file import atomic_path
from config import ConfigError, Section
from paths import as_path, is_remote, size


class DataFile(Section):
    """A file of a folder."""

    name: str = Field(pattern=r"^\w[\w.-]*$")
    size_bytes: int
    sha256: str


Described = TypeVar("Described", bound=DataFile)


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with as_path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def describe(path: Path) -> dict[str, Any]:
    """The fields of a `DataFile`."""
    return {"name": path.name, "size_bytes": path.stat().st_size, "sha256": sha256(path)}


def check(file: DataFile, folder: str | Path, reads_all: bool = True) -> None:
    """Raises a `ConfigError` if a file is missing in `folder` or has another size or content.

    The content of a remote file is not looked at, nor any unless `reads_all`.
    """
    path = as_path(folder) / file.name
    if not path.is_file():
        raise ConfigError(f"Prepared data is incomplete. Received: no {path}. Expected {file.size_bytes} bytes.")
    if size(path) != file.size_bytes:
        raise ConfigError(
            f"Prepared data is damaged. Received: {path} of {size(path)} bytes. Expected {file.size_bytes} bytes."
        )
    # To read all of a bucket first would take longer than many a run; its records have checksums of their own.
    if reads_all and not is_remote(path) and sha256(path) != file.sha256:
        raise ConfigError(
            f"Prepared data is damaged. Received: {path} with another content. Expected SHA-256 {file.sha256}."
        )


def is_whole(file: DataFile, folder: str | Path) -> bool:
    """Whether a file passes `check`."""
    try:
        check(file, folder)
    except ConfigError:
        return False
    return True


def write_record(file: DataFile, path: Path) -> None:
    """Notes that a file is finished, as JSON."""
    with atomic_path(path) as unfinished:
        unfinished.write_text(file.model_dump_json() + "\n", encoding="utf-8", newline="\n")


def finished(record_path: Path, folder: Path, schema: type[Described] = DataFile) -> Described | None:
    """What the record at `record_path` says of a file in `folder`; None unless the file is there and whole."""
    try:
        file = schema.model_validate_json(record_path.read_bytes())
    except (FileNotFoundError, pydantic.ValidationError):
        return None
    return file if is_whole(file, folder) else None
