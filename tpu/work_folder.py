"""The folder in which data is prepared: who works in it, what an earlier run left there, and what is cleared away."""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic

import data_files
from atomic_file import atomic_path
from config import ConfigError, Section
from data_manifest import MANIFEST_NAME, DataManifest

WORK_NAME = ".work"
_SETTINGS_NAME = "settings.json"
_LOCK_NAME = "lock"
# How many values an error message lists.
LISTED = 5


def existing_data(
    output_dir: Path, settings: Section, schema: type[DataManifest], overwrite: bool
) -> DataManifest | None:
    """The manifest of `output_dir` if its data is what `settings` ask for; None if the data is to be made.

    Args:
        output_dir: The folder of the data.
        settings: What is to be made.
        schema: The class of its manifest.
        overwrite: Whether to replace data made with other settings.

    Raises:
        ConfigError: The folder holds data made with other settings, finished or not, and `overwrite` is not set.
    """
    obstacle = manifest = None
    if (output_dir / MANIFEST_NAME).exists():
        try:
            manifest = schema.read(output_dir)
            if manifest.settings != settings:
                obstacle = f"{output_dir} holds other data. {describe_change(manifest.settings, settings)}."
        except ConfigError as error:
            obstacle = str(error)
    elif (begun_with := _begun_with(output_dir / WORK_NAME, type(settings))) and begun_with != settings:
        obstacle = f"{output_dir} holds other, unfinished data. {describe_change(begun_with, settings)}."
    elif begun_with is None and (strange := _record_files(output_dir, schema)):
        obstacle = f"{output_dir} holds files that something else made. Received: {strange[0].name}. Expected none."
    if obstacle and not overwrite:
        raise ConfigError(f"{obstacle} Choose another --output_dir or pass --overwrite.")
    if manifest and not obstacle and manifest.is_complete(output_dir):
        # An earlier run may have been killed between its manifest and its end.
        _remove_unfinished(output_dir)
        shutil.rmtree(output_dir / WORK_NAME, ignore_errors=True)
        return manifest
    return None


@contextlib.contextmanager
def claim(output_dir: Path, settings: Section, schema: type[DataManifest]) -> Iterator[Path]:
    """Gives the folder of what is needed only until the data is finished, with what an earlier run left there.

    What was made with other settings is removed first. The folder itself goes at the end of the block. If input cannot
    be used, what was made goes with it; after any other error both stay, for the next run to go on.

    Args:
        output_dir: The folder of the data; it exists.
        settings: What is to be made.
        schema: The class of its manifest.

    Yields:
        The folder. The record of each finished file, see `data_files.finished`, is in it under `record_path`.

    Raises:
        ConfigError: Another process is at work in `output_dir`.
    """
    work = output_dir / WORK_NAME
    work.mkdir(exist_ok=True)
    with (work / _LOCK_NAME).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"Another process prepares data in this folder. Received: {output_dir}. "
                "Expected one at a time, or another --output_dir."
            ) from None
        try:
            _remove_unfinished(output_dir)
            _begin(output_dir, work, settings, schema)
            yield work
        except ConfigError:
            for path in _record_files(output_dir, schema):
                path.unlink()
            shutil.rmtree(work)
            raise
        finally:
            _remove_unfinished(output_dir)
        shutil.rmtree(work)


def record_path(work: Path, name: str) -> Path:
    """Where the note stands that the file `name` is finished."""
    return work / f"{name}.json"


def describe_change(made_with: Section, wanted: Section) -> str:
    """The first setting that differs, as the end of an error message."""
    old, new = dict(_named_values(made_with)), dict(_named_values(wanted))
    name = next(name for name in new if old[name] != new[name])
    return f"Received: {name}={_short(new[name])}. Expected {_short(old[name])}, with which that data was made"


def _short(value: Any) -> Any:
    """A value fit for a sentence: of many only the first."""
    return f"{len(value):,} ({value[0]}, ...)" if isinstance(value, tuple) and len(value) > LISTED else value


def _named_values(section: Section, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section:
        if isinstance(value, Section):
            yield from _named_values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _begin(output_dir: Path, work: Path, settings: Section, schema: type[DataManifest]) -> None:
    manifest_path = output_dir / MANIFEST_NAME
    begun_with = _begun_with(work, type(settings))
    is_stale = begun_with not in (None, settings)
    if manifest_path.exists():  # of finished data that is damaged or to be replaced
        is_stale = True
        with contextlib.suppress(ConfigError):
            manifest = schema.read(output_dir)
            is_stale = manifest.settings != settings
            if not is_stale:
                for file in manifest.files:
                    data_files.write_record(file, record_path(work, file.name))
    elif begun_with is None:
        _clear(work)
    if is_stale:
        # In this order: until the manifest is gone, it tells whoever reads it that files are missing.
        _clear(work)
        for path in _record_files(output_dir, schema):
            path.unlink()
    manifest_path.unlink(missing_ok=True)
    with atomic_path(work / _SETTINGS_NAME) as unfinished:
        unfinished.write_text(settings.model_dump_json(indent=2) + "\n", encoding="utf-8", newline="\n")


def _record_files(output_dir: Path, schema: type[DataManifest]) -> list[Path]:
    return sorted(path for path in output_dir.iterdir() if schema.record_file.fullmatch(path.name))


def _clear(work: Path) -> None:
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK_NAME:
            path.unlink()


def _begun_with(work: Path, schema: type[Section]) -> Section | None:
    """The settings of the run that left this folder; None if there are none, or none of this version."""
    try:
        return schema.model_validate_json((work / _SETTINGS_NAME).read_bytes())
    except (FileNotFoundError, NotADirectoryError, pydantic.ValidationError):
        return None


def _remove_unfinished(folder: Path) -> None:
    """Removes what `atomic_path` leaves in a folder and those under it when the process is killed."""
    for path in folder.rglob(".*.unfinished"):
        path.unlink(missing_ok=True)
