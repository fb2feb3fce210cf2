"""How far two recordings are apart, number by number, and how far rounding alone may bring them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.model.schema import dimensions
from jaxgpt.parity.recordings.recording import Recording
from jaxgpt.parity.trace import activation_names


@dataclass(frozen=True)
class Row:
    """One activation, the loss, or one parameter's gradient, in both recordings."""

    kind: str
    """activation, loss or gradient."""
    name: str
    """The activation's, or the parameter's path."""
    absolute: float
    """The largest difference of two elements."""
    relative: float
    """The same, as a share of the largest element in either."""
    bound: float
    """The share that rounding explains."""
    layer: int | None = None
    """Of a gradient whose layers are stacked, the one with the largest difference."""

    @property
    def differs(self) -> bool:
        """Whether it is further apart than rounding explains."""
        return not self.relative <= self.bound

    @property
    def label(self) -> str:
        """What to call it within a sentence."""
        return f"the gradient of {self.name}" if self.kind == "gradient" else self.name


def unit_of(dtype: str) -> float:
    """What one rounding may be off, as a share of the number; never less than in float32."""
    return max(float(jnp.finfo(jnp.dtype(dtype)).eps), 2.0**-23) / 2


def rounding(count: int, unit: float) -> float:
    """The error that `count` roundings may leave, as a share of the largest element.

    Two implementations sum in different orders, so the errors of their roundings are independent
    and walk at random: sqrt(count) units of a typical element. Of some thousands of elements the
    unluckiest is about 4 times as far off, but the largest, to which it is compared, is about 4
    times the typical. The 2 leaves room for other processors.
    """
    return 2 * math.sqrt(count) * unit


def roundings(config: ModelConfig, length: int) -> dict[str, int]:
    """The lengths of the sums on the way to each activation, added up.

    A norm or a linear map is a sum over D or F, a score over K, a softmax and a mean of values over
    T; a GELU is about 10 roundings. The angles of rotary positions are up to T times as large as
    what they are rounded for, which is as T squared roundings.
    """
    sizes = dimensions(config)
    width, count, counts = config.embed_dim, 0, {}
    context = sizes["K"] + 2 * length + (length**2 if config.positions == "rope" else 0)
    experts = width + 10 if config.experts.num_experts else 0  # what is inside has no names
    inner = {"context": context, "middle": 1, "gelu": 10, "down": sizes["F"] + experts}
    for name in activation_names(config.num_layers, config):
        last = name.rpartition(".")[2]
        count += 1 if last == "embed" or last.isdecimal() else inner.get(last, width)
        counts[name] = count
    return counts


def differences(a: Recording, b: Recording) -> list[Row]:
    """A row for all that both recordings have: activations in order, the loss, the gradients."""
    config = a.config or b.config or ModelConfig()
    counts = roundings(config, a.tokens.shape[1])
    unit = max(2.0**-24, min(unit_of(a.dtype), unit_of(b.dtype)))
    bounds = {name: rounding(count, unit) for name, count in counts.items()}
    rows = [
        Row("activation", name, *distance(a.activations[name], b.activations[name]), bound)
        for name, bound in bounds.items()
        if name in a.activations and name in b.activations
    ]
    if a.loss is not None and b.loss is not None:
        apart = distance(np.array(a.loss), np.array(b.loss))
        rows.append(Row("loss", "loss", *apart, bounds["logits"]))
    # The way back passes the same sums again, then those over the vocabulary and the tokens.
    backward = 2 * counts["logits"] + config.vocab_size + a.tokens.size
    rows.extend(_gradient_rows(a.gradients or {}, b.gradients or {}, rounding(backward, unit)))
    return rows


def distance(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The largest difference of two elements, and its share of the largest element of both.

    Infinite where one has a number that is not finite and the other another.
    """
    return _distance(a, b, max(_largest(a), _largest(b)))


def _distance(a: np.ndarray, b: np.ndarray, largest: float) -> tuple[float, float]:
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gaps = np.where(same, 0, np.abs(a.astype(np.float64) - b))
    absolute = float(np.where(np.isnan(gaps), np.inf, gaps).max(initial=0))
    return absolute, absolute / (largest or 1.0)


def _largest(x: np.ndarray) -> float:
    return float(np.abs(x).max(initial=0, where=np.isfinite(x)))


def _gradient_rows(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], bound: float
) -> Iterator[Row]:
    """Measured by the largest of a leaf and its siblings.

    For a key's bias has gradient 0 but for rounding: the softmax does not change when all scores of
    a row rise by the same. Its measure is the key's weight.
    """
    largest: dict[str, float] = {}
    for path, leaf in (*a.items(), *b.items()):
        parent = path.rpartition(".")[0]
        largest[parent] = max(largest.get(parent, 0.0), _largest(leaf))
    for path in [path for path in a if path in b]:
        rows = min(len(a[path]), len(b[path]))  # of positions, where one context is longer
        measure, layer = largest[path.rpartition(".")[0]], None
        if path.startswith("blocks."):
            layers = zip(a[path], b[path], strict=True)
            layer = int(np.argmax([_distance(x, y, measure)[0] for x, y in layers]))
        apart = _distance(a[path][:rows], b[path][:rows], measure)
        yield Row("gradient", path, *apart, bound, layer)
