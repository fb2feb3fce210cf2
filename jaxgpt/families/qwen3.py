"""Qwen3 (Yang et al. 2025), and its mixtures of experts."""

from dataclasses import replace

from jaxgpt.families.family import Key, with_defaults
from jaxgpt.families.layer_types import LayerTypes
from jaxgpt.families.llama import ATTENTION_BIAS, FORM, HEAD_DIM, NAMES, QWEN2

NORMS = {
    "blocks.attn.query_norm.scale": "self_attn.q_norm.weight",
    "blocks.attn.key_norm.scale": "self_attn.k_norm.weight",
}
ROUTER = {
    "experts.experts_per_token": Key("num_experts_per_tok", 8),
    "experts.router_balance": Key("router_aux_loss_coef", 0.001),
}

_QWEN3 = {
    "max_position_embeddings": 40960,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "num_hidden_layers": 28,
    "tie_word_embeddings": True,
    "rope_theta": 1000000.0,
}
_LARGER = {"num_attention_heads": 32, "num_hidden_layers": 36}

QWEN3 = replace(
    QWEN2,
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    form=FORM | {"qk_norm": "head"},
    keys=with_defaults(QWEN2.keys | ATTENTION_BIAS | HEAD_DIM, head_dim=128),
    names=NAMES | NORMS,
    sizes={
        "qwen3-0.6b": _QWEN3 | {"hidden_size": 1024, "intermediate_size": 3072},
        "qwen3-1.7b": _QWEN3 | {"hidden_size": 2048, "intermediate_size": 6144},
        "qwen3-4b": _QWEN3 | _LARGER | {"hidden_size": 2560, "intermediate_size": 9728},
        "qwen3-8b": _QWEN3
        | _LARGER
        | {"hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False},
    },
)

QWEN3_MOE = replace(
    QWEN3,
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    keys=with_defaults(
        QWEN3.keys | ROUTER, num_layers=24, num_kv_heads=4, embed_dim=2048, head_dim=0
    )
    | {
        "hidden_dim": Key("moe_intermediate_size", 768),
        "experts.num_experts": Key("num_experts", 128, older="num_local_experts"),
        "experts.router_softmax": Key("norm_topk_prob", False, {True: "chosen", False: "all"}),
    },
    only={"decoder_sparse_step": 1, "mlp_only_layers": [], "use_sliding_window": False},
    names=QWEN3.names
    | {"blocks.mlp.router.weight": "mlp.gate.weight"}
    | {
        f"blocks.mlp.{part}.weight": f"mlp.experts.{{expert}}.{part}_proj.weight"
        for part in ("gate", "up", "down")
    },
    layer_types=LayerTypes(),
    sizes={
        "qwen3-30b-a3b": {
            "max_position_embeddings": 40960,
            "num_hidden_layers": 48,
            "head_dim": 128,
            "norm_topk_prob": True,
            "rope_theta": 1000000.0,
        }
    },
)
