"""Tiny shapes of today's families: five layers, so that a window's period leaves a remainder.

Grouped queries, windows of 7, and RoPE stretched from a context of 16 or 32; the bases are small,
so that the frequencies are of every kind in so few tokens.
"""

from dataclasses import replace

from jaxgpt.config import ModelConfig, Rope

LLAMA = ModelConfig(
    vocab_size=53,
    context_length=64,
    num_layers=5,
    num_heads=4,
    num_kv_heads=2,
    embed_dim=32,
    hidden_dim=48,
    qkv_bias=False,
    out_bias=False,
    mlp_bias=False,
    norm="rms",
    norm_epsilon=1e-6,
    positions="rope",
    gate="silu",
    tie_head=False,
    rope=Rope(rope_base=500.0, rope_scaling="llama3", rope_factor=8.0, rope_original_context=16),
)
QWEN3 = replace(LLAMA, head_dim=16, qk_norm="head", rope=Rope(rope_base=1000.0))
GEMMA3 = replace(
    QWEN3,
    norm_offset=True,
    norm_place="both",
    window=7,
    window_period=2,
    attention_scale=10**-0.5,
    gate="gelu",
    tie_head=True,
    scale_embedding=True,
    rope=Rope(rope_base=1000.0, rope_local_base=100.0, rope_scaling="linear", rope_factor=8.0),
)
OLMO2 = replace(LLAMA, qk_norm="width", norm_place="after", rope=Rope(rope_base=1000.0))
OLMO3 = replace(
    OLMO2,
    window=7,
    window_period=3,
    rope=Rope(
        rope_base=100.0,
        rope_scaling="yarn",
        rope_factor=8.0,
        rope_original_context=32,
        rope_attention_factor=1.2,
    ),
)
FAMILIES = {"llama": LLAMA, "qwen3": QWEN3, "gemma3": GEMMA3, "olmo2": OLMO2, "olmo3": OLMO3}
