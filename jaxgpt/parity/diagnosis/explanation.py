"""The cause of a difference, in sentences about A and B."""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from jaxgpt.config import ModelConfig
from jaxgpt.model.layers import Params
from jaxgpt.parity.diagnosis.causes import operation_of
from jaxgpt.parity.diagnosis.diagnose import Diagnosis, diagnose
from jaxgpt.parity.diagnosis.differences import Row, differences, unit_of
from jaxgpt.parity.diagnosis.leaf_differences import compare_leaves
from jaxgpt.parity.overrides import Variant
from jaxgpt.parity.recordings.recording import Recording, record_variant
from jaxgpt.parity.trace import activation_names

# What parameters show of a config; the rest is for the causes to find out.
_SHOWN = ("context_length", "qkv_bias", "out_bias", "mlp_bias", "tie_head", "positions")

Explanation = tuple[tuple[str, ...], str]
"""The causes, and what they leave, or what it means that there is none."""


def explain(a: Recording, b: Recording) -> Explanation:
    """Why two recordings that differ do so.

    First what can be read off: dropout, the dtype, parameters that are not the same. Then the
    known causes, tried on the model whose trace meets its own recording.
    """
    random = "computes something else each time: dropout is left on; call its eval() first"
    sides = (("A", a), ("B", b))
    causes = [f"{letter} {random}" for letter, side in sides if side.evaluated is not None]
    a, b = a.evaluated or a, b.evaluated or b
    rows = differences(a, b)
    first = next((row for row in rows if row.differs), None)
    if first is None:
        return tuple(causes), _agreed(causes, "everything", rows)
    start = _start(a, b)
    if start is None:
        why = "causes can be tried only where the parameters of a model are known, and give what "
        return tuple(causes), f"{_unknown(first, rows, a.config or b.config)}; {why}it computes"
    letter, base, other, variant = start
    found = compare_leaves(base, other) if other.params is not None else []
    if found and other.params is not None and other.config is not None:
        shown = {name: getattr(other.config, name) for name in _SHOWN}
        config = replace(variant.config, **shown)
        variant = replace(variant, config=config, params=_cast(other.params))
    elif unit_of(other.dtype) < unit_of(base.dtype):
        found.append(f"computes in {other.dtype}, not in {base.dtype}")
        variant = replace(variant, params=_cast(variant.params))
    causes += [f"{letter} {words}" for words in found]
    if first.kind != "activation":
        return tuple(causes), _way_back(first, causes, variant, other)
    diagnosis = diagnose(variant, other, max(2.0**-24, min(unit_of(a.dtype), unit_of(b.dtype))))
    causes += [f"{letter} {words}" for words in diagnosis.causes]
    return tuple(causes), _outcome(first, rows, causes, diagnosis)


def _start(a: Recording, b: Recording) -> tuple[str, Recording, Recording, Variant] | None:
    """The other's letter, the model to try on, the other, and the variant that computes as it does.

    A model that computes as jaxgpt does comes before one whose overrides have to be found out.
    """
    for most in (0, None):
        for letter, base, other in (("B", a, b), ("A", b, a)):
            if base.params is None or base.config is None:
                continue
            variant = Variant(base.config, base.params)
            fit = diagnose(variant, base, unit_of(base.dtype), overrides_only=True, most=most)
            if fit.trial.first is None:
                return letter, base, other, fit.trial.variant
    return None


def _cast(params: Params) -> Params:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


def _outcome(
    first: Row, compared: Sequence[Row], causes: Sequence[str], diagnosis: Diagnosis
) -> str:
    remaining, rows = diagnosis.trial.first, diagnosis.trial.rows
    if not causes:
        return _unknown(first, compared, diagnosis.trial.variant.config)
    this = "this" if len(causes) == 1 else "these"
    if diagnosis.rounds_to:
        left = max(rows, key=lambda row: row.relative)
        return (
            f"with {this}, {left.relative:.1e} is left at most, which rounding to "
            f"{diagnosis.rounds_to} explains"
        )
    if remaining is None:
        return _agreed(causes, "every activation", rows)
    names, one = [row.name for row in rows], len(causes) == 1
    explained = f"{this} {'is' if one else 'are'} not all:"
    if names.index(remaining.name) > names.index(first.name):
        explained = f"{this} {'explains' if one else 'explain'} the difference at {first.name}, but"
    return (
        f"{explained} one of {remaining.relative:.1e} remains from {remaining.name} on, for which "
        "no known cause fits"
    )


def _way_back(first: Row, causes: Sequence[str], variant: Variant, other: Recording) -> str:
    """What is left where all activations agree."""
    if first.kind == "loss":
        return "the logits agree: the loss is computed otherwise, such as over other targets"
    if causes:
        ours = record_variant(variant, other.tokens)
        rows = [row for row in differences(ours, other) if row.kind == "gradient"]
        if not any(row.differs for row in rows):
            return _agreed(causes, "every gradient", rows)
    return (
        "no known cause fits: the activations agree, so the way back differs, such as by a tensor "
        "that is detached, or a parameter that is used twice"
    )


def _agreed(causes: Sequence[str], what: str, rows: Sequence[Row]) -> str:
    this = "this" if len(causes) == 1 else "these"
    return f"with {this}, {what} agrees to {max(row.relative for row in rows):.1e}"


def _unknown(first: Row, compared: Sequence[Row], config: ModelConfig | None) -> str:
    """What is known of the place of a difference: as much as was compared before it."""
    if first.kind != "activation":
        return f"no known cause fits {first.label}"
    agreed = [row.name for row in compared[: compared.index(first)]]
    if not agreed and first.name != "embed":
        return (
            f"no known cause fits; nothing before {first.name} was compared, so the difference may "
            "stand anywhere"
        )
    if agreed and not _is_next(agreed[-1], first.name, config):
        return (
            f"no known cause fits; {agreed[-1]} agrees and nothing from there to {first.name} was "
            "compared, so the difference stands in between"
        )
    words = operation_of(first.name).words
    return f"no known cause fits; what comes before agrees, so look at {words}"


def _is_next(before: str, name: str, config: ModelConfig | None) -> bool:
    """Whether no activation stands between the two."""
    last = max((int(x.split(".")[1]) for x in (before, name) if x.startswith("blocks.")), default=0)
    names = activation_names(last + 1, config)
    return names.index(name) == names.index(before) + 1
