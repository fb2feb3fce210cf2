"""Causes in what is computed with the same weights: norms, GELU, attention, precision."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgpt.parity.diagnosis.cause import Cause, Causes, State, with_config, with_habits
from jaxgpt.parity.diagnosis.column_orders import column_orders
from jaxgpt.parity.habits import AS_JAXGPT

_EPSILONS = (1e-5, 1e-6, 1e-12, 1e-8, 1e-4, 1e-3)
_RMS_EPSILONS = (1e-5, 1e-6, 1e-8, 2.0**-23)  # the last is PyTorch's default
_WHERE = {
    "norm1": "the first norm of a block",
    "norm2": "the second norm of a block",
    "norm": "the last norm",
}
_COARSE = ("bfloat16", "float16")
_ROOT = AS_JAXGPT.scale


def epsilons(state: State) -> Iterator[Cause]:
    """What a layer norm adds to the variance."""
    old = state.config.norm_epsilon
    for epsilon in _EPSILONS:
        words = f"adds {epsilon:g} to the variance in a layer norm, not {old:g}"
        yield Cause(words, with_config(state, norm_epsilon=epsilon))


def epsilons_of(norm: str) -> Causes:
    """The same of one norm of a block alone, or of the last."""

    def causes(state: State) -> Iterator[Cause]:
        old = state.habits.epsilons.get(norm, state.config.norm_epsilon)
        for epsilon in _EPSILONS:
            words = f"adds {epsilon:g} to the variance in {_WHERE[norm]} alone, not {old:g}"
            changed = {**state.habits.epsilons, norm: epsilon}
            yield Cause(words, with_habits(state, epsilons=changed))

    return causes


def rms_norms(state: State) -> Iterator[Cause]:
    """RMSNorm in all norms."""
    yield from _rms(state, tuple(_WHERE), "every layer norm")


def other_norm(norm: str) -> Causes:
    """RMSNorm in one norm of a block, or the last; or nothing in its place."""

    def causes(state: State) -> Iterator[Cause]:
        yield from _rms(state, (norm,), f"{_WHERE[norm]} alone")
        without = with_habits(state, norms={**state.habits.norms, norm: "none"})
        yield Cause(f"leaves out {_WHERE[norm]}", without)

    return causes


def _rms(state: State, norms: tuple[str, ...], where: str) -> Iterator[Cause]:
    own = state.habits.epsilons.get(norms[0], state.config.norm_epsilon)
    for epsilon in dict.fromkeys((own, *_RMS_EPSILONS)):
        words = f"has RMSNorm in place of {where}, with epsilon {epsilon:.3g}"
        changed = with_habits(
            state,
            norms={**state.habits.norms, **dict.fromkeys(norms, "rms")},
            epsilons={**state.habits.epsilons, **dict.fromkeys(norms, epsilon)},
        )
        yield Cause(words, changed)


def norm_places(state: State) -> Iterator[Cause]:
    """Norms that stand behind attention and feed-forward, not before."""
    for place, words in (
        (
            "sum",
            "norms after each sum (post-norm), not before attention and feed-forward (pre-norm)",
        ),
        ("after", "norms what attention and feed-forward give, not what enters them (pre-norm)"),
    ):
        yield Cause(words, with_habits(state, norm_place=place))


def missing_shortcut(part: str) -> Causes:
    """No residual connection around attention or the feed-forward network, or another one."""
    what = {"attn": "attention", "mlp": "the feed-forward network"}[part]

    def causes(state: State) -> Iterator[Cause]:
        for kind, words in (
            ("none", f"has no shortcut (residual connection) around {what}"),
            ("normed", f"adds what {what} gives to the normed stream, not to the stream itself"),
        ):
            changed = {**state.habits.shortcuts, part: kind}
            yield Cause(words, with_habits(state, shortcuts=changed))

    return causes


def variances(state: State) -> Iterator[Cause]:
    """Bessel's correction, PyTorch's default for `var`."""
    unbiased = not state.habits.unbiased_variance
    by, not_by = ("D - 1 (unbiased)", "D") if unbiased else ("D", "D - 1")
    words = f"divides a layer norm's variance by {by}, not by {not_by}"
    yield Cause(words, with_habits(state, unbiased_variance=unbiased))


def activations(state: State) -> Iterator[Cause]:
    """GELU's forms, and what is not GELU."""
    tanh, erf = (
        with_habits(with_config(state, gelu=form), activation=None) for form in ("tanh", "erf")
    )
    yield Cause("computes GELU by tanh, not by erf", tanh)
    yield Cause("computes GELU by erf, not by tanh", erf)
    yield Cause("has ReLU in GELU's place", with_habits(state, activation=jax.nn.relu))
    yield Cause("has SiLU in GELU's place", with_habits(state, activation=jax.nn.silu))
    quick = with_habits(state, activation=lambda x: x * jax.nn.sigmoid(1.702 * x))
    yield Cause("computes GELU as x sigmoid(1.702 x)", quick)


