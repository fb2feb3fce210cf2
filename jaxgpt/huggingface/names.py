"""The names of GPT-2's tensors in a Hugging Face file, by jaxgpt's leaves."""

from dataclasses import dataclass

from jaxgpt.config import ModelConfig
from jaxgpt.model.schema import SCHEMA

HEAD = "lm_head.weight"


@dataclass(frozen=True)
class StoredLeaf:
    """One leaf of jaxgpt's parameters: its path, and the tensors that it is made of there."""

    path: tuple[str, ...]
    names: list[str]
    shape: tuple[int, ...]
    """Of each tensor."""

    @property
    def stacked(self) -> bool:
        """Whether it has an axis of layers, L, in front."""
        return self.path[0] == "blocks"


def leaves_of(config: ModelConfig) -> list[StoredLeaf]:
    """All leaves of a model with learned positions and a query, key and value bias.

    An untied head lies there as (V, D).
    """
    found = []
    for leaf in SCHEMA:
        if leaf.gpt2 == HEAD and config.tie_head:
            continue
        layers = range(config.num_layers) if leaf.stacked else ()
        names = [f"h.{layer}.{leaf.gpt2}" for layer in layers] or [leaf.gpt2]
        shape = leaf.shape(config)
        found.append(StoredLeaf(leaf.names, names, shape[::-1] if leaf.gpt2 == HEAD else shape))
    return found
