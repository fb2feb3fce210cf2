"""Exercises of notebook 08: a share of a gain, the induction score, a knock-out gone wrong."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxgpt
from course.checks import Trial, choose, compare_calls, exercise, number_in, result

Answer = Callable[..., Any]


@exercise("08.1")
def shared_gain(answer: Any) -> str | None:
    """The Shapley value of each of two heads that both can copy a name: one half."""
    number = number_in(answer)
    if number is None:
        return f"a number is wanted, and this is a {type(answer).__name__}"
    if np.isclose(number, 0.5):
        return None
    if np.isclose(number, 0.0):
        return (
            "0 is what its knock-out costs while the other is there; in half of the orders this "
            "head comes first, and then it gains 1"
        )
    if np.isclose(number, 1.0):
        return "both would then have 2 together, and all there is to share is 1"
    if np.isclose(number, 0.25):
        return "there are two orders, not four: this head comes first in one of them"
    if not 0 <= number <= 1:
        return "no order gains more than 1 or less than 0, and this is a mean over orders"
    return "write both orders down: what does this head gain in each?"


def induction_score(weights: Any, tokens: Any) -> Any:
    """Induction score of attention weights (T, T) on tokens (T,): see exercise 08.2."""
    weights, tokens = jnp.asarray(weights), jnp.asarray(tokens)
    before = jnp.concatenate([jnp.full(1, -1), tokens[:-1]])  # the token in front of each
    behind = jnp.tril(tokens[:, None] == before)
    return (weights * behind).sum() / jnp.maximum(behind.any(axis=-1).sum(), 1)


def _causal(tokens: Any, seed: int = 0) -> tuple[Any, ...]:
    """Random causal weights, and tokens."""
    tokens = np.asarray(tokens, np.int32)
    size = len(tokens)
    scores = jnp.asarray(np.random.default_rng(seed).normal(0, 2, (size, size)))
    weights = jaxgpt.attention_weights(scores, jnp.eye(size), mask=jaxgpt.causal_mask(size))
    return np.asarray(weights), tokens


_DRAW = np.random.default_rng(8)
_REPEATED = np.tile(_DRAW.integers(0, 32, 7), 3)[:19]
TRIALS = (
    Trial("a pattern of 7 tokens, repeated", _causal(_REPEATED)),
    Trial("tokens at random", _causal(_DRAW.integers(0, 6, 24))),
    Trial("tokens of which some come once", _causal([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 8])),
    Trial("token 0 among others", _causal([0, 2, 0, 0, 1, 2, 0])),
    Trial("equal tokens", _causal([4] * 6)),
    Trial("tokens of which none comes twice", _causal([5, 3, 8, 1])),
    Trial("a text of one token", _causal([7])),
    Trial("a context of 256 tokens", _causal(_DRAW.integers(0, 32, 256))),
)


def _matches(tokens: Any, offset: int) -> Any:
    """True where the token `offset` places before a key is the query's, at an earlier place."""
    before = np.concatenate([np.full(offset, -1), tokens[: len(tokens) - offset]])
    earlier = np.arange(len(tokens)) - offset < np.arange(len(tokens))[:, None]
    return (tokens[:, None] == before) & earlier & np.tri(len(tokens), dtype=bool)


def _share(weights: Any, keys: Any, queries: Any = None) -> float:
    queries = keys.any(-1) if queries is None else queries
    return float((weights * keys).sum() / max(queries.sum(), 1))


def _ends(keys: Any, last: bool) -> Any:
    """Of the keys of each query, the first or the last."""
    order = keys[:, ::-1] if last else keys
    one = order & (order.cumsum(-1) == 1)
    return one[:, ::-1] if last else one


def _hits(weights: Any, tokens: Any) -> float:
    keys = _matches(tokens, 1)
    most = np.take_along_axis(keys, weights.argmax(-1)[:, None], -1)[:, 0]
    return float(most.sum() / max(keys.any(-1).sum(), 1))


def _anywhere(weights: Any, tokens: Any) -> float:
    before = np.concatenate([np.full(1, -1), tokens[:-1]])
    return _share(weights, tokens[:, None] == before)


def _without_itself(weights: Any, tokens: Any) -> float:
    keys = _matches(tokens, 1)
    return _share(weights, keys & ~np.eye(len(tokens), dtype=bool))


