"""GPT-2 (Radford et al. 2019)."""

from jaxgpt.families.family import Family, Key

GPT2 = Family(
    "gpt2",
    "GPT2LMHeadModel",
    keys={
        "vocab_size": Key("vocab_size", 50257),
        "context_length": Key("n_positions", 1024, older="n_ctx"),
        "num_layers": Key("n_layer", 12),
        "num_heads": Key("n_head", 12),
        "embed_dim": Key("n_embd", 768),
        "hidden_dim": Key("n_inner", 0, null=True),
        "gelu": Key(
            *("activation_function", "gelu_new"),
            {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "erf"},
        ),
        "norm_epsilon": Key("layer_norm_epsilon", 1e-5),
        "dropout": Key("resid_pdrop", 0.1, same=("embd_pdrop", "attn_pdrop")),
        "tie_head": Key("tie_word_embeddings", True),
    },
    only={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    names={
        "embed.tokens": "wte.weight",
        "embed.positions": "wpe.weight",
        "blocks.norm1.scale": "ln_1.weight",
        "blocks.norm1.bias": "ln_1.bias",
        "blocks.attn.qkv.weight": "attn.c_attn.weight",
        "blocks.attn.qkv.bias": "attn.c_attn.bias",
        "blocks.attn.out.weight": "attn.c_proj.weight",
        "blocks.attn.out.bias": "attn.c_proj.bias",
        "blocks.norm2.scale": "ln_2.weight",
        "blocks.norm2.bias": "ln_2.bias",
        "blocks.mlp.up.weight": "mlp.c_fc.weight",
        "blocks.mlp.up.bias": "mlp.c_fc.bias",
        "blocks.mlp.down.weight": "mlp.c_proj.weight",
        "blocks.mlp.down.bias": "mlp.c_proj.bias",
        "norm.scale": "ln_f.weight",
        "norm.bias": "ln_f.bias",
        "head.weight": "lm_head.weight",
    },
    layers="h.{layer}.",
    prefixes=("transformer.",),
    ignored=r"\.attn\.(masked_)?bias$",  # the causal mask, in older files
    turned=False,
    sizes={
        "gpt2": {},
        "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
        "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
        "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
    },
)
