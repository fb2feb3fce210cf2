"""A small pretrained model to tune, and records to tune it on."""

import json
from dataclasses import replace

import pytest

from jaxgpt.config import get_preset


@pytest.fixture(scope="session")
def base(random_params):
    """A LoadedModel of 2 layers whose tokenizer has an end-of-text token."""
    from jaxgpt.data.bpe import train_bpe
    from jaxgpt.training.checkpoint import LoadedModel

    text = "<|im_start|>user\nWho ran 17 times?<|im_end|>\n<|im_start|>assistant\nFinn ran to sea."
    tokenizer = train_bpe([text] * 9, 290)
    tiny = get_preset("tiny")
    # A head of its own, so that something is trained where all blocks are frozen.
    model = replace(
        tiny.model, vocab_size=290, context_length=64, embed_dim=16, num_layers=2, tie_head=False
    )
    config = replace(tiny, model=model, steps=1, optimizer=replace(tiny.optimizer, warmup_steps=0))
    return LoadedModel(model, random_params(model), tokenizer, 0, config)


@pytest.fixture
def base_folder(base, tmp_path):
    """The same as a checkpoint's folder."""
    from jaxgpt.training.checkpoint import save_model

    save_model(tmp_path / "base", base)
    return str(tmp_path / "base")


@pytest.fixture
def write(tmp_path):
    """`write(name, records)`: a file of them, an object a line; returns its path in a tuple."""

    def make(name, records):
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return (str(path),)

    return make
