"""Exercises of notebook 07: how many tokens top-p keeps, top-p itself, a cache written late."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from course.checks import Trial, choose, compare_calls, exercise, result, whole_number_in
from jaxgpt import GPT, SamplingConfig
from jaxgpt.generation.sampling import filter_logits
from jaxgpt.model.gpt import init_cache

Answer = Callable[..., Any]

TOY = np.array([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79], np.float32)
TEMPERATURE, TOP_P = 2.0, 0.9


def oracle(logits: Any, p: Any) -> Any:
    """The package's logits after top-p."""
    settings = SamplingConfig(top_p=float(p))
    return filter_logits(logits[None], settings, jnp.zeros((1, len(logits)), bool))[0]


def _kept(logits: Any, p: float = TOP_P) -> int:
    return int(np.isfinite(np.asarray(oracle(jnp.asarray(logits), p))).sum())


@exercise("07.1")
def count_kept(answer: Any) -> str | None:
    """How many of nine words top-p 0.9 keeps at temperature 2: 4."""
    right = _kept(TOY / TEMPERATURE)
    given, answer = answer, whole_number_in(answer)
    if answer is None:
        return f"a whole number is wanted, and this is {given!r}"
    if answer == right:
        return None
    if answer == right - 1:
        return (
            f"{answer} words hold a little less than {TOP_P}: the one that reaches it remains too"
        )
    if answer == _kept(TOY):
        return "that is at temperature 1; dividing the logits by 2 comes first, and flattens"
    if answer == 1:
        return f"the likeliest word alone holds less than {TOP_P}: more are needed"
    if answer == round(TOP_P * len(TOY)):
        return f"that is {TOP_P} of the words; it is the probability that is to reach {TOP_P}"
    if answer >= len(TOY):
        return "that cuts off nothing; add up from the likeliest, and stop once it is enough"
    return f"add up the probabilities from the likeliest; how many until {TOP_P} is reached?"


def _random(size: int, seed: int = 0) -> np.ndarray:
    return 2 * np.random.default_rng(seed).standard_normal(size).astype(np.float32)


_TIES = np.array([0, 2, 1, -3, 1, 2, 1], np.float32)
_CUT = np.array([1, -np.inf, 3, 2, -np.inf, 0.5], np.float32)
TRIALS = (
    Trial("the nine words", (TOY / 2, 0.9)),
    Trial("the nine words with p = 0.3", (TOY / 2, 0.3)),
    Trial("a vocabulary of fifty", (_random(50), 0.95)),
    Trial("a single word", (np.zeros(1, np.float32), 0.5)),
    Trial("equal logits", (_TIES, 0.75)),
    Trial("logits that are all equal", (np.full(5, -2, np.float32), 0.5)),
    Trial("logits of which some are minus infinity", (_CUT, 0.99)),
    Trial("logits in the hundreds", (100 * _random(6, seed=1), 0.9)),
    Trial("nearly all that there is", (np.array([0.3, 0, 0.2, 0.1], np.float32), 0.999)),
)


def _kept_of(answer: Answer, logits: Any, p: float) -> np.ndarray:
    return np.isfinite(result(answer, logits, p))


def _gives_logits(answer: Answer) -> str | None:
    logits = TOY / 2
    found = result(answer, logits, 0.9)
    if found.dtype == bool:
        return "its result is a mask; give the logits, and minus infinity where it is false"
    if np.isnan(found).any():
        return "there is NaN in its result for the nine words"
    if (found >= 0).all() and found.sum() < 1.001:
        return "its result has probabilities; it is to be logits, from which a draw makes them"
    if (found == 0).any() and (found > 0).any():
        return "what is ruled out is 0, and softmax of 0 is not 0: it is to be minus infinity"
    if (found < -1e3).any() and np.isfinite(found).all():
        return "what is ruled out is to be minus infinity itself, which no temperature brings back"
    left = np.isfinite(found)
    if not left.any():
        return "it rules everything out"
    if left.all() and _kept_of(answer, logits, 0.3).all():
        return "it rules nothing out"
    if np.allclose(found[left], logits[left], atol=1e-4):
        return None
    if np.allclose(found[left], np.sort(logits)[::-1][: left.sum()], atol=1e-4):
        return "the logits come out sorted: each has to stay in its place, for that is its word"
    return "the logits that remain are changed; leave them as they are, softmax shares 1 anew"


def _overflows(answer: Answer) -> str | None:
    if np.isnan(result(answer, *TRIALS[7].args)).any():
        return "where logits are in the hundreds there is NaN: take the largest away before e to it"
    return None


