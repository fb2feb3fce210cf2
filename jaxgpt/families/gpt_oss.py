"""gpt-oss (OpenAI 2025), whose files have the experts' matrices as MXFP4."""

from jaxgpt.families.family import Family, Key, with_defaults
from jaxgpt.families.layer_types import LayerTypes
from jaxgpt.families.llama import FORM, HEAD_DIM, KEYS, NAMES
from jaxgpt.families.qwen3 import ROUTER

_BOTH, _DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"

GPT_OSS = Family(
    "gpt_oss",
    "GptOssForCausalLM",
    form=FORM
    | {"mlp_bias": True, "sinks": True, "experts.router_bias": True}
    | {"experts.router_softmax": "chosen"},
    keys=with_defaults(
        KEYS | ROUTER | HEAD_DIM,
        vocab_size=201088,
        context_length=131072,
        num_layers=36,
        num_heads=64,
        num_kv_heads=8,
        embed_dim=2880,
        head_dim=64,
        hidden_dim=2880,
        norm_epsilon=1e-5,
    )
    | {
        "qkv_bias out_bias": Key("attention_bias", True),
        "gate": Key("hidden_act", "silu", {"silu": "clamped"}),
        "gate_alpha": Key("swiglu_alpha", 1.702),
        "gate_limit": Key("swiglu_limit", 7.0),
        "experts.num_experts": Key("num_local_experts", 128),
        "experts.experts_per_token": Key("num_experts_per_tok", 4),
    },
    names=NAMES
    | {
        "blocks.attn.sinks": "self_attn.sinks",
        "blocks.mlp.router.weight": "mlp.router.weight",
        "blocks.mlp.router.bias": "mlp.router.bias",
        "blocks.mlp.gate.weight": f"{_BOTH}[0::2]",
        "blocks.mlp.gate.bias": f"{_BOTH}_bias[0::2]",
        "blocks.mlp.up.weight": f"{_BOTH}[1::2]",
        "blocks.mlp.up.bias": f"{_BOTH}_bias[1::2]",
        "blocks.mlp.down.weight": _DOWN,
        "blocks.mlp.down.bias": f"{_DOWN}_bias",
    },
    layer_types=LayerTypes(
        150_000.0,
        windows="period",
        window=128,
        period=2,
        scaling={
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
    ),
    quantized="mxfp4",
    sizes={
        "gpt-oss-20b": {"num_hidden_layers": 24, "num_local_experts": 32},
        "gpt-oss-120b": {"num_hidden_layers": 36, "num_local_experts": 128},
    },
)
