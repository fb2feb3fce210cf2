"""Configs as JSON values, and from JSON or TOML files that nobody has to trust."""

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from jaxgpt.config import BlockConfig, ModelConfig, TrainConfig
from jaxgpt.errors import ConfigError, brief, nearest
from jaxgpt.fields import typed
from jaxgpt.files import JSON_BYTES, check_values, read_object, read_regular
from jaxgpt.presets import PRESETS, get_preset

Config = TypeVar("Config")
_MOST_DOTS = 500  # in a line of TOML: tomllib's time grows with the square of a dotted key's parts


def load_config(path: str | Path) -> TrainConfig:
    """The config in a `.json` or `.toml` file, over the preset that its key `preset` names, if any.

    A run's own `config.json` is one. Raises ConfigError with the path, and where syntax is wrong.
    """
    path = Path(path)
    values = read_mapping(path)
    preset = values.pop("preset", None)
    if preset is not None and not isinstance(preset, str):
        raise ConfigError(
            f"{path}: preset is {brief(preset)}; it must be one of {', '.join(PRESETS)}"
        )
    try:
        return from_dict(get_preset(preset) if preset else TrainConfig(), values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def find_config(name: str) -> TrainConfig:
    """The preset called `name`, or the config in a file of that name; raises as they do.

    A preset in float32 is found with the precision `auto`, which takes it where it is the faster.
    """
    if not _is_preset(name):
        return load_config(name)
    preset = get_preset(name)
    is_open = preset.compute_dtype == "float32"
    return dataclasses.replace(preset, compute_dtype="auto") if is_open else preset


def run_name(name: str) -> str:
    """What a run of a preset, or of a file of settings, is called."""
    return name if _is_preset(name) else Path(name).stem


def _is_preset(name: str) -> bool:
    """Whether a name is formed like a preset's: a dot in it, if any, stands before a digit."""
    return re.fullmatch(r"[^./]+(\.\d[^./]*)?", name) is not None


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a JSON or TOML file of at most 1 MB; ConfigError as `read_json` would."""
    if path.suffix == ".json":
        return read_object(path, error=ConfigError)
    if path.suffix == ".toml":
        return _read_toml(path)
    raise ConfigError(f"{path} is neither .json nor .toml")


def _read_toml(path: Path) -> dict[str, Any]:
    content = read_regular(path, limit=JSON_BYTES, error=ConfigError)
    if max(line.count(b".") for line in content.split(b"\n")) > _MOST_DOTS:
        raise ConfigError(f"{path} has a line with over {_MOST_DOTS} dots; break it up")
    try:
        values = tomllib.loads(content.decode("utf-8-sig"))
        check_values(values)
    except RecursionError:
        raise ConfigError(f"{path} cannot be used: it is nested too deeply") from None
    except ValueError as error:  # undecodable bytes, TOML's syntax
        raise ConfigError(f"{path} cannot be used: {error}") from None
    return values


def to_dict(config: Any) -> dict[str, Any]:
    """A config as nested dicts of JSON values; a block of the caller's own is its name."""
    return {
        name: to_dict(value) if dataclasses.is_dataclass(value) else value
        for name, value in _values(config).items()
    }


def _values(config: Any) -> dict[str, Any]:
    return {
        item.name: str(value) if item.metadata.get("by_name") else value
        for item in dataclasses.fields(config)
        for value in [getattr(config, item.name)]
    }


def from_dict(base: Config, values: Mapping[str, Any], where: str = "") -> Config:
    """`base` with the fields that `values` names replaced, section by section.

    Raises ConfigError on an unknown key, with the nearest name, and on a value of another type.
    """
    start: Any = base
    if isinstance(base, ModelConfig):  # the values decide whether it has a block of its own
        shape = {item.name: getattr(base, item.name) for item in dataclasses.fields(ModelConfig)}
        start = (BlockConfig if "block" in values else ModelConfig)(**shape)
    hints = get_type_hints(type(start))
    changes = {}
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(f"{where}{key} is not a setting{nearest(key, hints)}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}{key} must be a section, got {brief(value)}")
            changes[key] = from_dict(getattr(start, key), value, f"{where}{key}.")
        else:
            changes[key] = typed(where + key, value, hints[key])
    return dataclasses.replace(start, **changes)


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """The fields in which two configs of one type differ, each as `name: old -> new`."""
    lines, olds, news = [], _values(old), _values(new)
    for name in olds | news:
        before, after = olds.get(name, "standard"), news.get(name, "standard")  # of a block
        if dataclasses.is_dataclass(before):
            lines += differences(before, after, f"{where}{name}.")
        elif before != after:
            lines.append(f"{where}{name}: {before} -> {after}")
    return lines
