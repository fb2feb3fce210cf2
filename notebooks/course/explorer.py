"""A page that switches attention heads off: every choice of heads is computed before, none in it.

The page needs no network, no server and no Python. What it shows is in it, in whole numbers: which
tokens are likeliest after each token, what each token surprises by, and where each head looks.
"""

import base64
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgpt
from course.build import FOLDER

PAGE = FOLDER / "explorer.html"
_TEMPLATE = Path(__file__).with_name("explorer_template.html")
_TOP = 5  # next tokens that are shown
_BITS = 10  # parts of a bit that a surprise is rounded to
_CONTINUED = 14  # tokens that are written where the text is continued


@dataclass(frozen=True)
class Question:
    """Word that a text foretells: the token before it, the words it could be, and the right."""

    name: str
    place: int
    words: np.ndarray
    right: np.ndarray


def subsets(config: jaxgpt.ModelConfig) -> np.ndarray:
    """All choices of heads, (2**(L * H), L, H): bit k of a choice's number keeps head k."""
    count = config.num_layers * config.num_heads
    kept = np.arange(2**count)[:, None] >> np.arange(count) & 1
    return kept.astype(bool).reshape(-1, config.num_layers, config.num_heads)


def explore(
    model: Any, tokens: list[int], questions: list[Question], notes: list[str]
) -> dict[str, Any]:
    """What the page shows of `model`, a `LoadedModel`, on `tokens` for every choice of heads.

    `notes` say of each head what it is known for; the text is written on from the first question.
    """
    config = model.config
    ids, chances, surprise, words, written = _read_all(config, model.params, tokens, questions)
    chosen = words[..., 0].astype(int)
    spoken = np.unique(np.concatenate([np.ravel(part) for part in (tokens, ids, written, chosen)]))
    local = np.zeros(config.vocab_size, int)
    local[spoken] = np.arange(len(spoken))

    def decode(token: Any) -> str:
        return model.tokenizer.decode([int(token)])

    return {
        "vocabulary": [decode(token) for token in spoken],
        "tokens": local[tokens].tolist(),
        "heads": [
            f"{layer}.{head}"
            for layer in range(config.num_layers)
            for head in range(config.num_heads)
        ],
        "notes": notes,
        "layers": config.num_layers,
        "top": _TOP,
        "bits": _BITS,
        "questions": [
            {
                "name": question.name,
                "place": question.place,
                "right": decode(tokens[question.place + 1]),
                "all": [decode(token) for token in question.right],
            }
            for question in questions
        ],
        "continued": questions[0].place,
        "ids": _pack(local[ids], "<u2"),
        "chances": _pack(np.rint(255 * chances), "u1"),
        "surprise": _pack(np.minimum(np.rint(_BITS * surprise), 255), "u1"),
        "attention": _pack(np.rint(255 * _attention(model, tokens)), "u1"),
        "words": _pack(local[chosen], "<u2"),
        "shares": _pack(np.rint(255 * words[..., 1]), "u1"),
        "written": _pack(local[written], "<u2"),
    }


def _read_all(
    config: jaxgpt.ModelConfig, params: Any, tokens: list[int], questions: list[Question]
) -> list[np.ndarray]:
    """For every choice of heads: likeliest ids, their chances, surprise, words, what is written."""
    start = questions[0].place + 1

    def word(question: Question, logits: Any) -> tuple[Any, Any]:
        among = jnp.asarray(question.words)
        shares = jax.nn.softmax(logits[question.place, among])
        is_right = jnp.isin(among, jnp.asarray(question.right))
        return among[shares.argmax()], (shares * is_right).sum()

    def write_on(params: Any, row: Any, heads: Any) -> Any:
        text = jnp.pad(row[:, :start], ((0, 0), (0, _CONTINUED)))

        def append(i: Any, text: Any) -> Any:
            logits = jaxgpt.intervene(jaxgpt.GPT(config, params), text, heads)
            return text.at[0, i].set(logits[0, i - 1].argmax().astype(text.dtype))

        return jax.lax.fori_loop(start, start + _CONTINUED, append, text)[0, start:]

    def read(params: Any, row: Any, kept: Any) -> Any:
        heads = jaxgpt.keep_heads(config, kept)
        logits = jaxgpt.intervene(jaxgpt.GPT(config, params), row, heads)[0]
        chances, ids = jax.lax.top_k(jax.nn.softmax(logits[:-1]), _TOP)
        told = jnp.take_along_axis(jax.nn.log_softmax(logits[:-1]), row[0, 1:, None], -1)
        words = jnp.array([word(question, logits) for question in questions])
        return ids, chances, -told[:, 0] / jnp.log(2), words, write_on(params, row, heads)

    @jax.jit
    def read_all(params: Any, row: Any, choices: Any) -> Any:
        return jax.lax.map(lambda kept: read(params, row, kept), choices)

    return [np.asarray(part) for part in read_all(params, jnp.asarray([tokens]), subsets(config))]