def _keeps_the_likeliest(answer: Answer) -> str | None:
    for logits, p in ((TOY / 2, 0.9), (TOY / 2, 0.3), (_random(50), 0.95)):
        kept = _kept_of(answer, logits, p)
        if kept.any() and not kept[logits.argmax()]:
            return (
                f"with p = {p} the likeliest word is ruled out and others are not; it is the first "
                "to remain, also where it alone reaches p"
            )
    return None


def _crosses(answer: Answer) -> str | None:
    for logits, p in ((TOY / 2, 0.9), (_random(50), 0.95), (TOY / 2, 0.3)):
        kept, wanted = _kept_of(answer, logits, p), _kept(logits, p)
        chances = np.asarray(jax.nn.softmax(logits))
        held = chances[kept].sum()
        likeliest = np.isin(np.arange(len(logits)), np.argsort(-logits)[: kept.sum()])
        if not (kept == likeliest).all():
            return "a word remains that is less likely than one that is ruled out"
        if held < p:
            return (
                f"with p = {p} it keeps words that hold {held:.3f}: the word that reaches p "
                "remains too"
            )
        if kept.sum() > wanted:
            return f"with p = {p} it keeps {kept.sum()} words, and {wanted} are enough to reach p"
    return None


def _minds_ties(answer: Answer) -> str | None:
    for logits, p in ((_TIES, 0.75), (np.full(5, -2, np.float32), 0.5)):
        kept = _kept_of(answer, logits, p)
        for level in np.unique(logits):
            fates = kept[logits == level]
            if fates.any() and not fates.all():
                return "of two words with equal logits it keeps one and not the other"
    return None


def _minds_infinity(answer: Answer) -> str | None:
    found = result(answer, _CUT, 0.99)
    if np.isnan(found).any():
        return "where logits are minus infinity already, there is NaN in its result"
    if np.isfinite(found[~np.isfinite(_CUT)]).any():
        return "a logit that was minus infinity comes back: what is ruled out stays so"
    return None


@exercise("07.2")
def build_top_p(answer: Any) -> str | None:
    """A top-p filter, held against the package's."""
    rules = (
        _gives_logits,
        _overflows,
        _keeps_the_likeliest,
        _crosses,
        _minds_ties,
        _minds_infinity,
    )
    return compare_calls(answer, oracle, TRIALS, rules)


@dataclass(frozen=True)
class Decoded:
    """What a decoder wrote, where it believed to be, and how its cache filled."""

    tokens: list[int]
    positions: list[int]
    sizes: np.ndarray


def suspect(model: Any, prompt: list[int], count: int) -> Decoded:
    """Decode greedily with a cache that has one error, for the reader to find."""
    config, room = model.config, len(prompt) + count + 1
    table = model.params["embed"]["positions"]
    moved = {**model.params["embed"], "positions": jnp.roll(table, 1, axis=0)}

    @jax.jit
    def decode(params: Any, new: Any, cache: Any, start: Any) -> Any:
        return GPT(config, params).decode(new, cache, start, jnp.array([new.shape[1] - 1]))

    def size(cache: Any) -> Any:
        return jnp.linalg.norm(cache[0][0][0], axis=(0, 2))

    cache = init_cache(config, 1, room)
    logits, cache = decode(model.params, jnp.array([prompt]), cache, jnp.array([0]))
    tokens, positions, sizes = [int(logits[0].argmax())], [], [size(cache)]
    later = {**model.params, "embed": moved}
    while len(tokens) < count:
        positions.append(len(prompt) + len(positions))
        start = jnp.array([positions[-1] + 1])
        logits, cache = decode(later, jnp.array([tokens[-1:]]), cache, start)
        tokens.append(int(logits[0].argmax()))
        sizes.append(size(cache))
    return Decoded(tokens, positions, np.asarray(jnp.stack(sizes)))


_NOT_SO = {
    "overwritten": "print `(found.sizes > 0).sum(1)`: each new token fills one place more",
    "stale": "print `found.sizes[0]`: after the prompt, every later place is empty, so all was",
    "positions": "print `found.positions`: they go on from the prompt's length, as they should",
    "prompt": "the first new token is right, and it comes from the prompt alone",
}


@exercise("07.3")
def find_the_bug(answer: Any) -> str | None:
    """Which error `suspect` has: keys and values are written one place late."""
    return choose(answer, "late", _NOT_SO)
