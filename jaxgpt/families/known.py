"""The families that jaxgpt has, and which of them a model is of."""

from collections.abc import Mapping
from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.families.family import Family
from jaxgpt.families.gemma3 import GEMMA3
from jaxgpt.families.gpt2 import GPT2
from jaxgpt.families.gpt_oss import GPT_OSS
from jaxgpt.families.llama import LLAMA, MISTRAL, QWEN2
from jaxgpt.families.olmo import OLMO2, OLMO3
from jaxgpt.families.qwen3 import QWEN3, QWEN3_MOE

FAMILIES = (GPT2, LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA3, OLMO2, OLMO3, QWEN3_MOE, GPT_OSS)
"""In the order in which a model is looked for, the plainest first."""


def sizes() -> dict[str, ModelConfig]:
    """The shapes of published models, by name."""
    return {
        name: family.read(values) for family in FAMILIES for name, values in family.sizes.items()
    }


def read_family(values: Mapping[str, Any]) -> tuple[Family, ModelConfig]:
    """The family and the model of a `config.json`; raises ConfigError for what jaxgpt has not."""
    kind = values.get("model_type")
    for family in FAMILIES:
        if family.text_config and kind == family.text_config:
            values = values.get("text_config") or {}
            if not isinstance(values, dict):
                raise ConfigError(f"text_config is {values!r:.80}; it must be a mapping")
            kind = family.model_type
    family = next((family for family in FAMILIES if family.model_type == kind), None)
    if family is None:
        known = ", ".join(family.model_type for family in FAMILIES)
        raise ConfigError(f"model_type is {kind!r}; only {known} can be read")
    if (quantized := values.get("quantization_config")) is not None:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        if not family.quantized or method != family.quantized:
            raise ConfigError(
                f"quantization_config is of {method!r}; take weights that are not quantized"
            )
    return family, family.read(values)


def family_of(config: ModelConfig) -> Family:
    """The first family that has this model; raises ConfigError with what the nearest has not."""
    mixed = bool(config.experts.num_experts)
    families = [family for family in FAMILIES if family.mixed == mixed]
    misfits = {family.model_type: family.misfits(config) for family in families}
    found = next((family for family in families if not misfits[family.model_type]), None)
    if found is None:
        nearest = min(misfits, key=lambda name: len(misfits[name]))
        raise ConfigError(
            f"no family of Hugging Face has this model, the nearest is {nearest}: "
            f"{'; '.join(misfits[nearest])}; it stays here"
        )
    return found
