"""Gemma 3 (Gemma Team 2025), its language model."""

from jaxgpt.families.family import Family, Key, with_defaults
from jaxgpt.families.layer_types import LayerTypes
from jaxgpt.families.llama import ATTENTION_BIAS, FORM, HEAD_DIM, KEYS, NAMES
from jaxgpt.families.qwen3 import NORMS

_LINEAR = {"rope_type": "linear", "factor": 8.0}
_SMALL = {
    "vocab_size": 262144,
    "max_position_embeddings": 32768,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "sliding_window": 512,
}

GEMMA3 = Family(
    "gemma3_text",
    "Gemma3ForCausalLM",
    form=FORM
    | {
        "norm_offset": True,
        "norm_place": "both",
        "qk_norm": "head",
        "gate": "gelu",
        "scale_embedding": True,
    },
    keys=with_defaults(
        {name: key for name, key in KEYS.items() if name != "gate"} | ATTENTION_BIAS | HEAD_DIM,
        vocab_size=262208,
        context_length=131072,
        num_layers=26,
        num_heads=8,
        num_kv_heads=4,
        head_dim=256,
        embed_dim=2304,
        hidden_dim=9216,
        tie_head=True,
    )
    | {
        "attention_scale": Key("query_pre_attn_scalar", 256.0),
        "gelu": Key(
            *("hidden_activation", "gelu_pytorch_tanh"),
            {"gelu_pytorch_tanh": "tanh", "gelu": "erf"},
        ),
    },
    names=NAMES
    | NORMS
    | {
        "blocks.post_norm1.scale": "post_attention_layernorm.weight",
        "blocks.norm2.scale": "pre_feedforward_layernorm.weight",
        "blocks.post_norm2.scale": "post_feedforward_layernorm.weight",
    },
    only={
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "use_bidirectional_attention": False,
    },
    layer_types=LayerTypes(1e6, 1e4, by_type=True, windows="period", period=6),
    prefixes=("model.", "language_model.model.", "model.language_model.", "language_model."),
    ignored=r"rotary_emb\.inv_freq$|^(vision_tower|multi_modal_projector)\.",
    text_config="gemma3",
    sizes={
        "gemma3-270m": _SMALL
        | {"hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18},
        "gemma3-1b": _SMALL
        | {"hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26},
        "gemma3-4b": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "sliding_window": 1024,
            "rope_scaling": _LINEAR,
        },
    },
)
