"""Tiny random models of today's families, written by transformers, each hard to get right.

Grouped queries, heads that are not D / H wide, windows shorter than the texts, scaling from a short
original context, layers that end amid a period, and norms that are not 1.
"""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

V, T, WINDOW = 97, 100, 7

_COMMON = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "attention_factor": 1.2,
}
_PLAIN = {"rope_type": "default", "rope_theta": 1000.0}
_EXPERTS = {
    "head_dim": 16,
    "intermediate_size": 6144,  # of what has no experts, which is not there
    "moe_intermediate_size": 24,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "rope_parameters": _PLAIN,
}
_FULL, _LOCAL = "full_attention", "sliding_attention"

MODELS = {
    "llama": ("llama", {"rope_parameters": _LLAMA3}),
    "llama tied, with biases, one kv head": (
        "llama",
        {
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "rope_parameters": _PLAIN,
        },
    ),
    "llama yarn": ("llama", {"rope_parameters": {**_YARN, "truncate": False}}),
    "mistral": ("mistral", {"sliding_window": WINDOW, "rope_parameters": _PLAIN}),
    "mistral linear": (
        "mistral",
        {
            "sliding_window": WINDOW,
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0},
        },
    ),
    "qwen2": ("qwen2", {"rope_parameters": _PLAIN}),
    "qwen2 windows": (
        "qwen2",
        {
            "rope_parameters": _PLAIN,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 0,
        },
    ),
    "qwen3": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True, "rope_parameters": _PLAIN}),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 16,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 10,
            "layer_types": [_LOCAL, _FULL, _LOCAL, _FULL, _LOCAL],
            "rope_parameters": {
                _LOCAL: {"rope_type": "default", "rope_theta": 100.0},
                _FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
            },
        },
    ),
    "qwen3 experts": ("qwen3_moe", {**_EXPERTS, "norm_topk_prob": True}),
    "qwen3 experts, shares of all": ("qwen3_moe", {**_EXPERTS, "norm_topk_prob": False}),
    "gpt-oss": (
        "gpt_oss",
        {
            "head_dim": 16,
            "intermediate_size": 64,
            "num_local_experts": 8,
            "num_experts_per_tok": 4,
            "swiglu_limit": 0.5,
            "sliding_window": WINDOW,
            "rope_parameters": {**_YARN, "truncate": False},
        },
    ),
    "olmo2": ("olmo2", {"rope_parameters": _PLAIN}),
    "olmo3": (
        "olmo3",
        {
            "sliding_window": WINDOW,
            "layer_types": [_LOCAL, _LOCAL, _FULL, _LOCAL, _LOCAL],
            "rope_parameters": {_LOCAL: {**_PLAIN, "rope_theta": 100.0}, _FULL: _YARN},
        },
    ),
}
"""Name -> model type and settings."""


def make_theirs(name, **changes):
    """A model of transformers whose numbers are far from those of its start."""
    torch.manual_seed(0)
    kind, settings = MODELS[name]
    config = AutoConfig.for_model(kind, **_COMMON | settings | changes)
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    ).eval()
    with torch.no_grad():
        for leaf, parameter in model.named_parameters():
            if parameter.ndim == 1 or leaf.endswith("_bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(8)
    return model
