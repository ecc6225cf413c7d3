"""Files that are described by size and checksum, so that whoever reads them can tell whether they are whole."""

import hashlib
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from pydantic import Field

from atomic_file import atomic_path
from config import ConfigError, Section


class DataFile(Section):
    """A file of a folder."""

    name: str = Field(pattern=r"^\w[\w.-]*$")
    size_bytes: int
    sha256: str


Described = TypeVar("Described", bound=DataFile)


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def describe(path: Path) -> dict[str, Any]:
    """The fields of a `DataFile`."""
    return {"name": path.name, "size_bytes": path.stat().st_size, "sha256": sha256(path)}


def check(file: DataFile, folder: str | Path) -> None:
    """Raises a `ConfigError` if a file is missing in `folder` or has another content."""
    path = Path(folder) / file.name
    if not path.is_file():
        raise ConfigError(f"Prepared data is incomplete. Received: no {path}. Expected {file.size_bytes} bytes.")
    if path.stat().st_size != file.size_bytes:
        raise ConfigError(
            f"Prepared data is damaged. Received: {path} of {path.stat().st_size} bytes. "
            f"Expected {file.size_bytes} bytes."
        )
    if sha256(path) != file.sha256:
        raise ConfigError(
            f"Prepared data is damaged. Received: {path} with another content. Expected SHA-256 {file.sha256}."
        )


def write_record(file: DataFile, path: Path) -> None:
    """Notes that a file is finished, as JSON."""
    with atomic_path(path) as unfinished:
        unfinished.write_text(file.model_dump_json() + "\n", encoding="utf-8", newline="\n")


def finished(record_path: Path, folder: Path, schema: type[Described] = DataFile) -> Described | None:
    """What the record at `record_path` says of a file in `folder`; None unless the file is there and whole."""
    try:
        file = schema.model_validate_json(record_path.read_bytes())
        check(file, folder)
    except (FileNotFoundError, pydantic.ValidationError, ConfigError):
        return None
    return file
