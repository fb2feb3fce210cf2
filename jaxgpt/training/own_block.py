"""A block that a caller brings in place of the standard one, beside what a run's record says."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxgpt.config import BlockConfig, TrainConfig
from jaxgpt.errors import CheckpointError
from jaxgpt.model.transformer import Block, with_block

OwnBlock = Block | Callable[..., Any] | None
"""A block, or a function with the arguments of `transformer.block`; None is the standard one."""


def restored_block(config: TrainConfig, block: OwnBlock, folder: Path) -> TrainConfig:
    """The config read from `folder` with `block`, which must be the one that it names.

    Raises CheckpointError with the name of the one that is due.
    """
    trained, given = _name(config), None if block is None else use_block(config, block)
    named = "" if given is None else _name(given)
    if trained != named:
        due = "the standard block; leave block out"
        if trained:
            due = f"the block {trained}, no part of jaxgpt; in Python, pass it as block="
        other = f", not {named or 'the standard one'}" if given else ""
        raise CheckpointError(f"{folder} was trained with {due}{other}")
    return given or config


def use_block(config: TrainConfig, block: Block | Callable[..., Any]) -> TrainConfig:
    """The config of the same run with `block` in its model."""
    return replace(config, model=with_block(config.model, block))


def _name(config: TrainConfig) -> str:
    return str(config.model.block) if isinstance(config.model, BlockConfig) else ""
