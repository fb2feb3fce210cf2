"""How PyTorch's GPTs call their modules: a table for each family."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from jaxgpt.errors import CheckpointError


@dataclass(frozen=True)
class Family:
    """Module names; those from `norm1` to `down` stand inside a block."""

    name: str
    tokens: str
    positions: str
    block: str
    norm1: str
    qkv: tuple[str, ...]
    """One module of all three, or three."""
    out: str
    norm2: str
    up: str
    down: str
    norm: str
    head: str
    """Absent where the head is tied."""


FAMILIES = (
    Family(
        name="jaxgpt's own in PyTorch",
        tokens="embed.tokens",
        positions="embed.positions",
        block="blocks.{}",
        norm1="norm1",
        qkv=("attn.qkv",),
        out="attn.out",
        norm2="norm2",
        up="mlp.up",
        down="mlp.down",
        norm="norm",
        head="head",
    ),
    Family(
        name="Hugging Face GPT-2 or nanoGPT",
        tokens="transformer.wte",
        positions="transformer.wpe",
        block="transformer.h.{}",
        norm1="ln_1",
        qkv=("attn.c_attn",),
        out="attn.c_proj",
        norm2="ln_2",
        up="mlp.c_fc",
        down="mlp.c_proj",
        norm="transformer.ln_f",
        head="lm_head",
    ),
    Family(
        name="the teaching book's",
        tokens="tok_emb",
        positions="pos_emb",
        block="trf_blocks.{}",
        norm1="norm1",
        qkv=("att.W_query", "att.W_key", "att.W_value"),
        out="att.out_proj",
        norm2="norm2",
        up="ff.layers.0",
        down="ff.layers.2",
        norm="final_norm",
        head="out_head",
    ),
)

INSIDE = ("norm1", "qkv", "out", "norm2", "up", "down")
"""The fields of Family whose modules every block has."""


@dataclass(frozen=True)
class Layout:
    """A module, perhaps inside others, that is named as a family names it."""

    family: Family
    root: nn.Module
    modules: dict[str, nn.Module]
    """All in `root`, by name."""

    @property
    def num_layers(self) -> int:
        """The number of blocks, L."""
        return len(list(self.modules[self.family.block.removesuffix(".{}")].children()))

    def block(self, layer: int) -> nn.Module:
        """One block."""
        return self.modules[self.family.block.format(layer)]

    def get(self, role: str, layer: int | None = None) -> list[nn.Module]:
        """The modules of a field of Family, in one block or outside; none where there are none."""
        names = self.names(role, layer)
        return [self.modules[name] for name in names if name in self.modules]

    def names(self, role: str, layer: int | None = None) -> list[str]:
        """Their names, whether they are there or not."""
        names = getattr(self.family, role)
        prefix = "" if layer is None else self.family.block.format(layer) + "."
        return [prefix + name for name in ((names,) if isinstance(names, str) else names)]


def recognise(module: nn.Module) -> Layout | None:
    """The layout of `module`, or None if it is of no known family.

    Raises CheckpointError if it is nearly of one, with the names that it lacks.
    """
    modules = dict(module.named_modules(remove_duplicate=False))
    for family in FAMILIES:
        sign = _sign(family)
        for name in modules:
            if name == sign or name.endswith(f".{sign}"):
                root = modules[name.removesuffix(sign).removesuffix(".")]
                layout = Layout(family, root, dict(root.named_modules(remove_duplicate=False)))
                _check(layout)
                return layout
    return None


def signs() -> list[str]:
    """The module by which each family is known."""
    return [_sign(family) for family in FAMILIES]


def _sign(family: Family) -> str:
    return f"{family.block.format(0)}.{family.out}"


def _check(layout: Layout) -> None:
    lacking = [name for name in _needed(layout) if name not in layout.modules]
    if lacking:
        raise CheckpointError(
            f"the module is named like {layout.family.name}, but has no {lacking[0]}; rename its "
            "modules, or take others altogether to compare only the logits"
        )


def _needed(layout: Layout) -> Iterator[str]:
    for role in ("tokens", "norm"):
        yield from layout.names(role)
    for layer in range(layout.num_layers):
        for role in INSIDE:
            yield from layout.names(role, layer)
