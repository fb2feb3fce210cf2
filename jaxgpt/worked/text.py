"""Text -> words -> tokens -> windows -> vectors (chapter 2)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.data.batches import Batch, SlidingWindows
from jaxgpt.errors import DataError
from jaxgpt.files import sha256
from jaxgpt.model.embedding import embed
from jaxgpt.parity.torch_random import TorchGenerator
from jaxgpt.tokenization.words import UnknownWordError, WordTokenizer, split_words
from jaxgpt.worked.examples import EXAMPLES, Given, example, load_facts, on_device

# Where in the story the sentence stands that the word tokenizer is shown with.
_SENTENCE = slice(8928, 9006)


def digest(text: str) -> dict[str, Any]:
    """A text as a fact: its length and its sum."""
    return {"characters": len(text), "sha256": sha256(text.encode())}


def check_story(story: str) -> None:
    """Raise DataError unless `story` is the text that the examples were printed from."""
    facts = {fact["id"]: fact["expected"] for fact in load_facts()}
    ends = {"ch02.first99": digest(story[:99]), "ch02.last99": digest(story[-99:])}
    if len(story) != facts["ch02.n_chars"] or not ends.items() <= facts.items():
        raise DataError(
            f"the text ({len(story):,} characters) is not the one that the examples are about: The "
            f"Verdict of 1908 without anything before or after it, {facts['ch02.n_chars']:,} "
            "characters; see the ch02 notebook for where it is"
        )


@example("ch02.vocab_last5")
def _last_words_of_vocabulary(given: Given) -> dict[str, int]:
    words = WordTokenizer.train(given.story)
    last = [*words.words[-3:], *words.special_tokens]
    return {word: words.encode(word, allow_special=True)[0] for word in last}


def _words(given: Given) -> WordTokenizer:
    return WordTokenizer.train(given.story, unknown=False)


@example("ch02.tokenizer_v1.unknown")
def _refuse_unknown_word(given: Given) -> str | None:
    try:
        _words(given).encode("Hello, do you like tea. Is this-- a test?")
    except UnknownWordError as error:
        return "KeyError" if isinstance(error, KeyError) else None


@example("ch02.tokenizer_v2.encode")
def _encode_unknown_word(given: Given) -> list[int]:
    text = "Hello, do you like tea? <|endoftext|> In the sunlit terraces of the palace."
    return WordTokenizer.train(given.story).encode(text, allow_special=True)


@example("ch02.tiktoken.encode")
def _encode_by_gpt2(given: Given) -> list[int]:
    text = "Hello, do you like tea? <|endoftext|> In the sunlit terracesof someunknownPlace."
    return given.tokenizer.encode(text, allow_special=True)


@example("ch02.xy")
def _inputs_and_targets(given: Given) -> dict[str, np.ndarray]:
    window = SlidingWindows(given.story_tokens[50:], 4).window(np.array([0]))
    return {"x": window.inputs[0], "y": window.targets[0]}


def _windows(given: Given, context_length: int, stride: int, count: int) -> Batch:
    """The first windows of the story."""
    return SlidingWindows(given.story_tokens, context_length, stride).window(np.arange(count))


@example("ch02.loader.bs1")
def _first_windows(given: Given) -> list[list[np.ndarray]]:
    pairs = _windows(given, 4, 1, 2)
    return [[x, y] for x, y in zip(pairs.inputs, pairs.targets, strict=True)]


@example("ch02.shapes")
def _embedding_shapes(given: Given) -> dict[str, Any]:
    batch = _windows(given, 4, 4, 8)
    generator = TorchGenerator(123)
    tokens, positions = (on_device(generator.embedding(rows, 256)) for rows in (50257, 4))
    total = embed(jnp.asarray(batch.inputs), tokens_table=tokens, positions_table=positions)
    looked_up = tokens[batch.inputs]
    shapes = {"token_embeddings": looked_up, "pos": positions, "sum": total}
    return {name: list(array.shape) for name, array in shapes.items()}


@example("ch02.bonus.emb_equals_onehot_matmul")
def _lookup_is_product(given: Given) -> bool:
    table, tokens = on_device(TorchGenerator(123).embedding(4, 5)), jnp.array([[2, 3, 1]])
    looked_up = embed(tokens, tokens_table=table, positions_table=jnp.zeros((3, 5)))
    return bool((looked_up == jax.nn.one_hot(tokens, 4) @ table).all())


def _numbers(context_length: int, stride: int) -> SlidingWindows:
    return SlidingWindows(np.arange(1001), context_length, stride)


@example("ch02.bonus.loader.last")
def _last_window_of_numbers(given: Given) -> list[np.ndarray]:
    windows = _numbers(4, 1)
    batch = windows.window(np.array([len(windows) - 1]))
    return [batch.inputs[0], batch.targets[0]]


@example("ch02.bonus.loader.bs2.last")
def _last_batch_of_numbers(given: Given) -> np.ndarray:
    windows = _numbers(4, 4)
    return windows.window(np.arange(len(windows))[-2:]).inputs


@example("ch02.bonus.loader.shuffle.last")
def _last_batch_shuffled(given: Given) -> np.ndarray:
    windows = _numbers(4, 4)
    order = TorchGenerator(123).loader_order(len(windows))
    return windows.window(order[: len(order) // 2 * 2][-2:]).inputs


EXAMPLES |= {
    "ch02.n_chars": lambda given: len(given.story),
    "ch02.first99": lambda given: digest(given.story[:99]),
    "ch02.last99": lambda given: digest(given.story[-99:]),
    "ch02.regex_split_hello": lambda given: split_words("Hello, world. Is this-- a test?"),
    "ch02.regex_tokens_total": lambda given: len(split_words(given.story)),
    "ch02.vocab_first51": lambda given: WordTokenizer.train(given.story).words[:51],
    "ch02.vocab_size_v2": lambda given: WordTokenizer.train(given.story).vocab_size,
    "ch02.tokenizer_v1.encode": lambda given: _words(given).encode(given.story[_SENTENCE]),
    "ch02.tokenizer_v1.decode": lambda given: digest(
        _words(given).decode(_words(given).encode(given.story[_SENTENCE]))
    ),
    # The exercise encodes each piece that it reads off by itself.
    "ch02.ex21": lambda given: given.tokenizer.encode("Akwirw ier"),
    "ch02.story_tokens": lambda given: len(given.story_tokens),
    "ch02.loader.bs8.inputs": lambda given: _windows(given, 4, 4, 8).inputs,
    "ch02.loader.bs8.targets": lambda given: _windows(given, 4, 4, 8).targets,
    "ch02.ex22.ml2s2": lambda given: _windows(given, 2, 2, 4).inputs,
    "ch02.ex22.ml8s2": lambda given: _windows(given, 8, 2, 4).inputs,
    "ch02.embedding63.seed123": lambda given: TorchGenerator(123).embedding(6, 3),
    # As PyTorch prints it, (out, in).
    "ch02.bonus.linear45.seed123": lambda given: (
        TorchGenerator(123).linear(4, 5, bias=False)["weight"].T
    ),
    "ch02.bonus.emb45.seed123": lambda given: TorchGenerator(123).embedding(4, 5),
}