def read_orders(state: State) -> Iterator[Cause]:
    """Queries, keys and values told apart in another order."""
    before = state.habits.qkv
    for words, change in column_orders(state.config.num_heads):
        after = with_habits(state, qkv=lambda x, change=change: change(before(x)))
        yield Cause(f"takes the columns of attn.qkv in another order: {words}", after)


def heads(state: State) -> Iterator[Cause]:
    """Another number of heads, which no shape shows."""
    width, old = state.config.embed_dim, state.config.num_heads
    for number in range(1, width + 1):
        if width % number == 0 and number != old:
            yield Cause(f"has {number} heads, not {old}", with_config(state, num_heads=number))


def scales(state: State) -> Iterator[Cause]:
    """What the scores are multiplied with."""
    width = state.config.embed_dim
    yield Cause(
        "does not divide the scores by the root of a head's width",
        with_habits(state, scale=lambda head_dim: 1.0),
    )
    yield Cause(
        "divides the scores by the root of the model's width, not of a head's",
        with_habits(state, scale=lambda head_dim: width**-0.5),
    )
    yield Cause(
        "divides the scores by a head's width, not by its root",
        with_habits(state, scale=lambda head_dim: 1 / head_dim),
    )
    yield Cause("divides the scores by the root of a head's width", with_habits(state, scale=_ROOT))


def masks(state: State) -> Iterator[Cause]:
    """How far a token may look."""
    for ahead, words in (
        (0, "lets each token see itself and those before it"),
        (None, "has no causal mask"),
        (1, "lets each token see the next one: its mask is shifted by one"),
        (-1, "does not let a token see itself: its mask is shifted by one"),
    ):
        yield Cause(words, with_habits(state, looks_ahead=ahead))


def offsets(state: State) -> Iterator[Cause]:
    """Where positions begin."""
    for offset in (0, 1, 2):
        words = f"starts its positions at {offset}, not at {state.habits.position_offset}"
        yield Cause(words, with_habits(state, position_offset=offset))


def ties(state: State) -> Iterator[Cause]:
    """The token table as the head; the other way its matrix would have to be known."""
    if not state.config.tie_head:
        tied = with_config(state, tie_head=True)
        yield Cause("has the token table as its head, not a matrix of its own", tied)


def layer_orders(earlier: Sequence[int]) -> Causes:
    """All layers turned round, or two of them exchanged, the earlier of which is in `earlier`."""

    def causes(state: State) -> Iterator[Cause]:
        before = state.habits.order or tuple(range(state.config.num_layers))
        yield Cause("has its layers in reverse", with_habits(state, order=before[::-1]))
        for i in earlier:
            for j in range(i + 1, len(before)):
                after = list(before)
                after[i], after[j] = after[j], after[i]
                words = f"has layers {i} and {j} exchanged"
                yield Cause(words, with_habits(state, order=tuple(after)))

    return causes


def precisions(state: State) -> Iterator[Cause]:
    """Fewer bits, in everything or only in what enters a matrix product."""
    if state.params["embed"]["tokens"].dtype != jnp.float32:
        return
    for dtype in _COARSE:
        cast = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), state.params)
        words = f"computes in {dtype} throughout"
        yield Cause(words, replace(state, params=cast), rounds_to=dtype)
    for dtype in _COARSE:
        both = {"operand": partial(_to, dtype), "product": partial(_to, dtype)}
        words = f"computes matrix products in {dtype}, as autocast does"
        yield Cause(words, with_habits(state, **both), rounds_to=dtype)
    for name, dtype, change in (
        ("TF32", "float16", _to_tf32),  # which have the same bits after the point
        *((dtype, dtype, partial(_to, dtype)) for dtype in _COARSE),
    ):
        words = f"rounds what enters matrix products to {name}; set their precision to highest"
        yield Cause(words, with_habits(state, operand=change), rounds_to=dtype)


def _to(dtype: str, x: Array) -> Array:
    return x.astype(dtype).astype(x.dtype)


def _to_tf32(x: Array) -> Array:
    """Rounded to 10 bits after the point, ties to even, as NVIDIA's tensor cores take float32."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    bits = bits + jnp.uint32(0xFFF) + (bits >> 13 & 1)
    return jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFFE000), jnp.float32)