_ERRORS: tuple[tuple[str, Callable[[Any, Any], float]], ...] = (
    (
        "this is the weight on the earlier occurrence itself; the key stands one place behind it",
        lambda weights, tokens: _share(weights, _matches(tokens, 0)),
    ),
    (
        "this is the weight two places behind the earlier occurrence; one is wanted",
        lambda weights, tokens: _share(weights, _matches(tokens, 2)),
    ),
    (
        "the mean is over all queries; those whose token has not come before have no such key, "
        "and do not count",
        lambda weights, tokens: _share(weights, _matches(tokens, 1), np.ones(len(tokens), bool)),
    ),
    (
        "queries whose token comes only later are counted too: only earlier occurrences matter",
        _anywhere,
    ),
    (
        "the mean is over pairs of query and key; add the keys of each query, then take the mean "
        "over queries",
        lambda weights, tokens: float(
            (weights * _matches(tokens, 1)).sum() / max(_matches(tokens, 1).sum(), 1)
        ),
    ),
    (
        "only the first occurrence is looked behind; a token may have come several times",
        lambda weights, tokens: _share(weights, _ends(_matches(tokens, 1), last=False)),
    ),
    (
        "only the last occurrence is looked behind; a token may have come several times",
        lambda weights, tokens: _share(weights, _ends(_matches(tokens, 1), last=True)),
    ),
    (
        "this counts the queries whose largest weight lies there; the mean of the weights is "
        "wanted",
        _hits,
    ),
    (
        "the sum is not divided: the mean over the queries is wanted",
        lambda weights, tokens: float((weights * _matches(tokens, 1)).sum()),
    ),
    (
        "where two equal tokens are neighbours, the key behind the first is the query itself, and "
        "counts",
        _without_itself,
    ),
    (
        "rows and columns are exchanged: a row is a query, a column a key",
        lambda weights, tokens: _share(weights.T, _matches(tokens, 1)),
    ),
)


def _is_a_known_error(answer: Answer) -> str | None:
    found = [result(answer, *trial.args) for trial in TRIALS]
    for said, error in _ERRORS:
        wrong = [error(*trial.args) for trial in TRIALS]
        if np.allclose(found, wrong, rtol=1e-4, atol=1e-5):
            return said
    return None


def _goes_by_tokens(answer: Answer) -> str | None:
    """That other tokens under the same weights have another score."""
    weights, tokens = TRIALS[1].args
    others = np.roll(tokens, 3)
    if np.isclose(result(answer, weights, tokens), result(answer, weights, others)):
        return "other tokens, and the same score: the keys follow from the tokens, not from places"
    return None


def _minds_nothing_to_count(answer: Answer) -> str | None:
    for trial in TRIALS:
        if not np.isfinite(result(answer, *trial.args)):
            return f"on {trial.title} it is not a number: where no query counts, it is 0"
    return None


@exercise("08.2")
def build_induction_score(answer: Any) -> str | None:
    """An induction score, held against the one that draws the lesson's figure."""
    properties = (_minds_nothing_to_count, _is_a_known_error, _goes_by_tokens)
    return compare_calls(answer, induction_score, TRIALS, properties)


def suspect(model: jaxgpt.GPT, tokens: Any, layer: int, head: int) -> dict[str, Any]:
    """Activations by name after a knock-out of one head that has an error, to be found."""
    seen: dict[str, Any] = {}

    def record(name: str, x: Any) -> Any:
        if name == f"blocks.{layer}.attn.scores":
            x = x.at[:, head].set(0)
        return seen.setdefault(name, x)

    model(jnp.asarray(tokens), record=record)
    return seen


_NOT_SO = {
    "layer": "compare `after` and `before` layer by layer: nothing differs before the layer asked "
    "for, and there something does",
    "head": "in the layer asked for, the contexts of the other heads are what they were before",
    "place": "the head's contexts differ at every place but the first, which has no choice: not at "
    "one alone",
    "nothing": "the logits of `after` are not those of `before`: something was changed",
}


@exercise("08.3")
def find_the_bug(answer: Any) -> str | None:
    """Which error `suspect` has: zeros in the scores, which softmax makes equal weights."""
    return choose(answer, "scores", _NOT_SO)
