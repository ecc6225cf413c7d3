"""Reads a YAML config into a typed model; anything unknown, missing or doubly given is an error."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from atomic_file import atomic_path
from paths import as_path, local_path, make_folder, obstacle

# What the folder of a run holds.
CONFIG_NAME = "config.yaml"
CHECKPOINTS = "checkpoints"


class ConfigError(ValueError):
    """A config cannot be used. The message is one sentence fit for a terminal."""


class RunError(Exception):
    """A run cannot go on, though its input is right. The message is one sentence fit for a terminal."""


class Section(pydantic.BaseModel):
    """A section of a config: typed, immutable, and strict about unknown fields."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


Config = TypeVar("Config", bound=Section)


def check_reachable(*places: Path | None) -> None:
    """Raises a `ConfigError` if the file system of a remote place cannot be used; None is no place."""
    for place in places:
        if place is not None and (reason := obstacle(place)):
            raise ConfigError(
                f"{place} cannot be reached: {reason}. Expected a bucket that this machine may use, for example after "
                "`gcloud auth application-default login`."
            )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--config_file` and `--set` to a script's command line."""
    parser.add_argument(
        "--config_file", type=local_path, required=True, help="the YAML config, for example configs/bert/tiny.yaml"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="sets fields of the config, for example --set stages.0.steps=10 run.seed=1",
    )


def load(path: str | Path, schema: type[Config] | Callable[[Any], type[Config]], overrides: list[str] = ()) -> Config:
    """Reads `path` into `schema`, after setting each `dotted.field=value` of `overrides`.

    Args:
        path: A YAML 1.2 file.
        schema: The `Section` that describes the whole file, or a function that chooses it for the file's content.
        overrides: For example `["stages.0.steps=10", "optimizer.weight_decay=0"]`. A value is
            read as YAML; a list is indexed by number.

    Returns:
        A validated `schema`.

    Raises:
        ConfigError: The file is missing or not YAML, a field is unknown, given twice, missing or
            of the wrong type, or an override names no field.
    """
    path = as_path(path)
    if not path.is_file():
        raise ConfigError(
            f"Config file not found. Received: {path}. Expected a YAML file, such as configs/bert/tiny.yaml."
        )
    try:
        tree = _yaml().load(path.read_text(encoding="utf-8")) or {}
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    for override in overrides:
        _set(tree, override)
    if not isinstance(schema, type):
        schema = schema(tree)
    try:
        return schema.model_validate(tree)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{path}: {_sentence(error, schema)}") from None


def dump(config: Section, path: str | Path) -> None:
    """Writes `config` as YAML; reading it back with `load` gives an equal config."""
    with Path(path).open("w", encoding="utf-8") as file:
        _yaml().dump(config.model_dump(mode="json"), file)


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    return yaml


def _set(tree: Any, override: str) -> None:
    name, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(
            f"An override needs a field and a value. Received: {override!r}. Expected for example stages.0.steps=10."
        )
    *parents, last = name.split(".")
    node = tree
    try:
        for key in parents:
            node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
        node[int(last) if isinstance(node, list) else last] = _yaml().load(value)
    except (YAMLError, ValueError, IndexError, TypeError, AttributeError):
        raise ConfigError(
            f"An override names no field of the config, or gives it no YAML value. Received: {override!r}. "
            "Expected dotted names, with a number for each entry of a list, for example stages.0.steps=10."
        ) from None


def _sentence(error: pydantic.ValidationError, schema: type[Section]) -> str:
    problem = error.errors()[0]
    path, section = _resolve(schema, problem["loc"], problem["type"] == "extra_forbidden")
    where = ".".join(str(part) for part in path) or "the config"
    if problem["type"] == "extra_forbidden":
        return f"unknown field {where!r}. Expected one of: {', '.join(section.model_fields)}."
    if problem["type"] == "missing":
        meaning = section.model_fields[path[-1]].description
        return f"field {where!r} is missing. {f'It is {meaning}' if meaning else ''}".strip()
    if problem["type"] == "union_tag_invalid":
        tag, expected = problem["ctx"]["tag"], problem["ctx"]["expected_tags"]
        return f"'{where}.name' is wrong. Received: {tag!r}. Expected one of: {expected}."
    return f"{where!r} is wrong. Received: {problem['input']!r}. {problem['msg']}."


def _resolve(
    schema: type[Section], location: tuple[str | int, ...], last_is_unknown: bool
) -> tuple[list[str | int], type[Section]]:
    """The fields and list indices of an error's location, and the section that holds the last field.

    Where a field may be of several types, pydantic also puts the name of the one it tried into the location.
    """
    path, section, candidates = [], schema, [schema]
    for index, part in enumerate(location):
        owner = next((c for c in candidates if part in c.model_fields), None)
        if isinstance(part, int):
            path.append(part)
        elif owner is not None:
            section, candidates = owner, _sections(owner.model_fields[part].annotation)
            path.append(part)
        elif last_is_unknown and index == len(location) - 1:
            section = candidates[0]
            path.append(part)
        else:
            candidates = [c for c in candidates if part in (c.__name__, *_tags(c))]
    return path, section


def _sections(annotation: Any) -> list[type[Section]]:
    """The sections that a type consists of, through lists and unions."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in getattr(annotation, "__args__", ()) for section in _sections(part)]


def _tags(section: type[Section]) -> tuple[str, ...]:
    name = section.model_fields.get("name")
    return getattr(name.annotation, "__args__", ()) if name is not None else ()


def claim_folder(folder: str | Path, config: Section, allow_change: bool = False) -> None:
    """Makes `folder` the place of a run with `config`, which is written into it as config.yaml.

    Args:
        folder: The folder, made if missing.
        config: The config of the run.
        allow_change: Whether a run with another config may go on with this one.

    Raises:
        ConfigError: The folder cannot be written, or holds a run with another config.
    """
    path = as_path(folder) / CONFIG_NAME
    try:
        make_folder(path.parent)
        if path.exists() and not allow_change:
            _expect_same(load(path, type(config)), config, folder)
        with atomic_path(path) as unfinished:
            dump(config, unfinished)
    except OSError as error:
        raise ConfigError(
            f"The folder cannot be written: {error.strerror}. Received: {folder}. Expected a writable folder."
        ) from None


def _expect_same(old: Section, new: Section, folder: str | Path) -> None:
    old, new = _flat(old.model_dump()), _flat(new.model_dump())
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise ConfigError(
                f"{folder} holds a run with another config. Received: {name}={new.get(name)!r}, "
                f"there {old.get(name)!r}. Expected the same config, another folder, or --allow_config_change."
            )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
    flat = {}
    for key, value in entries:
        nested = isinstance(value, (dict, list, tuple))
        flat.update(_flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return flat
