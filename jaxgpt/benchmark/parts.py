"""The parts of the suite `device`: `python -m ...parts NAME` measures one in a process of its own.

It reads a `Request` as JSON and prints the part's report as JSON.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.benchmark.contenders import Unavailable, need_torch
from jaxgpt.benchmark.decoding import measure_decoding
from jaxgpt.benchmark.jax_trainer import JaxTrainer
from jaxgpt.benchmark.machine import describe_machine, measure_rates, peak
from jaxgpt.benchmark.report import Report, to_json
from jaxgpt.benchmark.training import TOLERANCES, WARM_UPS, check_same, measure_training, start
from jaxgpt.benchmark.turns import Turns, least_seconds, take_turns
from jaxgpt.benchmark.workload import describe, make_batches
from jaxgpt.config import TrainConfig
from jaxgpt.config_file import from_dict, to_dict
from jaxgpt.errors import ConfigError, JaxgptError
from jaxgpt.model import transformer
from jaxgpt.model.attention import attend_causally
from jaxgpt.model.attention_kernels import KERNELS, choose_attention
from jaxgpt.model.schema import dimensions
from jaxgpt.terminal import complain, say
from jaxgpt.training.loss import head_loss, logits_at_once
from jaxgpt.training.mesh import select_platform
from jaxgpt.training.plan import peak_of

BATCH_SIZES = (1, 8, 64, 256)
"""Rows that the parts of decoding write at once."""
_CUTS = (1, 2, 4, 8, 16, 32)  # chunks of the head
_TURN = 0.05  # seconds of a turn at least, for a call's overhead to be small in it
_MOST_CALLS = 100
_OTHER_SUM = 0.05  # of the largest number; kernels add up in another order, in bfloat16


@dataclass(frozen=True)
class Request:
    """What all parts measure."""

    config: dict[str, Any]
    """Of the whole step, as `to_dict` has it."""
    platform: str
    dtype: Literal["float32", "bfloat16"]
    prompt_tokens: int
    new_tokens: int
    turns: int

    @property
    def step(self) -> TrainConfig:
        """The whole step."""
        return replace(from_dict(TrainConfig(), self.config), compute_dtype=self.dtype)

    @property
    def micro_step(self) -> TrainConfig:
        """A step of one micro-batch, which is enough to tell one way from another."""
        step = self.step
        rows = step.batch_size // step.gradient_accumulation
        return replace(step, batch_size=rows, gradient_accumulation=1)


def rates(request: Request) -> Report:
    """Products of matrices by both libraries, and copies."""
    taken = take_turns({"rates": measure_rates}, 1)
    found, left_out = taken.results["rates"][0], {}
    try:
        need_torch()
        from jaxgpt.benchmark.torch_trainer import measure_torch_products

        found.products["PyTorch"] = measure_torch_products(found.size, request.platform)
    except Unavailable as reason:
        left_out["PyTorch"] = str(reason)
    rows: list[dict[str, Any]] = []
    for library, products in found.products.items():
        for dtype, speed in products.items():
            most = peak(jax.devices()[0].device_kind, dtype)
            row = {"contender": f"{library} {dtype}", "teraflops": speed / 1e12}
            rows.append(row | ({"mfu": speed / most} if most else {}))
    rows.append({"contender": "copy", "gigabytes": found.copy / 1e9})
    shape = f"matrices of {found.size} squared, and a copy"
    return _report(request, "rates", shape, taken, rows, "teraflops", left_out)


def attention(request: Request) -> Report:
    """Attention, forward and backward, by each kernel that works here and in chunks."""
    config = request.micro_step
    sizes = dimensions(config.model)
    shape = config.batch_size, sizes["H"], config.model.context_length, sizes["K"]
    arrays = [
        jax.random.normal(key, shape, config.compute_dtype)
        for key in jax.random.split(jax.random.key(0), 4)
    ]
    functions: dict[Any, Callable[..., Any]] = {"chunked": attend_causally, **KERNELS}
    works, left_out = {}, {}
    for name, attend in functions.items():
        try:
            choose_attention(name, shape, config.compute_dtype)
        except ConfigError as reason:
            left_out[name] = str(reason)
            continue
        works[name] = partial(_forward_and_backward(attend), *arrays)
    found = {name: jax.device_get(work()) for name, work in works.items()}
    apart = {name: _difference(found[name], found["chunked"]) for name in works}
    for name, difference in apart.items():
        if not difference <= _OTHER_SUM:
            raise JaxgptError(
                f"attention {name} is {difference:.1e} of the largest number off chunked, more "
                f"than {_OTHER_SUM}; they do not do the same work, so their speeds say nothing"
            )
    taken, calls = _take_turns(works, request.turns)
    # Forward two products, backward five (Dao et al. 2022), half of each below the diagonal.
    flops = 7 * math.prod(shape) * shape[2]
    rows = [
        _times(name, taken, calls[name])
        | {"teraflops": flops / taken.median(name) * calls[name] / 1e12}
        | {"difference": apart[name], "settings": {"attention": name}}
        for name in works
    ]
    what = "B={}, H={}, T={}, K={}, forward and backward".format(*shape)
    return _report(request, "attention", what, taken, rows, "median_ms", left_out)


def _forward_and_backward(attend: Callable[..., Any]) -> Callable[..., Any]:
    def both(queries: Any, keys: Any, values: Any, grad: Any) -> Any:
        contexts, back = jax.vjp(attend, queries, keys, values)
        return contexts, *back(grad)

    return jax.jit(both)


def _difference(found: Any, wanted: Any) -> float:
    pairs = [[np.asarray(x, "float32") for x in pair] for pair in zip(found, wanted, strict=True)]
    return max(float(np.abs(x - y).max() / np.abs(y).max()) for x, y in pairs)


def loop(request: Request) -> Report:
    """The layers as a loop, and one after the other."""
    layers = request.step.model.num_layers
    ways = {"loop over layers": {"unroll": 1}, "unrolled": {"unroll": layers}}
    return _steps(request, "loop", ways)


def remat(request: Request) -> Report:
    """What the backward pass computes again."""
    ways = {
        "whole blocks again": {"remat": True},
        "cheap parts again": {"remat": False},
        _NOTHING: {},  # no setting: no run can have it so
    }
    return _steps(request, "remat", ways)


_NOTHING = "nothing again"


@contextmanager
def _keep_everything() -> Iterator[None]:
    """Steps that are traced meanwhile keep all that the backward pass needs."""
    own, policy = transformer.keep_products_and_kernels, jax.checkpoint_policies.everything_saveable
    swapped: Any = transformer
    swapped.keep_products_and_kernels = policy
    try:
        yield
    finally:
        swapped.keep_products_and_kernels = own


def _steps(request: Request, part: str, ways: Mapping[str, dict[str, Any]]) -> Report:
    """Steps of a micro-batch, compiled with the settings of each way, by turns."""
    config, works, compiled, losses, left_out = request.micro_step, {}, {}, {}, {}
    params, (batch,) = start(config), make_batches(config, 1)
    for name, settings in ways.items():
        around: AbstractContextManager[None] = nullcontext()
        if name == _NOTHING:
            around = _keep_everything()
        try:
            trainer = JaxTrainer(replace(config, **settings), params)
            with around:
                compiled[name] = trainer.compile(batch)
            losses[name] = trainer.run([batch] * WARM_UPS)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            left_out[name] = "out of memory"
            continue
        works[name] = partial(trainer.run, [batch])
    if not works:
        raise JaxgptError("out of memory in every way; take a smaller --batch-size")
    first = next(iter(losses))
    for name in works:
        check_same((name, first), losses[name], losses[first], TOLERANCES[request.dtype])
    taken, calls = _take_turns(works, request.turns)
    rows = []
    for name in works:
        seconds, most = compiled[name]
        figures = _times(name, taken, calls[name])
        tokens = config.batch_size * config.model.context_length
        figures["tokens_per_second"] = 1e3 * tokens / figures["median_ms"]
        rows.append(
            figures
            | {"loss": losses[name][-1], "device_peak_mb": most / 1e6, "settings": ways[name]}
            | ({} if part in CACHED else {"compile_seconds": seconds})
        )
    what = f"{describe(config.model)}, batch {config.batch_size}, {request.dtype}"
    return _report(request, part, what, taken, rows, "median_ms", left_out)


def head(request: Request) -> Report:
    """The head and its loss, forward and backward, in chunks of several sizes."""
    config = request.micro_step
    rows, length, vocab = config.batch_size, config.model.context_length, config.model.vocab_size
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (rows, length, config.model.embed_dim), config.compute_dtype)
    table = 0.02 * jax.random.normal(keys[1], (vocab, config.model.embed_dim))
    targets = jnp.asarray(make_batches(config, 1)[0].targets)
    works, memory, losses = {}, {}, {}
    for cut in [cut for cut in _CUTS if cut <= length]:
        name, most = f"{cut} chunks" if cut > 1 else "at once", math.ceil(length / cut)
        with logits_at_once(rows * vocab * most):
            mean = jax.jit(jax.value_and_grad(_mean_loss, argnums=(0, 1)))
            program = mean.lower(x, table, targets).compile()
        works[name], memory[name] = partial(program, x, table, targets), peak_of(program)
        losses[name] = [float(works[name]()[0])]
    for name in works:
        check_same((name, "at once"), losses[name], losses["at once"], TOLERANCES["float32"])
    taken, calls = _take_turns(works, request.turns)
    figures = [
        _times(name, taken, calls[name]) | {"device_peak_mb": memory[name] / 1e6} for name in works
    ]
    what = f"{rows} rows, T={length}, V={vocab}, forward and backward, {request.dtype}"
    return _report(request, "head", what, taken, figures, "median_ms")


def _mean_loss(x: Any, table: Any, targets: Any) -> Any:
    nats, count = head_loss(x, table, targets)
    return nats / count


def step(request: Request) -> Report:
    """Whole steps beside compiled PyTorch; the settings are the fastest of the parts before."""
    names = ["jaxgpt", "torch-compile"]
    if request.dtype == "bfloat16":
        names = [f"{name}-bf16" for name in names]
    report = measure_training(request.step, names, turns=request.turns)
    config = request.step
    ways = f"attention {config.attention}, unroll {config.unroll or 'auto'}"
    return replace(report, suite="step", shape=f"{report.shape}, {ways}")


def decode(request: Request) -> Report:
    """Decoding by jaxgpt at several batch sizes."""
    return _decode(request, alone=True, batch_sizes=BATCH_SIZES)


def transformers(request: Request) -> Report:
    """Decoding beside transformers."""
    report = _decode(request, alone=False, batch_sizes=BATCH_SIZES[:2])
    return replace(report, suite="transformers")


def _decode(request: Request, **options: Any) -> Report:
    return measure_decoding(
        request.step,
        dtype=request.dtype,
        prompt_tokens=request.prompt_tokens,
        new_tokens=request.new_tokens,
        turns=min(request.turns, 3),
        **options,
    )


def _take_turns(works: Mapping[str, Callable[..., Any]], count: int) -> tuple[Turns, Any]:
    """Turns of as many calls as take a while, of which the last is waited for; and the calls."""
    calls = {}
    for name, work in works.items():
        once = least_seconds(lambda work=work: jax.block_until_ready(work()))
        calls[name] = max(1, min(_MOST_CALLS, round(_TURN / once)))

    def turn(name: str) -> None:
        results = [works[name]() for _ in range(calls[name])]
        jax.block_until_ready(results[-1])

    return take_turns({name: partial(turn, name) for name in works}, count), calls


def _times(name: str, taken: Turns, calls: int) -> dict[str, Any]:
    milliseconds = [1e3 * second / calls for second in taken.seconds[name]]
    return {
        "contender": name,
        "median_ms": 1e3 * taken.median(name) / calls,
        "least_ms": min(milliseconds),
        "turns_ms": milliseconds,
    }


def _report(
    request: Request,
    part: str,
    shape: str,
    taken: Turns,
    rows: list[dict[str, Any]],
    figure: str,
    left_out: dict[str, str] | None = None,
) -> Report:
    return Report(
        suite=part,
        shape=shape,
        config=to_dict(request.step),
        machine=describe_machine(),
        rows=rows,
        figure=figure,
        others=taken.others,
        seconds=taken.window,
        left_out=left_out or {},
    )


PARTS: dict[str, tuple[Callable[[Request], Report], float]] = {
    "rates": (rates, 60.0),
    "attention": (attention, 60.0),
    "loop": (loop, 120.0),
    "step": (step, 200.0),
    "decode": (decode, 120.0),
    "remat": (remat, 150.0),
    "head": (head, 60.0),
    "transformers": (transformers, 120.0),
}
"""What is measured and the seconds that it may take, by name, in order: first what tells most."""
CACHED = PARTS.keys() - {"loop"}
"""Parts that may find their programs compiled."""


if __name__ == "__main__":
    asked = Request(**json.load(sys.stdin))
    try:
        select_platform(asked.platform)
        say(json.dumps(to_json(PARTS[sys.argv[1]][0](asked))))
    except JaxgptError as failure:
        complain(f"error: {failure}")
        raise SystemExit(failure.exit_code) from None
