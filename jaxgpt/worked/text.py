"""Text -> words -> tokens -> windows -> vectors (chapter 2)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.data.batches import SlidingWindows
from jaxgpt.errors import DataError
from jaxgpt.files import sha256
from jaxgpt.model.embedding import embed
from jaxgpt.parity.torch_random import TorchGenerator
from jaxgpt.tokenization.words import UnknownWordError, WordTokenizer, split_words
from jaxgpt.worked.examples import Given, example, load_facts, on_device

# Where in the story the sentence stands that the word tokenizer is shown with.
_SENTENCE = slice(8928, 9006)


def digest(text: str) -> dict[str, Any]:
    """A text as a fact: its length and its sum."""
    return {"characters": len(text), "sha256": sha256(text.encode())}


def check_story(story: str) -> None:
    """Raise DataError unless `story` is the text that the examples were printed from."""
    facts = {fact["id"]: fact["expected"] for fact in load_facts()}
    ends = (digest(story[:99]), digest(story[-99:])) == (
        facts["ch02.first99"],
        facts["ch02.last99"],
    )
    if len(story) != facts["ch02.n_chars"] or not ends:
        raise DataError(
            f"the text ({len(story):,} characters) is not the one that the examples are about: The "
            f"Verdict of 1908 without anything before or after it, {facts['ch02.n_chars']:,} "
            "characters; see the ch02 notebook for where it is"
        )


@example("ch02.n_chars")
def _story_length(given: Given) -> int:
    return len(given.story)


@example("ch02.first99")
def _story_beginning(given: Given) -> dict[str, Any]:
    return digest(given.story[:99])


@example("ch02.last99")
def _story_end(given: Given) -> dict[str, Any]:
    return digest(given.story[-99:])


@example("ch02.regex_split_hello")
def _split_sentence(given: Given) -> list[str]:
    return split_words("Hello, world. Is this-- a test?")


@example("ch02.regex_tokens_total")
def _words_in_story(given: Given) -> int:
    return len(split_words(given.story))


@example("ch02.vocab_first51")
def _first_words_of_vocabulary(given: Given) -> list[str]:
    return WordTokenizer.train(given.story).words[:51]


@example("ch02.vocab_last5")
def _last_words_of_vocabulary(given: Given) -> dict[str, int]:
    words = WordTokenizer.train(given.story)
    last = [*words.words[-3:], *words.special_tokens]
    return {word: words.encode(word, allow_special=True)[0] for word in last}


@example("ch02.vocab_size_v2")
def _vocabulary_size(given: Given) -> int:
    return WordTokenizer.train(given.story).vocab_size


@example("ch02.tokenizer_v1.encode")
def _encode_words(given: Given) -> list[int]:
    return WordTokenizer.train(given.story, unknown=False).encode(given.story[_SENTENCE])


@example("ch02.tokenizer_v1.decode")
def _decode_words(given: Given) -> dict[str, Any]:
    words = WordTokenizer.train(given.story, unknown=False)
    return digest(words.decode(words.encode(given.story[_SENTENCE])))


@example("ch02.tokenizer_v1.unknown")
def _refuse_unknown_word(given: Given) -> str | None:
    words = WordTokenizer.train(given.story, unknown=False)
    try:
        words.encode("Hello, do you like tea. Is this-- a test?")
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


@example("ch02.ex21")
def _encode_unheard_words(given: Given) -> list[int]:
    # The exercise encodes each piece that it reads off by itself.
    return given.tokenizer.encode("Akwirw ier")


@example("ch02.story_tokens")
def _tokens_in_story(given: Given) -> int:
    return len(given.story_tokens)


@example("ch02.xy")
def _inputs_and_targets(given: Given) -> dict[str, np.ndarray]:
    window = SlidingWindows(given.story_tokens[50:], 4).window(np.array([0]))
    return {"x": window.inputs[0], "y": window.targets[0]}


@example("ch02.loader.bs1")
def _first_windows(given: Given) -> list[list[np.ndarray]]:
    pairs = SlidingWindows(given.story_tokens, 4, 1).window(np.arange(2))
    return [[x, y] for x, y in zip(pairs.inputs, pairs.targets, strict=True)]


@example("ch02.loader.bs8.inputs")
def _batch_inputs(given: Given) -> np.ndarray:
    return SlidingWindows(given.story_tokens, 4, 4).window(np.arange(8)).inputs


@example("ch02.loader.bs8.targets")
def _batch_targets(given: Given) -> np.ndarray:
    return SlidingWindows(given.story_tokens, 4, 4).window(np.arange(8)).targets


@example("ch02.ex22.ml2s2")
def _windows_of_two(given: Given) -> np.ndarray:
    return SlidingWindows(given.story_tokens, 2, 2).window(np.arange(4)).inputs


@example("ch02.ex22.ml8s2")
def _windows_of_eight(given: Given) -> np.ndarray:
    return SlidingWindows(given.story_tokens, 8, 2).window(np.arange(4)).inputs


@example("ch02.shapes")
def _embedding_shapes(given: Given) -> dict[str, Any]:
    batch = SlidingWindows(given.story_tokens, 4, 4).window(np.arange(8))
    generator = TorchGenerator(123)
    tokens, positions = (on_device(generator.embedding(rows, 256)) for rows in (50257, 4))
    total = embed(jnp.asarray(batch.inputs), tokens_table=tokens, positions_table=positions)
    looked_up = tokens[batch.inputs]
    shapes = {"token_embeddings": looked_up, "pos": positions, "sum": total}
    return {name: list(array.shape) for name, array in shapes.items()}


@example("ch02.embedding63.seed123")
def _embedding_of_six(given: Given) -> np.ndarray:
    return TorchGenerator(123).embedding(6, 3)


@example("ch02.bonus.emb45.seed123")
def _embedding_of_four(given: Given) -> np.ndarray:
    return TorchGenerator(123).embedding(4, 5)


@example("ch02.bonus.linear45.seed123")
def _linear_weight(given: Given) -> np.ndarray:
    # As PyTorch prints it, (out, in).
    return TorchGenerator(123).linear(4, 5, bias=False)["weight"].T


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