def _attention(model: Any, tokens: list[int]) -> np.ndarray:
    """Weights of all heads, (L * H, T (T + 1) / 2): those of the lower triangle, row by row."""
    gpt = jaxgpt.GPT(model.config, model.params)
    weights = jaxgpt.activations(gpt, jnp.asarray([tokens]), ["blocks.*.attn.weights"])
    heads = np.concatenate([array[0] for array in weights.values()])
    rows, columns = np.tril_indices(len(tokens))
    return heads[:, rows, columns]


def _pack(array: np.ndarray, dtype: str) -> str:
    return base64.b64encode(array.astype(dtype).tobytes()).decode()


def page(explored: dict[str, Any]) -> str:
    """The page of what `explore` found."""
    data = json.dumps(explored, separators=(",", ":"), sort_keys=True).replace("<", "\\u003c")
    return _TEMPLATE.read_text().replace("{{data}}", data)


def write(text: str) -> None:
    """Write the page beside the notebooks, where one is built; a plain run leaves it as it is."""
    if sys.modules.get("IPython") is None:
        return
    from IPython.core.getipython import get_ipython

    if get_ipython() is not None:
        PAGE.write_text(text)


@dataclass(frozen=True)
class State:
    """What the page shows for one choice of heads at one token, read from the page itself."""

    bars: list[tuple[str, float]]
    """The likeliest next tokens and their chances."""
    surprise: np.ndarray
    """Bits of each token but the first."""
    words: dict[str, tuple[str, float]]
    """For each question the word chosen among all it could be, and the share of the right."""
    continuation: str


def data_of(text: str) -> str:
    """The data of a page, as JSON."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found, "a page has its data in a script"
    return found[1]


def read(text: str) -> dict[str, Any]:
    """What is in a page, its packed arrays as arrays."""
    data = json.loads(data_of(text))
    count, length = 2 ** len(data["heads"]), len(data["tokens"])
    shapes = {
        "ids": (count, length - 1, data["top"]),
        "chances": (count, length - 1, data["top"]),
        "surprise": (count, length - 1),
        "attention": (len(data["heads"]), length * (length + 1) // 2),
        "words": (count, len(data["questions"])),
        "shares": (count, len(data["questions"])),
        "written": (count, -1),
    }
    for name, shape in shapes.items():
        dtype = "<u2" if name in ("ids", "words", "written") else "u1"
        data[name] = np.frombuffer(base64.b64decode(data[name]), dtype).reshape(shape)
    return data


def state(data: dict[str, Any], place: int, off: list[str]) -> State:
    """State of a page that was `read`, where the heads named in `off` are off."""
    kept = sum(1 << k for k, head in enumerate(data["heads"]) if head not in off)
    words = data["vocabulary"]
    return State(
        bars=[
            (words[token], float(chance) / 255)
            for token, chance in zip(
                data["ids"][kept, place], data["chances"][kept, place], strict=True
            )
        ],
        surprise=data["surprise"][kept] / data["bits"],
        words={
            question["name"]: (words[data["words"][kept, k]], float(data["shares"][kept, k]) / 255)
            for k, question in enumerate(data["questions"])
        },
        continuation="".join(words[token] for token in data["written"][kept]),
    )
