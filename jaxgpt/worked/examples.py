"""What a worked example is: a function with an id, run and held against the fact of the same id."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module, resources
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.errors import JaxgptError
from jaxgpt.finetuning.records import Record
from jaxgpt.model.layers import Params
from jaxgpt.parity.torch_random import TorchGenerator, init_like_torch
from jaxgpt.tokenization.tokenizer import Tokenizer, load_tokenizer

CHAPTERS = {
    "ch02": ("chapter 2, text", "text"),
    "bpe": ("chapter 2, byte pairs", "byte_pairs"),
    "ch03": ("chapter 3, attention", "attention"),
    "ch04": ("chapter 4, the GPT model", "gpt"),
    "ch05": ("chapter 5, pretraining", "pretraining"),
    "appA": ("appendix A, PyTorch", "appendices"),
    "appD": ("appendix D, the learning rate", "appendices"),
    "ch06": ("chapter 6, classification", "finetuning"),
    "ch07": ("chapter 7, instructions", "finetuning"),
    "dpo": ("chapter 7, preferences", "finetuning"),
    "appE": ("appendix E, LoRA", "finetuning"),
}
"""The beginning of an id, its title, and the module here whose functions answer it."""

GPT2_SMALL = ModelConfig(dropout=0.1, qkv_bias=False, tie_head=False)
"""The 124M shape as the notebooks build it, which counts 163 million parameters untied."""

Verdict = Literal["ok", "miss", "needs the story", "needs the records", "not run"]


class Missing(Exception):
    """The example is about a text that was not given."""

    def __init__(self, verdict: Verdict):
        self.verdict: Verdict = verdict


class Given:
    """What the examples start from: texts, GPT-2's tokenizer, and models made once."""

    def __init__(self, story: str | None = None, records: list[Record] | None = None):
        self._story, self._records = story, records
        self._made: dict[str, Any] = {}

    @property
    def story(self) -> str:
        """The text of the short story; raises Missing."""
        if self._story is None:
            raise Missing("needs the story")
        return self._story

    @property
    def records(self) -> list[Record]:
        """Instructions with a chosen and a rejected answer; raises Missing."""
        if self._records is None:
            raise Missing("needs the records")
        return self._records

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """GPT-2's; raises DataError where its vocabulary cannot be found."""
        return load_tokenizer("gpt2")

    @cached_property
    def story_tokens(self) -> np.ndarray:
        """The story's ids."""
        return np.array(self.tokenizer.encode(self.story), np.int32)

    def gpt2(self, context_length: int = 1024) -> tuple[ModelConfig, Params, TorchGenerator]:
        """The 124M shape built under seed 123, and the generator as the building leaves it.

        The last one made is kept, for a model takes 650 MB.
        """
        if getattr(self, "_gpt2", (None,))[0] != context_length:
            config = ModelConfig(**{**vars(GPT2_SMALL), "context_length": context_length})
            generator = TorchGenerator(123)
            params = on_device(init_like_torch(config, generator))
            self._gpt2 = context_length, config, params, generator
        return self._gpt2[1:]

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, computed when `name` is first asked for; for what is small."""
        if name not in self._made:
            self._made[name] = compute()
        return self._made[name]


def on_device(tree: Any) -> Any:
    """A tree of NumPy arrays as one of JAX's."""
    return jax.tree.map(jnp.asarray, tree)


def count(tree: Any) -> int:
    """How many numbers the leaves of a tree hold."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


Example = Callable[[Given], Any]
EXAMPLES: dict[str, Example] = {}
"""By id: tables of those that are one expression, beside functions marked by `example`."""


def example(name: str) -> Callable[[Example], Example]:
    """Register a function as what computes the worked example `name`."""

    def register(function: Example) -> Example:
        EXAMPLES[name] = function
        return function

    return register


@dataclass(frozen=True)
class Outcome:
    """One example's end: expected and computed values, the largest distance, and the verdict."""

    id: str
    expected: Any
    computed: Any
    tolerance: str
    verdict: Verdict
    reason: str = ""


def load_facts() -> list[dict[str, Any]]:
    """The facts: `id`, `expected`, `atol` or `rtol` (neither: exact), `source`."""
    return json.loads(resources.files("jaxgpt.worked").joinpath("facts.json").read_text())


def run_examples(given: Given, facts: list[dict[str, Any]] | None = None) -> Iterator[Outcome]:
    """Run the example of each fact, in the facts' order."""
    for _, module in CHAPTERS.values():
        import_module(f"jaxgpt.worked.{module}")
    for fact in load_facts() if facts is None else facts:
        yield _run(fact, given)


def _run(fact: Mapping[str, Any], given: Given) -> Outcome:
    name, expected = fact["id"], fact["expected"]
    tolerance = f"within {fact['atol']:g}" if fact.get("atol") else "exactly"
    if "rtol" in fact:
        tolerance = f"within {fact['rtol']:g} of each"
    try:
        computed = plain(EXAMPLES[name](given))
    except Missing as missing:
        return Outcome(name, expected, None, tolerance, missing.verdict)
    except JaxgptError as error:
        return Outcome(name, expected, None, tolerance, "not run", str(error))
    except Exception as error:  # a miss like any other, which must not hide those after it
        return Outcome(name, expected, None, tolerance, "miss", repr(error))
    complaint = disagreement(expected, computed, fact.get("atol", 0.0), fact.get("rtol", 0.0))
    return Outcome(name, expected, computed, tolerance, "miss" if complaint else "ok", complaint)


def plain(value: Any) -> Any:
    """`value` with arrays and tuples as lists and keys as strings, as JSON would hold it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return np.asarray(value).tolist()
    return value


def disagreement(expected: Any, computed: Any, atol: float, rtol: float, where: str = "") -> str:
    """Where two values of JSON's kinds first differ, or nothing; numbers may by the tolerance."""
    flags = isinstance(expected, bool) or isinstance(computed, bool)
    place = f"at {where}: " if where else ""
    if isinstance(expected, Mapping) and isinstance(computed, Mapping):
        if expected.keys() != computed.keys():
            return f"{place}the keys are {list(computed)}"
        pairs = [(f"{where}[{key}]", expected[key], computed[key]) for key in expected]
    elif isinstance(expected, list) and isinstance(computed, list):
        if len(expected) != len(computed):
            return f"{place}{len(computed)} values in place of {len(expected)}"
        both = zip(expected, computed, strict=True)
        pairs = [(f"{where}[{i}]", *pair) for i, pair in enumerate(both)]
    elif isinstance(expected, int | float) and isinstance(computed, int | float) and not flags:
        near = math.isclose(expected, computed, abs_tol=atol, rel_tol=rtol)
        return "" if near else f"{place}{computed} in place of {expected}"
    else:
        same = type(expected) is type(computed) and expected == computed
        return "" if same else f"{place}{computed!r} in place of {expected!r}"
    complaints = (disagreement(a, b, atol, rtol, there) for there, a, b in pairs)
    return next(filter(None, complaints), "")
