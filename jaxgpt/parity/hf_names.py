"""The table of names: GPT-2's tensors in a Hugging Face file, and jaxgpt's leaves."""

from dataclasses import dataclass

from jaxgpt.config import ModelConfig

HEAD = "lm_head.weight"

# Their name -> ours, and the shape there. In a block, theirs begins with `h.<layer>.`.
_OUTSIDE = {
    "wte.weight": ("embed.tokens", "V D"),
    "wpe.weight": ("embed.positions", "T D"),
    "ln_f.weight": ("norm.scale", "D"),
    "ln_f.bias": ("norm.bias", "D"),
}
_BLOCK = {
    "ln_1.weight": ("norm1.scale", "D"),
    "ln_1.bias": ("norm1.bias", "D"),
    "attn.c_attn.weight": ("attn.qkv.weight", "D 3D"),
    "attn.c_attn.bias": ("attn.qkv.bias", "3D"),
    "attn.c_proj.weight": ("attn.out.weight", "D D"),
    "attn.c_proj.bias": ("attn.out.bias", "D"),
    "ln_2.weight": ("norm2.scale", "D"),
    "ln_2.bias": ("norm2.bias", "D"),
    "mlp.c_fc.weight": ("mlp.up.weight", "D F"),
    "mlp.c_fc.bias": ("mlp.up.bias", "F"),
    "mlp.c_proj.weight": ("mlp.down.weight", "F D"),
    "mlp.c_proj.bias": ("mlp.down.bias", "D"),
}


@dataclass(frozen=True)
class Leaf:
    """One leaf of jaxgpt's parameters: its path, and the tensors that it is made of there."""

    path: tuple[str, ...]
    names: list[str]
    shape: tuple[int, ...]

    @property
    def stacked(self) -> bool:
        """Whether it has an axis of layers, L, in front."""
        return self.path[0] == "blocks"


def leaves_of(config: ModelConfig) -> list[Leaf]:
    """All leaves of a model with learned positions and a query, key and value bias."""
    width = config.embed_dim
    sizes = {"D": width, "3D": 3 * width, "F": config.hidden_dim}
    sizes |= {"V": config.vocab_size, "T": config.context_length}

    def leaf(path: str, names: list[str], shape: str) -> Leaf:
        return Leaf(tuple(path.split(".")), names, tuple(sizes[size] for size in shape.split()))

    layers = range(config.num_layers)
    leaves = [leaf(path, [name], shape) for name, (path, shape) in _OUTSIDE.items()]
    leaves += [
        leaf(f"blocks.{path}", [f"h.{layer}.{name}" for layer in layers], shape)
        for name, (path, shape) in _BLOCK.items()
    ]
    return leaves if config.tie_head else [*leaves, leaf("head.weight", [HEAD], "V D")]
