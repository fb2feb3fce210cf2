"""Two recordings of one GPT side by side: where they first differ, and why."""

from dataclasses import dataclass

import numpy as np

from jaxgpt.errors import CheckpointError, DataError
from jaxgpt.parity.diagnosis.differences import Row, differences
from jaxgpt.parity.diagnosis.explanation import explain
from jaxgpt.parity.recordings.recording import Recording


@dataclass(frozen=True)
class Comparison:
    """What two models have in common, and what not."""

    rows: tuple[Row, ...]
    """Activations in order, the loss, and each parameter's gradient."""
    causes: tuple[str, ...] = ()
    """What explains the first difference, each a sentence about A and B."""
    outcome: str = ""
    """What the causes leave, or what it means that there is none, in a sentence."""

    @property
    def first(self) -> Row | None:
        """The first row that differs by more than rounding explains."""
        return next((row for row in self.rows if row.differs), None)

    @property
    def equal(self) -> bool:
        """Whether rounding explains everything."""
        return self.first is None


def compare(a: Recording, b: Recording) -> Comparison:
    """Compare what two models computed on the same tokens; and if it differs, look for the cause.

    Raises DataError if the tokens differ, CheckpointError if the models have other shapes, or if
    neither gives finite numbers.
    """
    check_comparable(a, b)
    rows = tuple(differences(a, b))
    if all(not row.differs for row in rows):
        return Comparison(rows)
    return Comparison(rows, *explain(a, b))


def check_comparable(a: Recording, b: Recording) -> None:
    """Raise DataError or CheckpointError where there is nothing to compare; see `compare`."""
    if not np.array_equal(a.tokens, b.tokens):
        raise DataError(
            f"{a.name} and {b.name} ran on other tokens ({a.tokens.size} and {b.tokens.size} of "
            "them); record both on the same"
        )
    if a.config and b.config:
        for field in ("vocab_size", "embed_dim", "num_layers", "norm", "norm_place", "qk_norm"):
            one, other = getattr(a.config, field), getattr(b.config, field)
            if one != other:
                raise CheckpointError(
                    f"{a.name} has {field} {one}, {b.name} {other}; models of other shapes cannot "
                    "be compared number by number"
                )
    for kind, ours, theirs in (
        ("activation", a.activations, b.activations),
        ("gradient", a.gradients or {}, b.gradients or {}),
    ):
        for name, x in ours.items():
            y = theirs.get(name, x)
            first = int("positions" in name)  # one context may be longer
            if x.shape[first:] != y.shape[first:]:
                raise CheckpointError(
                    f"{kind} {name} has shape {x.shape} in {a.name}, {y.shape} in {b.name}; "
                    "models of other shapes cannot be compared number by number"
                )
            if name in theirs and not np.isfinite(x).all() and not np.isfinite(y).all():
                raise CheckpointError(
                    f"{a.name} and {b.name}: {kind} {name} has numbers that are not finite; "
                    "nothing can be compared"
                )


def to_text(comparison: Comparison, a: Recording, b: Recording) -> str:
    """A table with a line for each row, then the verdict and the cause."""
    lines = [f"{letter}  {r.name} ({r.dtype})" for letter, r in (("A", a), ("B", b))]
    lines += [f"   {letter} {note}" for letter, r in (("A", a), ("B", b)) for note in r.notes]
    lines += [f"{a.tokens.size} tokens", ""]
    wide = max(len(_label(row)) for row in comparison.rows)
    kind = ""
    for row in comparison.rows:
        if row.kind != kind:
            lines += [""] if kind else []
            kind = row.kind
            lines.append(f"{kind:<{wide}}  absolute  relative     rounding")
        mark = " !" if row.differs else "  "
        first = "   <- first" if row is comparison.first else ""
        lines.append(
            f"{_label(row):<{wide}}   {row.absolute:.1e}   {row.relative:.1e}{mark}    "
            f"{row.bound:.1e}{first}"
        )
    return "\n".join([*lines, "", *_verdict(comparison)])


def _label(row: Row) -> str:
    return row.name if row.layer is None else f"{row.name} [{row.layer}]"


def _verdict(comparison: Comparison) -> list[str]:
    first = comparison.first
    seen = [row.name for row in comparison.rows if row.kind == "activation"]
    only = f"; of the activations, only {seen[0]} could be compared" if len(seen) == 1 else ""
    if first is None:
        most = max(comparison.rows, key=lambda row: row.relative)
        return [
            f"equal: the largest relative difference is {most.relative:.1e} ({most.label}); "
            f"rounding explains up to {most.bound:.1e} there{only}"
        ]
    return [
        f"different: {first.label} is the first, {first.relative:.1e} of its largest element "
        f"apart, where rounding explains up to {first.bound:.1e}{only}",
        *(f"cause: {cause}" for cause in comparison.causes),
        comparison.outcome,
    ]
