"""How PyTorch's GPTs call their modules: a table for each family."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from jaxgpt.errors import CheckpointError
from jaxgpt.families import family as hub
from jaxgpt.families import known
from jaxgpt.families.gpt2 import GPT2
from jaxgpt.model.schema import SCHEMA

OUTSIDE = ("embed.tokens", "embed.positions", "norm", "head")
"""The parts that stand outside the blocks."""


@dataclass(frozen=True)
class Family:
    """Names of modules, by the part of jaxgpt's model that they are."""

    name: str
    block: str
    """A block, with {} for its number."""
    parts: Mapping[str, tuple[str, ...]]
    """A module each, or several that lie side by side here; those of blocks stand inside one."""


def _part(path: str) -> str:
    """The part that a leaf of the schema is of."""
    return path.removeprefix("blocks.").removesuffix(".weight").removesuffix(".scale")


def _of_hub(family: hub.Family) -> Family:
    """A family of Hugging Face's, whose modules are named as its tensors."""
    parts: dict[str, tuple[str, ...]] = {}
    for path, names in family.names.items():
        outside = path != "head.weight" and not path.startswith("blocks.")
        prefix = family.prefixes[0] if outside else ""
        names = (names,) if isinstance(names, str) else names
        modules = tuple(prefix + name.removesuffix(".weight") for name in names)
        if not path.endswith(".bias"):
            parts[_part(path)] = modules
    block = family.prefixes[0] + family.layers.format(layer="{}").removesuffix(".")
    nano = " GPT-2 or nanoGPT" if family is GPT2 else f"'s {family.architecture}"
    return Family(f"Hugging Face{nano}", block, parts)


def _mixed(name: str, parts: Mapping[str, tuple[str, ...]], router: str) -> Family:
    """A family whose feed-forward networks are experts, in one module."""
    base = _of_hub(known.read_family({"model_type": "qwen3"})[0])
    rest = {part: names for part, names in base.parts.items() if part[:3] != "mlp"}
    experts = {"mlp.router": (router,), "mlp.experts": ("mlp.experts",), "mlp.out": ("mlp",)}
    return Family(f"Hugging Face's {name}", base.block, {**rest, **experts, **parts})


FAMILIES = (
    Family(
        "jaxgpt's own in PyTorch",
        "blocks.{}",
        {(part := _part(leaf.path)): (part,) for leaf in SCHEMA if not leaf.path.endswith("bias")},
    ),
    *map(_of_hub, known.FAMILIES),
    _mixed("Qwen3MoeForCausalLM", {}, "mlp.gate"),
    _mixed("GptOssForCausalLM", {"attn.sinks": ("self_attn",)}, "mlp.router"),
    Family(
        "the teaching book's",
        "trf_blocks.{}",
        {
            "embed.tokens": ("tok_emb",),
            "embed.positions": ("pos_emb",),
            "norm1": ("norm1",),
            "attn.qkv": ("att.W_query", "att.W_key", "att.W_value"),
            "attn.out": ("att.out_proj",),
            "norm2": ("norm2",),
            "mlp.up": ("ff.layers.0",),
            "mlp.down": ("ff.layers.2",),
            "norm": ("final_norm",),
            "head": ("out_head",),
        },
    ),
)

_NEEDED = ("norm1", "attn.qkv", "attn.out", "norm2", "mlp.up", "mlp.down")
"""The parts whose modules every block has, if its family has them."""


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

    @property
    def inside(self) -> list[str]:
        """The parts of the first block that are there."""
        parts = (part for part in self.family.parts if part not in OUTSIDE)
        return [part for part in parts if self.get(part, 0)]

    def block(self, layer: int) -> nn.Module:
        """One block."""
        return self.modules[self.family.block.format(layer)]

    def get(self, part: str, layer: int | None = None) -> list[nn.Module]:
        """The modules of a part, in one block or outside; none where there are none.

        Where not every model has the part, one that changes nothing is none.
        """
        found = [self.modules[name] for name in self.names(part, layer) if name in self.modules]
        always = part in (*OUTSIDE, *_NEEDED)
        return [module for module in found if always or not isinstance(module, nn.Identity)]

    def names(self, part: str, layer: int | None = None) -> list[str]:
        """Their names, whether they are there or not."""
        prefix = "" if layer is None else self.family.block.format(layer) + "."
        return [prefix + name for name in self.family.parts.get(part, ())]


def recognise(module: nn.Module) -> Layout | None:
    """The layout of `module`, or None if it is of no known family.

    Of several families that name their modules so, it is the one that names most of them. Raises
    CheckpointError if it is nearly of one, with the names that it lacks.
    """
    modules = dict(module.named_modules(remove_duplicate=False))
    layouts: list[Layout] = []
    for family in FAMILIES:
        sign = _sign(family)
        name = next((name for name in modules if f".{name}".endswith(f".{sign}")), None)
        if name is not None:
            root = modules[name.removesuffix(sign).removesuffix(".")]
            layouts.append(Layout(family, root, dict(root.named_modules(remove_duplicate=False))))
    whole = [layout for layout in layouts if not any(_lacking(layout))]
    if layouts and not whole:
        raise CheckpointError(
            f"the module is named like {layouts[0].family.name}, but has no "
            f"{next(_lacking(layouts[0]))}; rename its modules, or take others altogether to "
            "compare only the logits"
        )
    return max(whole, key=lambda layout: len(layout.inside), default=None)


def signs() -> list[str]:
    """The module by which each family is known."""
    return list(dict.fromkeys(map(_sign, FAMILIES)))


def _sign(family: Family) -> str:
    return f"{family.block.format(0)}.{family.parts['attn.out'][0]}"


def _lacking(layout: Layout) -> Iterator[str]:
    """Names of modules that the family has and this one has not."""
    names = [name for part in ("embed.tokens", "norm") for name in layout.names(part)]
    for layer in range(layout.num_layers):
        names += [name for part in _NEEDED for name in layout.names(part, layer)]
    yield from (name for name in names if name not in layout.modules)
