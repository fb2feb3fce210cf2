"""Rotary positions and windows by type of layer, from and to `config.json`.

Files of transformers before version 5 have `rope_theta` and `rope_scaling`; since then all is in
`rope_parameters`. Both are written, and say the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from jaxgpt.config import ModelConfig, Rope
from jaxgpt.errors import ConfigError

_FULL, _LOCAL = "full_attention", "sliding_attention"
_SCALINGS = ("default", "linear", "llama3", "yarn")
# Our field -> the name there, by type of scaling.
_FACTOR = {"rope_factor": "factor"}
_ORIGINAL = _FACTOR | {"rope_original_context": "original_max_position_embeddings"}
_KEYS: dict[str, dict[str, str]] = {
    "default": {},
    "linear": _FACTOR,
    "llama3": _ORIGINAL
    | {"rope_low_frequency": "low_freq_factor", "rope_high_frequency": "high_freq_factor"},
    "yarn": _ORIGINAL
    | {
        "rope_beta_fast": "beta_fast",
        "rope_beta_slow": "beta_slow",
        "rope_attention_factor": "attention_factor",
        "rope_truncate": "truncate",
    },
}
_LEFT_OUT = {("rope_attention_factor", 0.0), ("rope_truncate", True)}
_OPTIONAL = {"rope_attention_factor", "rope_beta_fast", "rope_beta_slow", "rope_truncate"}


@dataclass(frozen=True)
class LayerTypes:
    """The rotary positions and the windows of a family's layers."""

    base: float = 10_000.0
    """`rope_theta` where it is left out."""
    local_base: float = 0.0
    """The same of layers with a window, if it is another."""
    by_type: bool = False
    """Whether scaling is of layers without a window alone, and told apart by type."""
    windows: Literal["none", "all", "after", "period"] = "none"
    """Which layers have the window: all where one is given; those after `max_window_layers` if it
    is used; or those that `layer_types` says."""
    window: int = 4096
    """`sliding_window` where it is left out."""
    period: int = 0
    """Every so many layers one has none, where `layer_types` is left out."""
    scaling: Mapping[str, Any] | None = None
    """`rope_parameters` where they are left out."""

    def read(self, values: Mapping[str, Any], num_layers: int, context: int) -> dict[str, Any]:
        """`rope`, `window` and `window_period` of a ModelConfig, of what `config.json` says."""
        window, period = self._read_windows(values, num_layers)
        return {
            "positions": "rope",
            "rope": self._read_rope(values, context, bool(window)),
            "window": window,
            "window_period": period,
        }

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """What `config.json` says of them."""
        rope, period = config.rope, config.window_period
        kind = "default" if rope.rope_scaling == "none" else rope.rope_scaling
        base = {"rope_theta": rope.rope_base, "rope_type": "default"}
        full = base | {"rope_type": kind}
        for name, theirs in _KEYS[kind].items():
            if (name, getattr(rope, name)) not in _LEFT_OUT:
                full[theirs] = getattr(rope, name)
        scaling = {name: value for name, value in full.items() if name != "rope_theta"}
        # For readers that know no rope_parameters, who would take the default base for theirs.
        values: dict[str, Any] = {
            "rope_theta": rope.rope_base,
            "rope_scaling": None if kind == "default" else scaling,
        }
        if self.by_type:
            local = full if rope.rope_scale_local else base
            theta = rope.rope_local_base or (rope.rope_base if config.window else self.local_base)
            full = {_FULL: full, _LOCAL: local | {"rope_theta": theta or rope.rope_base}}
            if self.local_base:
                values["rope_local_base_freq"] = theta or rope.rope_base
        values["rope_parameters"] = full
        if self.windows == "all":
            values["sliding_window"] = config.window or None
        elif self.windows != "none":
            values["layer_types"] = _types(period if config.window else 1, config.num_layers)
            if config.window:
                values["sliding_window"] = config.window
        if self.windows == "after":
            values |= {"use_sliding_window": bool(config.window)}
            values |= {"max_window_layers": 0} if config.window else {"sliding_window": None}
        return values

    def _read_windows(self, values: Mapping[str, Any], num_layers: int) -> tuple[int, int]:
        """The window, and how many layers from one without it to the next."""
        window, types = values.get("sliding_window", self.window), values.get("layer_types")
        if window is not None and (type(window) is not int or window < 1):
            raise ConfigError(f"sliding_window is {window!r}; it must be 1 or more, or null")
        if self.windows == "none" or not window:
            return 0, 0
        if self.windows == "after" and not values.get("use_sliding_window", False):
            return 0, 0
        if types is not None:
            period = _period(types, num_layers)
            return (0, 0) if period == 1 else (window, period)
        if self.windows != "after":
            return window, _count(values, "sliding_window_pattern", self.period)
        first = _count(values, "max_window_layers", 28)
        if 0 < first < num_layers:
            raise ConfigError(
                f"max_window_layers is {first} of {num_layers} layers; jaxgpt has models of which "
                "all have the window, or none"
            )
        return (0, 0) if first else (window, 0)

    def _read_rope(self, values: Mapping[str, Any], context: int, windows: bool) -> Rope:
        given = _mapping(values, "rope_parameters")
        older = _mapping(values, "rope_scaling")
        theta = values.get("rope_theta", self.base)
        local_theta = values.get("rope_local_base_freq", self.local_base or theta)
        if _FULL in given or _LOCAL in given:
            full, local = _mapping(given, _FULL), _mapping(given, _LOCAL)
        else:
            full = older or given or dict(self.scaling or {})
            local = {} if self.by_type else full
        rope = {"rope_base": full.get("rope_theta", theta)} | _read_scaling(full, context)
        if windows:
            local_base = local.get("rope_theta", local_theta)
            rope["rope_local_base"] = 0.0 if local_base == rope["rope_base"] else local_base
            scaled = _read_scaling(local, context)
            scaling = {name: value for name, value in rope.items() if "base" not in name}
            if scaled and scaled != scaling:
                raise ConfigError(f"{_LOCAL} has rotary positions that are scaled otherwise")
            rope["rope_scale_local"] = bool(scaled)
        return Rope(**{name: _typed(name, value) for name, value in rope.items()})


