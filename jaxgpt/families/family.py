"""A family of models: how its `config.json` and the names in its files map to jaxgpt's."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any

from jaxgpt.config import BlockConfig, Experts, ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.families.layer_types import LayerTypes
from jaxgpt.fields import check


@dataclass(frozen=True)
class Key:
    """A setting of `config.json`: its name there, and what it is where it is left out."""

    name: str
    default: Any
    """Of the class in transformers; 0 for a number that then follows a rule."""
    choices: Mapping[Any, str] = field(default_factory=dict)
    """What may stand there, and what it is here."""
    older: str = ""
    """A name that is read where the other is left out; both are written."""
    same: tuple[str, ...] = ()
    """Settings that here are one with it; where they differ, it counts, with a warning."""
    null: bool = False
    """Whether a size that follows a rule is written as null."""

    def read(self, values: Mapping[str, Any], *, ruled: bool = False) -> Any:
        """The setting; where it may follow a rule (`ruled`), 0 for null.

        Raises ConfigError for what no model can have there.
        """
        name = self.older if self.older in values and self.name not in values else self.name
        value = values.get(name, self.default)
        if value is None and (ruled or self.null):
            return 0
        wanted: Any = (float, int) if type(self.default) is float else (type(self.default),)
        if type(value) not in wanted:
            raise ConfigError(f"{name} is {value!r}; it must be a {wanted[0].__name__}")
        if type(value) is int and wanted == (int,) and value < 1 and name in values:
            raise ConfigError(f"{name} is {value}; it must be 1 or more")
        if self.choices and value not in self.choices:
            raise ConfigError(f"{name} is {value!r}; jaxgpt has {', '.join(self.choices)}")
        rates = {other: values.get(other, self.default) for other in (name, *self.same)}
        if any(rate != value for rate in rates.values()):
            listed = ", ".join(f"{other} {rate}" for other, rate in rates.items())
            warnings.warn(f"{listed}: jaxgpt has one rate, and takes {name}'s", stacklevel=5)
        return self.choices[value] if self.choices else wanted[0](value)

    def write(self, value: Any) -> dict[str, Any]:
        """What `config.json` says of a value, by each of the names."""
        theirs = next((theirs for theirs, ours in self.choices.items() if ours == value), value)
        return dict.fromkeys((self.name, *filter(None, [self.older]), *self.same), theirs)


def with_defaults(keys: Mapping[str, Key], **defaults: Any) -> dict[str, Key]:
    """The settings, of which some are something else where they are left out."""
    others = {name: replace(keys[name], default=default) for name, default in defaults.items()}
    return {**keys, **others}


@dataclass(frozen=True)
class Family:
    """A family of models that transformers has a class for."""

    model_type: str
    architecture: str
    """The class of transformers."""
    keys: dict[str, Key]
    """Fields of ModelConfig, several with a space between where they are one there; those of its
    experts after `experts.`."""
    names: dict[str, str | tuple[str, ...]]
    """Leaf of the schema -> tensor, or tensors side by side; in a block after `layers`. `[0::2]`
    takes every other column, and `{expert}` counts experts."""
    form: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ModelConfig that all its models have."""
    only: Mapping[str, Any] = field(default_factory=dict)
    """Settings that jaxgpt has no counterpart for, at the one value that is what it computes."""
    layer_types: LayerTypes | None = None
    """Rotary positions and windows, where it has any."""
    layers: str = "layers.{layer}."
    prefixes: tuple[str, ...] = ("model.",)
    """What stands before all names but the head's, and may be left out; the first is written."""
    ignored: str = r"rotary_emb\.inv_freq$"
    """A pattern of names that are no parameters of the language model."""
    turned: bool = True
    """Whether linear maps lie there as (out, in)."""
    text_config: str = ""
    """The model type of one that sees too, whose `text_config` is that of this family."""
    quantized: str = ""
    """The quantization that its files may have."""
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Published models: what their `config.json` has beside the defaults."""

    def read(self, values: Mapping[str, Any]) -> ModelConfig:
        """The model of a `config.json`; raises ConfigError for what jaxgpt does not compute."""
        for name, wanted in self.only.items():
            value = values.get(name, wanted)
            value = wanted if value is None and not wanted else value  # as left out
            if value is not wanted and value != wanted:
                raise ConfigError(f"{name} is {value!r}; jaxgpt has only {wanted}")
        given = dict(self.form)
        for names, key in self.keys.items():
            ruled = names in ("num_kv_heads", "head_dim")
            given |= dict.fromkeys(names.split(), key.read(values, ruled=ruled))
        if "attention_scale" in given:
            name, scalar = self.keys["attention_scale"].name, given["attention_scale"]
            check(scalar > 0, f"{name} is {scalar}; it must be above 0")
            given["attention_scale"] = scalar**-0.5
        if self.layer_types is not None:
            given |= self.layer_types.read(values, given["num_layers"], given["context_length"])
        experts = {name: given.pop(name) for name in [*given] if name.startswith("experts.")}
        mixed = {name.removeprefix("experts."): value for name, value in experts.items()}
        return by_rule(ModelConfig(**given, experts=Experts(**mixed)))

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The settings in `config.json` of a model that this family has; see `misfits`."""
        sized = with_sizes(config)
        values = {"architectures": [self.architecture], "model_type": self.model_type}
        for names, key in self.keys.items():
            written = attrgetter(names.split()[0])(config if key.null else sized)
            values |= key.write(None if key.null and not written else written)
        if "attention_scale" in self.keys:
            scalar = sized.attention_scale**-2
            whole = round(scalar)
            close = abs(scalar - whole) < 1e-9 * scalar
            values |= self.keys["attention_scale"].write(whole if close else scalar)
        if self.layer_types is not None:
            values |= self.layer_types.write(config)
        return values | dict(self.only)

    @property
    def mixed(self) -> bool:
        """Whether its models are mixtures of experts."""
        return "experts.num_experts" in self.keys

    def misfits(self, config: ModelConfig) -> list[str]:
        """The fields of a model that this family has otherwise, as `name is value, not value`."""
        if isinstance(config, BlockConfig):
            return [f"its block is {config.block}"]
        free = {} if "dropout" in self.keys else {"dropout": 0.0}
        config = by_rule(replace(config, **free))
        try:
            held = self.read(self.write(config))
        except (ConfigError, ZeroDivisionError) as error:
            return [str(error)]
        names = [item.name for item in fields(ModelConfig)]
        pairs = {name: (getattr(config, name), getattr(held, name)) for name in names}
        return [f"{name} is {a}, not {b}" for name, (a, b) in pairs.items() if a != b]


def with_sizes(config: ModelConfig) -> ModelConfig:
    """A model whose sizes are all written out, where 0 stands for GPT-2's rule."""
    head_dim = config.head_dim or config.embed_dim // config.num_heads
    return replace(
        config,
        num_kv_heads=config.num_kv_heads or config.num_heads,
        head_dim=head_dim,
        hidden_dim=config.hidden_dim or 4 * config.embed_dim,
        attention_scale=config.attention_scale or head_dim**-0.5,
    )


def by_rule(config: ModelConfig) -> ModelConfig:
    """A model whose sizes are 0 where they are as by GPT-2's rule."""
    head_dim, rest = divmod(config.embed_dim, config.num_heads)
    rule: dict[str, float] = {
        "num_kv_heads": config.num_heads,
        "hidden_dim": 4 * config.embed_dim,
        "attention_scale": (config.head_dim or head_dim) ** -0.5,
    }
    if not rest:
        rule["head_dim"] = head_dim
    same = {name: type(size)(0) for name, size in rule.items() if getattr(config, name) == size}
    return replace(config, **same)
