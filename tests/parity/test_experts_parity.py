"""Mixtures of experts, sinks and MXFP4 against transformers' own modules."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import GptOssConfig, GptOssForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from jaxgpt.config import Experts, ModelConfig, Rope
from jaxgpt.huggingface.mxfp4 import read_mxfp4
from jaxgpt.model.gpt import GPT
from jaxgpt.training.loss import next_token_loss

SHAPE = ModelConfig(
    vocab_size=61,
    context_length=64,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    embed_dim=24,
    head_dim=8,
    hidden_dim=16,
    norm="rms",
    norm_epsilon=1e-5,
    positions="rope",
    tie_head=False,
)
GPT_OSS = replace(
    SHAPE,
    window=7,
    window_period=2,
    sinks=True,
    gate="clamped",
    gate_limit=2.0,
    rope=Rope(
        rope_base=150.0,
        rope_scaling="yarn",
        rope_scale_local=True,
        rope_factor=4.0,
        rope_original_context=16,
        rope_truncate=False,
    ),
    experts=Experts(num_experts=8, experts_per_token=4, router_bias=True, router_balance=0.3),
)
QWEN3 = replace(
    SHAPE,
    qkv_bias=False,
    out_bias=False,
    mlp_bias=False,
    qk_norm="head",
    gate="silu",
    rope=Rope(rope_base=100.0),
    experts=Experts(num_experts=8, experts_per_token=3, router_balance=0.3),
)
SHARED = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "router_aux_loss_coef": 0.3,
    "attn_implementation": "eager",
    "experts_implementation": "eager",
}
THEIRS = {
    "gpt-oss": lambda: GptOssForCausalLM(
        GptOssConfig(
            **SHARED,
            intermediate_size=16,
            num_local_experts=8,
            num_experts_per_tok=4,
            swiglu_limit=2.0,
            sliding_window=7,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 150.0,
                "factor": 4.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 16,
            },
        )
    ),
    "qwen3": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **SHARED,
            moe_intermediate_size=16,
            num_experts=8,
            num_experts_per_tok=3,
            norm_topk_prob=True,
            rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        )
    ),
    "qwen3 of all": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **SHARED,
            moe_intermediate_size=16,
            num_experts=8,
            num_experts_per_tok=3,
            norm_topk_prob=False,
            rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        )
    ),
}
OURS = {
    "gpt-oss": GPT_OSS,
    "qwen3": QWEN3,
    "qwen3 of all": replace(QWEN3, experts=replace(QWEN3.experts, router_softmax="all")),
}
TOKENS = np.random.default_rng(0).integers(61, size=(2, 41))


def to_ours(of, config):
    """jaxgpt's parameters of what `of(name)` gives of a name in the module of transformers."""

    def layer(n):
        def part(name, transpose=True):
            array = of(f"model.layers.{n}.{name}")
            return array.T if transpose and array.ndim == 2 else array

        def projection(name, where):
            bias = {"bias": part(f"{name}.bias")} if getattr(config, where) else {}
            return {"weight": part(f"{name}.weight"), **bias}

        each = [projection(f"self_attn.{x}_proj", "qkv_bias") for x in "qkv"]
        qkv = {key: jnp.concatenate([x[key] for x in each], axis=-1) for key in each[0]}
        attn = {"qkv": qkv, "out": projection("self_attn.o_proj", "out_bias")}
        if config.sinks:
            attn["sinks"] = part("self_attn.sinks")
            both, bias = (
                part(f"mlp.experts.gate_up_proj{x}", transpose=False) for x in ("", "_bias")
            )
            down = [part(f"mlp.experts.down_proj{x}", transpose=False) for x in ("", "_bias")]
            mlp = {
                "router": {"weight": part("mlp.router.weight"), "bias": part("mlp.router.bias")},
                "gate": {"weight": both[..., ::2], "bias": bias[..., ::2]},
                "up": {"weight": both[..., 1::2], "bias": bias[..., 1::2]},
                "down": {"weight": down[0], "bias": down[1]},
            }
        else:
            for ours, theirs in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
                attn[ours] = {"scale": part(f"self_attn.{theirs}.weight")}
            both = part("mlp.experts.gate_up_proj").swapaxes(1, 2)
            gate, up = jnp.split(both, 2, axis=-1)
            mlp = {
                "router": {"weight": part("mlp.gate.weight")},
                "gate": {"weight": gate},
                "up": {"weight": up},
                "down": {"weight": part("mlp.experts.down_proj").swapaxes(1, 2)},
            }
        return {
            "norm1": {"scale": part("input_layernorm.weight")},
            "norm2": {"scale": part("post_attention_layernorm.weight")},
            "attn": attn,
            "mlp": mlp,
        }

    layers = [layer(n) for n in range(config.num_layers)]
    return {
        "embed": {"tokens": of("model.embed_tokens.weight")},
        "blocks": jax.tree.map(lambda *parts: jnp.stack(parts), *layers),
        "norm": {"scale": of("model.norm.weight")},
        "head": {"weight": of("lm_head.weight").T},
    }


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if name == "gpt-oss" else pytest.mark.whole_run)
        for name in OURS
    ]
)
def pair(request):
    torch.manual_seed(0)
    theirs = THEIRS[request.param]()
    with torch.no_grad():
        for name, leaf in theirs.named_parameters():
            leaf.normal_(float("norm" in name), 0.2)
    return OURS[request.param], theirs


@pytest.mark.slow
def test_logits_loss_balance_and_gradients(pair, agree):
    config, theirs = pair
    tokens = torch.tensor(TOKENS)
    given = theirs(tokens[:, :-1], labels=None, output_router_logits=True)
    plain = torch.nn.functional.cross_entropy(given.logits.flatten(0, 1), tokens[:, 1:].flatten())
    (plain + 0.3 * given.aux_loss).backward()
    leaves = dict(theirs.named_parameters())
    params = to_ours(lambda name: jnp.asarray(leaves[name].detach().numpy()), config)
    wanted = to_ours(lambda name: jnp.asarray(leaves[name].grad.numpy()), config)
    batch = jnp.asarray(TOKENS[:, :-1]), jnp.asarray(TOKENS[:, 1:])
    agree(GPT(config, params)(batch[0]), given.logits.detach().numpy(), 2e-5)

    def mean(params, rng):
        nats, count = next_token_loss(config)(params, batch, rng)
        return nats / count

    loss, grads = jax.jit(jax.value_and_grad(mean))(params, jax.random.key(0))
    agree(mean(params, None), plain.detach().numpy(), 1e-6)
    agree(loss - mean(params, None), 0.3 * given.aux_loss.detach().numpy(), 1e-5)
    agree(grads, wanted, 1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_mxfp4_is_a_table(dtype):
    noise = np.random.default_rng(0)
    blocks = noise.integers(256, size=(2, 3, 4, 16), dtype=np.uint8)
    scales = noise.integers(100, 140, size=(2, 3, 4), dtype=np.uint8)
    ours = read_mxfp4(blocks, scales, dtype)
    assert ours.shape == (2, 3, 128)
    assert ours.dtype == dtype
    table = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
    for place in np.ndindex(blocks.shape):
        *outer, block, byte = place
        for half, number in enumerate((blocks[place] % 16, blocks[place] // 16)):
            found = float(ours[(*outer, 32 * block + 2 * byte + half)])
            assert found == table[number] * 2.0 ** (int(scales[(*outer, block)]) - 127)
    theirs = convert_moe_packed_tensors(torch.tensor(blocks), torch.tensor(scales))
    np.testing.assert_array_equal(
        np.asarray(ours, np.float32).swapaxes(1, 2), theirs.float().numpy()
    )