_KINDS: dict[str, Any] = {item.name: type(item.default) for item in fields(Rope)}


def _typed(name: str, value: Any) -> Any:
    """The value of a field of Rope, by its type: a file may have 8 for 8.0, and 8.0 for 8."""
    kind = _KINDS[name]
    number = kind in (int, float) and type(value) in (int, float) and kind(value) == value
    if type(value) is not kind and not number:
        raise ConfigError(f"{name} is {value!r}; it must be a {kind.__name__}")
    return kind(value)


def _count(values: Mapping[str, Any], name: str, default: int) -> int:
    value = values.get(name, default)
    if type(value) is not int or value < 0:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number, 0 or more")
    return value


def _period(types: Any, num_layers: int) -> int:
    """How many layers from one without a window to the next; 0 where all have it, 1 where none."""
    known = type(types) is list and all(kind in (_FULL, _LOCAL) for kind in types)
    if not known or len(types) != num_layers:
        raise ConfigError(
            f"layer_types is {types!r:.80}; it must be {_FULL} or {_LOCAL} for each layer"
        )
    period = types.index(_FULL) + 1 if _FULL in types else 0
    if types != _types(period, num_layers):
        raise ConfigError(
            "layers with a window do not alternate with others; jaxgpt has those where every so "
            "many layers, the last has none"
        )
    return period


def _types(period: int, num_layers: int) -> list[str]:
    return [_LOCAL if not period or (i + 1) % period else _FULL for i in range(num_layers)]


def _mapping(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = values.get(name) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"{name} is {value!r:.80}; it must be a mapping")
    return value


def _read_scaling(given: Mapping[str, Any], context: int) -> dict[str, Any]:
    """The fields of a Rope that say how it is scaled; none where it is not."""
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in _SCALINGS:
        raise ConfigError(f"rope_type is {kind!r}; jaxgpt has {', '.join(_SCALINGS)}")
    partial = given.get("partial_rotary_factor", 1.0)
    if partial not in (None, 1.0):
        raise ConfigError(f"partial_rotary_factor is {partial}; jaxgpt has only 1.0")
    if kind == "default":
        return {}
    if given.get("mscale") and given.get("mscale_all_dim") and not given.get("attention_factor"):
        raise ConfigError("mscale is given; jaxgpt has only attention_factor")
    found: dict[str, Any] = {"rope_scaling": kind}
    for name, theirs in _KEYS[kind].items():
        value = given.get(theirs)
        if value is None and name == "rope_original_context":
            value = context
        if value is None and name not in _OPTIONAL:
            raise ConfigError(f"rope_type is {kind}, and {theirs} is missing; give it")
        if value is not None:
            found[name] = value
    return found
