"""What a pretraining run says of itself before its first step."""

from collections.abc import Iterator

import jax

from jaxgpt.config import TrainConfig
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.model.parameters import count_parameters
from jaxgpt.shell import command
from jaxgpt.tokenization.tokenizer import Tokenizer
from jaxgpt.training.overfitting import MOST_PASSES, passes_line
from jaxgpt.training.run_card import entropy_per_byte

SMALL_TEXT = "small-text"
"""The preset for a text that others would learn by heart."""


def headline(
    config: TrainConfig, dataset: TokenDataset, tokenizer: Tokenizer, rows: int
) -> Iterator[str]:
    """The lines of a plan; `rows` are the windows that will have been trained on in the end."""
    yield _sizes(config, dataset)
    passes = rows * config.model.context_length / dataset.split("train").num_tokens
    yield passes_line(config.steps, passes, "training tokens")
    if passes > MOST_PASSES and not config.model.dropout:
        yield (
            f"warning: that is more than {MOST_PASSES} passes, in which a model without dropout "
            "learns a text by heart; for a text of this size there is "
            f"`{command('train', SMALL_TEXT, '--data', *config.data.data)}`"
        )
    if tokenizer.end_of_text is None:
        yield (
            f"tokenizer {tokenizer.name} has no end-of-text token, so this model can go on with a "
            "text and become a classifier, but no assistant to chat with; for one, pretrain with "
            "--tokenizer bpe:2048 or gpt2"
        )


def _sizes(config: TrainConfig, dataset: TokenDataset) -> str:
    train, validation = dataset.split("train"), dataset.split("validation")
    line = (
        f"{count_parameters(config.model):,} parameters, {train.num_tokens:,} training tokens, "
        f"{validation.num_tokens:,} validation tokens, "
        f"{config.batch_size * config.model.context_length:,} tokens a step, "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    )
    floor = entropy_per_byte(dataset)
    return line + ("" if floor is None else f"; entropy of the text {floor:.4f} bits per byte")
