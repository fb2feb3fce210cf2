"""Llama 3 (Grattafiori et al. 2024), and what differs from it by little: Mistral, Qwen2."""

from dataclasses import replace

from jaxgpt.families.family import Family, Key, with_defaults
from jaxgpt.families.layer_types import LayerTypes

FORM = {
    "norm": "rms",
    "positions": "rope",
    "qkv_bias": False,
    "out_bias": False,
    "mlp_bias": False,
}
KEYS = {
    "vocab_size": Key("vocab_size", 32000),
    "context_length": Key("max_position_embeddings", 2048),
    "num_layers": Key("num_hidden_layers", 32),
    "num_heads": Key("num_attention_heads", 32),
    "num_kv_heads": Key("num_key_value_heads", 0),
    "embed_dim": Key("hidden_size", 4096),
    "hidden_dim": Key("intermediate_size", 11008),
    "norm_epsilon": Key("rms_norm_eps", 1e-6),
    "tie_head": Key("tie_word_embeddings", False),
    "gate": Key("hidden_act", "silu", {"silu": "silu"}),
}
HEAD_DIM = {"head_dim": Key("head_dim", 0)}
ATTENTION_BIAS = {"qkv_bias out_bias": Key("attention_bias", False)}
NAMES = {
    "embed.tokens": "embed_tokens.weight",
    "blocks.norm1.scale": "input_layernorm.weight",
    "blocks.attn.qkv.weight": tuple(f"self_attn.{part}_proj.weight" for part in "qkv"),
    "blocks.attn.qkv.bias": tuple(f"self_attn.{part}_proj.bias" for part in "qkv"),
    "blocks.attn.out.weight": "self_attn.o_proj.weight",
    "blocks.attn.out.bias": "self_attn.o_proj.bias",
    "blocks.norm2.scale": "post_attention_layernorm.weight",
    "blocks.mlp.gate.weight": "mlp.gate_proj.weight",
    "blocks.mlp.gate.bias": "mlp.gate_proj.bias",
    "blocks.mlp.up.weight": "mlp.up_proj.weight",
    "blocks.mlp.up.bias": "mlp.up_proj.bias",
    "blocks.mlp.down.weight": "mlp.down_proj.weight",
    "blocks.mlp.down.bias": "mlp.down_proj.bias",
    "norm.scale": "norm.weight",
    "head.weight": "lm_head.weight",
}

_LLAMA3 = {
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "intermediate_size": 8192,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}
_SCALING = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_LLAMA32 = _LLAMA3 | {"tie_word_embeddings": True, "rope_scaling": _SCALING}

LLAMA = Family(
    "llama",
    "LlamaForCausalLM",
    form=FORM,
    keys=KEYS | HEAD_DIM | ATTENTION_BIAS | {"mlp_bias": Key("mlp_bias", False)},
    names=NAMES,
    layer_types=LayerTypes(),
    sizes={
        "llama-3.2-1b": _LLAMA32 | {"hidden_size": 2048, "num_hidden_layers": 16},
        "llama-3.2-3b": _LLAMA32
        | {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24},
        "llama-3.1-8b": _LLAMA3
        | {"intermediate_size": 14336, "rope_scaling": _SCALING | {"factor": 8.0}},
    },
)

MISTRAL = replace(
    LLAMA,
    model_type="mistral",
    architecture="MistralForCausalLM",
    keys=with_defaults(KEYS | HEAD_DIM, context_length=131072, hidden_dim=14336, num_kv_heads=8),
    layer_types=LayerTypes(windows="all"),
    sizes={},
)

QWEN2 = replace(
    LLAMA,
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    form=FORM | {"qkv_bias": True},
    keys=with_defaults(
        KEYS, vocab_size=151936, context_length=32768, hidden_dim=22016, num_kv_heads=32
    ),
    layer_types=LayerTypes(windows="after"),
    sizes={},
)
