"""manifest.json: what a folder of prepared data holds, and whether it is all there."""

import re
from pathlib import Path
from typing import Any, ClassVar

import pydantic
from typing_extensions import Self

from atomic_file import atomic_path
from config import ConfigError, Section
from data_files import DataFile, check, is_whole
from paths import as_path, read_bytes

MANIFEST_NAME = "manifest.json"


class DataManifest(Section):
    """The content of manifest.json, for each kind of data. It is written last: where it is, the files are complete.

    Attributes:
        made_by: The script that writes it.
        reads_all: Whether `load` reads all of every local file, and does not only look at its size.
        record_file: What the names of its TFRecord files look like.
        settings: All that the content of the files follows from. Equal settings mean equal files.
    """

    made_by: ClassVar[str]
    reads_all: ClassVar[bool] = True
    record_file: ClassVar[re.Pattern]
    settings: Any

    @property
    def files(self) -> tuple[DataFile, ...]:
        """Every file of the folder but manifest.json."""
        raise NotImplementedError

    @classmethod
    def load(cls, data_dir: str | Path) -> Self:
        """Reads the manifest of a folder and checks that every file is there and whole.

        Raises:
            ConfigError: The manifest is missing or unreadable, or a file is missing or has another content.
        """
        manifest = cls.read(data_dir)
        for file in manifest.files:
            check(file, data_dir, cls.reads_all)
        return manifest

    @classmethod
    def read(cls, data_dir: str | Path) -> Self:
        """Reads the manifest of a folder without a look at the other files."""
        path = as_path(data_dir) / MANIFEST_NAME
        try:
            return cls.model_validate_json(read_bytes(path))
        except FileNotFoundError:
            raise ConfigError(
                f"No prepared data found. Received: {data_dir}. "
                f"Expected a folder with {MANIFEST_NAME}, as written by {cls.made_by}."
            ) from None
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}. Expected a readable file.") from None
        except pydantic.ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"])) or "the file"
            raise ConfigError(
                f"{path} is not a manifest of this version. Received: {where}: {problem['msg']}. "
                f"Expected the file that {cls.made_by} writes."
            ) from None

    def write(self, folder: Path) -> None:
        """Writes manifest.json, whole or not at all."""
        with atomic_path(folder / MANIFEST_NAME) as unfinished:
            unfinished.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8", newline="\n")

    def is_complete(self, data_dir: str | Path) -> bool:
        """Whether every file is there and whole."""
        return all(is_whole(file, data_dir) for file in self.files)

    def claim_run(self, model_dir: str | Path) -> None:
        """Binds a run's folder to its data: the first call leaves a copy of the manifest there.

        Raises:
            ConfigError: The run was begun with other data.
        """
        path = as_path(model_dir) / MANIFEST_NAME
        if not path.exists():
            self.write(path.parent)
        elif self.read(model_dir).settings != self.settings:
            raise ConfigError(
                f"The run was begun with other data. Received: data unlike that of {path}. "
                "Expected the same data, or another folder for the run."
            )
