"""OLMo 2 and OLMo 3 (OLMo Team 2024, 2025)."""

from dataclasses import replace

from jaxgpt.families.family import Family, with_defaults
from jaxgpt.families.layer_types import LayerTypes
from jaxgpt.families.llama import ATTENTION_BIAS, FORM, KEYS, NAMES
from jaxgpt.families.qwen3 import NORMS

_OLMO2 = {
    "vocab_size": 100352,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 500000.0,
}
_OLMO3 = _OLMO2 | {
    "vocab_size": 100278,
    "max_position_embeddings": 65536,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "attention_factor": 1.2079441541679836,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    },
}

OLMO2 = Family(
    "olmo2",
    "Olmo2ForCausalLM",
    form=FORM | {"norm_place": "after", "qk_norm": "width"},
    keys=with_defaults(KEYS | ATTENTION_BIAS, vocab_size=50304, norm_epsilon=1e-5),
    names={name: tensor for name, tensor in NAMES.items() if ".norm" not in name}
    | NORMS
    | {
        "blocks.post_norm1.scale": "post_attention_layernorm.weight",
        "blocks.post_norm2.scale": "post_feedforward_layernorm.weight",
    },
    layer_types=LayerTypes(),
    sizes={
        "olmo2-1b": _OLMO2
        | {
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
        },
        "olmo2-7b": _OLMO2,
    },
)

OLMO3 = replace(
    OLMO2,
    model_type="olmo3",
    architecture="Olmo3ForCausalLM",
    layer_types=LayerTypes(5e5, by_type=True, windows="period", period=4),
    sizes={
        "olmo3-7b": _OLMO3,
        "olmo3-32b": _OLMO3
        | {
            "hidden_size": 5120,
            "intermediate_size": 27648,
            "num_hidden_layers": 64,
            "num_attention_heads": 40,
            "num_key_value_heads": 8,
        },
    },
)
