"""The suite `train`: whole optimizer steps, by turns, with the losses held against each other."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import jax

from jaxgpt.benchmark.contenders import CONTENDERS, TORCH_EAGER, Trainer, Unavailable, build
from jaxgpt.benchmark.jax_trainer import JaxTrainer
from jaxgpt.benchmark.machine import Rates, describe_machine, measure_rates, peak
from jaxgpt.benchmark.report import Report
from jaxgpt.benchmark.turns import Turns, take_turns
from jaxgpt.benchmark.workload import describe, make_batches
from jaxgpt.config import TrainConfig
from jaxgpt.config_file import to_dict
from jaxgpt.data.batches import Batch
from jaxgpt.errors import ConfigError, JaxgptError
from jaxgpt.model.flops import flops_per_token
from jaxgpt.model.layers import Params
from jaxgpt.model.parameters import init_params

WARM_UPS = 2
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}
"""How far a loss may be from the first contender's in its float32, as a share of it, by dtype."""
_TF32 = 1e-3  # of a GPU's float32, whose products keep 10 bits of their factors


def measure_training(
    config: TrainConfig, names: Sequence[str], *, turns: int = 10, steps: int = 1
) -> Report:
    """Time `turns` turns of `steps` optimizer steps of each contender named, after two warm-ups.

    All start from the same parameters and take the same batches; a turn ends when its last step
    is done. Raises JaxgptError if the losses differ by more than `TOLERANCES`, since speed at
    other work is no speed; ConfigError if no contender is left.
    """
    platform, params = jax.default_backend(), start(config)
    batches = make_batches(config, (WARM_UPS + turns) * steps)
    cut = [batches[at : at + steps] for at in range(0, len(batches), steps)]
    trainers, losses, left_out = warm_up(config, params, names, platform, cut[:WARM_UPS])
    feeds = {name: iter(cut[WARM_UPS:]) for name in trainers}
    taken = take_turns(
        {name: lambda name=name: trainers[name].run(next(feeds[name])) for name in trainers}, turns
    )
    for name in trainers:
        losses[name] += chain.from_iterable(taken.results[name])
    compare_losses(losses, platform)
    moved = {
        name: trainer.bytes_moved(batches[0])
        for name, trainer in trainers.items()
        if isinstance(trainer, JaxTrainer)
    }
    machine, rates = describe_machine(), measure_rates()
    if any(CONTENDERS[name].library == "torch" for name in trainers):
        from jaxgpt.benchmark.torch_trainer import measure_torch_products

        rates.products["PyTorch"] = measure_torch_products(rates.size, platform)
    return Report(
        suite="train",
        shape=f"{describe(config.model)}, batch {config.batch_size}",
        config=to_dict(config),
        machine=machine | {"products": rates.products, "copy": rates.copy},
        rows=_rows(config, taken, losses, steps, rates, machine["device"], moved),
        figure="median_ms",
        others=taken.others,
        seconds=taken.window,
        left_out=left_out,
        notes=_notes(rates, losses, platform),
    )


def start(config: TrainConfig) -> Params:
    """The parameters that all contenders start from: GPT-2's random ones."""
    return jax.device_get(jax.jit(partial(init_params, config.model))(jax.random.key(config.seed)))


def warm_up(
    config: TrainConfig,
    params: Params,
    names: Sequence[str],
    platform: str,
    turns: list[list[Batch]],
) -> tuple[dict[str, Trainer], dict[str, list[float]], dict[str, str]]:
    """The contenders that can be had, each past its first turns, their losses, and who cannot."""
    trainers, losses, left_out = {}, {}, {}
    for name in names:
        try:
            trainer = build(name, config, params, platform)
            losses[name] = [loss for batches in turns for loss in trainer.run(batches)]
            trainers[name] = trainer
        except Unavailable as reason:
            left_out[CONTENDERS[name].label] = str(reason)
    if not trainers:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ConfigError(f"no contender is left: {reasons}")
    return trainers, losses, left_out


def compare_losses(losses: Mapping[str, Sequence[float]], platform: str = "cpu") -> None:
    """Raise JaxgptError unless all contenders had the same losses at every step.

    They are held against those of PyTorch in float32, or of the first where that is not there.
    """
    reference = _reference(losses)
    for name in losses:
        dtypes = {CONTENDERS[name].dtype, CONTENDERS[reference].dtype}
        tolerance = max(TOLERANCES[dtype] for dtype in dtypes)
        if platform != "cpu":
            tolerance = max(tolerance, _TF32)
        labels = CONTENDERS[name].label, CONTENDERS[reference].label
        check_same(labels, losses[name], losses[reference], tolerance)


def check_same(
    labels: tuple[str, str], losses: Sequence[float], wanted: Sequence[float], tolerance: float
) -> None:
    """Raise JaxgptError unless two had the same losses, within that share, at every step."""
    for step, (loss, other) in enumerate(zip(losses, wanted, strict=True), start=1):
        if not abs(loss - other) <= tolerance * abs(other):
            raise JaxgptError(
                f"{labels[0]} has loss {loss:.6f} at step {step}, but {labels[1]} has "
                f"{other:.6f}, more than {tolerance:g} of it apart; they do not do the same work, "
                "so their speeds say nothing"
            )


def _reference(losses: Mapping[str, Any]) -> str:
    return TORCH_EAGER if TORCH_EAGER in losses else next(iter(losses))


def _rows(
    config: TrainConfig,
    taken: Turns,
    losses: Mapping[str, Sequence[float]],
    steps: int,
    rates: Rates,
    device: str,
    moved: Mapping[str, int],
) -> list[dict[str, Any]]:
    tokens = config.batch_size * config.model.context_length
    flops = flops_per_token(config.model)
    rows = []
    for name, seconds in taken.seconds.items():
        contender, median = CONTENDERS[name], taken.median(name) / steps
        speed, most = tokens / median, peak(device, contender.dtype)
        row = {
            "contender": contender.label,
            "median_ms": 1e3 * median,
            "least_ms": 1e3 * min(seconds) / steps,
            "tokens_per_second": speed,
            "mfu": most and speed * flops / most,
            "product_share": speed * flops / rates.fastest(contender.dtype),
            "loss": losses[name][-1],
            "turns_ms": [1e3 * second / steps for second in seconds],
        }
        if name in moved:
            row["moved_mb"] = moved[name] / 1e6
        if TORCH_EAGER in taken.seconds:
            row["ratio"] = median * steps / taken.median(TORCH_EAGER)
        rows.append(row)
    return rows


def _notes(rates: Rates, losses: Mapping[str, Any], platform: str) -> tuple[str, ...]:
    speeds = ", ".join(
        f"{library} {products['float32'] / 1e9:,.0f} in float32 and "
        f"{products['bfloat16'] / 1e9:,.0f} in bfloat16"
        for library, products in rates.products.items()
    )
    against = (
        f"losses agree with {CONTENDERS[_reference(losses)].label} at every step"
        if len(losses) > 1
        else "one contender alone: its losses were held against nobody's"
    )
    if platform == "gpu":
        against += "; float32 means TF32 products here, on both sides"
    return (
        f"measured GFLOP/s of matrix products: {speeds}; copies {rates.copy / 1e9:,.0f} GB/s",
        "operations are counted as nanoGPT does, 6 (N - positions) + 12 L D T a token: MFU is "
        "their share of the data sheet's peak, the other that of the faster measured products",
        against,
    )
