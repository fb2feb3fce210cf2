"""PyTorch's random numbers on the CPU, made in NumPy: the same start without PyTorch.

All of them come from one stream of 32-bit words, those of the Mersenne twister MT19937 (Matsumoto
and Nishimura 1998) that `torch.manual_seed` seeds. What differs between `rand`, `randn`, `dropout`
and the rest is how many words a number takes, and what is made of them.

The numbers equal those of PyTorch 2.13 on x86 processors with AVX2, bit for bit, but for the mask
of `dropout`. PyTorch itself gives other numbers on other machines; the docstrings say which.
"""

import math
import operator

import jax
import numpy as np
from jaxtyping import Array, Float32, Float64, Int64, UInt64

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.model.layers import STD, Params
from jaxgpt.model.nested import flatten
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.model.schema import dimensions, qkv_sections
from jaxgpt.parity.torch_math import box_muller

_CHUNK = 2**15  # Numbers made at once: few enough to stay in the cache; a multiple of 16.


class TorchGenerator:
    """PyTorch's CPU generator after `torch.manual_seed(seed)`, draw for draw.

    Each method takes from the stream what its namesake in PyTorch takes; to seed again, make a new
    one. The seed is a whole number from -2^63 to 2^64 - 1, of which the lowest 32 bits count.
    Raises ConfigError for any other.
    """

    def __init__(self, seed: int | np.integer):
        seed = operator.index(seed)  # a NumPy integer would overflow below
        if not -(2**63) <= seed < 2**64:
            raise ConfigError(f"seed is {seed}; it must be from -2^63 to 2^64 - 1")
        key = [seed & 0xFFFFFFFF]
        for i in range(1, 624):
            key.append((1812433253 * (key[-1] ^ (key[-1] >> 30)) + i) & 0xFFFFFFFF)
        self._twister = np.random.MT19937()
        self._twister.state = {
            "bit_generator": "MT19937",
            "state": {"key": np.array(key, np.uint32), "pos": 624},
        }
        self._kept: float | None = None

    def rand(self, *shape: int) -> Float32[np.ndarray, "..."]:
        """`torch.rand`: uniform in [0, 1), the low 24 bits of one word each."""
        return self.uniform(0.0, 1.0, *shape)

    def uniform(self, low: float, high: float, *shape: int) -> Float32[np.ndarray, "..."]:
        """`tensor.uniform_(low, high)`: `rand` stretched to [low, high).

        On x86 processors without AVX2, PyTorch rounds the product before it adds, and half of the
        numbers differ by that rounding.
        """
        start, width = np.float32(low), np.float32(high) - np.float32(low)
        out = np.empty(shape, np.float32)
        for piece in _pieces(out.reshape(-1)):
            share = (self._words(piece.size) & 0xFFFFFF) * 2.0**-24
            piece[:] = share * width + start
        return out

    def randn(self, *shape: int) -> Float32[np.ndarray, "..."]:
        """`torch.randn`: standard normal, by the method of Box and Muller (1958).

        Pairs of uniform numbers become pairs of normal ones. From 16 numbers on, they are float32
        from `rand`, number j paired with j + 8 in each block of 16, and the rest of a block is
        filled by drawing the last 16 anew. Fewer than 16 are made one by one in float64; the
        second of a pair is kept for the next such call.

        Without AVX2, PyTorch takes logarithm, sine and cosine from the C library, and 4 in 10
        numbers differ, by up to 3e-6. (In units of the last place that can be many: the errors
        stand out where a sine or cosine is near 0.)
        """
        out = np.empty(shape, np.float32)
        self.fill_normal(out.reshape(-1))
        return out

    def linear(
        self, inputs: int, outputs: int, *, bias: bool = True
    ) -> dict[str, Float32[np.ndarray, "..."]]:
        """`nn.Linear(inputs, outputs)` in jaxgpt's layout: weight (inputs, outputs), then bias.

        Both are uniform within `1 / sqrt(inputs)`. PyTorch's weight is (outputs, inputs), and such
        is the order of the draws.
        """
        params: dict[str, np.ndarray] = {"weight": np.empty((inputs, outputs), np.float32)}
        if bias:
            params["bias"] = np.empty(outputs, np.float32)
        self.fill_linear(params)
        return params

    def embedding(self, rows: int, width: int) -> Float32[np.ndarray, "rows width"]:
        """`nn.Embedding(rows, width)`: `randn`."""
        return self.randn(rows, width)

    def dropout(
        self, x: Float32[np.ndarray, "..."] | Float32[Array, "..."], rate: float
    ) -> Float32[np.ndarray, "..."] | Float32[Array, "..."]:
        """`nn.Dropout(rate)` in training: zero with probability `rate`, else times 1 / (1 - rate).

        Two words for each element, in C order; none at a rate of 0 or 1. Not for use in a jitted
        function, which would draw once and use that mask ever after. PyTorch built with MKL, as
        its x86 releases are, draws another mask from a stream of MKL's own; this is the mask of
        every other build. Raises ConfigError for a rate outside [0, 1].
        """
        if not 0 <= rate <= 1:
            raise ConfigError(f"rate is {rate}; it must be from 0 to 1")
        if rate in (0, 1):
            return x * np.float32(1 - rate)
        kept = self._doubles(x.size).reshape(x.shape) < 1 - rate
        return x * (kept * (np.float32(1) / np.float32(1 - rate)))

    def multinomial(
        self,
        probabilities: Float32[np.ndarray, "*B V"] | Float32[Array, "*B V"],
        num_samples: int = 1,
        *,
        replacement: bool = False,
    ) -> Int64[np.ndarray, "*B N"]:
        """`torch.multinomial`: N categories of each row, drawn in proportion to its numbers.

        One sample, or several without replacement, is a race: category j arrives after an
        exponential time of rate `p[j]`, and the first N win. Several with replacement are looked
        up in the running sums. Raises ConfigError if a number is negative or not finite, or a row
        has fewer than N above zero (with replacement, none).
        """
        chances = np.asarray(probabilities)
        if not (np.isfinite(chances) & (chances >= 0)).all():
            raise ConfigError("probabilities must be finite numbers of 0 or more")
        possible = int((chances > 0).sum(-1).min())
        if num_samples < 1 or possible < (1 if replacement else num_samples):
            raise ConfigError(
                f"num_samples is {num_samples}; it must be from 1 to the number of categories "
                f"above probability 0, which is {possible} (any number with replacement)"
            )
        if replacement and num_samples > 1:
            return self._look_up(chances, num_samples)
        times = -np.log1p(-self._doubles(chances.size)).reshape(chances.shape)
        speeds = chances / times.astype(np.float32)
        return np.argsort(-speeds, axis=-1, kind="stable")[..., :num_samples]

    def randperm(self, n: int) -> Int64[np.ndarray, " n"]:
        """`torch.randperm(n)`: the shuffle of Fisher and Yates, one word a swap.

        From n = 2^32 / 20 on, PyTorch does otherwise.
        """
        order = list(range(n))
        leaps = self._words(max(n - 1, 0)) % np.arange(n, 1, -1, dtype=np.uint64)
        for i, leap in enumerate(leaps.tolist()):
            order[i], order[i + leap] = order[i + leap], order[i]
        return np.array(order, np.int64)

    def loader_order(self, length: int, *, shuffle: bool = True) -> Int64[np.ndarray, " length"]:
        """The order in which one pass over a `DataLoader` of `length` items takes them.

        Each call is one `iter(loader)` and its first batch. It takes 64 bits for the workers, used
        or not, and with `shuffle` 64 more, which seed a generator of the pass's own.
        """
        self._words(2)
        if not shuffle:
            return np.arange(length)
        return TorchGenerator(int(self._words(2)[1])).randperm(length)

    def skip(self, count: int) -> None:
        """Draw `count` numbers of `rand`, which no one needs."""
        self._twister.random_raw(count, output=False)

    def _words(self, count: int) -> UInt64[np.ndarray, " count"]:
        """The next 32-bit words of the stream."""
        return self._twister.random_raw(count)

    def _doubles(self, count: int) -> Float64[np.ndarray, " count"]:
        """Uniform in [0, 1): the low 53 bits of two words, the high word first."""
        high, low = self._words(2 * count).reshape(count, 2).T
        return ((high << 32 | low) & (2**53 - 1)) * 2.0**-53

    def fill_normal(self, flat: Float32[np.ndarray, " N"], std: float = 1.0) -> None:
        """`randn` times `std`, as `tensor.normal_(0, std)`, into an array that is there."""
        if flat.size < 16:
            for i in range(flat.size):
                flat[i] = self._next_normal() * std
            return
        size = np.float32(std)
        for piece in _pieces(flat):
            whole = piece.size - piece.size % 16
            uniform = self.rand(piece.size)[:whole].reshape(-1, 16)
            piece[:whole] = box_muller(uniform).reshape(-1) * size
        if flat.size % 16:
            flat[-16:] = box_muller(self.rand(1, 16))[0] * size

    def _next_normal(self) -> float:
        if self._kept is not None:
            normal, self._kept = self._kept, None
            return normal
        turn, share = self._doubles(2).tolist()
        radius, angle = math.sqrt(-2 * math.log1p(-share)), 2 * math.pi * turn
        self._kept = radius * math.sin(angle)
        return radius * math.cos(angle)

    def fill_linear(self, params: dict[str, np.ndarray]) -> None:
        """`linear` into arrays that are there: `weight` (inputs, outputs) and, if any, `bias`."""
        inputs, outputs = params["weight"].shape
        bound = 1 / math.sqrt(inputs)
        for rows in _pieces(params["weight"].T, max(1, _CHUNK // inputs)):
            rows[:] = self.uniform(-bound, bound, *rows.shape)
        if "bias" in params:
            params["bias"][:] = self.uniform(-bound, bound, outputs)

    def _look_up(self, chances: np.ndarray, num_samples: int) -> np.ndarray:
        sums = np.cumsum(chances, axis=-1)
        sums /= sums[..., -1:]
        rows = sums.reshape(-1, sums.shape[-1]).astype(np.float64)
        found = [np.searchsorted(row, self._doubles(num_samples)) for row in rows]
        return np.stack(found).reshape(*sums.shape[:-1], num_samples)


def init_like_torch(
    config: ModelConfig, seed: int | TorchGenerator, padding: int | None = None
) -> Params:
    """The parameters that the same model in PyTorch starts from after `torch.manual_seed(seed)`.

    A generator in the seed's place is drawn from, and goes on from there. The result is the nested
    dict of `init_params`, of NumPy float32 arrays. PyTorch draws as it builds: the token table, the
    position table if learned, each block's four linear maps in the order of the forward pass, and
    the head if it is not tied. A model with RMS norm starts as the classes of transformers 5 do,
    such as `LlamaForCausalLM(config)`; `padding` is its `pad_token_id`, whose row is zeros. Raises
    ConfigError if the vocabulary's size is not settled, or for a seed that TorchGenerator refuses.
    """
    generator = seed if isinstance(seed, TorchGenerator) else TorchGenerator(seed)
    shapes = parameter_shapes(config)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    for path, leaf in flatten(params).items():
        if path.endswith(".scale") and not config.norm_offset:
            leaf.fill(1)
    if config.norm == "rms":
        _start_like_transformers(generator, config, params, padding)
        return params
    blocks = params["blocks"]
    for name in ("tokens", "positions"):
        if name in params["embed"]:
            generator.fill_normal(params["embed"][name].reshape(-1))
    for layer in range(config.num_layers):
        for stage, name in (("attn", "qkv"), ("attn", "out"), ("mlp", "up"), ("mlp", "down")):
            leaves = blocks[stage][name]
            generator.fill_linear({leaf: leaves[leaf][layer] for leaf in leaves})
    if "head" in params:
        generator.fill_linear(params["head"])
    return params


def _start_like_transformers(
    generator: TorchGenerator, config: ModelConfig, params: Params, padding: int | None
) -> None:
    """Normal matrices, drawn when the model is there, after PyTorch's own start of its parts."""
    table, attn, mlp = params["embed"]["tokens"], params["blocks"]["attn"], params["blocks"]["mlp"]
    qkv, columns = attn["qkv"]["weight"], dimensions(config)
    parts = [qkv[..., part] for part in qkv_sections(columns["E"], columns["C"]).values()]
    linear, drawn = [attn["qkv"], attn["out"]], [*parts, attn["out"]["weight"]]
    if "router" not in mlp:
        linear += (dense := [mlp[name] for name in ("gate", "up", "down") if name in mlp])
        drawn += [part["weight"] for part in dense]
    generator.fill_normal(table.reshape(-1))
    generator.skip(sum(leaf.size for part in linear for leaf in part.values()))
    _draw(generator, table)
    for layer in range(config.num_layers):
        for part in drawn:
            _draw(generator, part[layer].T)
        if "sinks" in attn:
            _draw(generator, attn["sinks"][layer])
        if "router" in mlp:
            _draw_experts(generator, jax.tree.map(lambda leaf, i=layer: leaf[i], mlp))
    if padding is not None:
        table[padding] = 0
    if "head" in params:
        generator.skip(table.size)
        _draw(generator, params["head"]["weight"].T)


def _draw_experts(generator: TorchGenerator, mlp: Params) -> None:
    """Router and experts: gpt-oss's, whose router has a bias, or Qwen's, as (out, in)."""
    router, gate, up, down = (mlp[name]["weight"] for name in ("router", "gate", "up", "down"))
    both = np.empty((*gate.shape[:2], 2 * gate.shape[2]), np.float32)
    if "bias" in mlp["router"]:
        for leaf in (router.T, mlp["router"]["bias"], both, down):
            _draw(generator, leaf)
        gate[:], up[:] = both[..., ::2], both[..., 1::2]
    else:
        for leaf in (both.swapaxes(1, 2), down.swapaxes(1, 2), router.T):
            _draw(generator, leaf)
        gate[:], up[:] = np.split(both, 2, axis=-1)


def _draw(generator: TorchGenerator, leaf: Float32[np.ndarray, "..."]) -> None:
    """Fill a view in the order of its own axes."""
    drawn = np.empty(leaf.shape, np.float32)
    generator.fill_normal(drawn.reshape(-1), STD)
    leaf[...] = drawn


def _pieces(array: np.ndarray, size: int = _CHUNK) -> list[np.ndarray]:
    """Views of at most `size` rows each that make up `array`."""
    return np.split(array, range(size, len(array), size))
