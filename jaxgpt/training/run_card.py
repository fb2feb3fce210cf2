"""The README.md of a run: what was trained, on what, how well, and the command that made it."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxgpt.config import TrainConfig
from jaxgpt.config_file import to_dict
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.files import write_file
from jaxgpt.model.parameters import count_parameters
from jaxgpt.training.overfitting import best_line

CARD = "README.md"
_SETTINGS = "The settings:\n\n```json\n"  # by which a card is known, too


def write_run_card(
    run: Path,
    config: TrainConfig,
    dataset: TokenDataset,
    records: list[dict[str, Any]],
    command: str,
    *,
    rows: int,
) -> None:
    """Write `run/README.md` from the config, the data and the records of metrics.jsonl.

    `rows` is how many windows were trained on.
    """
    train, validation = dataset.split("train"), dataset.split("validation")
    tokenizer = dataset.manifest["tokenizer"]
    device, seen = jax.devices()[0], rows * config.model.context_length
    facts = {
        "parameters": f"{count_parameters(config.model):,}",
        "data": ", ".join(config.data.data),
        "tokenizer": f"{tokenizer['name']}, {tokenizer['vocab_size']:,} ids",
        "training tokens": f"{train.num_tokens:,} ({train.num_bytes:,} bytes)",
        "validation tokens": f"{validation.num_tokens:,} ({validation.num_bytes:,} bytes)",
        "steps": f"{last_value(records, 'step', 0):,} of {config.steps:,}",
        "tokens seen": f"{seen:,}, {seen / train.num_tokens:,.1f} passes over the training tokens",
        "training loss": _number(last_value(records, "loss"), "nats per token"),
        "validation loss": _number(last_value(records, "validation_loss"), "nats per token"),
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
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items() if value)
    shown = "\n".join(f"![{name.partition('.')[0]}]({name})" for name in pictures)
    text = f"# {run.name}\n\n```\n{command}\n```\n\n| | |\n|---|---|\n{table}\n\n{shown}\n\n"
    if sample := str(last_value(records, "sample", "")).strip():
        text += f"A sample:\n\n```\n{sample}\n```\n\n"
    text += f"{_SETTINGS}{json.dumps(to_dict(config), indent=2)}\n```\n"
    if (run / CARD).is_file() and _is_of_others((run / CARD).read_bytes()):
        raise FileExistsError(f"{run / CARD} was not written by jaxgpt; rename it")
    write_file(run / CARD, text.encode(errors="replace"))


def _is_of_others(card: bytes) -> bool:
    return bool(card) and _SETTINGS.encode() not in card


def entropy_per_byte(dataset: TokenDataset) -> float | None:
    """Bits per byte of the validation text, below which no model's loss can be, where known."""
    split = dataset.split("validation")
    return None if split.entropy_bits is None else split.entropy_bits / split.num_bytes


def entropy_per_token(dataset: TokenDataset) -> float | None:
    """The same in nats per token, the unit of the loss."""
    bits = entropy_per_byte(dataset)
    return (
        None if bits is None else bits * math.log(2) / dataset.split("validation").tokens_per_byte
    )


def last_value(records: list[dict[str, Any]], name: str, default: Any = None) -> Any:
    """What the newest record that has `name` says."""
    return next((item[name] for item in reversed(records) if name in item), default)


def _number(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:.4f} {unit}".strip()
