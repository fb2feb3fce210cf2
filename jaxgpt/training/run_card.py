"""What a run says of itself: before its first step, and in its README.md."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxgpt.config import TrainConfig
from jaxgpt.config_file import to_dict
from jaxgpt.data.mixture import Dataset, Mixture
from jaxgpt.files import write_file
from jaxgpt.model.parameters import count_parameters
from jaxgpt.shell import command as command_line
from jaxgpt.terminal import one_line
from jaxgpt.tokenization.tokenizer import Tokenizer
from jaxgpt.training.overfitting import MOST_PASSES, best_line, passes_line

CARD = "README.md"
SMALL_TEXT = "small-text"
"""The preset for a text that others would learn by heart."""
_SETTINGS = "The settings:\n\n```json\n"  # by which a card is known, too


def headline(
    config: TrainConfig, dataset: Dataset, tokenizer: Tokenizer, rows: int
) -> Iterator[str]:
    """The lines of a plan; `rows` are the windows that will have been trained on in the end."""
    train, validation = dataset.split("train"), dataset.split("validation")
    line = (
        f"{count_parameters(config.model):,} parameters, {train.num_tokens:,} training tokens, "
        f"{validation.num_tokens:,} validation tokens, "
        f"{config.batch_size * config.model.context_length:,} tokens a step, "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    )
    floor = entropy_per_byte(dataset)
    yield line + ("" if floor is None else f"; entropy of the text {floor:.4f} bits per byte")
    seen = rows * config.model.context_length
    passes = seen / train.num_tokens
    if isinstance(dataset, Mixture):
        yield from _source_lines(dataset, seen)
        passes = max(dataset.passes(seen).values())
    else:
        yield passes_line(config.steps, passes, "training tokens")
    if passes > MOST_PASSES and not config.model.dropout:
        yield (
            f"warning: that is more than {MOST_PASSES} passes, in which a model without dropout "
            "learns a text by heart; for a text of this size there is "
            f"`{command_line('train', SMALL_TEXT, '--data', *config.data.data)}`"
        )
    if tokenizer.end_of_text is None:
        yield (
            f"tokenizer {tokenizer.name} has no end-of-text token, so this model can go on with a "
            "text and become a classifier, but no assistant to chat with; for one, pretrain with "
            "--tokenizer bpe:2048 or gpt2"
        )


def sources_seen(config: TrainConfig, dataset: Dataset, rows: int) -> dict[str, float]:
    """Of each source of a mixture, its share and the passes over it, as metrics; else nothing."""
    if not isinstance(dataset, Mixture):
        return {}
    passes = dataset.passes(rows * config.model.context_length)
    figures = {"share": dataset.shares, "passes": passes}
    return {
        f"{figure}/{one_line(name)}": value
        for figure, values in figures.items()
        for name, value in values.items()
    }


def _source_lines(mixture: Mixture, tokens: int) -> Iterator[str]:
    """A line for each source: its share, its size, and the passes that so many tokens make."""
    for name, passes in mixture.passes(tokens).items():
        train = mixture.datasets[name].split("train")
        yield (
            f"{name}: {100 * mixture.shares[name]:.5g}% of the rows, {passes:,.4g} passes over "
            f"{train.num_tokens:,} training tokens"
        )


def write_run_card(
    run: Path,
    config: TrainConfig,
    dataset: Dataset,
    records: list[dict[str, Any]],
    command: str,
    *,
    rows: int,
) -> None:
    """Write `run/README.md` from config, data and records; `rows` windows were trained on."""
    train, validation = dataset.split("train"), dataset.split("validation")
    tokenizer = dataset.manifest["tokenizer"]
    device, seen = jax.devices()[0], rows * config.model.context_length
    mixed = isinstance(dataset, Mixture)
    facts = {
        "parameters": f"{count_parameters(config.model):,}",
        "data": ", ".join(config.data.data),
        "shares and passes": "<br>".join(_source_lines(dataset, seen)) if mixed else "",
        "tokenizer": f"{tokenizer['name']}, {tokenizer['vocab_size']:,} ids",
        "training tokens": f"{train.num_tokens:,} ({train.num_bytes:,} bytes)",
        "validation tokens": f"{validation.num_tokens:,} ({validation.num_bytes:,} bytes)",
        "steps": f"{last_value(records, 'step', 0):,} of {config.steps:,}",
        "tokens seen": f"{seen:,}, {seen / train.num_tokens:,.1f} passes over the training tokens",
        "training loss": _number(last_value(records, "loss"), "nats per token"),
        "validation loss": _number(last_value(records, "validation_loss"), "nats per token"),
        "validation loss by source": "<br>".join(
            f"{name}: {_number(last_value(records, f'validation_loss/{one_line(name)}'))}"
            for name in (dataset.datasets if mixed else ())
        ),
        "lowest validation loss": best_line(records, "nats per token"),
        "validation bits per byte": _number(last_value(records, "validation_bits_per_byte")),
        "entropy of the text": _number(entropy_per_byte(dataset), "bits per byte"),
        "speed": f"{last_value(records, 'tokens_per_second', 0):,.0f} tokens/s",
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
    }
    write_card(run, config, facts, records, command, ["loss.png"])


def write_card(
    run: Path,
    config: Any,
    rows: Mapping[str, str],
    records: list[dict[str, Any]],
    command: str,
    pictures: Sequence[str],
) -> None:
    """Write `run/README.md`: the command, a table of `rows`, pictures, a sample, the settings."""
    skipped = sum("skipped_batch" in item for item in records)
    rows = {**rows, "skipped steps": str(skipped or "")}
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items() if value)
    shown = "\n".join(f"![{name.partition('.')[0]}]({name})" for name in pictures)
    text = f"# {run.name}\n\n```\n{command}\n```\n\n| | |\n|---|---|\n{table}\n\n{shown}\n\n"
    if sample := str(last_value(records, "sample", "")).strip():
        text += f"A sample:\n\n```\n{sample}\n```\n\n"
    text += f"{_SETTINGS}{json.dumps(to_dict(config), indent=2)}\n```\n"
    there = (run / CARD).read_bytes() if (run / CARD).is_file() else b""
    if there and _SETTINGS.encode() not in there:
        raise FileExistsError(f"{run / CARD} was not written by jaxgpt; rename it")
    write_file(run / CARD, text.encode(errors="replace"))


def entropy_per_byte(dataset: Dataset) -> float | None:
    """Bits per byte of the validation text, below which no model's loss can be, where known."""
    split = dataset.split("validation")
    return None if split.entropy_bits is None else split.entropy_bits / split.num_bytes


def entropy_per_token(dataset: Dataset) -> float | None:
    """The same in nats per token, the unit of the loss."""
    bits, tokens = entropy_per_byte(dataset), dataset.split("validation").tokens_per_byte
    return None if bits is None else bits * math.log(2) / tokens


def last_value(records: list[dict[str, Any]], name: str, default: Any = None) -> Any:
    """What the newest record that has `name` says."""
    return next((item[name] for item in reversed(records) if name in item), default)


def _number(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:.4f} {unit}".strip()
